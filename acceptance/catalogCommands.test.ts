import { execFile, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  type NamespaceChunk,
  type NameIndexDoc,
  type Profile,
  storedDocument,
} from '@market/contracts/catalogDocuments'
import { cidToDigest, cidV0, digestToCid } from '@market/contracts/cid'
import { addressOfPrivateKey, type CustomDataLink, signLink } from '@market/contracts/link'
import { devContracts, nameRegistryAbi } from '@market/dev-chain/deployment'
import { Market } from '@market/sdk/market'
import { type RunningMarket, startRunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import { createPublicClient, createWalletClient, type Hex, http } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { newSeller } from './publisher.ts'

const script = new URL('../scripts/dist/ops.js', import.meta.url).pathname
const OPERATOR = `0x${'0a'.repeat(20)}`
const PAY_TO = `0x${'0b'.repeat(20)}`
const PINS_A_DAY = 60

let market: RunningMarket
let folder: string
/** Of the seller whose turn it is, one for each test. */
let key: Hex
let seller: string

beforeAll(async () => {
  market = await startRunningMarket({ env: { MARKET_PIN_OBJECTS_PER_DAY: String(PINS_A_DAY) } })
  folder = await mkdtemp(join(tmpdir(), 'market-catalog-'))
})
afterAll(async () => {
  await market?.remove()
  if (folder) await rm(folder, { recursive: true, force: true })
})
beforeEach(() => {
  key = generatePrivateKey()
  seller = addressOfPrivateKey(key)
})

const environment = (env: Record<string, string> = {}) => ({
  PATH: process.env.PATH,
  CATALOG_PRIVATE_KEY: key,
  MARKET_DATA_DIR: join(folder, 'nothing'),
  ...(market && {
    RPC: market.rpcUrl,
    NAME_REGISTRY_ADDRESS: devContracts.nameRegistry,
    IPFS_STORE_DIR: market.ipfsStoreDir,
  }),
  ...env,
})

type Ran = { code: number; stdout: string; stderr: string }

function run(args: string[], { env, input }: { env?: Record<string, string>; input?: string } = {}): Promise<Ran> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [script, ...args],
      { env: environment(env), maxBuffer: 64 * 1024 * 1024 },
      (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
    )
    child.stdin!.end(input ?? '')
  })
}

const publish = (path: string, ...more: string[]) =>
  run(['catalog', 'publish', path, '--operator', OPERATOR, '--pay-to', PAY_TO, ...more])
/** The one JSON object on stdout, and nothing but that. */
async function publishJson(path: string, ...more: string[]) {
  const { code, stdout, stderr } = await publish(path, '--json', ...more)
  return { code, stderr, ...(JSON.parse(stdout) as Record<string, unknown>) } as Record<string, any>
}
async function verifyJson(target: string, ...more: string[]) {
  const { code, stdout } = await run(['--json', 'catalog', 'verify', target, ...more])
  return { code, ...(JSON.parse(stdout) as { findings: Record<string, any>[]; products: Record<string, any>[] }) }
}

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

const csv = (name: string, rows: (string | number)[][]) => file(name, rows.map((row) => row.join(',')).join('\r\n'))

/** What the market's HTTP lists, page by page. */
async function listed(avatar = seller): Promise<Record<string, number>> {
  const anybody = new Market(market.marketUrl)
  const found: Record<string, number> = {}
  let cursor: string | undefined
  do {
    const page = await anybody.catalog(OPERATOR, [avatar], { pageSize: 100, ...(cursor && { cursor }) })
    for (const { product } of page.products) found[product.sku] = product.offers[0]!.price
    cursor = page.nextCursor
  } while (cursor)
  return found
}

const lists = (what: Record<string, number>) =>
  until(`the market lists ${Object.keys(what).length} product(s)`, async () => {
    const found = await listed()
    return JSON.stringify(Object.entries(found).toSorted()) === JSON.stringify(Object.entries(what).toSorted())
  })

const digestOf = (avatar = seller) =>
  createPublicClient({ transport: http(market.rpcUrl) }).readContract({
    address: devContracts.nameRegistry,
    abi: nameRegistryAbi,
    functionName: 'getMetadataDigest',
    args: [avatar as Hex],
  })

const stored = (cid: string) => join(market.ipfsStoreDir!, cid.slice(-2), cid)
const read = <T>(cid: string) => JSON.parse(readFileSync(stored(cid), 'utf8')) as T

/** All links of the seller's namespace, newest chunk first. */
async function linksOnStore() {
  const profile = read<Profile>(digestToCid(await digestOf()))
  const links: CustomDataLink[] = []
  for (let cid: string | null | undefined = read<NameIndexDoc>(String(profile.namespaces![OPERATOR])).head; cid;) {
    const chunk: NamespaceChunk = read<NamespaceChunk>(cid)
    links.push(...(chunk.links as unknown as CustomDataLink[]))
    cid = chunk.prev
  }
  return links
}

/** A picture as far as its first bytes tell, unlike any other. */
const picture = (n: number, size = 3000) => {
  const bytes = Buffer.alloc(size, n % 251)
  Buffer.from('89504e470d0a1a0a0000000d49484452', 'hex').copy(bytes)
  bytes.writeUInt32BE(n, 100)
  return bytes
}

describe('wrong usage', () => {
  it('ends with 2 and one sentence, whatever it is about', async () => {
    const ok = csv('ok.csv', [
      ['sku', 'name', 'price'],
      ['mug', 'Mug', 5],
    ])
    const cases: [string[], string][] = [
      [['publish', 'products.txt', '--operator', OPERATOR], 'products.txt must end in .csv or .json'],
      [['publish', ok, '--operator', '0x12'], '--operator must be a 0x hex address (got: 0x12)'],
      [
        ['publish', ok, '--operator', OPERATOR, '--key', 'env:NOBODY'],
        'no key to sign with: the variable NOBODY is empty',
      ],
      [['publish', file('latin.csv', Buffer.from('736b750ae4', 'hex')), '--operator', OPERATOR], 'is not UTF-8'],
      [['publish', ok, '--operator', OPERATOR, '--market', 'market.example'], '--market must be an http or https URL'],
      [['publish', ok, '--operator', OPERATOR, '--avatar', PAY_TO], `only ${PAY_TO} itself can write to the registry`],
      [['publish', ok], "required option '--operator <address>' not specified"],
      [['verify', 'nonsense'], 'nonsense is neither a CID nor an address'],
    ]
    const said = await Promise.all(cases.map(([args]) => run(['catalog', ...args])))
    for (const [i, { code, stderr, stdout }] of said.entries()) {
      expect({ code, stderr, stdout }).toEqual({ code: 2, stderr: expect.stringContaining(cases[i]![1]), stdout: '' })
    }
  })

  it('takes no key as an argument, says why, and does not repeat it', async () => {
    const ok = csv('ok.csv', [
      ['sku', 'name', 'price'],
      ['mug', 'Mug', 5],
    ])
    const { code, stderr, stdout } = await publish(ok, '--key', key)
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining('every process on this machine') })
    expect(stderr + stdout).not.toContain(key.slice(2))
  })

  it('shows examples with --help', async () => {
    for (const command of ['publish', 'verify']) {
      const { code, stdout } = await run(['catalog', command, '--help'])
      expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringContaining('Examples:') })
    }
  })
})

describe('catalog publish', () => {
  it('tells all that is wrong with a file at once, by line, and publishes nothing', async () => {
    const path = csv('wrong.csv', [
      ['sku', 'name', 'price', 'image', 'fulfillmentTrigger', 'requiredSlots', 'payTo', 'delete'],
      ['Mug', 'Mug', 5, '', '', '', '', ''],
      ['vase', '', 5, '', '', '', '', ''],
      ['lamp', 'Lamp', '5;50', '', '', '', '', ''],
      ['tote', 'Tote', 5, 'none.png', '', '', '', ''],
      ['print', 'Print', 5, '', 'soon', '', '', ''],
      ['poem', 'Poem', 5, '', '', 'shoeSize', '', ''],
      ['song', 'Song', 5, '', '', '', '0x12', ''],
      ['song', 'Song', 0.1, '', '', '', '', 'maybe'],
      ['good', 'Good', '0.1000000000000000055', '', '', '', '', ''],
      ['fine', 'Fine', 5, '', '', '', '', ''],
      ['fine', 'Fine', 6, '', '', '', '', ''],
      ['short', 'Short'],
    ])
    const { code, stderr, ...answer } = await publishJson(path)
    expect(code).toBe(1)
    expect(answer).toMatchObject({ ok: false, status: 'refused' })
    const said = (answer.refused as { where: string; sku?: string; what: string }[]).map(
      ({ where, sku, what }) => `${where} ${sku}: ${what}`,
    )
    expect(said).toEqual([
      expect.stringMatching(/^line 2 Mug: sku: may have small letters/),
      'line 3 vase: name: is missing',
      'line 4 lamp: price: 5;50 is no number such as 18.50',
      'line 5 tote: image: none.png is not there',
      'line 6 print: fulfillmentTrigger: must be confirmed or finalized',
      expect.stringMatching(/^line 7 poem: requiredSlots\[\]: names something/),
      'line 8 song: payTo: Address must be 42 chars and start with 0x',
      'line 9 song: delete: maybe is neither yes nor no',
      'line 10 good: price: 0.1000000000000000055 has more digits than a price can keep',
      'line 12 fine: sku: stands in the file more than once',
      'line 13 undefined: has 2 cells, and the header has 8',
    ])
    expect(stderr).toBe('Error: 11 row(s) refused, nothing is published\n')
    expect(BigInt(await digestOf())).toBe(0n)
    expect(existsSync(`${path}.publish.jsonl`)).toBe(false)
  })

  it('creates, leaves alone, updates and takes down, and the market lists just that', async () => {
    const rows = [
      ['sku', 'name', 'price', 'priceCurrency', 'requiredSlots', 'availableDeliveryMethod', 'payTo', 'delete'],
      [
        'mug',
        '"Mug, ""clay"""',
        '24.50',
        '',
        'contactPoint.email|customer',
        'http://purl.org/goodrelations/v1#DHL',
        '',
        '',
      ],
      ['vase', 'Vase', 5, 'EUR', '', '', `0x${'0C'.repeat(20)}`, 'no'],
    ]
    const path = csv('shop.csv', rows)
    const dry = await publish(path, '--dry-run')
    expect(dry).toMatchObject({ code: 0, stderr: '' })
    expect(dry.stdout).toMatch(/created +mug +24.5 CRC +Mug, "clay"\n/)
    expect(dry.stdout).toContain('Dry run, nothing was changed. To do: created 2, updated 0, unchanged 0, removed 0')
    expect(BigInt(await digestOf())).toBe(0n)

    const first = await publishJson(path, '--profile-name', 'Harbour Goods')
    expect(first).toMatchObject({
      code: 0,
      ok: true,
      status: 'published',
      created: 2,
      updated: 0,
      unchanged: 0,
      removed: 0,
      digest: await digestOf(),
      transaction: expect.stringMatching(/^0x/),
      stderr: '',
    })
    expect(existsSync(`${path}.publish.jsonl`)).toBe(false)
    await lists({ mug: 24.5, vase: 5 })
    const [mug, vase] = first.products as { cid: string }[]
    expect(read(mug!.cid)).toEqual({
      '@context': ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/'],
      '@type': 'Product',
      name: 'Mug, "clay"',
      sku: 'mug',
      offers: [
        {
          '@type': 'Offer',
          price: 24.5,
          priceCurrency: 'CRC',
          requiredSlots: ['contactPoint.email', 'customer'],
          availableDeliveryMethod: ['http://purl.org/goodrelations/v1#DHL'],
          potentialAction: {
            '@type': 'PayAction',
            price: 24.5,
            priceCurrency: 'CRC',
            recipient: { '@id': `eip155:100:${PAY_TO}` },
            instrument: { '@type': 'PropertyValue', propertyID: 'eip155', value: `100:${PAY_TO}`, name: 'pay-to' },
          },
        },
      ],
    })
    const recipient = { '@id': `eip155:100:0x${'0c'.repeat(20)}` }
    expect(read(vase!.cid)).toMatchObject({ offers: [{ priceCurrency: 'EUR', potentialAction: { recipient } }] })
    expect(read(digestToCid(await digestOf()))).toMatchObject({ name: 'Harbour Goods' })

    expect(await publishJson(path)).toMatchObject({ code: 0, status: 'unchanged', created: 0, unchanged: 2 })
    const [header, ...products] = rows
    csv('shop.csv', [
      header!,
      ['lamp', 'Lamp', 7, '', '', '', '', ''],
      products[0]!.with(2, 25),
      products[1]!.with(7, 'yes'),
    ])
    expect(await publishJson(path)).toMatchObject({ created: 1, updated: 1, unchanged: 0, removed: 1 })
    await lists({ mug: 25, lamp: 7 })
    csv('shop.csv', [header!, ['lamp', 'Lamp', 7, '', '', '', '', '']])
    expect(await publishJson(path)).toMatchObject({ status: 'unchanged', removed: 0 })
    const pruned = await publish(path, '--prune')
    expect(pruned.stdout).toMatch(/removed +mug\n/)
    await lists({ lamp: 7 })
  })

  it('reads JSON from a pipe: rows as in the table, and whole schema.org Products', async () => {
    const input = JSON.stringify([
      { sku: 'mug', name: 'Mug', price: 24, requiredSlots: ['contactPoint.email'], description: null },
      {
        '@type': 'Product',
        sku: 'vase',
        name: 'Vase',
        isFamilyFriendly: true,
        offers: [{ '@type': 'Offer', price: 7, priceCurrency: 'CRC' }],
      },
      { sku: 'gone', delete: true },
    ])
    const args = ['--json', 'catalog', 'publish', '-', '--operator', OPERATOR, '--pay-to', PAY_TO]
    const { code, stdout } = await run(args, { input })
    expect({ code, ...JSON.parse(stdout) }).toMatchObject({ code: 0, created: 2, unchanged: 1 })
    await lists({ mug: 24, vase: 7 })
    const { products } = JSON.parse(stdout) as { products: { cid: string }[] }
    expect(read(products[1]!.cid)).toMatchObject({
      isFamilyFriendly: true,
      offers: [{ price: 7, potentialAction: { price: 7, recipient: { '@id': `eip155:100:${PAY_TO}` } } }],
    })
  })

  it('publishes 250 products with local pictures, which the market then serves', async () => {
    mkdirSync(join(folder, 'img'), { recursive: true })
    const rows = Array.from({ length: 250 }, (_, i) => {
      file(`img/${i}.png`, picture(i))
      return [
        `sku-${i}`,
        `Product ${i}`,
        i + 1,
        i === 0 ? `img/0.png|https://shop.example/0.png|img/1.png` : `img/${i}.png`,
      ]
    })
    const path = csv('pictures.csv', [['sku', 'name', 'price', 'image'], ...rows])
    const result = await publishJson(path)
    expect(result).toMatchObject({ code: 0, created: 250, stderr: '' })
    await lists(Object.fromEntries(rows.map(([sku, , price]) => [sku, price as number])))
    const cid = cidV0(picture(0))
    expect(read(result.products[0].cid)).toMatchObject({
      image: [`ipfs://${cid}`, 'https://shop.example/0.png', `ipfs://${cidV0(picture(1))}`],
    })
    const served = await fetch(`${market.marketUrl}/ipfs/${cid}`)
    expect(served.headers.get('content-type')).toBe('image/png')
    expect(Buffer.from(await served.arrayBuffer())).toEqual(picture(0))
    expect(await publishJson(path)).toMatchObject({ status: 'unchanged', unchanged: 250 })

    file('img/page.png', '<html>')
    file('img/huge.png', picture(1, 8_388_609))
    const bad = csv('bad.csv', [
      ['sku', 'name', 'price', 'image'],
      ['a', 'A', 1, 'img/page.png'],
      ['b', 'B', 1, 'img/huge.png img'],
    ])
    expect((await publishJson(bad)).refused.map(({ what }: { what: string }) => what)).toEqual([
      'image: img/page.png is no PNG, JPEG, GIF, WebP or AVIF picture',
      'image: img/huge.png is larger than 8 MiB',
      'image: img is no file',
    ])
  })

  it('goes on after it was killed: no product lost, none twice, nothing signed again', async () => {
    const rows = Array.from({ length: 700 }, (_, i) => [`sku-${i}`, `Product ${i}`, i + 1])
    const path = csv('long.csv', [['sku', 'name', 'price'], ...rows])
    const journal = `${path}.publish.jsonl`
    const lines = () => (existsSync(journal) ? readFileSync(journal, 'utf8').split('\n').length : 0)
    const child = spawn(
      process.execPath,
      [script, 'catalog', 'publish', path, '--operator', OPERATOR, '--pay-to', PAY_TO],
      {
        env: environment(),
        stdio: 'ignore',
      },
    )
    const ended = new Promise((resolve) => child.on('exit', (code, signal) => resolve({ code, signal })))
    await until('it is under way', () => lines() > 250)
    child.kill('SIGKILL')
    expect(await ended).toEqual({ code: null, signal: 'SIGKILL' })
    expect(lines()).toBeLessThan(1400)
    expect(BigInt(await digestOf())).toBe(0n)

    // What a power cut leaves: half a line.
    writeFileSync(journal, `${readFileSync(journal, 'utf8')}{"pinned":"Qm`)
    const left = readFileSync(journal, 'utf8')
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as { link?: CustomDataLink })
    const signedBefore = left.flatMap(({ link }) => link ?? [])
    expect(signedBefore.length).toBeGreaterThan(20)

    const second = await publish(path)
    expect(second.code).toBe(0)
    expect(second.stdout).toContain('goes on where a run was cut off')
    expect(second.stdout).toContain('Done. created 700, updated 0, unchanged 0, removed 0')
    expect(existsSync(journal)).toBe(false)
    const links = await linksOnStore()
    expect(links.map(({ name }) => name).toSorted()).toEqual(rows.map(([sku]) => `product/${sku}`).toSorted())
    const signatures = new Set(links.map(({ signature }) => signature))
    expect(signedBefore.filter(({ signature }) => !signatures.has(signature)).map(({ name }) => name)).toEqual([])
    await lists(Object.fromEntries(rows.map(([sku, , price]) => [sku, price as number])))
  })

  // Just before midnight the publisher waits for the next day, and its quota.
  const isLate = Date.now() % 86_400_000 > 86_400_000 - 180_000
  it.skipIf(isLate)('pins through a market, and says so when its quota of the day is used up', async () => {
    file('mug.png', picture(7777))
    const path = csv('small.csv', [
      ['sku', 'name', 'price', 'image'],
      ['mug', 'Mug', 9, 'mug.png'],
      ['vase', 'Vase', 5, ''],
    ])
    const nowhere = { IPFS_STORE_DIR: '' }
    const args = (of: string) => [
      '--json',
      'catalog',
      'publish',
      of,
      '--operator',
      OPERATOR,
      '--market',
      market.marketUrl,
    ]
    const first = await run(args(path), { env: nowhere })
    expect({ ...first, ...JSON.parse(first.stdout) }).toMatchObject({ code: 0, created: 2 })
    await lists({ mug: 9, vase: 5 })
    expect((await fetch(`${market.marketUrl}/ipfs/${cidV0(picture(7777))}`)).status).toBe(200)

    const before = await digestOf()
    const rows = Array.from({ length: PINS_A_DAY }, (_, i) => [`sku-${i}`, `Product ${i}`, i + 1])
    const many = csv('many.csv', [['sku', 'name', 'price'], ...rows])
    const refused = await run(args(many), { env: nowhere })
    expect(refused.code).toBe(1)
    expect(JSON.parse(refused.stdout)).toEqual({
      ok: false,
      error: expect.stringContaining('MARKET_PIN_OBJECTS_PER_DAY'),
    })
    expect(refused.stderr).toContain('Run the same command again')
    expect(await digestOf()).toBe(before)
    expect(existsSync(`${many}.publish.jsonl`)).toBe(true)
    // Pins of the market are none of another store: there everything is pinned, and the links are signed for it too.
    expect(await publishJson(many)).toMatchObject({ code: 0, created: PINS_A_DAY })
    expect((await verifyJson(seller)).code).toBe(0)
  })

  it('leaves the last step to an avatar whose key it is not, and gives the same digest when asked again', async () => {
    const safe = privateKeyToAccount(generatePrivateKey())
    const avatar = safe.address.toLowerCase()
    const path = csv('safe.csv', [
      ['sku', 'name', 'price'],
      ['mug', 'Mug', 9],
    ])
    const args = ['--avatar', avatar, '--no-register']
    expect(await publish(path, ...args)).toMatchObject({ code: 1, stderr: expect.stringContaining('--list-key') })

    const first = await publishJson(path, ...args, '--list-key')
    expect(first).toMatchObject({
      code: 0,
      status: 'pinned',
      created: 1,
      call: { to: devContracts.nameRegistry, value: '0' },
    })
    const again = await publish(path, ...args, '--list-key')
    expect(again.stdout).toContain(`data ${first.call.data}`)
    const chain = { transport: http(market.rpcUrl) }
    const hash = await createWalletClient({ account: safe, ...chain }).sendTransaction({
      to: first.call.to,
      data: first.call.data,
      chain: null,
      gasPrice: 0n,
    })
    await createPublicClient({ ...chain, pollingInterval: 50 }).waitForTransactionReceipt({ hash })
    expect(await verifyJson(avatar, '--operator', OPERATOR)).toMatchObject({ code: 0, products: [{ sku: 'mug' }] })
    expect(await publishJson(path, ...args)).toMatchObject({ code: 0, status: 'unchanged', unchanged: 1 })
    expect(existsSync(`${path}.publish.jsonl`)).toBe(false)
  })
})

describe('catalog verify', () => {
  const findingsOf = ({ findings }: { findings: Record<string, any>[] }) => findings.filter(({ ok }) => ok === false)

  it('has no complaint about a catalog that is right, and lists it', async () => {
    await publish(
      csv('right.csv', [
        ['sku', 'name', 'price', 'delete'],
        ['mug', 'Mug', 9, ''],
        ['vase', 'Vase', 5, ''],
      ]),
    )
    await publish(
      csv('right.csv', [
        ['sku', 'name', 'price', 'delete'],
        ['vase', '', '', 1],
      ]),
    )
    const { code, findings, products } = await verifyJson(seller)
    expect(code).toBe(0)
    expect(findings.every(({ ok }) => ok !== false)).toBe(true)
    expect(products).toMatchObject([{ operator: OPERATOR, sku: 'mug', name: 'Mug', price: 9, currency: 'CRC' }])
    const { stdout } = await run(['catalog', 'verify', seller, '--operator', OPERATOR])
    expect(stdout).toMatch(/✓ product mug: Mug, 9 CRC/)
    expect(stdout).toMatch(/· product vase: taken down/)
    expect(stdout).toContain('1 product(s) listed, 1 taken down. Nothing is wrong.')
    expect((await run(['catalog', 'verify', seller, '--market', market.marketUrl])).code).toBe(0)
  })

  it('explains a payload that was tampered with, and publishing again puts it right', async () => {
    const path = csv('tampered.csv', [
      ['sku', 'name', 'price'],
      ['mug', 'Mug', 9],
      ['vase', 'Vase', 5],
    ])
    const { products } = await publishJson(path)
    writeFileSync(
      stored(products[0].cid),
      readFileSync(stored(products[0].cid), 'utf8').replace('"price":9', '"price":1'),
    )
    const { code, stdout } = await run(['catalog', 'verify', seller])
    expect(code).toBe(1)
    expect(stdout).toMatch(/✗ product mug: the store holds other bytes than the CID names/)
    expect(stdout).toMatch(/→ publish the catalog again, which pins what is missing: npm run ops -- catalog publish/)
    expect(stdout).toContain('1 product(s) listed, 0 taken down. 1 thing(s) wrong.')
    expect(await verifyJson(products[0].cid)).toMatchObject({
      code: 1,
      findings: [{ ok: false, code: 'CID_MISMATCH' }],
    })

    expect(await publishJson(path)).toMatchObject({ status: 'unchanged' })
    expect((await verifyJson(seller)).code).toBe(0)
    expect((await verifyJson(products[0].cid)).code).toBe(0)
  })

  it('explains a copied link, a date in the future, a forged signature and what was replaced', async () => {
    const thief = await newSeller(market, OPERATOR)
    const { products } = await publishJson(
      csv('honest.csv', [
        ['sku', 'name', 'price'],
        ['mug', 'Mug', 9],
      ]),
    )
    const [copied] = await linksOnStore()
    const now = Math.floor(Date.now() / 1000)
    const at = (sku: string, cid: string, signedAt: number) => {
      const { nonce } = thief.link(sku, cid)
      return signLink({ name: `product/${sku}`, cid, chainId: 100, signedAt, nonce }, thief.key)
    }
    const good = await thief.product('good', 5, PAY_TO)
    const future = at('later', await thief.product('later', 5, PAY_TO), now + 86_400)
    const forged = { ...at('forged', good, now), cid: products[0].cid }
    const elsewhere = signLink({ ...at('elsewhere', good, now), chainId: 1, signature: '' }, thief.key)
    const shapeless = { ...at('shapeless', good, now), signedAt: 'today' } as unknown as CustomDataLink
    await thief.publish([copied!, future, forged, elsewhere, at('good', good, now)])

    const found = await verifyJson(thief.address)
    expect(found).toMatchObject({ code: 1, products: [{ sku: 'good' }] })
    const wrong = Object.fromEntries(findingsOf(found).map(({ what, ...rest }) => [what, rest]))
    expect(wrong).toEqual({
      'link product/mug': expect.objectContaining({
        code: 'SIGNER_NOT_OWNER',
        because: expect.stringContaining('a copy'),
      }),
      'link product/later': expect.objectContaining({
        code: 'WINDOW',
        because: expect.stringContaining('future'),
        detail: expect.stringContaining(new Date((now + 86_400) * 1000).toISOString().slice(0, 10)),
        remedy: expect.stringContaining('clock'),
      }),
      'link product/forged': expect.objectContaining({ code: 'SIGNER' }),
    })

    // The chunk and a link by themselves, check by check.
    const profile = read<Profile>(digestToCid(await digestOf(thief.address)))
    const { head } = read<NameIndexDoc>(String(profile.namespaces![OPERATOR]))
    const chunk = await verifyJson(head, '--owner', thief.address)
    expect(findingsOf(chunk).map(({ what, code }) => [what, code])).toEqual([
      ['link 0 product/mug', 'SIGNER_NOT_OWNER'],
      ['link 1 product/later', 'WINDOW'],
      ['link 2 product/forged', 'SIGNER'],
      ['link 3 product/elsewhere', 'CHAIN'],
    ])
    const pinned = storedDocument(forged)
    mkdirSync(join(market.ipfsStoreDir!, pinned.cid.slice(-2)), { recursive: true })
    writeFileSync(stored(pinned.cid), pinned.bytes)
    const { stdout, code } = await run(['catalog', 'verify', pinned.cid])
    expect(code).toBe(1)
    const marks = stdout.split('\n').flatMap((line) => /([✓✗·]) (\d+)\./.exec(line)?.slice(1).join('') ?? [])
    expect(marks).toEqual(['✓1', '✓2', '✓3', '✓4', '✓5', '✓6', '✓7', '✗8'])
    expect(stdout).toContain('the 2 check(s) after it were not made')

    // What a newer link has replaced is history.
    const repaired = at('forged', good, now)
    await thief.publish([forged, { ...shapeless, name: 'product/good' }, at('good', good, now), repaired])
    expect(findingsOf(await verifyJson(thief.address)).map(({ code: said }) => said)).toEqual(['SKU_MISMATCH'])
  })

  it('reads past a link that nobody can parse, as the market does', async () => {
    const odd = await newSeller(market, OPERATOR)
    const links = [odd.link('good', await odd.product('good', 5, PAY_TO))]
    await odd.publish([...links, odd.link('twice', await odd.product('twice', 6, PAY_TO))])
    const profile = read<Profile>(digestToCid(await digestOf(odd.address)))
    const index = read<NameIndexDoc>(String(profile.namespaces![OPERATOR]))
    const put = (bytes: Uint8Array) => {
      const cid = cidV0(bytes)
      mkdirSync(join(market.ipfsStoreDir!, cid.slice(-2)), { recursive: true })
      writeFileSync(stored(cid), bytes)
      return cid
    }
    const doubled = readFileSync(stored(index.head), 'utf8').replace('"name":"product/twice"', '"name":"","name":"x"')
    const indexCid = put(storedDocument({ ...index, head: put(Buffer.from(doubled)) }).bytes)
    const profileCid = put(storedDocument({ ...profile, namespaces: { [OPERATOR]: indexCid } }).bytes)
    const transport = http(market.rpcUrl)
    const hash = await createWalletClient({ account: privateKeyToAccount(odd.key), transport }).writeContract({
      address: devContracts.nameRegistry,
      abi: nameRegistryAbi,
      functionName: 'updateMetadataDigest',
      args: [cidToDigest(profileCid) as Hex],
      chain: null,
      gasPrice: 0n,
    })
    await createPublicClient({ transport, pollingInterval: 50 }).waitForTransactionReceipt({ hash })

    const found = await verifyJson(odd.address)
    expect(found).toMatchObject({ code: 1, products: [{ sku: 'good' }] })
    expect(findingsOf(found).map(({ code }) => code)).toEqual(['SHAPE'])
    expect(await listed(odd.address)).toEqual({ good: 5 })
  })

  it('says what a CID is, and whether it would be pinned', async () => {
    const place = (bytes: Uint8Array) => {
      const cid = cidV0(bytes)
      mkdirSync(join(market.ipfsStoreDir!, cid.slice(-2)), { recursive: true })
      writeFileSync(stored(cid), bytes)
      return cid
    }
    const image = await run(['catalog', 'verify', place(picture(4242))])
    expect(image).toMatchObject({ code: 0, stdout: expect.stringContaining('it is a picture (image/png)') })
    const unpriced = place(
      storedDocument({
        '@context': ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/'],
        '@type': 'Product',
        name: '\u001b[31mMug',
        sku: 'mug',
        offers: [{ '@type': 'Offer', price: 0, priceCurrency: 'CRC' }],
      }).bytes,
    )
    expect(await verifyJson(unpriced)).toMatchObject({
      code: 1,
      findings: [{ ok: true }, { ok: false, code: 'NOT_PINNABLE', detail: 'offers[0].price: greater than zero' }],
    })
    const absent = await run(['catalog', 'verify', 'QmPn5Fq1iXQSFbQ4h1sB7PGwVWXmZK5u7WBM9n89PqatWf'])
    expect(absent).toMatchObject({ code: 1, stdout: expect.stringMatching(/✗ the document: it can not be had/) })
  })

  it('says that there is no catalog, or none for this operator', async () => {
    expect(await verifyJson(seller)).toMatchObject({ code: 1, findings: [{ code: 'NO_PROFILE' }] })
    await publish(
      csv('one.csv', [
        ['sku', 'name', 'price'],
        ['mug', 'Mug', 9],
      ]),
    )
    const other = await verifyJson(seller, '--operator', PAY_TO)
    expect(findingsOf(other)).toMatchObject([{ code: 'NO_NAMESPACE' }])
    const elsewhere = await run(['catalog', 'verify', seller, '--chain', '1'])
    expect(elsewhere).toMatchObject({ code: 1, stderr: 'Error: the RPC is of chain 100, not 1; set RPC or --chain\n' })
  })
})
