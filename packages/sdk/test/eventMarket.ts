import type { ServerResponse } from 'node:http'
import type { StatusEvent } from '@market/contracts/marketApi'
import { OrderStatus } from '@market/contracts/statuses'
import { type Call, refuse, startServer } from './httpServer.ts'

type Told = { id: number; event: StatusEvent }

/** Some order; the same number is the same order. */
export const orderId = (n: number) => `ord_${String(n).padStart(32, '0')}`

/**
 * The orders and event streams of one buyer, who sells in all of them too, as the market has them: LF frames, heartbeats,
 * replay after `Last-Event-ID`, streams that end with the token. Everything that may go wrong is the test's to order.
 */
export async function startEventMarket({ heartbeatMs = 20 } = {}) {
  const told: Told[] = []
  const histories = new Map<string, StatusEvent[]>()
  const streams = new Set<ServerResponse>()
  /** Of each stream that was asked for. */
  const opened: { lastEventId: string | undefined; token: string | undefined; path: string }[] = []
  /** Answers in the place of a stream. */
  let instead: ((response: ServerResponse) => unknown) | undefined
  let refusedToken: string | undefined
  let heartbeats = 0
  let time = Date.parse('2026-01-01T00:00:00Z')

  const frame = ({ id, event }: Told) => `id: ${id}\nevent: order-status\ndata: ${JSON.stringify(event)}\n\n`
  const stream = (call: Call, response: ServerResponse) => {
    const lastEventId = call.headers['last-event-id'] as string | undefined
    opened.push({ lastEventId, token: tokenOf(call), path: call.path })
    if (instead) return instead(response)
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write(':\n\n')
    if (lastEventId !== undefined) {
      for (const one of told) if (one.id > Number(lastEventId)) response.write(frame(one))
    }
    streams.add(response)
    const heart = setInterval(() => {
      if (!streams.has(response)) return
      heartbeats += 1
      response.write(':\n\n')
    }, heartbeatMs)
    response.on('close', () => {
      clearInterval(heart)
      streams.delete(response)
    })
    return undefined
  }

  const { url, calls } = await startServer((call, response) => {
    const [path] = call.path.replace('/api/cart/v1/orders', '').split('?')
    if (refusedToken !== undefined && tokenOf(call) === refusedToken) return refuse(response, 401)
    if (path === '/events' || path === '/sales/events') return stream(call, response)
    if (path === '/by-buyer' || path === '/by-seller') {
      return { items: [...histories.keys()].toReversed().slice(0, 50).map(order) }
    }
    const [, id = '', what] = /^\/([^/]+)(?:\/(.+))?$/.exec(path!) ?? []
    const history = histories.get(id)
    if (!history) return refuse(response, 404, { error: 'Order not found', code: 'order_not_found' })
    if (what === 'status-history') return { orderId: id, events: history }
    if (what !== 'timeline') return order(id)
    const changes = history.filter(({ oldStatus }) => oldStatus !== null)
    const events = changes.map(({ oldStatus, newStatus, changedAt: at }) => ({ at, data: { oldStatus, newStatus } }))
    return { events: [{ at: history[0]!.changedAt, kind: 'placed', text: '', data: {} }, ...events] }
  })

  const order = (id: string) => {
    const { newStatus: status, paymentReference } = histories.get(id)!.at(-1)!
    return { orderId: id, status, paymentReference }
  }
  const change = (n: number, newStatus: StatusEvent['newStatus']): StatusEvent => {
    const id = orderId(n)
    const history = histories.get(id) ?? []
    const oldStatus = history.at(-1)?.newStatus ?? null
    time += 1000
    const changedAt = new Date(time).toISOString()
    const event = { orderId: id, paymentReference: `pay_${n}`, oldStatus, newStatus, changedAt }
    histories.set(id, [...history, event])
    return event
  }

  return {
    url,
    calls,
    opened,
    heartbeats: () => heartbeats,
    /** How many streams stand. */
    listeners: () => streams.size,
    /** Nobody is told that an order was made. */
    place: (n: number) => change(n, OrderStatus.paymentDue),
    /** Changes an order and tells all who listen, unless it is `quietly`: then only those who come back with an id. */
    advance(n: number, newStatus: StatusEvent['newStatus'], { quietly = false } = {}): StatusEvent {
      const event = change(n, newStatus)
      const one = { id: told.length + 1, event }
      told.push(one)
      if (!quietly) for (const response of streams) response.write(frame(one))
      return event
    },
    /** To every stream as it is. */
    write(text: string) {
      for (const response of streams) response.write(text)
    },
    /** Cuts every stream off, as a crash does. */
    cut() {
      for (const response of streams) response.destroy()
      streams.clear()
    },
    /** Ends every stream in good order, as at the end of a token or of a market. */
    end() {
      for (const response of streams) response.end()
      streams.clear()
    },
    /** Keeps the connections and says nothing more. */
    fallSilent() {
      streams.clear()
    },
    answerStreamsWith(answer: typeof instead) {
      instead = answer
    },
    refuseToken(token: string | undefined) {
      refusedToken = token
    },
  }
}

const tokenOf = ({ headers }: Call) => headers.authorization?.replace('Bearer ', '')
