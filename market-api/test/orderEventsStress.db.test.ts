import { OrderStatus } from '@market/contracts/statuses'
import { inTransaction } from '@market/kit/db'
import { until } from '@market/testkit/until'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Audience, listEventsOf } from '../src/orders/events/readOrderEvents.ts'
import { closeUnpaid } from '../src/orders/cancelOrder.ts'
import { tellOverdueCompletions } from '../src/orders/events/sweepOrderEvents.ts'
import {
  advance,
  CHAIN_ID,
  final,
  openStream,
  payOrder,
  person,
  type PlacedOrder,
  placeOrder,
  seen,
  tokenOf,
} from './orderEventsWorld.ts'
import { type MarketApi, startMarketApi } from './startMarketApi.ts'

const BUYERS = 12
const SELLERS = 4
const ORDERS = 200
const CONNECTIONS = 8
const CHANGES = 5

let replicas: MarketApi[]

beforeAll(async () => {
  const first = await startMarketApi({ env: { SSE_HOLD_SECONDS: '1' } })
  const url = first.ctx.config.POSTGRES_CONNECTION.reveal()
  replicas = [first, await startMarketApi({ databaseUrl: url, env: { SSE_HOLD_SECONDS: '1' } })]
})

afterAll(async () => {
  for (const replica of replicas?.toReversed() ?? []) await replica.close()
})

/** Numbers from a seed, so that a failure can be had again. */
function dice(seed: number) {
  let state = seed
  return (sides: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * sides)
  }
}

const everything = (audience: Audience) => listEventsOf(replicas[0]!.ctx.db, audience, 0, 1_000_000)

/** A client that loses its connection again and again, on either replica, and goes on after the last event it has. */
async function listen(audience: Audience, seed: number, isOver: () => boolean) {
  const roll = dice(seed)
  const token = await tokenOf(replicas[0]!.ctx, audience.address)
  const tokens = [token, await tokenOf(replicas[1]!.ctx, audience.address)]
  const got: number[] = []
  let connections = 0
  for (;;) {
    const over = isOver()
    const at = roll(2)
    const stream = await openStream(replicas[at]!.url, tokens[at], {
      side: audience.side,
      headers: { 'Last-Event-ID': String(got.at(-1) ?? 0) },
    })
    connections += 1
    if (over) {
      const last = (await everything(audience)).at(-1)!.id
      await until(
        `the last event of ${audience.side} ${audience.address}`,
        () => (stream.events().at(-1)?.id ?? got.at(-1)) === last,
      )
    } else {
      const enough = 1 + roll(30)
      const patience = Date.now() + roll(300)
      await until('something', () => stream.events().length >= enough || Date.now() > patience)
    }
    got.push(...stream.events().map(({ id }) => id))
    stream.close()
    if (over) return { audience, got, connections }
  }
}

it('every stream has every event once, in order, while orders change at once and streams come and go', async () => {
  const { ctx } = replicas[0]!
  const buyers = Array.from({ length: BUYERS }, (_, i) => person(0xb0 + i))
  const sellers = Array.from({ length: SELLERS }, (_, i) => person(0x50 + i))
  const orders: string[] = []
  for (let i = 0; i < ORDERS; i += 1) {
    const { orderId } = await placeOrder(ctx, {
      buyer: buyers[i % BUYERS]!,
      sellers: [sellers[i % SELLERS]!, sellers[(i + 1) % SELLERS]!],
    })
    orders.push(orderId)
  }

  let changing = true
  const listening = Promise.all(
    [
      ...buyers.map((address) => ({ side: 'buyer' as const, address, chainId: CHAIN_ID })),
      ...sellers.map((address) => ({ side: 'seller' as const, address, chainId: CHAIN_ID })),
    ].map((audience, i) => listen(audience, 1000 + i, () => !changing)),
  )
  // Several orders a transaction, some slow to commit, some never committed: ids that nobody may ever see, and late ones.
  const change = async (connection: number) => {
    const roll = dice(connection)
    for (let i = 0; i < (ORDERS * CHANGES) / CONNECTIONS / 2; i += 1) {
      const [one, two] = [orders[roll(ORDERS)]!, orders[roll(ORDERS)]!].toSorted()
      await inTransaction(replicas[connection % 2]!.ctx.db, async (tx) => {
        await sql`select 1 from orders where order_id in (${one}, ${two}) order by order_id for update`.execute(tx)
        await sql`
          update orders set status = case status when ${OrderStatus.cancelled} then ${OrderStatus.paymentDue}
            else ${OrderStatus.cancelled} end where order_id in (${one}, ${two})`.execute(tx)
        if (roll(4) === 0) await sql`select pg_sleep(0.004)`.execute(tx)
        if (roll(10) === 0) throw new Error('thought better of it')
      }).catch((error: Error) => {
        if (error.message !== 'thought better of it') throw error
      })
    }
  }
  await Promise.all(Array.from({ length: CONNECTIONS }, (_, i) => change(i)))
  changing = false

  const heard = await listening
  for (const { audience, got } of heard) {
    expect(got, `${audience.side} ${audience.address}`).toEqual((await everything(audience)).map(({ id }) => id))
  }
  expect(heard.reduce((sum, { got }) => sum + got.length, 0)).toBeGreaterThan(ORDERS * 3)
  expect(heard.reduce((sum, { connections }) => sum + connections, 0)).toBeGreaterThan(100)
}, 120_000)

it('nobody who tells ever waits for another in a circle: payments, cancellations and overdue completions at once', async () => {
  const { ctx } = replicas[0]!
  const buyer = person(0xbb)
  const stream = await openStream(replicas[1]!.url, await tokenOf(replicas[1]!.ctx, buyer))
  const place = () => placeOrder(ctx, { buyer, sellers: [person(0x60)] })
  const paid: PlacedOrder[] = []
  const dropped: PlacedOrder[] = []
  for (let i = 0; i < 60; i += 1) {
    paid.push(await place())
    dropped.push(await place())
  }
  for (const order of paid) await payOrder(ctx, order)
  const telling = new AbortController()
  const sweeping = replicas.map(async (replica) => {
    while (!telling.signal.aborted) await tellOverdueCompletions(replica.ctx)
  })
  const paying = async () => {
    for (const order of paid) {
      await advance(ctx, order, seen)
      await advance(ctx, order, final)
    }
  }
  const dropping = async () => {
    for (let i = 0; i < dropped.length; i += 3) {
      const ids = dropped.slice(i, i + 3).map(({ orderId }) => orderId)
      await inTransaction(replicas[1]!.ctx.db, async (tx) => {
        await tx.selectFrom('orders').select('order_id').where('order_id', 'in', ids).forUpdate().execute()
        await closeUnpaid(ctx, tx, ids, 'expired')
      })
    }
  }
  await Promise.all([paying(), dropping(), paying()])
  telling.abort()
  await Promise.all(sweeping)
  const count = paid.length * 2 + dropped.length
  await until('everything is told', () => stream.events().length >= count, 30)
  const seenOf = ({ orderId }: PlacedOrder) =>
    stream.events().flatMap(({ data }) => (data.orderId === orderId ? [data.newStatus] : []))
  for (const order of paid) {
    expect(seenOf(order)).toEqual([OrderStatus.paymentProcessing, OrderStatus.paymentComplete])
  }
  for (const order of dropped) expect(seenOf(order)).toEqual([OrderStatus.cancelled])
  stream.close()
}, 120_000)
