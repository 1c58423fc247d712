import { once } from 'node:events'
import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import { orderId as newOrderId, paymentReference as newReference } from '@market/contracts/ids'
import { inTransaction } from '@market/kit/db'
import { until } from '@market/testkit/until'
import type { MarketContext } from '../src/context.ts'
import type { OrderSnapshot } from '../src/orders/order.ts'
import { insertOrder } from '../src/orders/store.ts'
import { settleBatch } from '../src/payments/advanceOrders.ts'
import { takeLeadership } from '../src/payments/leadership.ts'

export const CHAIN_ID = 100
export const GATEWAY = `0x${'6a'.repeat(20)}`
const PRICE_WEI = 3_000_000_000_000_000_000n

/** An address made from a number. */
export const person = (n: number) => `0x${n.toString(16).padStart(40, '0')}`

export type StreamedEvent = {
  id: number
  name: string
  data: { orderId: string; paymentReference: string; oldStatus: string | null; newStatus: string; changedAt: string }
}

export type EventStream = {
  status: number
  headers: IncomingMessage['headers']
  /** What came so far, as text. */
  text(): string
  events(): StreamedEvent[]
  comments(): number
  /** Resolves when the server, or the network, ended it. */
  ended: Promise<void>
  isEnded(): boolean
  /** Reads nothing more from the connection. */
  pause(): void
  resume(): void
  close(): void
}

/** Connects as a front end does, without reading ahead of the test. Resolves when the headers are there. */
export async function openStream(
  marketUrl: string,
  token: string | undefined,
  { side = 'buyer', headers = {} }: { side?: 'buyer' | 'seller'; headers?: Record<string, string> } = {},
): Promise<EventStream> {
  const path = side === 'buyer' ? '/api/cart/v1/orders/events' : '/api/cart/v1/orders/sales/events'
  const sent: ClientRequest = request(marketUrl + path, {
    agent: false,
    headers: { Accept: 'text/event-stream', ...(token ? { Authorization: `Bearer ${token}` } : {}), ...headers },
  }).end()
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  let text = ''
  let done = false
  const ended = new Promise<void>((resolve) => {
    response.on('close', () => {
      done = true
      resolve()
    })
  })
  response.on('error', () => {})
  // Like existing clients: records end at an empty line, LF only.
  const told: StreamedEvent[] = []
  let comments = 0
  let rest = ''
  response.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
    const records = (rest + chunk).split('\n\n')
    rest = records.pop()!
    for (const record of records) {
      if (record.startsWith(':')) comments += 1
      else told.push(parseRecord(record))
    }
  })
  return {
    status: response.statusCode!,
    headers: response.headers,
    text: () => text,
    events: () => told,
    comments: () => comments,
    ended,
    isEnded: () => done,
    pause: () => void response.pause(),
    resume: () => void response.resume(),
    close: () => void sent.destroy(),
  }
}

function parseRecord(record: string): StreamedEvent {
  const lines = record.split('\n').map((line) => /^(id|event|data): (.*)$/.exec(line)!)
  const member = (name: string) => lines.find(([, found]) => found === name)![2]!
  if (lines.length !== 3) throw new Error(`not a record of three lines: ${record}`)
  return { id: Number(member('id')), name: member('event'), data: JSON.parse(member('data')) }
}

export const tokenOf = async (ctx: MarketContext, address: string) =>
  (await ctx.tokens.issue({ address, chainId: CHAIN_ID }, 'x')).token

export type PlacedOrder = { orderId: string; reference: string }

/** An order as a checkout leaves it, one line a seller. */
export async function placeOrder(
  ctx: MarketContext,
  order: { buyer: string; sellers: string[]; listed?: boolean; trigger?: 'confirmed' | 'finalized' },
): Promise<PlacedOrder> {
  const orderId = newOrderId(ctx.random16())
  const reference = newReference(ctx.random16())
  const { buyer, sellers, listed = true, trigger = 'finalized' } = order
  await inTransaction(ctx.db, (tx) =>
    insertOrder(tx, {
      orderId,
      basketId: `bkt_${orderId.slice(4).toLowerCase()}`,
      chainId: CHAIN_ID,
      buyer,
      paymentReference: reference,
      priceWei: PRICE_WEI,
      expectedGateways: [GATEWAY],
      snapshot: {
        orderNumber: orderId,
        paymentReference: reference,
        customer: { '@type': 'Person', '@id': `eip155:${CHAIN_ID}:${buyer}`, givenName: 'Ada', familyName: 'L' },
        acceptedOffer: sellers.map(() => ({ requiredSlots: [] })),
        orderedItem: [],
      } as unknown as OrderSnapshot,
      lines: sellers.map((seller, lineIndex) => ({
        lineIndex,
        seller,
        sku: 'tea',
        quantity: 1,
        trigger,
        linkKeccak: `0x${'00'.repeat(32)}`,
      })),
      createdAt: ctx.now(),
      paymentDueBy: new Date(ctx.now().getTime() + 1_800_000),
      listed,
      placedFrom: null,
    }),
  )
  return { orderId, reference }
}

/** The transfer that pays it, mined in `block`; it counts from the next `advance` on. */
export async function payOrder(ctx: MarketContext, { orderId, reference }: PlacedOrder, block = 1000): Promise<void> {
  await ctx.db
    .insertInto('payment_transfers')
    .values({
      chain_id: CHAIN_ID,
      tx_hash: `0x${orderId.slice(4).toLowerCase().padStart(64, '0')}`,
      log_index: 0,
      block_number: block,
      transaction_index: 0,
      payment_reference: reference,
      gateway_address: GATEWAY,
      amount_wei: PRICE_WEI.toString(),
      eligible: true,
      verdict_due: false,
      block_hash: null,
      block_time: null,
      payer_address: null,
      payee_address: null,
      token_id: null,
      token_avatar: null,
      ignored_reason: null,
      orphaned_at: null,
    })
    .execute()
  await ctx.db.updateTable('orders').set({ payment_seen_at: ctx.now() }).where('order_id', '=', orderId).execute()
}

/** What the poll does for one order when the chain has grown to `head`. */
export async function advance(ctx: MarketContext, { orderId }: PlacedOrder, head: number): Promise<void> {
  const leadership = await until('the lease on payments', () => takeLeadership(ctx))
  await settleBatch(ctx, leadership, [orderId], { number: head, hash: '' })
}

export const seen = 1000
export const confirmed = 1003
export const final = 1012
