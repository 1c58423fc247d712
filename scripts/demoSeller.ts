import { MARKET_CONTEXT, type Product, SCHEMA_ORG_CONTEXT } from '@market/contracts/catalogDocuments'
import { signLink } from '@market/contracts/link'
import { CHAIN_ID, DEMO_CODE_SKU, demoKey, demoOperator, demoSeller } from '@market/dev-chain/demo'
import { devContracts, devCurrencyAvatar, gatewayAbi, gatewayFactoryAbi } from '@market/dev-chain/deployment'
import { type CodesDatabase, openCodeKeys, seedPool, upsertCodeMapping } from '@market/codedispenser/ops'
import type { Secret } from '@market/kit/config'
import { openDatabase } from '@market/kit/db'
import { type MarketDatabase, openIpfs, upsertGateway, upsertRoute } from '@market/market-api/ops'
import { type CatalogStorage, publishCatalog } from '@market/sdk/publishCatalog'
import { createPublicClient, createWalletClient, type Hex, http } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { connectRegistry } from './catalogRegistry.ts'

export { DEMO_PRODUCTS, demoOperator, demoSeller } from '@market/dev-chain/demo'

const POOL = 'demo-gift-codes'
const CODES = 100

const products = [
  {
    sku: DEMO_CODE_SKU,
    name: 'Gift code',
    description: 'A code worth a coffee at the harbour kiosk',
    price: 5,
    category: 'Codes',
  },
  { sku: 'linen-tote', name: 'Linen tote', description: 'Sewn from sail offcuts', price: 18.5, category: 'Goods' },
  { sku: 'heron-print', name: 'Heron linocut', description: 'Hand-pulled, A4, signed', price: 42, category: 'Prints' },
]

export type SeedTargets = {
  rpcUrl: string
  connections: { market: string; codedisp: string }
  /** The dispenser's. */
  adapterSecretsKey: string
  ipfs: Pick<Parameters<typeof openIpfs>[0], 'IPFS_RPC_URL' | 'IPFS_STORE_DIR'> & {
    IPFS_RPC_BEARER?: Secret | undefined
  }
}

/**
 * Makes the demo seller what a real one would be: a payment gateway on chain, a signed catalog on IPFS named in the registry,
 * a pool of codes and the route to it. What is there already stays; what a crash left half done is completed.
 */
export async function seedDemoSeller({
  rpcUrl,
  connections,
  adapterSecretsKey,
  ipfs,
}: SeedTargets): Promise<'seeded' | 'already seeded'> {
  const codes = openDatabase<CodesDatabase>(connections.codedisp, { name: 'demo-seller', poolSize: 1 })
  const market = openDatabase<MarketDatabase>(connections.market, { name: 'demo-seller', poolSize: 1 })
  try {
    const key = { chainId: CHAIN_ID, seller: demoSeller, sku: DEMO_CODE_SKU }
    const list = Array.from(
      { length: CODES },
      (_, i) => `HARBOUR-${String(i + 1).padStart(3, '0')}-${demoKey(`code/${i}`).slice(2, 10).toUpperCase()}`,
    )
    const { added } = await seedPool(codes.db, await openCodeKeys(codes.db, adapterSecretsKey), POOL, list)
    const mapping = await upsertCodeMapping(codes.db, { ...key, poolId: POOL, downloadUrlTemplate: null })
    const route = await upsertRoute(market.db, { ...key, offerType: 'codedispenser' })
    const gateway = await openGateway(rpcUrl)
    const record = await upsertGateway(market.db, { chainId: CHAIN_ID, seller: demoSeller, gateway: gateway.address })
    const catalog = await publishDemoCatalog(rpcUrl, gateway, ipfs)
    const isNew = [mapping, route, record].some((outcome) => outcome !== 'unchanged')
    const news = added > 0 || isNew || catalog === 'published'
    return news ? 'seeded' : 'already seeded'
  } finally {
    await Promise.all([codes.close(), market.close()])
  }
}

async function publishDemoCatalog(
  rpcUrl: string,
  gateway: Awaited<ReturnType<typeof openGateway>>,
  ipfs: SeedTargets['ipfs'],
): Promise<'published' | 'unchanged'> {
  const account = privateKeyToAccount(demoKey('seller'))
  const options = {
    products: products.map((product) => productDocument(product, gateway.address)),
    operator: demoOperator,
    chainId: CHAIN_ID,
    signer: {
      address: demoSeller,
      sign: (draft: Parameters<typeof signLink>[0]) => signLink(draft, demoKey('seller')),
    },
    storage: await openStorage(ipfs),
    registry: connectRegistry({ rpcUrl, address: devContracts.nameRegistry, chainId: CHAIN_ID, account }),
    newProfile: { name: 'Harbour Goods', description: 'The demo seller' },
    // Named on chain is not enough: the store may be another one than last time.
    startOver: true,
  }
  const { counts } = await publishCatalog({ ...options, dryRun: true })
  // Before the products are for sale, and again when a crash came in between; the gateway does not tell whom it trusts.
  if (counts.unchanged < products.length) await gateway.trustCurrency()
  const { status } = await publishCatalog(options)
  return status === 'published' ? 'published' : 'unchanged'
}

async function openStorage(ipfs: SeedTargets['ipfs']): Promise<CatalogStorage> {
  const store = await openIpfs({ IPFS_RPC_BEARER: undefined, ...ipfs, IPFS_TIMEOUT_MS: 5_000 })
  const storage: CatalogStorage = { get: (cid) => store.get(cid), put: (bytes) => store.put(bytes) }
  if (store.kind === 'kubo') return storage
  const isThere = () => true
  const isNot = () => false
  return { ...storage, has: (cid) => store.get(cid).then(isThere, isNot) }
}

/** The seller's gateway, made when there is none. */
async function openGateway(rpcUrl: string) {
  const transport = http(rpcUrl)
  const account = privateKeyToAccount(demoKey('seller'))
  const chain = createPublicClient({ transport, pollingInterval: 50 })
  const wallet = createWalletClient({ account, transport })
  const free = { chain: null, gasPrice: 0n } as const
  const mined = async (hash: Promise<Hex>) => chain.waitForTransactionReceipt({ hash: await hash, timeout: 10_000 })

  const factory = { address: devContracts.gatewayFactory, abi: gatewayFactoryAbi } as const
  const gatewayOf = () => chain.readContract({ ...factory, functionName: 'gatewayOf', args: [account.address] })
  if (BigInt(await gatewayOf()) === 0n) {
    await mined(wallet.writeContract({ ...factory, ...free, functionName: 'createGateway', args: [] }))
  }
  const gateway = await gatewayOf()
  const forever = 2n ** 96n - 1n
  const trust = {
    address: gateway,
    abi: gatewayAbi,
    functionName: 'setTrust',
    args: [devCurrencyAvatar, forever],
  } as const
  return {
    address: gateway.toLowerCase(),
    trustCurrency: () => mined(wallet.writeContract({ ...trust, ...free })),
  }
}

function productDocument(
  { sku, name, description, price, category }: (typeof products)[number],
  payTo: string,
): Product {
  const potentialAction = {
    '@type': 'PayAction',
    price,
    priceCurrency: 'CRC',
    recipient: { '@id': `eip155:${CHAIN_ID}:${payTo}` },
    instrument: { '@type': 'PropertyValue', propertyID: 'eip155', value: `${CHAIN_ID}:${payTo}`, name: 'pay-to' },
  }
  return {
    '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
    '@type': 'Product',
    name,
    sku,
    description,
    category,
    offers: [{ '@type': 'Offer', price, priceCurrency: 'CRC', potentialAction }],
  }
}
