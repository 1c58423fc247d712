import {
  MARKET_CONTEXT,
  PROFILE_CONTEXT,
  type Product,
  productLinkName,
  SCHEMA_ORG_CONTEXT,
  storedDocument,
} from '@market/contracts/catalogDocuments'
import { cidToDigest, profileCidOfDigest } from '@market/contracts/cid'
import { signLink } from '@market/contracts/link'
import { appendLink, appendToIndex } from '@market/contracts/namespaceWalk'
import {
  devContracts,
  devCurrencyAvatar,
  gatewayAbi,
  gatewayFactoryAbi,
  nameRegistryAbi,
} from '@market/dev-chain/deployment'
import { seedPool, upsertCodeMapping, type CodesDatabase } from '@market/codedispenser/ops'
import type { Secret } from '@market/kit/config'
import { openDatabase } from '@market/kit/db'
import { type MarketDatabase, openIpfs, upsertRoute } from '@market/market-api/ops'
import { createPublicClient, createWalletClient, type Hex, http, keccak256, stringToHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'

export const CHAIN_ID = 100
/** Keys of the demo are made from these words and so known to everybody. Development only. */
export const demoKey = (label: string): Hex => keccak256(stringToHex(`circles-market-demo/${label}`))

export const demoSeller = privateKeyToAccount(demoKey('seller')).address.toLowerCase()
export const demoOperator = privateKeyToAccount(demoKey('operator')).address.toLowerCase()
export const DEMO_CODE_SKU = 'gift-code'
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

export const DEMO_PRODUCTS = products.length

export type SeedTargets = {
  rpcUrl: string
  connections: { market: string; codedisp: string }
  ipfs: Pick<Parameters<typeof openIpfs>[0], 'IPFS_RPC_URL' | 'IPFS_STORE_DIR'> & {
    IPFS_RPC_BEARER?: Secret | undefined
  }
}

/**
 * Makes the demo seller what a real one would be: a payment gateway on chain, a signed catalog on IPFS named in the registry,
 * a pool of codes and the route to it. What is there already stays; what a crash left half done is completed.
 */
export async function seedDemoSeller({ rpcUrl, connections, ipfs }: SeedTargets): Promise<'seeded' | 'already seeded'> {
  const codes = openDatabase<CodesDatabase>(connections.codedisp, { name: 'demo-seller', poolSize: 1 })
  const market = openDatabase<MarketDatabase>(connections.market, { name: 'demo-seller', poolSize: 1 })
  try {
    const key = { chainId: CHAIN_ID, seller: demoSeller, sku: DEMO_CODE_SKU }
    const list = Array.from(
      { length: CODES },
      (_, i) => `HARBOUR-${String(i + 1).padStart(3, '0')}-${demoKey(`code/${i}`).slice(2, 10).toUpperCase()}`,
    )
    const { added } = await seedPool(codes.db, POOL, list)
    const mapping = await upsertCodeMapping(codes.db, { ...key, poolId: POOL, downloadUrlTemplate: null })
    const route = await upsertRoute(market.db, { ...key, offerType: 'codedispenser' })
    const catalog = await publishCatalog(rpcUrl, ipfs)
    const news = added > 0 || mapping !== 'unchanged' || route !== 'unchanged' || catalog === 'published'
    return news ? 'seeded' : 'already seeded'
  } finally {
    await Promise.all([codes.close(), market.close()])
  }
}

async function publishCatalog(rpcUrl: string, ipfs: SeedTargets['ipfs']): Promise<'published' | 'unchanged'> {
  const transport = http(rpcUrl)
  const account = privateKeyToAccount(demoKey('seller'))
  const chain = createPublicClient({ transport, pollingInterval: 50 })
  const wallet = createWalletClient({ account, transport })
  const registry = { address: devContracts.nameRegistry, abi: nameRegistryAbi } as const
  const send = async (hash: Promise<Hex>) => chain.waitForTransactionReceipt({ hash: await hash, timeout: 10_000 })

  const store = await openIpfs({ IPFS_RPC_BEARER: undefined, ...ipfs, IPFS_TIMEOUT_MS: 5_000 })
  const digest = await chain.readContract({ ...registry, functionName: 'getMetadataDigest', args: [account.address] })
  const profileCid = profileCidOfDigest(digest)
  // Named on chain is not enough: the store may be another one than last time.
  const isThere =
    profileCid &&
    (await store.get(profileCid).then(
      () => true,
      () => false,
    ))
  if (isThere) return 'unchanged'

  const factory = { address: devContracts.gatewayFactory, abi: gatewayFactoryAbi } as const
  const gatewayOf = () => chain.readContract({ ...factory, functionName: 'gatewayOf', args: [account.address] })
  if (BigInt(await gatewayOf()) === 0n) {
    await send(wallet.writeContract({ ...factory, functionName: 'createGateway', args: [], chain: null, gasPrice: 0n }))
  }
  const gateway = await gatewayOf()
  const forever = 2n ** 96n - 1n
  await send(
    wallet.writeContract({
      address: gateway,
      abi: gatewayAbi,
      functionName: 'setTrust',
      args: [devCurrencyAvatar, forever],
      chain: null,
      gasPrice: 0n,
    }),
  )

  const signedAt = Math.floor(Date.now() / 1000)
  const entries: Parameters<typeof appendToIndex>[1][] = []
  for (const [i, product] of products.entries()) {
    const document = storedDocument<Product>(productDocument(product, gateway.toLowerCase()))
    await store.put(document.bytes)
    const link = signLink(
      {
        name: productLinkName(product.sku),
        cid: document.cid,
        chainId: CHAIN_ID,
        signedAt,
        nonce: keccak256(stringToHex(`nonce/${signedAt}/${i}`)).slice(0, 34),
      },
      demoKey('seller'),
    )
    entries.push(appendLink(entries.at(-1)?.head, link))
  }
  const appended = entries.at(-1)!
  await store.put(appended.head.bytes)
  const index = appendToIndex(undefined, appended)
  await store.put(index.bytes)
  const profile = storedDocument({
    '@context': PROFILE_CONTEXT,
    '@type': 'Profile',
    name: 'Harbour Goods',
    description: 'The demo seller',
    namespaces: { [demoOperator]: index.cid },
  })
  await store.put(profile.bytes)
  await send(
    wallet.writeContract({
      ...registry,
      functionName: 'updateMetadataDigest',
      args: [cidToDigest(profile.cid) as Hex],
      chain: null,
      gasPrice: 0n,
    }),
  )
  return 'published'
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
