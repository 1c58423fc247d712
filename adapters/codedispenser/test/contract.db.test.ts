import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { upsertCodeMapping } from '../src/ops.ts'
import { createCodesDatabase, type TestCodes } from './codesDatabase.ts'
import { type Dispenser, fulfil, newKey, SELLER, SERVICE_KEY, startDispenser, stockOf } from './runningDispenser.ts'

let home: TestCodes
let dispenser: Dispenser
let names = 0

beforeAll(async () => {
  home = await createCodesDatabase()
  dispenser = await startDispenser(home.url)
})
afterAll(async () => {
  await dispenser?.child.stop(5000)
  await home.remove()
})

/** A sku for sale, with a pool of its own unless one is named. */
async function newSku(codes: string[], template: string | null = null, poolId = `pool ${++names}`) {
  const sku = `sku-${++names}`
  await home.seed(poolId, codes)
  await upsertCodeMapping(home.db, { chainId: 100, seller: SELLER, sku, poolId, downloadUrlTemplate: template })
  return { sku, poolId }
}

const countRuns = async (key: string) =>
  (await home.db.selectFrom('fulfillment_runs').select('run_key').where('run_key', '=', key).execute()).length

const get = (path: string, headers: Record<string, string> = { 'X-Circles-Service-Key': SERVICE_KEY }) =>
  fetch(`${dispenser.url}${path}`, { headers })

/** Holds all free codes of a pool, as another buyer would who has not committed yet, while `work` goes on. */
async function holding<T>(poolId: string, work: (letGo: () => void) => Promise<T>): Promise<T> {
  let letGo = () => {}
  const released = new Promise<void>((resolve) => (letGo = resolve))
  let held = () => {}
  const locked = new Promise<void>((resolve) => (held = resolve))
  const holder = home.db.transaction().execute(async (tx) => {
    await sql`select 1 from code_pool_codes where pool_id = ${poolId} for update`.execute(tx)
    held()
    await released
  })
  await locked
  try {
    return await work(letGo)
  } finally {
    letGo()
    await holder
  }
}

const someoneWaits = () =>
  until('a run waits for the held codes', async () => {
    const { rows } = await sql`
      select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(home.db)
    return rows.length > 0
  })

describe('codes', () => {
  it('adapters:A-1 A-2 fulfilment:F-26 are given out in order, and again the same for the same request', async () => {
    const { sku } = await newSku(['c1', 'c2', 'c3'])
    const key = newKey()
    const first = await fulfil(dispenser, { sku, quantity: 2, key })
    expect(first).toMatchObject({
      status: 200,
      body: {
        '@context': ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/'],
        '@type': 'circles:CodeDispenserResult',
        status: 'ok',
        orderId: `ord_${key}`,
        paymentReference: `pay_${key}`,
        seller: SELLER,
        sku,
        message: null,
        codes: ['c1', 'c2'],
        downloadUrl: null,
        downloadUrls: [],
        lines: [{ lineIndex: 0, sku, quantity: 2, status: 'ok', message: null, codes: ['c1', 'c2'] }],
      },
    })
    expect(await stockOf(dispenser, sku)).toBe(1)
    const again = await fulfil(dispenser, { sku, quantity: 2, key })
    expect(again).toEqual({ ...first, body: { ...first.body, message: 'Already processed' } })
    expect(await stockOf(dispenser, sku)).toBe(1)
  })

  it('adapters:A-3 of a pool too small are left alone; after seeding the same request gets them', async () => {
    const { sku, poolId } = await newSku(['c1'])
    const key = newKey()
    expect(await fulfil(dispenser, { sku, quantity: 2, key })).toMatchObject({
      status: 200,
      body: { status: 'depleted', requestedQuantity: 2, codes: [], lines: [{ status: 'depleted', codes: [] }] },
    })
    expect(await stockOf(dispenser, sku)).toBe(1)
    await home.seed(poolId, ['c2'])
    expect(await fulfil(dispenser, { sku, quantity: 2, key })).toMatchObject({
      body: { status: 'ok', message: null, codes: ['c1', 'c2'] },
    })
    expect(await stockOf(dispenser, sku)).toBe(0)
  })

  it('adapters:A-4 that were dispensed stay dispensed when they are seeded again', async () => {
    const { sku, poolId } = await newSku(['c1'])
    await fulfil(dispenser, { sku, quantity: 1 })
    expect(await home.seed(poolId, ['c1', 'c4'])).toMatchObject({ added: 1, alreadyDispensed: 1, duplicate: 0 })
    expect(await stockOf(dispenser, sku)).toBe(1)
    expect(await fulfil(dispenser, { sku, quantity: 1 })).toMatchObject({ body: { codes: ['c4'] } })
  })

  it('adapters:A-6 of a pool of ten go to ten of twenty who ask at once', async () => {
    const { sku } = await newSku(Array.from({ length: 10 }, (_, i) => `c${i}`))
    const answers = await Promise.all(Array.from({ length: 20 }, () => fulfil(dispenser, { sku, quantity: 1 })))
    expect(answers.filter(({ body }) => body.status === 'depleted')).toHaveLength(10)
    const codes = answers.flatMap(({ body }) => body.codes as string[])
    expect(codes).toHaveLength(10)
    expect(new Set(codes).size).toBe(10)
  })

  it('adapters:A-7 of several pools answer one request, line by line and in line order', async () => {
    const v = await newSku(['v1', 'v2', 'v3'], 'https://v/{code}')
    const w = await newSku(['w1'])
    const items = [
      { sku: w.sku, quantity: 1 },
      { sku: v.sku, quantity: 2 },
      { sku: v.sku, quantity: 1 },
    ]
    const { body } = await fulfil(dispenser, { items, body: { lineIndexes: [7, 3, 5] } })
    expect(body).toMatchObject({
      status: 'ok',
      codes: ['v1', 'v2', 'v3', 'w1'],
      downloadUrl: 'https://v/v1',
      downloadUrls: ['https://v/v1', 'https://v/v2', 'https://v/v3'],
      lines: [
        { lineIndex: 3, sku: v.sku, codes: ['v1', 'v2'], downloadUrls: ['https://v/v1', 'https://v/v2'] },
        { lineIndex: 5, sku: v.sku, codes: ['v3'] },
        { lineIndex: 7, sku: w.sku, codes: ['w1'], downloadUrls: [] },
      ],
    })
  })

  it('of a request that was served in part: the missing lines follow, the others keep theirs', async () => {
    const v = await newSku(['v1', 'v2'])
    const w = await newSku([])
    const items = [
      { sku: w.sku, quantity: 1 },
      { sku: v.sku, quantity: 1 },
    ]
    const key = newKey()
    const first = await fulfil(dispenser, { items, key })
    expect(first.body).toMatchObject({
      status: 'partial',
      codes: ['v1'],
      lines: [{ status: 'depleted' }, { status: 'ok' }],
    })
    await home.db.updateTable('code_mappings').set({ enabled: false }).where('sku', '=', v.sku).execute()
    await home.seed(w.poolId, ['w1'])
    const second = await fulfil(dispenser, { items, key })
    expect(second.body).toMatchObject({
      status: 'ok',
      codes: ['w1', 'v1'],
      lines: [{ codes: ['w1'] }, { codes: ['v1'] }],
    })
    expect(await fulfil(dispenser, { items, key })).toMatchObject({
      body: { codes: ['w1', 'v1'], message: 'Already processed' },
    })
  })

  it('adapters:A-8 fill every place of the template, as one part of a URL', async () => {
    const { sku } = await newSku(['c1', "it's $& a/b"], 'https://x/{code}/{code}')
    const { body } = await fulfil(dispenser, { sku, quantity: 2 })
    const second = "it's%20%24%26%20a%2Fb"
    expect(body.downloadUrls).toEqual(['https://x/c1/c1', `https://x/${second}/${second}`])
    expect(body.downloadUrl).toBe('https://x/c1/c1')
    expect(body.codes).toEqual(['c1', "it's $& a/b"])
  })

  it.each([[[101]], [['101']], [[60, 41]]])(
    'adapters:A-9 in quantities over the limit (%s) are refused',
    async (quantities) => {
      const { sku } = await newSku(['c1'])
      const items = quantities.map((quantity) => ({ sku, quantity }))
      expect(await fulfil(dispenser, { items })).toMatchObject({
        status: 400,
        body: { error: 'Requested quantity exceeds limit (max 100)' },
      })
      expect(await stockOf(dispenser, sku)).toBe(1)
    },
  )

  it('adapters:A-9 may be a hundred', async () => {
    const codes = Array.from({ length: 100 }, (_, i) => `c${i}`)
    const { sku } = await newSku(codes)
    expect((await fulfil(dispenser, { sku, quantity: 100 })).body.codes).toEqual(codes)
  })

  it.each<[unknown, string[]]>([
    [0, ['c1']],
    [-3, ['c1']],
    [1.9, ['c1']],
    ['1.9', ['c1']],
    [undefined, ['c1']],
    ['2', ['c1', 'c2']],
  ])('adapters:A-10 fulfilment:F-25 for the quantity %j are %j', async (quantity, codes) => {
    const { sku } = await newSku(['c1', 'c2', 'c3'])
    const { body } = await fulfil(dispenser, { items: [{ sku: `  ${sku.toUpperCase()} `, quantity }] })
    expect(body).toMatchObject({ status: 'ok', codes, lines: [{ sku, quantity: codes.length }] })
  })

  it('adapters:A-11 without a mapping are 404 to look at and notApplicable to ask for', async () => {
    const response = await get(`/inventory/100/${SELLER}/nothing`)
    expect(response.status).toBe(404)
    expect(await response.json()).toMatchObject({
      error: 'No mapping for seller/sku',
      chainId: 100,
      seller: SELLER,
      sku: 'nothing',
    })
    expect(await fulfil(dispenser, { sku: 'nothing', quantity: 101 })).toMatchObject({
      status: 200,
      body: { status: 'notApplicable', codes: [], lines: [{ status: 'notMapped' }] },
    })
  })

  it('are counted by inventory and told by availability, also for a sku with odd characters', async () => {
    await home.seed('odd', ['c1'])
    const mapping = { chainId: 100, seller: SELLER, sku: '50% Off/ß?', poolId: 'odd', downloadUrlTemplate: null }
    await upsertCodeMapping(home.db, mapping)
    const sku = encodeURIComponent('50% off/ß?')
    expect(await (await get(`/inventory/100/${SELLER}/${sku}`)).json()).toEqual({
      '@type': 'QuantitativeValue',
      value: 1,
      unitCode: 'C62',
    })
    expect(await (await get(`/availability/100/${SELLER}/${sku}`)).json()).toBe('https://schema.org/InStock')
    await fulfil(dispenser, { sku: '50% OFF/ß?', quantity: 1 })
    expect(await (await get(`/availability/100/${SELLER}/${sku}`)).json()).toBe('https://schema.org/OutOfStock')
  })
})

describe('the gate', () => {
  it('adapters:A-12 fulfilment:F-31 lets nobody in without the key, and leaves no run', async () => {
    const { sku } = await newSku(['c1'])
    for (const [given, reason] of [
      ['', 'missing api key'],
      ['wrong', 'invalid api key'],
    ] as const) {
      const key = newKey()
      const answer = await fulfil(dispenser, { sku, quantity: 1, key, headers: { 'X-Circles-Service-Key': given } })
      expect(answer).toMatchObject({ status: 401, body: { error: 'Unauthorized', reason } })
      expect(await countRuns(key)).toBe(0)
      expect((await get(`/inventory/100/${SELLER}/${sku}`, { 'X-Circles-Service-Key': given })).status).toBe(401)
    }
    expect(await (await get('/inventory/100/0xZZ/v')).json()).toMatchObject({ error: 'Invalid seller address' })
    expect(await stockOf(dispenser, sku)).toBe(1)
  })

  it('fulfilment:F-24 refuses a malformed request without a run', async () => {
    const key = newKey()
    const refused = [
      [{ items: undefined }, 'items must contain at least one element'],
      [{ trigger: 'paid' }, "trigger must be 'confirmed' or 'finalized'"],
    ] as const
    for (const [body, error] of refused) {
      expect(await fulfil(dispenser, { sku: 'v', key, body })).toMatchObject({ status: 400, body: { error } })
    }
    const response = await fetch(`${dispenser.url}/fulfill/100/${SELLER}`, {
      method: 'POST',
      headers: { 'X-Circles-Service-Key': SERVICE_KEY },
      body: 'orderId=1',
    })
    expect([response.status, await response.json()]).toMatchObject([400, { error: 'Invalid JSON body' }])
    expect(await countRuns(key)).toBe(0)
  })

  it('refuses a body over 256 KiB and goes on answering', async () => {
    const { sku } = await newSku(['c1'])
    const padding = 'x'.repeat(256 * 1024)
    expect(await fulfil(dispenser, { sku, quantity: 1, body: { padding } })).toMatchObject({ status: 413 })
    expect(await fulfil(dispenser, { sku, quantity: 1 })).toMatchObject({ status: 200, body: { codes: ['c1'] } })
  })

  it('takes the key from the header before the body, and refuses it for another request', async () => {
    const { sku } = await newSku(['c1', 'c2'])
    const key = newKey()
    await fulfil(dispenser, { sku, quantity: 1, key })
    expect(await fulfil(dispenser, { sku, quantity: 2, key })).toMatchObject({
      status: 409,
      body: { code: 'idempotency_key_reused' },
    })
    const withHeader = { sku, quantity: 1, body: { idempotencyKey: 'another' }, headers: { 'Idempotency-Key': key } }
    expect(await fulfil(dispenser, withHeader)).toMatchObject({ status: 409 })
    expect(await stockOf(dispenser, sku)).toBe(1)
  })

  it('serves callers without a key once per chain, seller and payment reference', async () => {
    const { sku } = await newSku(['c1', 'c2'])
    const old = { sku, quantity: 1, key: newKey(), body: { idempotencyKey: undefined } }
    const first = await fulfil(dispenser, old)
    expect(first.body.codes).toEqual(['c1'])
    expect(await fulfil(dispenser, old)).toMatchObject({ body: { codes: ['c1'], message: 'Already processed' } })
  })

  it('fulfilment:F-27 answers a duplicate of a run under way with 202, and takes nothing for it', async () => {
    const { sku, poolId } = await newSku(['c1', 'c2'])
    const key = newKey()
    const running = await holding(poolId, async () => {
      const first = fulfil(dispenser, { sku, quantity: 1, key })
      await someoneWaits()
      expect(await fulfil(dispenser, { sku, quantity: 1, key })).toMatchObject({
        status: 202,
        retryAfter: '1',
        body: { status: 'inProgress', message: 'Already in progress', codes: [] },
      })
      return { first }
    })
    expect(await running.first).toMatchObject({ status: 200, body: { status: 'ok', codes: ['c1'] } })
    expect(await stockOf(dispenser, sku)).toBe(1)
  })

  it('fulfilment:F-28 executes a failed run again; the caller learns nothing of the inside', async () => {
    const { sku, poolId } = await newSku(['c1'])
    await sql`
      create function refuse() returns trigger language plpgsql as $$ begin raise exception 'secret of the schema'; end $$`.execute(
      home.db,
    )
    await sql`
      create trigger refuse before update on code_pool_codes for each row when (new.pool_id = ${sql.lit(poolId)})
      execute function refuse()`.execute(home.db)
    const key = newKey()
    const failed = await fulfil(dispenser, { sku, quantity: 1, key })
    expect(failed.status).toBe(500)
    expect(failed.body).toEqual({ error: 'Internal error', code: 'internal_error', requestId: expect.any(String) })
    const findRun = () =>
      home.db.selectFrom('fulfillment_runs').selectAll().where('run_key', '=', key).executeTakeFirstOrThrow()
    expect(await findRun()).toMatchObject({ status: 'error', last_error: 'secret of the schema' })
    await sql`drop trigger refuse on code_pool_codes`.execute(home.db)
    expect(await fulfil(dispenser, { sku, quantity: 1, key })).toMatchObject({
      status: 200,
      body: { status: 'ok', codes: ['c1'] },
    })
    expect(await findRun()).toMatchObject({ status: 'ok', last_error: null, attempts: 2 })
  })

  it('fulfilment:F-30 finishes the run of a caller who hung up', async () => {
    const { sku, poolId } = await newSku(['c1'])
    const key = newKey()
    await holding(poolId, async (letGo) => {
      const caller = new AbortController()
      const asked = fulfil(dispenser, { sku, quantity: 1, key, signal: caller.signal })
      await someoneWaits()
      caller.abort()
      await expect(asked).rejects.toThrow()
      letGo()
    })
    const again = await until('the run is over', async () => {
      const answer = await fulfil(dispenser, { sku, quantity: 1, key })
      return answer.status === 200 && answer
    })
    expect(again.body).toMatchObject({ status: 'ok', codes: ['c1'], message: 'Already processed' })
  })
})

it('counts its answers by status, and tells whether it is of use', async () => {
  const { sku } = await newSku([])
  await fulfil(dispenser, { sku, quantity: 1 })
  const metrics = await (await get('/metrics', {})).text()
  expect(metrics).toMatch(/^adapter_fulfillment_total\{status="depleted",service="adapter-codedispenser"\} [1-9]/m)
  const health = await get('/health', {})
  expect([health.status, await health.json()]).toEqual([200, { ok: true, checks: { postgres: 'ok' } }])
  expect(await (await get('/health/ready', {})).text()).toBe('Healthy')
})
