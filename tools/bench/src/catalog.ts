import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import {
  MARKET_CONTEXT,
  NAMESPACE_CONTEXT,
  PROFILE_CONTEXT,
  productLinkName,
  SCHEMA_ORG_CONTEXT,
  storedDocument,
} from '@market/contracts/catalogDocuments'
import { cidToDigest } from '@market/contracts/cid'
import { type CustomDataLink, signLink } from '@market/contracts/link'
import { devContracts, nameRegistryAbi } from '@market/dev-chain/deployment'
import { freePort } from '@market/devstack/ports'
import { openIpfs } from '@market/market-api/ops'
import { type RunningMarket, startRunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { createPublicClient, createWalletClient, type Hex, http, keccak256, stringToHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { describeLoad, load, median, medianLoad, report } from './load.ts'

const OPERATOR = '0x44be146d7e25cb11ab6671e251c816e079e2580a'
const SELLERS = 10
const PRODUCTS_EACH = 100

/** The figures of the catalog: indexing, pages, memory. */
export async function benchCatalog({ soakMinutes }: { soakMinutes: number }): Promise<void> {
  const market = await startRunningMarket({ env: { LOG_LEVEL: 'info', CATALOG_POLL_SECONDS: '1' } })
  const db = postgres(market.connections.market, { max: 2, onnotice: () => {} })
  try {
    const sellers = await Promise.all(Array.from({ length: SELLERS }, (_, i) => newSeller(market, i)))
    for (const seller of sellers) await seller.publish(seller.links)
    const avatars = sellers.map(({ address }) => address)
    const page = catalogUrl(market, avatars)

    await benchColdIndex(db, page)
    await benchChange(market, sellers[0]!)
    await restart(market)
    const small = await benchPages(page, '1,000 products, 10 sellers')
    await fill(db, avatars, 100_000)
    await restart(market)
    const large = await benchPages(page, '101,000 products, 10 sellers')
    report('page not in memory, 101,000 against 1,000', `${(large / small).toFixed(2)} x`, 'independent of size')
    if (soakMinutes > 0) await soak(market, page, soakMinutes)
  } finally {
    await db.end()
    await market.remove()
  }
}

async function benchColdIndex(db: postgres.Sql, page: string): Promise<void> {
  const seconds: number[] = []
  for (let run = 0; run < 5; run += 1) {
    await db`truncate catalog_avatars, catalog_payloads cascade`
    // Not one that is in the market's memory.
    const url = `${page}&pageSize=100&run=${run}`
    const started = performance.now()
    const { products, errors } = (await (await fetch(url)).json()) as { products: unknown[]; errors: unknown[] }
    seconds.push((performance.now() - started) / 1000)
    if (products.length !== 100 || errors.length > 0) throw new Error(`not indexed: ${JSON.stringify(errors)}`)
  }
  report('cold index of 1,000 products by 10 sellers', `${median(seconds, (s) => s).toFixed(2)} s`, '< 3 s')
}

async function benchChange(market: RunningMarket, seller: Seller): Promise<void> {
  const work: number[] = []
  const shown: number[] = []
  for (let run = 0; run < 7; run += 1) {
    const price = 1000 + run
    const link = await seller.offer('p-50', price)
    const before = market.log.length
    await seller.publish([...seller.links, link])
    const started = performance.now()
    const url = `${market.marketUrl}/api/operator/${OPERATOR}/catalog/${seller.address}/p-50`
    await until('the new price', async () => (await (await fetch(url)).text()).includes(`"price":${price}`))
    shown.push((performance.now() - started) / 1000)
    const line = market.log.slice(before).find((entry) => entry.line.includes('catalog indexed'))
    work.push(Number(/"ms":(\d+)/.exec(line?.line ?? '')?.[1]))
  }
  report('re-index after one change, work', `${median(work, (ms) => ms)} ms`, '< 50 ms')
  report('published change on show, poll of 1 s included', `${median(shown, (s) => s).toFixed(2)} s`, '< 5 s')
}

/** Gives the requests per second of pages that are not in memory. */
async function benchPages(page: string, what: string): Promise<number> {
  console.log(`\n${what}`)
  const base = new URL(page).origin
  const bytes = new Uint8Array(await (await fetch(page)).arrayBuffer())
  const bare = await bareServer(bytes)
  try {
    await load([{ path: '/' }], { base: bare.url, seconds: 2 })
    const limit = await medianLoad(bare.url, [{ path: '/' }])
    await load([at(page)], { base, seconds: 2 })
    const warm = await medianLoad(base, [at(page)])
    report(`bare Hono route of the same ${bytes.length} bytes`, describeLoad(limit))
    report('page of 20', describeLoad(warm), '>= 50 % of bare')
    report('', `${Math.round((warm.requestsPerSecond / limit.requestsPerSecond) * 100)} % of bare`)
  } finally {
    bare.stop()
  }
  const others = () => Array.from({ length: 20_000 }, (_, i) => at(`${page}&other=${Date.now()}-${i}`))
  const cold = await medianLoad(base, others, { seconds: 4 })
  report('page of 20, never in memory', describeLoad(cold))
  const deep = await medianLoad(base, [at(await deepPage(page, 20))])
  report('page 20, by cursor', describeLoad(deep))
  return cold.requestsPerSecond
}

async function deepPage(page: string, pages: number): Promise<string> {
  let url = page
  for (let i = 1; i < pages; i += 1) {
    const cursor = (await fetch(url)).headers.get('x-next-cursor')
    url = `${page}&cursor=${cursor}`
  }
  return url
}

async function soak(market: RunningMarket, page: string, minutes: number): Promise<void> {
  console.log(`\nmemory of market-api under ${minutes} minutes of load`)
  const resident: number[] = []
  for (let minute = 0; minute < minutes; minute += 1) {
    // Half the requests miss the memory of pages.
    const requests = Array.from({ length: 2000 }, (_, i) => at(i % 2 ? page : `${page}&soak=${minute}-${i}`))
    const { requestsPerSecond, errors } = await load(requests, { base: market.marketUrl, seconds: 60 })
    resident.push(residentMiB(market.services['market-api'].pid))
    report(
      `minute ${minute + 1}`,
      `${Math.round(requestsPerSecond)}/s  ${resident.at(-1)} MiB${errors && `  (${errors})`}`,
    )
  }
}

const at = (url: string) => ({ path: url.slice(new URL(url).origin.length) })

const residentMiB = (pid: number) =>
  Math.round(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024)

/** No look at the registry that would disturb. Logs as it does for an operator; whoever makes the load reads them here too. */
const restart = (market: RunningMarket) => market.services['market-api'].restart({ CATALOG_POLL_SECONDS: '3600' })

function catalogUrl(market: RunningMarket, avatars: string[]): string {
  const params = new URLSearchParams(avatars.map((avatar): [string, string] => ['avatars', avatar]))
  return `${market.marketUrl}/api/operator/${OPERATOR}/catalog?${params}`
}

async function bareServer(bytes: Uint8Array): Promise<{ url: string; stop(): void }> {
  const file = join(tmpdir(), `bare-${process.pid}.json`)
  writeFileSync(file, bytes)
  const port = await freePort()
  const child = fork(fileURLToPath(new URL('bareRoute.js', import.meta.url)), [String(port), file], { silent: true })
  await once(child.stdout!, 'data')
  return { url: `http://127.0.0.1:${port}`, stop: () => void child.kill() }
}

/**
 * Rows as indexing makes them, written straight into the index: signing and pinning so many would take longer than all the rest,
 * and a page reads nothing but rows.
 */
async function fill(db: postgres.Sql, avatars: string[], products: number): Promise<void> {
  await db`
    insert into catalog_payloads (cid, document, seen_at)
    select 'bench-' || n, (select replace(document::text, '"The p-1"', '"Bench product ' || n || '"')::json
      from catalog_payloads p join catalog_products q on q.product_cid = p.cid where q.sku = 'p-1' limit 1), now()
    from generate_series(1, ${products}) n`
  await db`
    insert into catalog_products (chain_id, operator, seller_address, sku, added_revision, kind, product_cid, link_keccak,
      published_at, chunk_depth, index_in_chunk, name, category, price, price_currency, words)
    select 100, ${OPERATOR}, (${avatars}::text[])[1 + n % ${avatars.length}], 'bench-' || n, 1, 'product', 'bench-' || n,
      '0x' || lpad(to_hex(n), 64, '0'), 1600000000 + n, n / 1000, n % 100, 'Bench product ' || n, 'Bench', 5, 'CRC',
      to_tsvector('simple', 'Bench product ' || n)
    from generate_series(1, ${products}) n`
  await db`vacuum analyze catalog_products, catalog_payloads`
}

type Seller = Awaited<ReturnType<typeof newSeller>>

async function newSeller(market: RunningMarket, n: number) {
  const key = keccak256(stringToHex(`bench/${n}`))
  const account = privateKeyToAccount(key)
  const store = await openIpfs({
    IPFS_RPC_URL: undefined,
    IPFS_RPC_BEARER: undefined,
    IPFS_STORE_DIR: market.ipfsStoreDir!,
    IPFS_TIMEOUT_MS: 1000,
  })
  const transport = http(market.rpcUrl)
  const wallet = createWalletClient({ account, transport })
  const chain = createPublicClient({ transport, pollingInterval: 50 })
  let nonces = 0
  const put = async (document: object) => {
    const { cid, bytes } = storedDocument(document)
    await store.put(bytes)
    return cid
  }
  const offer = async (sku: string, price: number): Promise<CustomDataLink> => {
    nonces += 1
    const cid = await put({
      '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
      '@type': 'Product',
      name: `The ${sku}`,
      sku,
      description:
        'A thing of linen, clay or paper, made by hand in a small series and sold as long as there is one. '.repeat(3),
      category: 'Goods',
      image: [`ipfs://QmVpUrsUrqo5BCDw8PYpMaEedYoCcsaw22cvYUpzukyQDy`],
      offers: [{ '@type': 'Offer', price, priceCurrency: 'CRC' }],
    })
    const nonce = `0x${(n * 1_000_000 + nonces).toString(16).padStart(32, '0')}`
    const signedAt = Math.floor(Date.now() / 1000)
    return signLink({ name: productLinkName(sku), cid, chainId: 100, signedAt, nonce }, key)
  }
  const links: CustomDataLink[] = []
  for (let i = 0; i < PRODUCTS_EACH; i += 1) links.push(await offer(`p-${i}`, i + 1))
  return {
    address: account.address.toLowerCase(),
    links,
    offer,
    async publish(all: CustomDataLink[]) {
      let head: string | null = null
      for (let i = 0; i < all.length; i += 100) {
        const chunk = {
          '@context': NAMESPACE_CONTEXT,
          '@type': 'NamespaceChunk',
          prev: head,
          links: all.slice(i, i + 100),
        }
        head = await put(chunk)
      }
      const entries = Object.fromEntries(all.map(({ name }) => [name, head]))
      const index = await put({ '@context': NAMESPACE_CONTEXT, '@type': 'NameIndexDoc', head, entries })
      const namespaces = { [OPERATOR]: index }
      const profile = await put({ '@context': PROFILE_CONTEXT, '@type': 'Profile', name: `Seller ${n}`, namespaces })
      const hash = await wallet.writeContract({
        address: devContracts.nameRegistry,
        abi: nameRegistryAbi,
        functionName: 'updateMetadataDigest',
        args: [cidToDigest(profile) as Hex],
        chain: null,
        gasPrice: 0n,
      })
      await chain.waitForTransactionReceipt({ hash })
    },
  }
}
