import { type JsonValue } from '@market/contracts/canonicalJson'
import { cidV0 } from '@market/contracts/cid'
import type { CustomDataLink } from '@market/contracts/link'
import { type PayloadRead, resolveNamespace } from '@market/contracts/namespaceWalk'
import { productLinkName } from '@market/contracts/catalogDocuments'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { chunkOf, indexOf, OPERATOR, product, profileOf, startCatalog } from './catalogWorld.ts'

// Whatever a seller does to a namespace, the index kept step by step says what reading it whole says.

let world: Awaited<ReturnType<typeof startCatalog>>
beforeAll(async () => {
  world = await startCatalog()
})
afterAll(() => world.close())

const START = 1_780_000_000
const seller = () => world.seller(90)
const absent = cidV0(new TextEncoder().encode('nobody has this'))

/** A link by what decides about it; few of each, so that they collide. */
const aLink = fc.record({
  sku: fc.constantFrom('a', 'b', 'c'),
  time: fc.integer({ min: 0, max: 3 }),
  nonce: fc.integer({ min: 0, max: 12 }),
  payload: fc.constantFrom('cheap', 'dear', 'gone', 'bad', 'absent'),
  flaw: fc.constantFrom(undefined, undefined, undefined, 'stranger', 'shape', 'chain', 'name'),
})
type ALink = typeof aLink extends fc.Arbitrary<infer T> ? T : never

const aStep = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('append' as const), link: aLink }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('replace' as const), at: fc.nat(5), link: aLink }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('rotate' as const), link: aLink }) },
  // Several chunks between two looks, one of them out of reach.
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('burst' as const),
      links: fc.array(aLink, { minLength: 2, maxLength: 4 }),
      hide: fc.nat(4),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('rewrite' as const), keep: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('hide' as const), chunk: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('show' as const) }) },
)

const payloads = new Map<string, string>()
async function payload(sku: string, kind: string): Promise<string> {
  if (kind === 'absent') return absent
  const known = payloads.get(`${sku} ${kind}`)
  if (known) return known
  const tombstone = {
    '@context': 'https://aboutcircles.com/contexts/circles-market/',
    '@type': 'Tombstone',
    sku,
    at: 1,
  }
  const document =
    kind === 'gone' ? tombstone : kind === 'bad' ? { '@type': 'Product', sku } : product(sku, kind === 'cheap' ? 1 : 2)
  const cid = await world.put(document)
  payloads.set(`${sku} ${kind}`, cid)
  return cid
}

const signed = new Map<string, CustomDataLink>()
async function sign({ sku, time, nonce, payload: kind, flaw }: ALink): Promise<JsonValue> {
  const key = JSON.stringify([sku, time, nonce, kind, flaw])
  if (!signed.has(key)) {
    const draft = {
      name: flaw === 'name' ? `other/${sku}` : productLinkName(sku),
      cid: await payload(sku, kind),
      signedAt: START + time,
      nonce: `0x${nonce.toString(16).padStart(32, '0')}`,
      chainId: flaw === 'chain' ? 1 : 100,
    }
    signed.set(key, seller().link(draft, flaw === 'stranger' ? world.seller(91).key : undefined))
  }
  const link = signed.get(key)!
  return (flaw === 'shape' ? { ...link, signedAt: String(link.signedAt) } : link) as JsonValue
}

const readPayload = async (cid: string): Promise<PayloadRead> =>
  cid === absent ? { kind: 'unavailable', reason: '' } : { kind: 'bytes', value: await world.store.get(cid) }

it('keeps the index equal to a reading from scratch', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(aStep, { minLength: 1, maxLength: 9 }), async (steps) => {
      await world.forget()
      world.faults.clear()
      /** Oldest first. */
      let chunks: JsonValue[][] = [[]]
      const cidsOf = async () => {
        const cids: string[] = []
        for (const links of chunks) cids.push(await world.put(chunkOf(links, cids.at(-1) ?? null)))
        return cids
      }
      let first = true
      for (const step of steps) {
        const head = chunks.at(-1)!
        if (step.do === 'append') head.push(await sign(step.link))
        if (step.do === 'replace') head[step.at % (head.length || 1)] = await sign(step.link)
        if (step.do === 'rotate') chunks.push([await sign(step.link)])
        if (step.do === 'burst') for (const link of step.links) chunks.push([await sign(link)])
        if (step.do === 'rewrite') chunks = [...chunks.slice(0, step.keep), []]
        const cids = await cidsOf()
        if (step.do === 'burst') world.faults.set(cids.at(-1 - (step.hide % step.links.length))!, 'missing')
        if (step.do === 'hide') world.faults.set(cids[step.chunk % cids.length]!, 'missing')
        if (step.do === 'show') world.faults.clear()
        world.register(
          seller().address,
          await world.put(profileOf({ [OPERATOR]: await world.put(indexOf(cids.at(-1)!)) })),
        )
        if (first) await world.page({ avatars: seller().address })
        await world.retryNow()
        await world.follow()
        first = false
      }
      world.faults.clear()
      await world.retryNow()
      await world.follow()
      await world.retryNow()
      await world.follow()

      const cids = await cidsOf()
      const walked = chunks.map((links, i) => ({ cid: cids[i]!, links })).toReversed()
      const whole = await resolveNamespace(
        walked,
        { avatar: seller().address, chainId: 100, window: { start: 0, end: Math.floor(Date.now() / 1000) } },
        readPayload,
      )
      world.ctx.pages.clear()
      const { body } = await world.page({ avatars: seller().address })
      const told = await world.page({ avatars: seller().address, diagnostics: '1' })
      const shown = body.products.map((item: Record<string, unknown>) => [item.linkKeccak, item.indexInChunk])
      const { rows } = await sql<{ depths: string[] }>`
        select array_agg(link_keccak || ' ' || chunk_depth order by sku) as depths from catalog_products
        where kind = 'product' and removed_revision is null`.execute(world.ctx.db)
      const depths = whole.winners.toSorted((a, b) => (a.sku < b.sku ? -1 : 1)).map((w) => `${w.linkKeccak} ${w.depth}`)
      expect(rows[0]!.depths ?? []).toEqual(depths)
      expect(shown).toEqual(whole.winners.map(({ linkKeccak, indexInChunk }) => [linkKeccak, indexInChunk]))
      expect(told.body.products).toEqual(body.products)
      const codes = (errors: { code: string }[]) => errors.map(({ code }) => code).toSorted()
      expect(codes(body.errors)).toEqual(codes(whole.errors))
      expect(told.body.diagnostics.dropped).toEqual(
        whole.dropped.reduce<Record<string, number>>((all, { code }) => ({ ...all, [code]: (all[code] ?? 0) + 1 }), {}),
      )
    }),
    { numRuns: 25 },
  )
}, 120_000)
