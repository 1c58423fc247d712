import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { storedDocument } from '@market/contracts/catalogDocuments'
import { cidV0 } from '@market/contracts/cid'
import { LINK_CONTEXT } from '@market/contracts/link'
import { startKubo } from '@market/testkit/kubo'
import { until } from '@market/testkit/until'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { purgeCatalog } from '../src/catalog/indexer.ts'
import { IpfsUnavailableError } from '../src/catalog/ipfs/ipfs.ts'
import { Variables } from '../src/config.ts'
import type { MarketContext } from '../src/context.ts'
import { cidsIn } from '../src/pinning/catalogNames.ts'
import { sweepPins } from '../src/pinning/sweepPins.ts'
import { chunkOf, indexOf, OPERATOR, product, profileOf, startCatalog } from './catalogWorld.ts'

type World = Awaited<ReturnType<typeof startCatalog>>

const KEEP_DAYS = 30
const BEGIN = Date.parse('2026-03-01T12:00:00Z')
const DAY_MS = 86_400_000
const started: World[] = []
let world: World
let ipfs: World['ctx']['ipfs']
let days = 0
let people = 100

const start = async (env: Record<string, string> = {}) => {
  const quota = { MARKET_ANONYMOUS_PIN_BYTES_PER_DAY: '1000000000', UNPIN_AFTER_DAYS: String(KEEP_DAYS) }
  const fresh = await startCatalog({ ...quota, ...env })
  started.push(fresh)
  fresh.ctx.now = () => new Date(BEGIN + days * DAY_MS)
  return fresh
}
beforeAll(async () => {
  world = await start()
  ipfs = { ...world.ctx.ipfs }
})
afterAll(async () => {
  for (const one of started) await one.close()
})
beforeEach(() => {
  days = 0
})
afterEach(async () => {
  Object.assign(world.ctx.ipfs, ipfs)
  world.faults.clear()
  world.setRegistryDown(false)
  await sql`truncate pins, market_service_routes, catalog_avatars, catalog_payloads cascade`.execute(world.ctx.db)
})

/** Pins as wallets do, by HTTP. */
async function pin(document: object | Uint8Array, { at = world, headers = {} }: { at?: World; headers?: object } = {}) {
  const isMedia = document instanceof Uint8Array
  const response = await fetch(`${at.url}/api/${isMedia ? 'pin-media' : 'pin'}`, {
    method: 'POST',
    headers: { 'Content-Type': isMedia ? 'application/octet-stream' : 'application/json', ...headers },
    body: isMedia ? (document as Uint8Array<ArrayBuffer>) : (storedDocument(document).bytes as Uint8Array<ArrayBuffer>),
  })
  expect(response.status).toBe(200)
  return ((await response.json()) as { cid: string }).cid
}

/** An image of its own for each number. */
const image = (n: number) => {
  const gif = Buffer.from('R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7', 'base64')
  return new Uint8Array(Buffer.concat([gif, Buffer.from(`image ${n}`)]))
}

/** A seller who publishes through the market: whatever it names is pinned by HTTP first. */
function newSeller(at = world) {
  const seller = at.seller((people += 1))
  const pinHere = (document: object | Uint8Array) => pin(document, { at })
  return {
    ...seller,
    async offer(sku: string, price: number, more: object = {}) {
      const signedAt = Math.floor(at.ctx.now().getTime() / 1000) - 10
      const cid = await pinHere(product(sku, price, more))
      return seller.productLink(sku, cid, signedAt)
    },
    /** All documents there are of a namespace with one chunk; a chunk before it when `prev` names one. */
    async publish(links: object[], { profile = {}, prev = null }: { profile?: object; prev?: string | null } = {}) {
      const chunk = await pinHere(chunkOf(links as never, prev))
      const index = await pinHere(indexOf(chunk))
      const profileCid = await pinHere(profileOf({ [OPERATOR]: index }, profile))
      at.register(seller.address, profileCid)
      return { chunk, index, profile: profileCid }
    },
  }
}

const indexed = async (...sellers: { address: string }[]) => {
  await world.retryNow()
  await world.follow()
  const { body } = await world.page({ avatars: sellers.map(({ address }) => address) })
  return body as { products: { product: { sku: string } }[]; errors: unknown[] }
}
/** Both of them are needed before something goes: one that sees it gone, and one that sees it gone for long. */
const sweepIn = async (after: number, at = world) => {
  days += after
  // The lease is for a day of the database's clock.
  await sql`delete from leases where name = 'pin-sweep'`.execute(at.ctx.db)
  await sweepPins(at.ctx)
}
const isStored = (cid: string, at = world) => existsSync(join(at.ctx.config.IPFS_STORE_DIR, cid.slice(-2), cid))
const stored = (cids: Record<string, string>) =>
  Object.fromEntries(Object.entries(cids).map(([name, cid]) => [name, isStored(cid)]))
const all = (cids: Record<string, string>, is: boolean) =>
  Object.fromEntries(Object.keys(cids).map((name) => [name, is]))
const pins = (cid: string, at = world) => at.ctx.db.selectFrom('pins').selectAll().where('cid', '=', cid).execute()
const sellsHere = ({ address }: { address: string }, enabled = true) =>
  sql`insert into market_service_routes (chain_id, seller_address, sku, is_one_off, enabled)
      values (100, ${address}, 'any', true, ${enabled})
      on conflict (chain_id, seller_address, sku) do update set enabled = excluded.enabled`.execute(world.ctx.db)

describe('what a current profile reaches', () => {
  it('catalog:W32 never goes, however long it stays: profile, index, chunks, payloads and their images', async () => {
    const seller = newSeller()
    const images = [1, 2, 3, 4].map((n) => image(n))
    const [byUri, byCid, byGateway, picture] = await Promise.all(images.map((bytes) => pin(bytes)))
    const first = await seller.offer('old', 1, { image: [`ipfs://${asV1(byUri!)}`, { contentUrl: `cid:${byCid}` }] })
    const { chunk: tail } = await seller.publish([first])
    const second = await seller.offer('new', 2, { image: [`https://ipfs.example/ipfs/${byGateway}?x=1`] })
    const documents = await seller.publish([second], { prev: tail, profile: { imageUrl: `ipfs://${picture}` } })
    const reached = {
      ...documents,
      tail,
      first: first.cid,
      second: second.cid,
      byUri: byUri!,
      byCid: byCid!,
      byGateway: byGateway!,
      picture: picture!,
    }
    expect((await indexed(seller)).products).toHaveLength(2)
    for (let i = 0; i < 5; i += 1) await sweepIn(40)
    expect(stored(reached)).toEqual(all(reached, true))
    for (const cid of Object.values(reached)) {
      expect(await pins(cid)).toMatchObject([{ reached_by: [seller.address], unreachable_since: null }])
    }
  })

  it('is marked when it is given up, and no longer when it is taken up again', async () => {
    const { seller, link, other } = await giveUpOne()
    const since = world.ctx.now()
    await sweepIn(20)
    expect(await pins(link.cid)).toMatchObject([{ unreachable_since: since }])
    // The link is signed and what it names is there: nothing has to be pinned again.
    await seller.publish([other, link])
    await indexed(seller)
    await sweepIn(20)
    expect(await pins(link.cid)).toMatchObject([{ unreachable_since: null }])
    expect(isStored(link.cid)).toBe(true)
  })

  it.each(['another avatar in a product', 'its own avatar as its picture'])(
    'stays when it is named again while a sweep is at work, by %s',
    async (how) => {
      const seller = newSeller()
      const shared = await pin(image(11))
      const mug = await seller.offer('mug', 1, { image: [`ipfs://${shared}`] })
      await seller.publish([mug])
      await indexed(seller)
      await sweepIn(0)
      const { profile } = await seller.publish([])
      await indexed(seller)
      await sweepIn(1)
      const other = newSeller()
      const again = await other.offer('vase', 1, { image: [`ipfs://${shared}`] })
      // Profiles are looked at after payloads: by now the sweep has seen all of these that there were.
      const { get } = world.ctx.ipfs
      world.ctx.ipfs.get = async (cid, options) => {
        if (cid === profile) {
          world.ctx.ipfs.get = get
          if (how.startsWith('another')) await other.publish([again])
          else await seller.publish([], { profile: { imageUrl: `ipfs://${shared}` } })
          await indexed(seller, other)
        }
        return get(cid, options)
      }
      await sweepIn(KEEP_DAYS + 1)
      expect(isStored(shared)).toBe(true)
      // Of an avatar that published meanwhile, all waits for the next sweep.
      expect(isStored(mug.cid)).toBe(how.startsWith('its own'))
    },
  )

  it('stays when it is pinned or sold again right before it would have gone', async () => {
    const seller = newSeller()
    const offers = await Promise.all([1, 2, 3].map((price) => seller.offer(`mug-${price}`, price)))
    await seller.publish(offers)
    await indexed(seller)
    await sweepIn(0)
    await seller.publish([])
    await indexed(seller)
    await sweepIn(1)
    const { unpin } = world.ctx.ipfs
    const left = offers.map(({ cid, name }) => ({ cid, sku: name.slice('product/'.length) }))
    let kept: typeof left = []
    world.ctx.ipfs.unpin = async (cid) => {
      if (kept.length === 0 && left.some((one) => one.cid === cid)) {
        kept = left.filter((one) => one.cid !== cid)
        const [sold, pinned] = kept as [(typeof left)[0], (typeof left)[0]]
        const other = newSeller()
        await other.publish([other.productLink(sold.sku, sold.cid, Math.floor(BEGIN / 1000))])
        await indexed(other)
        await pin(product(pinned.sku, Number(pinned.sku.slice(-1))))
      }
      await unpin(cid)
    }
    await sweepIn(KEEP_DAYS + 1)
    expect(kept).toHaveLength(2)
    expect(left.filter(({ cid }) => isStored(cid))).toEqual(kept)
  })
})

describe('what no profile names any more', () => {
  it('goes 30 days after a product was updated: its old payload, image and documents; and is forgotten', async () => {
    const seller = newSeller()
    const [oldImage, newImage] = [await pin(image(21)), await pin(image(22))]
    const old = await seller.offer('mug', 1, { image: [`ipfs://${oldImage}`] })
    const before = await seller.publish([old])
    await indexed(seller)
    await sweepIn(0)

    const link = await seller.offer('mug', 2, { image: [`ipfs://${newImage}`] })
    const after = await seller.publish([link])
    await indexed(seller)
    await sweepIn(1)
    const gone = { ...before, payload: old.cid, image: oldImage }
    const current = { ...after, payload: link.cid, image: newImage }
    await sweepIn(KEEP_DAYS - 1)
    expect(stored(gone)).toEqual(all(gone, true))
    await sweepIn(1)
    expect(stored(gone)).toEqual(all(gone, false))
    expect(stored(current)).toEqual(all(current, true))
    for (const cid of Object.values(gone)) expect(await pins(cid)).toEqual([])
    expect((await fetch(`${world.url}/raw/${old.cid}`)).status).toBe(404)
    expect((await fetch(`${world.url}/raw/${link.cid}`)).status).toBe(200)

    await sweepIn(1)
    expect(stored(current)).toEqual(all(current, true))
  })

  it('goes although the catalog has history that nobody has needed so far', async () => {
    const seller = newSeller()
    const picture = await pin(image(51))
    const older = await seller.offer('mug', 1, { image: [`ipfs://${picture}`] })
    const { chunk } = await seller.publish([older])
    const newer = await seller.offer('mug', 2)
    const cup = await seller.offer('cup', 2)
    // Only now is it looked at: of the mug nobody reads the older version.
    await seller.publish([newer, cup], { prev: chunk })
    await indexed(seller)
    await sweepIn(0)
    await seller.publish([newer], { prev: chunk })
    await indexed(seller)
    await sweepIn(1)
    await sweepIn(KEEP_DAYS)
    const kept = { picture, older: older.cid, newer: newer.cid, chunk }
    expect(stored({ ...kept, cup: cup.cid })).toEqual({ ...all(kept, true), cup: false })
    expect(await pins(picture)).toMatchObject([{ reached_by: [seller.address] }])
  })

  it('goes from a Kubo as well', async () => {
    const kubo = await startKubo()
    try {
      const market = await start({ IPFS_RPC_URL: kubo.url })
      const seller = newSeller(market)
      const old = await seller.offer('mug', 1)
      await seller.publish([old])
      const load = async () => {
        await market.follow()
        await market.page({ avatars: [seller.address] })
      }
      await load()
      await sweepIn(0, market)
      const link = await seller.offer('mug', 2)
      await seller.publish([link])
      await load()
      await sweepIn(1, market)
      expect(kubo.pins.has(old.cid)).toBe(true)
      await sweepIn(KEEP_DAYS, market)
      expect([kubo.pins.has(old.cid), kubo.pins.has(link.cid)]).toEqual([false, true])
    } finally {
      await kubo.stop()
    }
  })

  it('stays as it is by default', async () => {
    const { garbage } = await withGarbage()
    const { config } = world.ctx
    const byDefault = Variables.shape.UNPIN_AFTER_DAYS.parse(undefined)
    world.ctx.config = { ...config, UNPIN_AFTER_DAYS: byDefault }
    try {
      await sweepIn(1000)
    } finally {
      world.ctx.config = config
    }
    expect([byDefault, isStored(garbage)]).toEqual([0, true])
  })

  it('goes for all who pinned it, once the last of them did so long enough ago', async () => {
    const seller = newSeller()
    const mug = product('mug', 1)
    const link = await seller.offer('mug', 1)
    await seller.publish([link])
    await indexed(seller)
    await sweepIn(0)
    await seller.publish([])
    await indexed(seller)
    await sweepIn(1)
    days += 20
    const { token } = await world.ctx.tokens.issue({ address: seller.address, chainId: 100 }, 'shop.example.com')
    const headers = { Authorization: `Bearer ${token}` }
    expect(await pin(mug, { headers })).toBe(link.cid)
    await sweepIn(1)
    expect(await pins(link.cid)).toHaveLength(2)
    await sweepIn(KEEP_DAYS - 5)
    await pin(mug, { headers })
    await sweepIn(5)
    expect(isStored(link.cid)).toBe(true)
    await sweepIn(KEEP_DAYS - 1)
    expect(isStored(link.cid)).toBe(true)
    await sweepIn(1)
    expect([isStored(link.cid), (await pins(link.cid)).length]).toEqual([false, 0])
  })
})

/** A seller who gave one product up, as a first and a second sweep saw it. */
async function giveUpOne() {
  const seller = newSeller()
  const link = await seller.offer('mug', 1)
  const other = await seller.offer('cup', 1)
  await seller.publish([link, other])
  await indexed(seller)
  await sweepIn(0)
  await seller.publish([other])
  await indexed(seller)
  await sweepIn(1)
  return { seller, link, other }
}

/** A seller of whose catalog one product is given up and may go: unreachable for longer than needed. */
async function withGarbage() {
  const { seller, link, other } = await giveUpOne()
  days += KEEP_DAYS + 10
  return { seller, garbage: link.cid, other }
}

describe('doubt keeps', () => {
  it.each(['profile', 'chunk'] as const)(
    'all while the %s of a seller with a service route is out of reach',
    async (what) => {
      const { garbage, seller, other } = await withGarbage()
      const broken = newSeller()
      await sellsHere(broken)
      const documents = await broken.publish([await broken.offer('vase', 1)])
      world.faults.set(documents[what], 'missing')
      await world.follow()
      await seller.publish([])
      await indexed(seller)
      await sweepIn(0)
      expect(isStored(garbage)).toBe(true)
      expect(await pins(other.cid)).toMatchObject([{ unreachable_since: null }])

      world.faults.clear()
      await indexed(broken)
      await sweepIn(0)
      expect(isStored(garbage)).toBe(false)
      expect(await pins(other.cid)).toMatchObject([{ unreachable_since: world.ctx.now() }])
    },
  )

  it('all while a seller is behind the chain, and when the operator switched the seller off no more', async () => {
    const { garbage } = await withGarbage()
    const late = newSeller()
    await sellsHere(late)
    await late.publish([await late.offer('vase', 1)])
    await sweepIn(0)
    expect(isStored(garbage)).toBe(true)
    await sellsHere(late, false)
    await sweepIn(0)
    expect(isStored(garbage)).toBe(false)
  })

  it('all while the name registry can not be read, whatever the index remembers of it', async () => {
    const { garbage } = await withGarbage()
    world.setRegistryDown(true)
    await sweepIn(0)
    expect(isStored(garbage)).toBe(true)
  })

  const doubts: [string, (given: Awaited<ReturnType<typeof withGarbage>>) => Promise<unknown>][] = [
    [
      'published something that is not indexed yet',
      ({ seller, other }) => seller.publish([other], { profile: { name: 'B' } }),
    ],
    [
      'has a chunk that is out of reach',
      async ({ seller, other }) => {
        const { chunk } = await seller.publish([other], { profile: { name: 'C' }, prev: cidV0(new Uint8Array(3)) })
        world.faults.set(chunk, 'missing')
        await indexed(seller)
      },
    ],
    [
      'has a chunk that nobody can read',
      async ({ seller, other }) => {
        const unreadable = await world.put({ not: 'a chunk' })
        await seller.publish([other], { prev: unreadable })
        await indexed(seller)
      },
    ],
    [
      'has a payload that is out of reach',
      async ({ seller, other }) => {
        const lost = seller.productLink('vase', cidV0(new Uint8Array(4)), Math.floor(BEGIN / 1000))
        await seller.publish([other, lost])
        await indexed(seller)
      },
    ],
    [
      'has an older version, needed by nobody, that is out of reach',
      async ({ seller, other }) => {
        const older = seller.productLink('cup', cidV0(new Uint8Array(5)), 1)
        await seller.publish([other], { prev: await pin(chunkOf([older] as never, null)) })
        await indexed(seller)
      },
    ],
    ['waits for another try', () => sql`update catalog_avatars set retry_at = now()`.execute(world.ctx.db)],
    [
      'has a link whose payload is not known',
      async ({ seller, other }) => {
        const elsewhere = seller.link({ name: 'product/vase', cid: other.cid, signedAt: 1, chainId: 1 })
        await seller.publish([other, elsewhere])
        await indexed(seller)
      },
    ],
    [
      'has a profile that is out of reach now',
      async ({ seller, other }) => {
        const { profile } = await seller.publish([other], { profile: { name: 'D' } })
        await indexed(seller)
        world.faults.set(profile, 'missing')
      },
    ],
    [
      'has a namespace that is not indexed',
      async ({ seller, other }) => {
        const chunk = await pin(chunkOf([other] as never, null))
        const index = await pin(indexOf(chunk))
        // No wallet writes an address like this; some read it.
        const namespaces = {
          [OPERATOR]: index,
          [OPERATOR.toUpperCase()]: await pin(indexOf(await pin(chunkOf([], null)))),
        }
        world.register(seller.address, await world.put(profileOf(namespaces)))
        await indexed(seller)
      },
    ],
    [
      'gave up its profile',
      async ({ seller }) => {
        world.digests.delete(seller.address)
        await indexed(seller)
      },
    ],
    [
      'is not followed any more',
      async ({ seller }) => {
        await sql`update catalog_avatars set requested_at = now() - interval '2 days'`.execute(world.ctx.db)
        await sql`delete from leases`.execute(world.ctx.db)
        await purgeCatalog(world.ctx)
        expect(
          await world.ctx.db.selectFrom('catalog_avatars').selectAll().where('avatar', '=', seller.address).execute(),
        ).toEqual([])
      },
    ],
  ]
  it.each(doubts)('what an avatar was seen to name that %s', async (_, cast) => {
    const given = await withGarbage()
    await cast(given)
    await sweepIn(0)
    expect(isStored(given.garbage)).toBe(true)
    expect(await pins(given.garbage)).toHaveLength(1)
  })
  it('nothing without a doubt, so that the tests above prove something', async () => {
    const { garbage } = await withGarbage()
    await sweepIn(0)
    expect(isStored(garbage)).toBe(false)
  })

  it('what one avatar gave up and another, not to be read at the moment, was seen to name long ago', async () => {
    const [first, second] = [newSeller(), newSeller()]
    const shared = await pin(image(31))
    await first.publish([await first.offer('mug', 1, { image: [`ipfs://${shared}`] })])
    await indexed(first)
    await sweepIn(0)
    await first.publish([])
    await second.publish([await second.offer('cup', 1, { image: [`ipfs://${shared}`] })])
    await indexed(first, second)
    await sweepIn(1)
    await second.publish([])
    await indexed(second)
    await sweepIn(1)
    const { profile } = await first.publish([], { profile: { name: 'E' } })
    world.faults.set(profile, 'missing')
    await indexed(first, second)
    await sweepIn(KEEP_DAYS + 1)
    expect(isStored(shared)).toBe(true)
    world.faults.clear()
    await indexed(first)
    await sweepIn(0)
    expect(isStored(shared)).toBe(false)
  })
})

describe('not ours to judge', () => {
  it('is what was never seen in a catalog: the profile of an avatar that nobody follows, a draft, a message', async () => {
    const { garbage } = await withGarbage()
    const stranger = newSeller()
    const link = await stranger.offer('vase', 1, { image: [`ipfs://${await pin(image(41))}`] })
    const kept = {
      ...(await stranger.publish([link])),
      payload: link.cid,
      image: cidV0(image(41)),
      draft: await pin(product('draft', 1)),
      link: await pin({ ...link, '@context': LINK_CONTEXT }),
    }
    await sweepIn(1)
    await sweepIn(1000)
    expect(isStored(garbage)).toBe(false)
    expect(stored(kept)).toEqual(all(kept, true))
  })

  it('is what others put into the store, even when a catalog named it and names it no more', async () => {
    const seller = newSeller()
    const direct = await world.put(product('direct', 1))
    const link = seller.productLink('direct', direct, Math.floor(BEGIN / 1000) - 10)
    await seller.publish([link])
    await indexed(seller)
    await sweepIn(0)
    await seller.publish([])
    await indexed(seller)
    await sweepIn(1)
    await sweepIn(1000)
    expect(isStored(direct)).toBe(true)
  })
})

describe('a sweep that is interrupted', () => {
  it('goes on the next time: what IPFS did not let go of is still on record', async () => {
    const { garbage } = await withGarbage()
    const { unpin } = world.ctx.ipfs
    world.ctx.ipfs.unpin = async (cid) => {
      if (cid === garbage) throw new IpfsUnavailableError('unreachable', 'no answer')
      await unpin(cid)
    }
    await sweepIn(0)
    expect([isStored(garbage), (await pins(garbage)).length]).toEqual([true, 1])
    // As if the process had died after the unpinning and before the commit.
    world.ctx.ipfs.unpin = async (cid) => {
      await unpin(cid)
      if (cid === garbage) throw new IpfsUnavailableError('unreachable', 'killed')
    }
    await sweepIn(0)
    expect([isStored(garbage), (await pins(garbage)).length]).toEqual([false, 1])
    world.ctx.ipfs.unpin = unpin
    await sweepIn(0)
    expect(await pins(garbage)).toEqual([])
  })

  it('unpins no more once the process is to stop', async () => {
    await withGarbage()
    await sql`delete from leases`.execute(world.ctx.db)
    const stopping = new AbortController()
    const { unpin } = world.ctx.ipfs
    const gone: string[] = []
    world.ctx.ipfs.unpin = async (cid) => {
      gone.push(cid)
      stopping.abort()
      await unpin(cid)
    }
    await sweepPins(world.ctx, stopping.signal)
    expect(gone).toHaveLength(1)
    await sweepPins(world.ctx, stopping.signal)
    expect(gone).toHaveLength(1)
    await sweepPins(world.ctx)
    expect(gone.length).toBeGreaterThan(2)
  })

  it('is one for all replicas and one a day', async () => {
    const { garbage } = await withGarbage()
    await sql`delete from leases`.execute(world.ctx.db)
    let looks = 0
    const watched = (instance: string): MarketContext => ({
      ...world.ctx,
      instance,
      nameRegistry: {
        async readDigests(avatars) {
          looks += 1
          return world.ctx.nameRegistry.readDigests(avatars)
        },
      },
    })
    await Promise.all([sweepPins(watched('one')), sweepPins(watched('two'))])
    expect(looks).toBe(1)
    expect(isStored(garbage)).toBe(false)
  })
})

it('bytes that are pinned again while they are being unpinned are there in the end', async () => {
  const { garbage } = await withGarbage()
  const { unpin } = world.ctx.ipfs
  let pinning: Promise<string> | undefined
  world.ctx.ipfs.unpin = async (cid) => {
    if (cid === garbage) {
      pinning = pin(product('mug', 1))
      // It is held, and would be through if nothing held it.
      await until('the pin waits for the lock', async () => {
        const { rows } = await sql`
          select from pg_locks where locktype = 'advisory' and not granted
            and database = (select oid from pg_database where datname = current_database())`.execute(world.ctx.db)
        return rows.length > 0
      })
    }
    await unpin(cid)
  }
  await sweepIn(0)
  expect(await pinning).toBe(garbage)
  expect([isStored(garbage), (await pins(garbage)).length]).toEqual([true, 1])
})

it('a pin that IPFS refuses leaves no record, and one that was there before keeps its own', async () => {
  const before = await pin(product('before', 1))
  world.ctx.ipfs.put = async () => {
    throw new IpfsUnavailableError('unreachable', 'no answer')
  }
  for (const sku of ['before', 'fresh']) {
    const body = storedDocument(product(sku, 1)).bytes as Uint8Array<ArrayBuffer>
    const headers = { 'Content-Type': 'application/json' }
    expect((await fetch(`${world.url}/api/pin`, { method: 'POST', headers, body })).status).toBe(502)
  }
  expect(await pins(before)).toHaveLength(1)
  expect(await pins(storedDocument(product('fresh', 1)).cid)).toEqual([])
})

describe('cids in a text', () => {
  it('finds every spelling a pin has, wherever it stands', () => {
    const [a, b] = [cidV0(new Uint8Array(1)), cidV0(new Uint8Array(2))]
    for (const text of [
      `"ipfs://${a}/a.png"`,
      `cid:${asV1(a)}`,
      `https://${asV1(a)}.ipfs.example/`,
      `Qm${a}`,
      `b${asV1(a)}`,
      `${a}${a}`,
    ]) {
      expect([...cidsIn(text)].includes(a), text).toBe(true)
    }
    expect(cidsIn(JSON.stringify({ image: [`ipfs://${a}`, { contentUrl: `cid:${b}` }] }))).toEqual(new Set([a, b]))
    expect(cidsIn(`Qm ${a.slice(0, -1)} ${'z'.repeat(60)}`)).toEqual(new Set())
  })
})

it(
  'whatever sellers do, and whatever can not be read meanwhile, nothing on show is lost',
  { timeout: 180_000 },
  async () => {
    const change = fc.record({
      seller: fc.nat({ max: 1 }),
      /** Which of four products with which of three images are on show. */
      shown: fc.uniqueArray(fc.tuple(fc.nat({ max: 3 }), fc.nat({ max: 2 })), {
        selector: ([sku]) => sku,
        maxLength: 4,
      }),
      // Some states are gone before anybody looks at them, some are never read, some last for months.
      follow: fc.boolean(),
      fault: fc.constantFrom('none', 'none', 'profile', 'payload'),
      days: fc.constantFrom(0, 1, 16, 31, 45),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(change, { minLength: 3, maxLength: 9 }), async (changes) => {
        await sql`truncate pins, market_service_routes, catalog_avatars, catalog_payloads cascade`.execute(world.ctx.db)
        const sellers = [newSeller(), newSeller()]
        const onShow = new Map<string, string[]>()
        for (const { seller: who, shown, follow, fault, days: later } of changes) {
          const seller = sellers[who]!
          const links = []
          const cids: string[] = []
          for (const [sku, n] of shown) {
            const picture = await pin(image(n))
            const link = await seller.offer(`sku-${sku}`, 1, { image: [`ipfs://${picture}`] })
            links.push(link)
            cids.push(link.cid, picture)
          }
          const documents = await seller.publish(links)
          onShow.set(seller.address, [...cids, ...Object.values(documents)])
          world.faults.clear()
          if (fault === 'profile') world.faults.set(documents.profile, 'missing')
          if (fault === 'payload' && links[0]) world.faults.set(links[0].cid, 'missing')
          if (follow) await indexed(...sellers)
          await sweepIn(later)
          for (const cid of [...onShow.values()].flat()) expect(isStored(cid)).toBe(true)
        }
      }),
      { numRuns: 12 },
    )
  },
)

/** The same CID in its other spelling. */
function asV1(cid: string): string {
  const base58 = '123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz'
  const base32 = 'abcdefghijklmnopqrstuvwxyz234567'
  const multihash = [...cid].reduce((n, digit) => n * 58n + BigInt(base58.indexOf(digit)), 0n).toString(16)
  const bits = [...Buffer.from(`0170${multihash}`, 'hex')].map((byte) => byte.toString(2).padStart(8, '0')).join('')
  return `b${bits
    .match(/.{1,5}/g)!
    .map((five) => base32[parseInt(five.padEnd(5, '0'), 2)])
    .join('')}`
}
