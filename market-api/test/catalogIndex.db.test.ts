import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { profileCidOfDigest } from '@market/contracts/cid'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { purgeCatalog } from '../src/catalog/indexer.ts'
import { upsertRoute } from '../src/ops.ts'
import { indexOf, OPERATOR, product, profileOf, startCatalog } from './catalogWorld.ts'

const vectors = new URL('../../packages/contracts/vectors/catalog/', import.meta.url)
const { main } = JSON.parse(readFileSync(new URL('expected.json', vectors), 'utf8'))
const clayMug = {
  older: 'QmVpUrsUrqo5BCDw8PYpMaEedYoCcsaw22cvYUpzukyQDy',
  newer: 'Qmdm5mTg5iyimumZUib4AZYcDBFaD6dWQR8D3k9GdZMuXv',
}
const vaseTombstone = 'QmYT2faknE2f7q443BkNYEVdKhsShPRK2fiepPWmvrJPos'

let world: Awaited<ReturnType<typeof startCatalog>>
beforeAll(async () => {
  world = await startCatalog()
})
afterAll(() => world.close())
// Every test has sellers of its own; what else it turned it leaves as it was.
afterEach(() => {
  world.faults.clear()
  world.setRegistryDown(false)
  world.ctx.now = () => new Date()
  world.ctx.pages.clear()
})

type Item = { seller: string; product: { sku: string; offers: { price: number }[] } }
type Entry = { avatar: string; stage: string; code: string; cid: string | null }
const skus = (body: { products: Item[] }) => body.products.map((item) => item.product.sku)
const prices = (body: { products: Item[] }) =>
  Object.fromEntries(body.products.map((item) => [item.product.sku, item.product.offers[0]!.price]))
const now = () => Math.floor(Date.now() / 1000)

describe('what can not be had', () => {
  // Each has to begin with an index that knows nothing.
  beforeEach(async () => {
    await world.loadVectors()
    await world.forget()
  })
  const [avatarA] = main.avatars as [string]

  it('catalog:35 never brings a product back because its tombstone is out of reach', async () => {
    world.faults.set(vaseTombstone, 'missing')
    const { body } = await world.page({ avatars: main.avatars })
    expect(skus(body)).not.toContain('old-vase')
    const about = body.errors.filter(({ cid }: Entry) => cid === vaseTombstone)
    expect(about).toMatchObject([{ avatar: avatarA, stage: 'payload', code: 'PAYLOAD_UNAVAILABLE' }])
  })

  it('catalog:36 hides a product rather than showing an old price, and shows it when it can be had', async () => {
    world.faults.set(clayMug.newer, 'missing')
    const first = await world.page({ avatars: main.avatars })
    expect(skus(first.body)).not.toContain('clay-mug')
    world.faults.clear()
    await world.retryNow()
    await world.follow()
    const { body } = await world.page({ avatars: main.avatars })
    expect(prices(body)['clay-mug']).toBe(26.5)
    expect(body.errors.map(({ cid }: Entry) => cid)).not.toContain(clayMug.newer)
  })

  it('keeps showing a version that was verified, though its blocks are gone now', async () => {
    await world.page({ avatars: main.avatars })
    for (const cid of [clayMug.newer, clayMug.older]) world.faults.set(cid, 'missing')
    // The seller publishes something else: the namespace is gone through again.
    world.ctx.pages.clear()
    expect(prices((await world.page({ avatars: main.avatars })).body)['clay-mug']).toBe(26.5)
    const diagnosed = await world.page({ avatars: main.avatars, diagnostics: '1' })
    expect(prices(diagnosed.body)['clay-mug']).toBe(26.5)
  })

  it('catalog:48 answers within the deadline though one source hangs, with the others complete', async () => {
    const hanging = main.avatars[0]
    world.faults.set(profileCidOfDigest(world.digests.get(hanging)!)!, 'hang')
    const started = performance.now()
    const { status, body } = await world.page({ avatars: main.avatars })
    expect(performance.now() - started).toBeLessThan(11_000)
    expect(status).toBe(200)
    expect(skus(body).toSorted()).toEqual(
      [
        ...main.products
          .filter(({ seller }: { seller: string }) => seller !== hanging)
          .map(({ sku }: { sku: string }) => sku),
        'sloe',
      ].toSorted(),
    )
    const about = body.errors.filter(({ avatar }: Entry) => avatar === hanging)
    expect(about).toHaveLength(1)
    expect(['DEADLINE', 'UNAVAILABLE']).toContain(about[0].code)
  })

  it('catalog:49 asks neither IPFS nor the chain for what it was asked before', async () => {
    const first = await world.page({ avatars: main.avatars })
    const before = { ...world.asked }
    world.ctx.pages.clear()
    const second = await world.page({ avatars: main.avatars })
    expect(second.body.products).toEqual(first.body.products)
    expect(world.asked).toEqual(before)
  })
})

it('catalog:37 falls back to the older version when the newer one is verified and bad', async () => {
  const seller = world.seller(7)
  const at = now() - 100
  const bad = await world.put({
    ...product('mug', 26),
    offers: [{ '@type': 'Offer', price: '26', priceCurrency: 'CRC' }],
  })
  await seller.publish([await seller.offer('mug', 24, at), seller.productLink('mug', bad, at + 10)])
  const { body } = await world.page({ avatars: seller.address })
  expect(prices(body)).toEqual({ mug: 24 })
  expect(body.errors).toMatchObject([
    { stage: 'payload', code: 'PAYLOAD_INVALID', cid: bad, message: 'offers[0].price: JSON number' },
  ])
})

describe('the request', () => {
  it('catalog:38 scans avatars once, given twice, in mixed case and with spaces', async () => {
    const a = world.seller(8).address
    const { body } = await world.page({ avatars: [a, a.toUpperCase().replace('0X', '0x'), `  ${a} `, ' '] })
    expect(body.avatarsScanned).toEqual([a])
  })

  const many = (n: number) => Array.from({ length: n }, (_, i) => `0x${i.toString(16).padStart(40, '0')}`)

  it('catalog:39 market-api:A-174 takes 500 avatars and no more, duplicates counted', async () => {
    expect((await world.page({ avatars: many(500) })).status).toBe(200)
    const { status, body } = await world.page({ avatars: Array.from({ length: 501 }, () => many(1)[0]!) })
    expect([status, body.error]).toEqual([400, 'avatars must be <= 500'])
  })

  it('catalog:40 has nothing to say of an avatar without profile, unless asked, and names what is no address', async () => {
    const stranger = `0x${'ab'.repeat(20)}`
    const plain = await world.page({ avatars: stranger })
    expect([plain.status, plain.body.products, plain.body.errors]).toEqual([200, [], []])
    const told = await world.page({ avatars: stranger, diagnostics: '1' })
    expect(told.body.errors).toMatchObject([{ avatar: stranger, stage: 'registry', code: 'NO_PROFILE' }])
    const wrong = await world.page({ avatars: '0x12' })
    expect([wrong.status, wrong.body.errors.length]).toEqual([200, 1])
    expect(wrong.body.errors[0]).toMatchObject({ avatar: '0x12', stage: 'registry', cid: null })
  })

  it('market-api:A-173 wants avatars', async () => {
    const { status, body, headers } = await world.page({})
    expect([status, body.error]).toEqual([400, 'At least one avatars query parameter is required'])
    expect(headers.get('content-type')).toBe('application/ld+json; charset=utf-8')
    expect(body).toMatchObject({ details: { path: '/avatars' }, code: 'invalid_query' })
  })

  it('catalog:41 market-api:A-175 market-api:A-177 refuses, clamps and ends pages as specified', async () => {
    const seller = world.seller(9)
    const at = now() - 100
    await seller.publish([
      await seller.offer('a', 1, at),
      await seller.offer('b', 2, at + 1),
      await seller.offer('c', 3, at + 2),
    ])
    const ask = (query: Record<string, string>) => world.page({ avatars: seller.address, ...query })
    const cursor = (value: object) => btoa(JSON.stringify(value))
    const refused = async (query: Record<string, string>) => {
      const { status, body } = await ask(query)
      return [status, body.error]
    }
    expect(await refused({ start: '2', end: '1' })).toEqual([400, 'start must be <= end'])
    expect(await refused({ cursor: 'not-base64' })).toEqual([400, 'Invalid cursor'])
    expect(await refused({ cursor: cursor({ start: -1 }) })).toEqual([400, 'cursor.start must be >= 0'])
    expect(await refused({ cursor: cursor({ start: 1, v: 1, s: 'x', k: [] }) })).toEqual([400, 'Invalid cursor'])
    expect(await refused({ cursor: btoa('null') })).toEqual([400, 'Invalid cursor'])
    expect(await refused({ offset: '-1' })).toEqual([400, 'offset must be >= 0'])
    expect(skus((await ask({ pageSize: '0' })).body)).toEqual(['c'])
    expect(skus((await ask({ pageSize: '1000' })).body)).toEqual(['c', 'b', 'a'])
    expect((await ask({ pageSize: '1000' })).headers.has('x-next-cursor')).toBe(false)
    const end = await ask({ offset: '3' })
    expect([end.status, end.body.products]).toEqual([200, []])
    expect((await ask({ offset: '4' })).status).toBe(416)
  })

  it('market-api:A-176 gives two of three, then one, and no next after that', async () => {
    const seller = world.seller(10)
    const at = now() - 100
    await seller.publish([
      await seller.offer('a', 1, at),
      await seller.offer('b', 2, at + 1),
      await seller.offer('c', 3, at + 2),
    ])
    const first = await world.page({ avatars: seller.address, pageSize: '2' })
    expect(skus(first.body)).toEqual(['c', 'b'])
    const cursor = first.headers.get('x-next-cursor')!
    expect(first.headers.get('link')).toMatch(
      /^<http:\/\/127.0.0.1:\d+\/api\/operator\/0x[0-9a-f]{40}\/catalog\?.*>; rel="next"$/,
    )
    expect(JSON.parse(Buffer.from(cursor, 'base64').toString()).start).toBe(2)
    const second = await world.page({ avatars: seller.address, pageSize: '2', cursor })
    expect(skus(second.body)).toEqual(['a'])
    expect([second.headers.has('x-next-cursor'), second.headers.has('link')]).toEqual([false, false])
    const browser = await world.page({ avatars: seller.address }, { origin: 'https://shop.example' })
    expect(browser.headers.get('access-control-expose-headers')).toMatch(/X-Next-Cursor, Link/)
    expect(browser.headers.get('access-control-allow-origin')).toBe('https://shop.example')
  })

  it('catalog:42 refuses a chain it has no node for', async () => {
    const { status, body } = await world.page({ avatars: world.seller(1).address, chainId: '1' })
    expect([status, body.error]).toEqual([400, 'chainId must be 100'])
  })

  it('catalog:43 cuts the window at now', async () => {
    const before = now()
    const { body } = await world.page({ avatars: world.seller(1).address, end: String(before + 31_536_000) })
    expect(body.window.end).toBeLessThanOrEqual(now())
    expect(body.window.end).toBeGreaterThanOrEqual(before)
  })

  it('takes the operator in any case, and refuses what is none', async () => {
    const seller = world.seller(11)
    await seller.publish([await seller.offer('a', 1, now() - 5)])
    const { body } = await world.page({ avatars: seller.address }, {}, OPERATOR.toUpperCase().replace('0X', '0x'))
    expect([body.operator, skus(body)]).toEqual([OPERATOR, ['a']])
    const wrong = await world.page({ avatars: seller.address }, {}, '0x1')
    expect([wrong.status, wrong.body.error]).toEqual([400, 'Address must be 42 chars and start with 0x'])
  })
})

describe('the namespace', () => {
  it('catalog:44 does not find a namespace under a key in checksum case', async () => {
    const seller = world.seller(12)
    const { index } = await seller.publish([await seller.offer('a', 1, now() - 5)])
    world.register(seller.address, await world.put(profileOf({ [OPERATOR.toUpperCase().replace('0X', '0x')]: index })))
    const { body } = await world.page({ avatars: seller.address, diagnostics: '1' })
    expect([body.products, body.errors]).toMatchObject([[], [{ stage: 'index', code: 'NO_NAMESPACE' }]])
  })

  it('catalog:45 counts the newer chunks above one of 101 links', async () => {
    const seller = world.seller(13)
    const at = now() - 1000
    const links = []
    for (let i = 0; i < 102; i += 1) links.push(await seller.offer(`p-${i}`, 1, at + i))
    const { chunks } = await seller.publish(links, { perChunk: 101 })
    const { body } = await world.page({ avatars: seller.address })
    expect(skus(body)).toEqual(['p-101'])
    expect(body.errors).toMatchObject([
      { avatar: seller.address, stage: 'chunk', code: 'CHUNK_TOO_LONG', cid: chunks[0] },
    ])
  })

  it('catalog:46 walks 5,000 chunks of 5,001 and says so', async () => {
    const seller = world.seller(14)
    const at = now() - 10_000
    const first = await seller.offer('oldest', 1, at)
    const rest = await seller.offer('other', 2, at + 1)
    await seller.publish([first, ...Array.from({ length: 5000 }, () => rest)], { perChunk: 1, quick: true })
    const { body } = await world.page({ avatars: seller.address })
    await world.ctx.indexer.settled()
    world.ctx.pages.clear()
    const settled = body.errors[0]?.code === 'DEADLINE' ? (await world.page({ avatars: seller.address })).body : body
    expect([skus(settled), settled.errors]).toMatchObject([['other'], [{ stage: 'chunk', code: 'TOO_MANY_CHUNKS' }]])
  }, 60_000)

  it('lets one link with a repeated member name spoil only itself', async () => {
    const seller = world.seller(15)
    const at = now() - 100
    const links = [await seller.offer('good', 1, at), await seller.offer('twice', 2, at + 1)]
    const { chunks } = await seller.publish(links)
    const text = new TextDecoder().decode(await world.store.get(chunks[0]!))
    const doubled = text.replace('"name":"product/twice"', '"name":"product/good","name":"product/twice"')
    const head = await world.store.put(new TextEncoder().encode(doubled))
    world.register(seller.address, await world.put(profileOf({ [OPERATOR]: await world.put(indexOf(head)) })))
    const { body } = await world.page({ avatars: seller.address })
    expect(skus(body)).toEqual(['good'])
    expect(body.errors).toMatchObject([{ stage: 'link', code: 'SHAPE', cid: head, index: 1 }])
  })

  it('takes a product with U+0000 in its texts, and a link whose name holds one', async () => {
    const seller = world.seller(16)
    const at = now() - 100
    const odd = await world.put(product('odd', 1, { name: 'O\u0000dd', description: 'x\u0000y' }))
    await seller.publish([
      seller.link({ name: 'no\u0000name', cid: odd, signedAt: at }),
      seller.productLink('odd', odd, at + 1),
    ])
    const { body } = await world.page({ avatars: seller.address, compat: '0' })
    expect(body.products[0].product.name).toBe('O\u0000dd')
    expect(body.errors).toEqual([])
  })
})

describe('change', () => {
  it('catalog:41 shows a change after the next round, reading only what is new, and never more than 100 at once', async () => {
    await world.forget()
    const seller = world.seller(20)
    const at = now() - 1000
    const links = []
    for (let i = 0; i < 250; i += 1) links.push(await seller.offer(`p-${i}`, 1, at + i))
    await seller.publish(links)
    await world.page({ avatars: seller.address })
    const before = world.asked.ipfs
    await seller.publish([...links, await seller.offer('p-7', 99, at + 500)])
    await world.follow()
    // Profile, index, the one chunk that changed, and one payload.
    expect(world.asked.ipfs - before).toBe(4)
    const { body } = await world.page({ avatars: seller.address, pageSize: '100' })
    expect(prices(body)['p-7']).toBe(99)
    const most = await world.page({ avatars: seller.address, pageSize: '1000' })
    expect([most.body.products.length, most.headers.has('x-next-cursor')]).toEqual([100, true])
    expect(body.products[0].indexInChunk).toBe(50)
  })

  it('takes a product back, brings it back, and forgets a namespace that is gone', async () => {
    const seller = world.seller(21)
    const at = now() - 1000
    const links = [await seller.offer('a', 1, at), await seller.offer('b', 2, at + 1)]
    const show = async () => skus((await world.page({ avatars: seller.address })).body)
    await seller.publish(links)
    expect(await show()).toEqual(['b', 'a'])
    links.push(await seller.bury('a', at + 2))
    await seller.publish(links)
    await world.follow()
    expect(await show()).toEqual(['b'])
    links.push(await seller.offer('a', 3, at + 3))
    await seller.publish(links)
    await world.follow()
    expect(await show()).toEqual(['a', 'b'])
    world.register(seller.address, await world.put(profileOf({})))
    await world.follow()
    expect(await show()).toEqual([])
  })

  it('keeps depth right across rotations, and is the same as if it had been read in one go', async () => {
    const seller = world.seller(22)
    const at = now() - 100_000
    const links = []
    const other = await startCatalog()
    try {
      for (let i = 0; i < 14; i += 1) {
        // Names and times collide on purpose.
        links.push(await seller.offer(`p-${i % 5}`, i + 1, at + Math.floor(i / 3)))
        await seller.publish(links, { perChunk: 3 })
        if (i === 0) await world.page({ avatars: seller.address })
        else await world.follow()
        other.digests.set(seller.address, world.digests.get(seller.address)!)
      }
      for (const link of links) await other.put(JSON.parse(new TextDecoder().decode(await world.store.get(link.cid))))
      const twin = other.seller(22)
      await twin.publish(links, { perChunk: 3 })
      const grown = await world.page({ avatars: seller.address })
      const fresh = await other.page({ avatars: seller.address })
      expect(grown.body.products.map(({ linkKeccak }: { linkKeccak: string }) => linkKeccak)).toEqual(
        fresh.body.products.map(({ linkKeccak }: { linkKeccak: string }) => linkKeccak),
      )
      const rows = async (w: typeof world) =>
        (
          await sql`select sku, chunk_depth, index_in_chunk, link_keccak from catalog_products
            where removed_revision is null and seller_address = ${seller.address} order by sku`.execute(w.ctx.db)
        ).rows
      expect(await rows(world)).toEqual(await rows(other))
    } finally {
      await other.close()
    }
  })

  it('catalog:47 loses and doubles nothing over the pages of one snapshot while products change', async () => {
    const seller = world.seller(23)
    const at = now() - 1000
    const links = []
    for (let i = 0; i < 10; i += 1) links.push(await seller.offer(`p-${i}`, 1, at + i))
    await seller.publish(links)
    const first = await world.page({ avatars: seller.address, pageSize: '4' })
    const changed = links.map((link) => link)
    changed[1] = await seller.offer('p-1', 50, at + 100)
    changed[8] = await seller.offer('p-8', 60, at + 101)
    await seller.publish(changed)
    await world.follow()
    const seen = skus(first.body)
    const shown = prices(first.body)
    let cursor = first.headers.get('x-next-cursor')
    while (cursor) {
      const next = await world.page({ avatars: seller.address, pageSize: '4', cursor })
      expect(next.headers.has('x-snapshot-changed')).toBe(false)
      seen.push(...skus(next.body))
      Object.assign(shown, prices(next.body))
      cursor = next.headers.get('x-next-cursor')
    }
    expect(seen).toEqual(Array.from({ length: 10 }, (_, i) => `p-${9 - i}`))
    expect(Object.values(shown)).toEqual(Array.from({ length: 10 }, () => 1))
    expect(prices((await world.page({ avatars: seller.address })).body)).toMatchObject({ 'p-1': 50, 'p-8': 60 })
  })

  it('goes on by place, and says so, when the snapshot is no longer kept', async () => {
    const seller = world.seller(24)
    const at = now() - 1000
    const links = []
    for (let i = 0; i < 6; i += 1) links.push(await seller.offer(`p-${i}`, 1, at + i))
    await seller.publish(links)
    const first = await world.page({ avatars: seller.address, pageSize: '3' })
    const cursor = first.headers.get('x-next-cursor')!
    await purgeCatalog(world.ctx)
    links[0] = await seller.offer('p-0', 5, at + 100)
    await seller.publish(links)
    await world.follow()
    await purgeCatalog(world.ctx)
    await purgeCatalog(world.ctx)
    const next = await world.page({ avatars: seller.address, pageSize: '3', cursor })
    expect(next.headers.get('x-snapshot-changed')).toBe('1')
    expect(skus(next.body)).toEqual(['p-2', 'p-1'])
  })

  it('lists a link from the future when its time has come, not before', async () => {
    const seller = world.seller(25)
    const at = now()
    let clock = at
    world.ctx.now = () => new Date(clock * 1000)
    await seller.publish([await seller.offer('early', 1, at + 3600), await seller.offer('now', 2, at)])
    expect(skus((await world.page({ avatars: seller.address })).body)).toEqual(['now'])
    clock = at + 3600 - 30
    const { rows } = await sql<{ due: string }>`select extract(epoch from recheck_at) as due from catalog_namespaces
      where avatar = ${seller.address}`.execute(world.ctx.db)
    expect(Number(rows[0]!.due)).toBe(at + 3570)
    await sql`update catalog_namespaces set recheck_at = now()`.execute(world.ctx.db)
    world.ctx.now = () => new Date(Math.max(clock * 1000, Date.now()))
    await world.follow()
    expect(skus((await world.page({ avatars: seller.address })).body)).toEqual(['early', 'now'])
  })

  it('says how fresh it is, and who is behind', async () => {
    const seller = world.seller(26)
    await seller.publish([await seller.offer('a', 1, now() - 5)])
    await world.page({ avatars: seller.address })
    await world.follow()
    const fresh = await world.page({ avatars: seller.address })
    expect(Date.now() - Date.parse(fresh.body.freshness.checkedAt)).toBeLessThan(5000)
    expect(fresh.body.freshness).toMatchObject({ behind: [] })
    const { profileCid } = await seller.publish([await seller.offer('b', 1, now() - 4)])
    world.faults.set(profileCid, 'missing')
    await world.follow()
    const late = await world.page({ avatars: seller.address })
    expect(late.body.freshness.behind).toEqual([seller.address])
    // What was verified stays on show, and the reason is told.
    expect(skus(late.body)).toEqual(['a'])
    expect(late.body.errors).toMatchObject([{ stage: 'profile', code: 'UNAVAILABLE', cid: profileCid }])
  })

  it('answers 304 while nothing changed, whoever asks and however late', async () => {
    const seller = world.seller(27)
    const links = [await seller.offer('a', 1, now() - 50)]
    await seller.publish(links)
    const first = await world.page({ avatars: seller.address })
    const etag = first.headers.get('etag')!
    world.ctx.pages.clear()
    await world.follow()
    const again = await world.page({ avatars: seller.address }, { 'if-none-match': etag })
    expect([again.status, again.text]).toEqual([304, ''])
    await seller.publish([...links, await seller.offer('b', 1, now() - 40)])
    await world.follow()
    const changed = await world.page({ avatars: seller.address }, { 'if-none-match': etag })
    expect(changed.status).toBe(200)
    expect(changed.headers.get('etag')).not.toBe(etag)
  })

  it('lets a registry that is down change nothing of what is shown', async () => {
    const seller = world.seller(28)
    await seller.publish([await seller.offer('a', 1, now() - 50)])
    await world.page({ avatars: seller.address })
    world.setRegistryDown(true)
    world.ctx.pages.clear()
    const stranger = `0x${randomBytes(20).toString('hex')}`
    const { status, body } = await world.page({ avatars: [seller.address, stranger] })
    expect([status, skus(body)]).toEqual([200, ['a']])
    expect(body.errors).toMatchObject([{ avatar: stranger, stage: 'registry', code: 'CHAIN_UNAVAILABLE' }])
  })

  it('follows no more visitors than it is told to', async () => {
    await world.forget()
    Object.assign(world.ctx.config, { CATALOG_MAX_VISITED_AVATARS: 1 })
    const [a, b] = [world.seller(31), world.seller(32)]
    for (const seller of [a, b]) await seller.publish([await seller.offer('x', 1, now() - 5)])
    expect(skus((await world.page({ avatars: a.address })).body)).toEqual(['x'])
    const { body } = await world.page({ avatars: [a.address, b.address] })
    expect(skus(body)).toEqual(['x'])
    expect(body.errors).toMatchObject([{ avatar: b.address, code: 'NOT_FOLLOWED' }])
    Object.assign(world.ctx.config, { CATALOG_MAX_VISITED_AVATARS: 10_000 })
  })
})

it('forgets a visitor nobody has asked for in a day, and keeps a seller', async () => {
  const [visitor, asked, sellerOfOurs] = [world.seller(35), world.seller(36), world.seller(37)]
  for (const one of [visitor, asked, sellerOfOurs]) await one.publish([await one.offer('x', 1, now() - 5)])
  await upsertRoute(world.ctx.db, { chainId: 100, seller: sellerOfOurs.address, sku: 'x', offerType: 'codedispenser' })
  await world.page({ avatars: [visitor.address, asked.address] })
  await world.follow()
  await sql`update catalog_avatars set requested_at = now() - interval '25 hours' where requested_at is not null`.execute(
    world.ctx.db,
  )
  world.ctx.pages.clear()
  expect(skus((await world.page({ avatars: asked.address })).body)).toEqual(['x'])
  await purgeCatalog(world.ctx)
  const { rows } = await sql<{ avatar: string }>`select avatar from catalog_avatars`.execute(world.ctx.db)
  const left = rows.map(({ avatar }) => avatar)
  expect(left).toContain(asked.address)
  expect(left).toContain(sellerOfOurs.address)
  expect(left).not.toContain(visitor.address)
})

describe('search', () => {
  const at = now() - 1000
  beforeAll(async () => {
    const seller = world.seller(40)
    await seller.publish([
      await seller.offer('linen-tote', 18.5, at, { category: 'Bags', description: 'Sewn from sail offcuts' }),
      await seller.offer('mug', 24, at + 1, { category: 'Ceramics', brand: 'Kiln & Co', name: 'Großer Becher' }),
      await seller.offer('bowl', 31.25, at + 2, { category: 'ceramics' }),
    ])
  })
  const find = async (query: Record<string, string>) =>
    skus((await world.page({ avatars: world.seller(40).address, ...query })).body)

  it.each<[Record<string, string>, string[]]>([
    [{ q: 'sail' }, ['linen-tote']],
    [{ q: 'KILN' }, ['mug']],
    [{ q: 'groß bech' }, ['mug']],
    [{ q: "off' | !x & ()" }, []],
    [{ q: '!!!' }, ['bowl', 'mug', 'linen-tote']],
    [{ category: 'CERAMICS' }, ['bowl', 'mug']],
    [{ minPrice: '24' }, ['bowl', 'mug']],
    [{ minPrice: '18.5', maxPrice: '24' }, ['mug', 'linen-tote']],
    [{ maxPrice: '18.49' }, []],
    [{ priceCurrency: 'EUR' }, []],
    [{ category: 'ceramics', q: 'bowl' }, ['bowl']],
  ])('finds %j', async (query, wanted) => {
    expect(await find(query)).toEqual(wanted)
    // The slow way has the same filter.
    expect(await find({ ...query, end: String(at + 500), start: String(at) })).toEqual(wanted)
  })

  it.each([{ minPrice: 'x' }, { maxPrice: '1e9' }, { priceCurrency: 'crc' }, { q: 'x'.repeat(201) }] as Record<
    string,
    string
  >[])('refuses %j', async (query) => {
    expect((await world.page({ avatars: world.seller(40).address, ...query })).status).toBe(400)
  })

  it('keeps the filter in the link to the next page', async () => {
    const { headers, body } = await world.page({
      avatars: world.seller(40).address,
      category: 'ceramics',
      pageSize: '1',
    })
    expect(skus(body)).toEqual(['bowl'])
    const next = /^<([^>]+)>/.exec(headers.get('link')!)![1]!
    expect(skus((await (await fetch(next)).json()) as { products: Item[] })).toEqual(['mug'])
  })

  it('gives one product by seller and sku, and 404 for another', async () => {
    const { address } = world.seller(40)
    const read = (path: string) => fetch(`${world.url}/api/operator/${OPERATOR}/catalog/${path}`)
    const found = await read(`${address}/MUG`)
    expect(found.status).toBe(200)
    expect(await found.json()).toMatchObject({ seller: address, product: { sku: 'mug' }, market: { buyable: false } })
    const missing = await read(`${address}/nothing`)
    expect([missing.status, ((await missing.json()) as { code: string }).code]).toEqual([404, 'product_not_found'])
  })
})
