import { createHmac, generateKeyPairSync, sign } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { sql } from 'kysely'
import { privateKeyToAccount } from 'viem/accounts'
import type { MarketContext } from '../src/context.ts'
import { runFulfillmentJob } from './runFulfillmentJob.ts'
import { openApiDocument, operations } from '../src/openapi/document.ts'
import { sampleOf } from '../src/openapi/sample.ts'
import { pollPayments } from '../src/payments/pollPayments.ts'
import { createAdapterClient } from '../src/serviceRoutes/adapterClient.ts'
import { OPERATOR } from './catalogWorld.ts'
import { itemsOf, type Line, NOW, paidInFull, startShop } from './shop.ts'

const ORDERS = '/api/cart/v1/orders'
const ALICE = privateKeyToAccount(`0x${'a1'.repeat(32)}`)
const BUYER = ALICE.address.toLowerCase()
/** Whose things nobody else may see or change: requests have her ids, and never her token or her seller's. */
const VERA = `0x${'7e'.repeat(20)}`
/** In everything she wrote. */
const HERS = 'for Vera only'
/** In what a seller's broken system says. */
const INNARDS = 'innards of a seller'
const SERVICE_KEY = 'a-service-key-for-tests'
const ADAPTER_KEY = 'an-adapter-key-for-tests'

/** A PNG, a GIF, and a WebP with metadata to take out. */
const IMAGES = [
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'R0lGODdhAQABAIAAAAAAAP///ywAAAAAAQABAAACAkQBADs=',
  'UklGRpAAAABXRUJQVlA4WAoAAAAsAAAADwAADwAASUNDUA0AAABhYmNhYmNhYmNhYmN4AFZQOCA2AAAA0AEAnQEqEAAQAAVAfCWwAnQAzvAXRwAA/u7eoTyuIIz9Veq397DUqOby2w9zfbpN2kveAAAARVhJRgoAAABJSSoACAAAAAAAWE1QIAwAAAA8eDp4bXBtZXRhLz4=',
]

/** What a seller's system answers about the skus `fault-0`, `fault-1`, …; 0: nothing. */
const FAULTS: [status: number, body: string][] = [
  [500, `${INNARDS} at Object.<anonymous> (/srv/node_modules/x.js:1:1)`],
  [200, `<html>${INNARDS}`],
  [200, '{"@type":"QuantitativeValue","value":-1}'],
  [200, `{"@type":"QuantitativeValue","value":"${INNARDS}"}`],
  [200, '{"@type":"QuantitativeValue","value":1e400}'],
  [200, `{"@type":"QuantitativeValue","value":1,"unitCode":["${INNARDS}"]}`],
  [200, `"${'x'.repeat(70_000)}"`],
  [200, 'null'],
  [302, INNARDS],
  [0, ''],
]

async function startBrokenAdapter() {
  const server = createServer((request, response) => {
    const [status, body] = FAULTS[Number(/fault-([0-9]+)/.exec(request.url!)?.[1] ?? 0)]!
    if (status === 0) request.socket.destroy()
    else response.writeHead(status, { Location: request.url!, 'X-Innards': INNARDS }).end(body)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => {
      server.close()
      server.closeAllConnections()
    },
  }
}

const filledBy = (word: string) => {
  const address = { '@type': 'PostalAddress', streetAddress: word, addressLocality: word, postalCode: word }
  return {
    customer: { '@type': 'Person', givenName: word, familyName: word },
    shippingAddress: { ...address, addressCountry: 'DE' },
    billingAddress: { ...address, addressCountry: 'DE' },
    ageProof: { '@type': 'Person', birthDate: '1990-12-10' },
    contactPoint: { '@type': 'ContactPoint', email: 'somebody@example.org', telephone: '+49 431 12345' },
    ttlSeconds: 604_800,
  }
}

/**
 * A market in which everything that can be asked about has happened, to somebody who asks and to Vera, who does not. `known` and
 * `bodies` are what its routes take; `secrets` is what no answer may hold.
 */
export async function startFuzzWorld() {
  const shop = await startShop({
    LOG_LEVEL: 'info',
    // A connection that is not given back is soon missed.
    POSTGRES_POOL_SIZE: '4',
    TRUSTED_PROXY_HOPS: '1',
    MARKET_PIN_OBJECTS_PER_DAY: '1000000000',
    MARKET_PIN_BYTES_PER_DAY: '1000000000000',
    MARKET_ANONYMOUS_PIN_BYTES_PER_DAY: '1000000000000',
    CIRCLES_SERVICE_KEY: SERVICE_KEY,
  })
  const { ctx } = shop
  const broken = await startBrokenAdapter()
  ctx.adapters = createAdapterClient({
    keys: new Map([shop.first, broken].map(({ origin }) => [origin, ADAPTER_KEY])),
    inventoryTimeoutMs: 2000,
    availabilityTimeoutMs: 2000,
    fulfillmentTimeoutMs: 2000,
    maxResponseBytes: 65_536,
    maxRedirects: 1,
  })
  const ofBroken = (what: string) => `${broken.origin}/${what}/{chain_id}/{seller}`
  await ctx.db
    .insertInto('offer_types')
    .values({
      offer_type: 'broken',
      inventory_url_template: `${ofBroken('inventory')}/{sku}`,
      fulfillment_url_template: ofBroken('fulfill'),
    })
    .execute()

  const [seller, veras] = [shop.seller(501), shop.seller(502)]
  const mine = (...skus: string[]): Line[] => skus.map((sku) => ({ seller, sku }))
  const hers = (...skus: string[]): Line[] => skus.map((sku) => ({ seller: veras, sku }))
  const requiredSlots = ['contactPoint.email', 'shippingAddress', 'ageProof', 'customer']
  const delivered = [
    await shop.made(seller, 'tee', 5, 'CRC', { requiredSlots }),
    await shop.made(seller, 'mug', 7.5),
    await shop.made(seller, 'euro', 5, 'EUR'),
  ]
  const faulty = await Promise.all(FAULTS.map((_, i) => shop.made(seller, `fault-${i}`, 1)))
  const byHand = [await shop.made(seller, 'table', 9), await shop.made(seller, 'chair', 9)]
  const letter = await shop.made(veras, 'letter', 3)
  await shop.sell(seller, delivered)
  await shop.sell(seller, faulty, 'broken')
  await shop.sell(seller, [...delivered, ...faulty, ...byHand], null)
  await shop.sell(veras, [letter])
  await shop.sell(veras, [letter, await shop.made(veras, 'relic', 4)], null)
  for (const sku of ['tee', 'mug', 'letter']) shop.first.shelf.set(sku, 1e9)

  const buyer = await shop.tokenOf(BUYER)
  const vera = await shop.tokenOf(VERA)
  const draft = async (token: Record<string, string>, lines: Line[], more: object = {}) => {
    const made = (await shop.cart('POST', '', { operator: OPERATOR }, token)).body
    const { status, body } = await shop.cart('PATCH', `/${made.basketId}`, { ...itemsOf(lines), ...more }, token)
    if (status !== 200) throw new Error(`no basket: ${JSON.stringify(body)}`)
    return made as { basketId: string; basketToken: string }
  }
  const order = async (token: Record<string, string>, lines: Line[], word: string) => {
    const made = await draft(token, lines, filledBy(word))
    const { status, body } = await shop.cart('POST', `/${made.basketId}/checkout`, undefined, token)
    if (status !== 201) throw new Error(`no order: ${JSON.stringify(body)}`)
    return { ...made, ...(body as { orderId: string; paymentReference: string }) }
  }

  const paid = await order(buyer, mine('tee', 'table'), 'Ada')
  const cancelled = await order(buyer, mine('mug'), 'Ada')
  await fetch(`${shop.url}${ORDERS}/${cancelled.orderId}/cancel`, { method: 'POST', headers: buyer })
  const hersPaid = await order(vera, hers('letter', 'relic'), HERS)
  const hersOpen = await order(vera, hers('letter'), HERS)
  const hersDraft = await draft(vera, hers('letter'), filledBy(HERS))
  // The id of a basket is the key to it until its own token was used: these open to nobody who has only that.
  for (const { basketId, basketToken } of [hersPaid, hersOpen, hersDraft]) {
    await shop.cart('GET', `/${basketId}`, undefined, { 'X-Basket-Token': basketToken })
  }
  ctx.paymentSource = paidInFull([
    { reference: paid.paymentReference, crc: 14n },
    { reference: hersPaid.paymentReference, crc: 7n },
  ])
  await pollPayments(ctx)
  while (await runFulfillmentJob(ctx));
  const jobs = await ctx.db
    .selectFrom('fulfillment_jobs')
    .select(['order_id', 'job_id'])
    .orderBy('offer_type', 'desc')
    .execute()
  const jobsOf = ({ orderId }: { orderId: string }) =>
    jobs.filter(({ order_id }) => order_id === orderId).map(({ job_id }) => job_id)

  const template = await draft(buyer, mine('tee'), filledBy('Ada'))
  const outdated = await draft(buyer, mine('mug'), filledBy('Ada'))
  const over = await draft(buyer, mine('tee'))
  await sql`update baskets set expires_at = now() where basket_id = ${over.basketId}`.execute(ctx.db)
  const nobodys = (await shop.cart('POST', '', { operator: OPERATOR })).body as { basketId: string }
  const [tee, , euro] = delivered
  await shop.sell(seller, [tee!, await shop.made(seller, 'mug', 8), euro!, ...faulty, ...byHand])

  /** Another one like it, which no request has been at. */
  const copyOf =
    ({ basketId }: { basketId: string }) =>
    async () => {
      const copy = `bkt_${Buffer.from(ctx.random16()).toString('hex')}`
      await sql`
        insert into baskets
        select (jsonb_populate_record(b, jsonb_build_object('basket_id', ${copy}::text,
          'basket_json', b.basket_json || jsonb_build_object('basketId', ${copy}::text)))).*
        from baskets b where basket_id = ${basketId}`.execute(ctx.db)
      return copy
    }

  const post = async (path: string, type: string, body: string | Uint8Array<ArrayBuffer>) => {
    const answer = await fetch(`${shop.url}${path}`, { method: 'POST', headers: { 'Content-Type': type }, body })
    return (await answer.json()) as Record<string, string>
  }
  const nextCursor = async (path: string) => {
    const page = await fetch(`${shop.url}${path}`, { headers: buyer })
    return ((await page.json()) as { nextCursor: string }).nextCursor
  }
  const picture = (await post('/api/pin-media', 'image/png', Buffer.from(IMAGES[0]!, 'base64'))).cid!

  const cursors = [
    await nextCursor(`/api/operator/${OPERATOR}/catalog?avatars=${seller.address}&pageSize=1`),
    await nextCursor(`${ORDERS}/by-buyer?pageSize=1`),
  ]
  /** What stands in a path or a query, by its name. */
  const known: Record<string, (string | (() => Promise<string>))[]> = {
    basketId: [
      ...Array.from({ length: 6 }, () => copyOf(template)),
      copyOf(nobodys),
      copyOf(outdated),
      paid.basketId,
      over.basketId,
      hersDraft.basketId,
      hersPaid.basketId,
    ],
    orderId: [
      ...Array.from({ length: 8 }, () => paid.orderId),
      cancelled.orderId,
      hersPaid.orderId,
      hersOpen.orderId,
      async () => (await order(buyer, mine('mug'), 'Ada')).orderId,
    ],
    id: [...jobsOf(paid), ...jobsOf(paid), ...jobsOf(paid), ...jobsOf(hersPaid)],
    operator: [OPERATOR, OPERATOR, OPERATOR, BUYER],
    seller: [seller.address, seller.address, seller.address, veras.address, BUYER],
    sku: ['tee', 'tee', 'mug', 'table', 'euro', 'letter', 'nothing', ...FAULTS.map((_, i) => `fault-${i}`)],
    chainId: ['100', '100', '100', '1'],
    cid: [picture, picture, tee!.cid, 'QmPGULpvvyrXxZVzaub4v3TaMQoKg4LsuXeCdYtXQFqD7u'],
    avatars: [seller.address, seller.address, veras.address, BUYER],
    buyer: [BUYER, BUYER, seller.address, VERA],
    cursor: cursors,
    pageSize: ['1', '2', '100'],
    page: ['1', '2', '3'],
    offset: ['0', '1', '3'],
    start: ['0', String(NOW - 9999)],
    end: [String(NOW), '1'],
    q: ['the', 'the tee', 't'],
    minPrice: ['1', '7.5'],
    maxPrice: ['9', '7.5'],
    priceCurrency: ['CRC', 'EUR'],
    inStock: ['1', 'true'],
    diagnostics: ['1'],
    compat: ['0'],
    strip: ['exif'],
    safe: [BUYER],
  }

  const [line] = itemsOf(mine('tee')).items
  /** By operation, besides what the document shows. */
  const bodies: Record<string, () => Promise<unknown[]> | unknown[]> = {
    createBasket: () => [{ buyer: BUYER, operator: OPERATOR, chainId: 100 }],
    patchBasket: () => [
      {
        ...filledBy('Ada'),
        items: [line, { ...line, offerIndex: 0, imageUrl: 'https://x/y.png' }],
      },
      itemsOf(mine('chair')),
      itemsOf(mine('fault-1', 'fault-3')),
    ],
    createChallenge: () => [{ address: BUYER, chainId: 100, statement: 'Good day', expirationMinutes: 5 }],
    async verifyChallenge() {
      const asked = JSON.stringify({ address: BUYER, chainId: 100 })
      const { challengeId, message } = await post('/api/auth/challenge', 'application/json', asked)
      return [{ challengeId, signature: await ALICE.signMessage({ message: message! }) }]
    },
    getOrders: () => [{ orderIds: [paid.orderId, hersPaid.orderId, cancelled.orderId, paid.orderId] }],
    completeFulfillment: () => [{ message: 'Handed over' }],
    pinMedia: () => IMAGES.map((image) => Buffer.from(image, 'base64')),
    canonicalize: () => [tee],
  }

  const { now } = ctx
  ctx.now = () => new Date(now().getTime() - 3_600_000)
  const tooOld = await shop.tokenOf(VERA)
  ctx.now = now
  const { POSTGRES_CONNECTION, MARKET_JWT_PRIVATE_KEY } = ctx.config
  const tokenOfVera = vera.Authorization.slice('Bearer '.length)
  const secrets = [
    HERS,
    INNARDS,
    SERVICE_KEY,
    ADAPTER_KEY,
    ctx.config.RPC,
    shop.first.origin,
    broken.origin,
    POSTGRES_CONNECTION.reveal(),
    new URL(POSTGRES_CONNECTION.reveal()).password,
    (JSON.parse(MARKET_JWT_PRIVATE_KEY!.reveal()) as { d: string }).d,
    tokenOfVera,
    ...[hersPaid, hersOpen, hersDraft].map(({ basketToken }) => basketToken),
    ...[hersPaid, hersOpen].map(({ paymentReference }) => paymentReference),
  ]

  /** A buyer, a seller, nobody, a stranger, and those who say they are Vera. */
  const identities = [
    buyer.Authorization,
    (await shop.tokenOf(seller.address)).Authorization,
    undefined,
    (await shop.tokenOf(`0x${'57'.repeat(20)}`)).Authorization,
    tooOld.Authorization,
    ...(await forgedTokens(ctx, VERA, tokenOfVera)).map((token) => `Bearer ${token}`),
  ]
  const shown = openApiDocument('/')
  const world = {
    ...shop,
    known,
    cursors,
    secrets,
    /** Path parameters that name what is Vera's. */
    hers: {
      basketId: [hersPaid, hersOpen, hersDraft].map(({ basketId }) => basketId),
      orderId: [hersPaid, hersOpen].map(({ orderId }) => orderId),
      id: jobsOf(hersPaid),
    } as Record<string, string[]>,
    basketToken: template.basketToken,
    identities,
    /** Values of `Authorization`; the first ones may do most. */
    callers: [
      ...identities,
      'Bearer',
      'Bearer ',
      'Bearer x',
      'Bearer a.b.c',
      'bearer  x y',
      'Basic eDp5',
      '\u00ff',
      `Bearer ${'x'.repeat(40_000)}`,
    ],
    /** Who of them gets something from an operation. */
    callerOf: (id: string) =>
      ['getSale', 'listSales', 'streamSaleEvents', 'completeFulfillment'].includes(id) ? 1 : 0,
    /** Bodies for an operation, which ignores them if it takes none; the first two have most of what may be in one. */
    async bodiesOf(id: string): Promise<unknown[]> {
      const { path, method } = operations.find((one) => one.id === id)!
      const [media] = Object.values(shown.paths[path]![method]!.requestBody?.content ?? {})
      const [first, ...more] = (await bodies[id]?.()) ?? []
      const sample = media && sampleOf(media.schema, shown.components.schemas)
      return [first, media?.example, sample, ...more, {}].filter((one) => one !== undefined && one !== null)
    },
    /** Every row about Vera's baskets and orders, of every table that has such rows. */
    async rowsOfVera(): Promise<unknown[]> {
      const columns = await sql<{ table_name: string; column_name: string }>`
        select table_name, column_name from information_schema.columns
        where table_schema = 'public' and column_name in ('basket_id', 'order_id') order by 1, 2`.execute(ctx.db)
      const rows: unknown[] = []
      for (const { table_name, column_name } of columns.rows) {
        const ids = column_name === 'basket_id' ? world.hers.basketId : world.hers.orderId
        const found = await sql<{ row: unknown }>`
          select to_jsonb(t) as row from ${sql.table(table_name)} t
          where ${sql.ref(column_name)} = any(${ids}) order by to_jsonb(t)::text`.execute(ctx.db)
        rows.push(...found.rows.map(({ row }) => [table_name, row]))
      }
      return rows
    },
    async close() {
      await shop.close()
      broken.close()
    },
  }
  return world
}
export type FuzzWorld = Awaited<ReturnType<typeof startFuzzWorld>>

/** Tokens that say they are hers, and one of her address on another chain. */
async function forgedTokens({ tokens, config }: MarketContext, address: string, genuine: string): Promise<string[]> {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const [head, claims, signature] = genuine.split('.') as [string, string, string]
  const { kid } = JSON.parse(Buffer.from(head, 'base64url').toString()) as { kid: string }
  const [key] = tokens.jwks.keys
  const stranger = generateKeyPairSync('ed25519')
  const jwk = stranger.publicKey.export({ format: 'jwk' })
  const signed = (header: object) => {
    const text = `${part(header)}.${claims}`
    return `${text}.${sign(null, Buffer.from(text), stranger.privateKey).toString('base64url')}`
  }
  const hashed = (secret: string | Buffer) => {
    const text = `${part({ alg: 'HS256', kid })}.${claims}`
    return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`
  }
  const others = await tokens.issue({ address: BUYER, chainId: 100 }, 'x')
  return [
    `${part({ alg: 'none' })}.${claims}.`,
    `${part({ alg: 'none', kid })}.${claims}.${signature}`,
    hashed(Buffer.from(key!.x!, 'base64url')),
    hashed(JSON.stringify(key)),
    hashed(config.MARKET_JWT_ISSUER),
    signed({ alg: 'EdDSA', kid }),
    signed({ alg: 'EdDSA', jwk }),
    signed({ alg: 'EdDSA', kid: '../../x', jku: 'http://127.0.0.1/', x5u: 'file:///etc/passwd' }),
    `${head}.${claims}.${others.token.split('.')[2]}`,
    `${head}.${claims}.`,
    `${head}.${part({ sub: `${address}@100`, addr: address })}.${signature}`,
    (await tokens.issue({ address, chainId: 1 }, 'x')).token,
  ]
}
