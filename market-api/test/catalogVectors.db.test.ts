import { readFileSync } from 'node:fs'
import { canonicalize, type JsonValue, parseStrictJson } from '@market/contracts/canonicalJson'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startCatalog } from './catalogWorld.ts'

const vectors = new URL('../../packages/contracts/vectors/catalog/', import.meta.url)
const expected = JSON.parse(readFileSync(new URL('expected.json', vectors), 'utf8'))
const block = (cid: string) => readFileSync(new URL(`blocks/${cid}.json`, vectors), 'utf8')

let world: Awaited<ReturnType<typeof startCatalog>>
beforeAll(async () => {
  world = await startCatalog()
  await world.loadVectors()
})
afterAll(() => world.close())

type Listed = {
  seller: string
  productCid: string
  publishedAt: number
  linkKeccak: string
  indexInChunk: number
  product: { sku: string; offers: { price: number }[] }
}
type Wanted = { seller: string; sku: string; chunkDepth: number; price: number }

const request = ({ avatars, window }: { avatars: string[]; window: { start: number; end: number } }) => ({
  avatars,
  chainId: '100',
  start: String(window.start),
  end: String(window.end),
})
const seen = ({ seller, productCid, publishedAt, linkKeccak, indexInChunk, product }: Listed) => ({
  seller,
  sku: product.sku,
  productCid,
  publishedAt,
  indexInChunk,
  linkKeccak,
  price: product.offers[0]!.price,
})
const wanted = (products: Wanted[]) => products.map(({ chunkDepth: _depth, ...rest }) => rest)
const skus = (products: Listed[]) => products.map(({ product }) => product.sku)
const sorted = <T>(items: T[]) => items.toSorted((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
/** The vectors call the store's word for a missing block what the specification calls PAYLOAD_UNAVAILABLE. */
const codeOf = (reason: string) => (reason === 'BLOCK_UNAVAILABLE' ? 'PAYLOAD_UNAVAILABLE' : reason)

describe('the sample catalogs over HTTP', () => {
  it('catalog:31 lists products, tombstones, errors and dropped links as expected', async () => {
    const { body } = await world.page({ ...request(expected.main), diagnostics: '1' })
    expect(body.products.map(seen)).toEqual(wanted(expected.main.products))
    expect(body.avatarsScanned).toEqual(expected.main.avatarsScanned)
    expect(body.window).toEqual({ '@type': 'AggregatedCatalogWindow', ...expected.main.window })
    expect(
      sorted(body.errors.map(({ avatar, stage, cid, code }: Record<string, string>) => ({ avatar, stage, cid, code }))),
    ).toEqual(
      sorted(
        expected.main.errors.map(({ reason, ...error }: { reason: string }) => ({ ...error, code: codeOf(reason) })),
      ),
    )
    expect(sorted(body.diagnostics.links)).toEqual(
      sorted(expected.main.dropped.map(({ reason, ...link }: { reason: string }) => ({ ...link, code: reason }))),
    )
    expect(body.diagnostics.tombstoned).toEqual(expected.main.tombstoned)
  })

  it('catalog:32 pages by the older cursors; the last page has no next header', async () => {
    for (const { cursorIn, skus: names, cursorOut } of expected.main.pagesOf3) {
      const { body, headers } = await world.page({
        ...request(expected.main),
        pageSize: '3',
        ...(cursorIn ? { cursor: cursorIn } : {}),
      })
      expect(skus(body.products)).toEqual(names)
      expect([headers.has('x-next-cursor'), headers.has('link')]).toEqual([cursorOut !== null, cursorOut !== null])
    }
  })

  it('catalog:32 gives the same pages by its own cursors, and by the Link header', async () => {
    const all: string[] = []
    let cursor: string | null = ''
    let link = ''
    while (cursor !== null) {
      const { body, headers } = await world.page({ ...request(expected.main), pageSize: '3', cursor })
      all.push(...skus(body.products))
      if (link) expect(await (await fetch(link)).json()).toMatchObject({ products: body.products })
      cursor = headers.get('x-next-cursor')
      link = /^<([^>]+)>; rel="next"$/.exec(headers.get('link') ?? '')?.[1] ?? ''
      expect(body.nextCursor ?? null).toBe(cursor)
    }
    expect(all).toEqual(expected.main.products.map(({ sku }: Wanted) => sku))
  })

  it.each(['narrowWindow', 'windowResurrects'])('catalog:33 lists %s', async (name) => {
    const { window, products } = expected[name]
    const { body } = await world.page(request({ avatars: expected.main.avatars.slice(0, 1), window }))
    expect(skus(body.products)).toEqual(products)
  })

  for (const scenario of expected.scenarios) {
    it(`catalog:34 gives ${scenario.id} what is required`, async () => {
      const { status, body } = await world.page({ ...request(scenario), diagnostics: '1' })
      expect(status).toBe(200)
      expect(body.products.map(seen)).toEqual(wanted(scenario.required.products))
      const errors = body.errors.map(({ avatar, stage, cid, code, index }: Record<string, unknown>) =>
        stage === 'link' ? { avatar, stage, cid, index } : { avatar, stage, cid, code },
      )
      expect(sorted(errors)).toEqual(
        sorted(
          scenario.required.errors.map(({ reason, ...error }: { reason?: string }) => ({
            ...error,
            ...(reason ? { code: codeOf(reason) } : {}),
          })),
        ),
      )
      expect(sorted(body.diagnostics.links)).toEqual(
        sorted(scenario.required.dropped.map(({ reason, ...link }: { reason: string }) => ({ ...link, code: reason }))),
      )
    })
  }

  it('lists the same from the index, without a window, as by working it out', async () => {
    const { avatars } = expected.main
    const index = await world.page({ avatars })
    const explained = await world.page({ avatars, diagnostics: '1' })
    expect(index.body.products).toEqual(explained.body.products)
    expect(skus(index.body.products)).toContain('sloe')
    expect(sorted(index.body.errors)).toEqual(sorted(explained.body.errors))
  })

  it('catalog:50 gives each product as signed, unknown members included, when asked for it pure', async () => {
    const { body } = await world.page({ ...request(expected.main), compat: '0' })
    expect(body.products).toHaveLength(expected.main.products.length)
    for (const { productCid, product } of body.products as { productCid: string; product: JsonValue }[]) {
      expect(canonicalize(product)).toBe(canonicalize(parseStrictJson(block(productCid))))
    }
  })
})
