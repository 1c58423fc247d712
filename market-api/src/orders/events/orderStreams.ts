import type { ServerResponse } from 'node:http'
import { AppError, LimitError } from '@market/kit/errors'
import { createGate } from '@market/kit/gate'
import type { Log } from '@market/kit/log'
import type { MarketContext } from '../../context.ts'
import {
  type Audience,
  audienceKey,
  listEventsAfter,
  listEventsOf,
  type OrderEvent,
  readLastEventId,
} from './readOrderEvents.ts'

export const STREAM_HEADERS = {
  'Content-Type': 'text/event-stream',
  'Cache-Control': 'no-cache',
  'X-Accel-Buffering': 'no',
  // Nothing follows a stream on its connection.
  Connection: 'close',
}

/** Proxies cut what is silent for a minute, some for thirty seconds (clients.md 8). */
export const HEARTBEAT_MS = 20_000
const HEARTBEAT = ':\n\n'
const TICK_MS = 1000
/** A client that takes nothing for so long is given up, however little there is to send. */
const STALLED_MS = 30_000
/** What is left unsent at a stream's end may still leave for so long. */
const LAST_BYTES_MS = 5000

/** Events read at once. Their frames to one stream come to about half of what it may have unsent. */
const BATCH = 100
const REPLAYS_AT_ONCE = 4
/** Live events kept for a stream while it is read what it missed; of more, the database is asked again. */
const MAX_WAITING = 100

export type StreamRequest = {
  audience: Audience
  /** When the token ends. */
  expiresAtMs: number | undefined
  /** The last event the client has; undefined = it wants what comes from now on. */
  after: number | undefined
  log: Log
}

/** The open event streams of this process. */
export type OrderStreams = {
  /**
   * Sends headers, then what the client missed, then every event as it comes. Resolves when the headers are out.
   * @throws LimitError 429 when there are too many streams, of this caller or at all; AppError 503 after `close`
   */
  open(response: ServerResponse, request: StreamRequest): Promise<void>
  /** Reads what is new, once for all streams, and sends it. True when there is more. Called at each notification and by a timer. */
  read(): Promise<boolean>
  /** Ends every stream; clients come back with the id of their last event, to another replica. */
  close(): void
}

type Stream = {
  response: ServerResponse
  audience: Audience
  key: string
  expiresAtMs: number | undefined
  log: Log
  /** The last event that was sent, or that the stream begins after. */
  after: number
  /** False until what it missed was sent: live events wait, or are read again when they became too many. */
  live: boolean
  waiting: { id: number; frame: string }[]
  waitingLost: boolean
  openedAtMs: number
  heartbeatAtMs: number
  stalledSinceMs: number | undefined
}

type End = 'left' | 'token ended' | 'stopping' | 'too slow' | 'failed'

export function createOrderStreams(ctx: () => MarketContext): OrderStreams {
  const streams = new Set<Stream>()
  const byKey = new Map<string, Set<Stream>>()
  const replayInTurn = createGate(REPLAYS_AT_ONCE)
  /** How far this process has read; undefined while nobody listens. A new object whenever somebody begins to. */
  let position: { id: number } | undefined
  let starting: Promise<void> | undefined
  let ticking: NodeJS.Timeout | undefined
  let closed = false
  const now = () => ctx().now().getTime()

  /** Begins at the newest event, before anybody is told that the stream stands. */
  const start = () =>
    (starting ??= readLastEventId(ctx().db)
      .then((id) => {
        if (streams.size > 0) position ??= { id }
      })
      .finally(() => (starting = undefined)))

  const add = (stream: Stream) => {
    const { config, metrics } = ctx()
    const others = byKey.get(stream.key)
    if ((others?.size ?? 0) >= config.SSE_MAX_SUBSCRIBERS_PER_KEY || streams.size >= config.SSE_MAX_STREAMS) {
      throw new LimitError('too_many_streams', 'Too many event streams are open', 30)
    }
    if (others) others.add(stream)
    else byKey.set(stream.key, new Set([stream]))
    streams.add(stream)
    metrics.sseStreams.inc({ side: stream.audience.side })
    ticking ??= setInterval(tick, TICK_MS).unref()
  }

  const remove = (stream: Stream, why: End) => {
    if (!streams.delete(stream)) return
    const { metrics } = ctx()
    const others = byKey.get(stream.key)
    others?.delete(stream)
    if (others?.size === 0) byKey.delete(stream.key)
    stream.waiting = []
    metrics.sseStreams.dec({ side: stream.audience.side })
    if (why === 'too slow') metrics.sseDropped.inc()
    const fields = { side: stream.audience.side, why, seconds: Math.round((now() - stream.openedAtMs) / 1000) }
    if (why === 'too slow') stream.log.info(fields, 'stream ended')
    else stream.log.debug(fields, 'stream ended')
    if (streams.size > 0) return
    // Nobody listens, so nothing is read; the next to come begins where the events stand then.
    position = undefined
    clearInterval(ticking)
    ticking = undefined
  }

  const end = (stream: Stream, why: End) => {
    const { response } = stream
    remove(stream, why)
    response.end()
    const giveUp = setTimeout(() => response.destroy(), LAST_BYTES_MS).unref()
    response.once('close', () => clearTimeout(giveUp))
  }

  /** The client gets to know by the broken connection, and comes back with the id of its last event. */
  const drop = (stream: Stream, why: End) => {
    remove(stream, why)
    stream.response.destroy()
  }

  const send = (stream: Stream, events: { id: number; frame: string }[]) => {
    const missed = events.filter(({ id }) => id > stream.after)
    if (missed.length === 0) return
    stream.response.write(missed.map(({ frame }) => frame).join(''))
    stream.after = missed.at(-1)!.id
    stream.heartbeatAtMs = now() + HEARTBEAT_MS
  }

  const sendWaiting = (stream: Stream) => {
    send(stream, stream.waiting)
    stream.waiting = []
  }

  /** From the database until nothing is left, then live. A page is read only when the client took the one before. */
  const replay = async (stream: Stream) => {
    while (streams.has(stream)) {
      const events = await replayInTurn(async () => {
        if (!streams.has(stream)) return []
        // From here on this process keeps for the stream what it reads itself; what it read before is older than the page.
        stream.waiting = []
        stream.waitingLost = false
        return listEventsOf(ctx().db, stream.audience, stream.after, BATCH)
      })
      if (!streams.has(stream)) return
      send(stream, events.map(toFrame))
      if (events.length < BATCH && !stream.waitingLost) {
        stream.live = true
        sendWaiting(stream)
        return
      }
      if (stream.response.writableNeedDrain) await drained(stream.response)
    }
  }

  const tick = () => {
    const time = now()
    for (const stream of streams) {
      const { response } = stream
      if (!response.headersSent) continue
      stream.stalledSinceMs = response.writableNeedDrain ? (stream.stalledSinceMs ?? time) : undefined
      if (stream.expiresAtMs !== undefined && stream.expiresAtMs <= time) end(stream, 'token ended')
      else if (time - (stream.stalledSinceMs ?? time) > STALLED_MS) drop(stream, 'too slow')
      else if (stream.heartbeatAtMs <= time) {
        response.write(HEARTBEAT)
        stream.heartbeatAtMs = time + HEARTBEAT_MS
      }
    }
  }

  return {
    async open(response, { audience, expiresAtMs, after, log }) {
      if (closed) throw stopping()
      // Gone while its token was looked at: nobody would tell us again.
      if (response.destroyed) return
      const time = now()
      const stream: Stream = {
        response,
        audience,
        key: audienceKey(audience),
        expiresAtMs,
        log,
        after: 0,
        live: false,
        waiting: [],
        waitingLost: false,
        openedAtMs: time,
        heartbeatAtMs: time + HEARTBEAT_MS,
        stalledSinceMs: undefined,
      }
      // Before anything is waited for: the cap counts those that are being opened.
      add(stream)
      response.once('close', () => remove(stream, 'left'))
      // What went wrong with the connection is said by its close, which follows.
      response.on('error', () => {})
      try {
        if (!position) await start()
        // An id nobody has been given yet: of a database that is gone. It would keep this stream silent until it is reached.
        const ahead = after !== undefined && position !== undefined && after > position.id
        const unknown = after === undefined || (ahead && after > (await readLastEventId(ctx().db)))
        if (closed) throw stopping()
        if (!position || !streams.has(stream)) return
        stream.after = unknown ? position.id : after
      } catch (error) {
        remove(stream, 'failed')
        throw error
      }
      response.writeHead(200, STREAM_HEADERS)
      response.write(HEARTBEAT)
      stream.live = stream.after >= position.id
      stream.waiting = []
      if (stream.live) return
      replay(stream).catch((error: unknown) => {
        log.warn({ err: error }, 'missed events not read')
        drop(stream, 'failed')
      })
    },

    async read() {
      await starting?.catch(() => {})
      const from = position
      if (!from) return false
      const events = await listEventsAfter(ctx().db, from.id, BATCH)
      // Everybody left meanwhile; whoever came since began at a later event.
      if (position !== from) return false
      const reached = new Set<Stream>()
      for (const event of events) {
        let heard = false
        const frame = toFrame(event)
        for (const key of event.audience) {
          for (const stream of byKey.get(key) ?? []) {
            heard = true
            if (stream.waiting.length < MAX_WAITING) stream.waiting.push(frame)
            else stream.waitingLost = true
            if (stream.live) reached.add(stream)
          }
        }
        if (heard) ctx().metrics.sseLag.observe(event.ageSeconds)
        from.id = event.id
      }
      for (const stream of reached) {
        // What earlier batches left, now that the system had its turn to take it; never this batch itself.
        const unsent = stream.response.writableLength
        if (unsent > ctx().config.SSE_MAX_BUFFERED_BYTES) drop(stream, 'too slow')
        else sendWaiting(stream)
      }
      return events.length === BATCH
    },

    close() {
      closed = true
      for (const stream of streams) {
        if (stream.response.headersSent) end(stream, 'stopping')
        else remove(stream, 'stopping')
      }
    },
  }
}

const stopping = () => new AppError(503, 'stopping', 'The market is restarting', { retryAfterSeconds: 1 })

/** Resolves when the client took what was written, or is gone. */
const drained = (response: ServerResponse) =>
  new Promise<void>((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done)
      resolve()
    }
    response.on('drain', done).on('close', done)
  })

const toFrame = ({ id, orderId, paymentReference, oldStatus, newStatus, changedAt }: OrderEvent) => {
  const data = JSON.stringify({ orderId, paymentReference, oldStatus, newStatus, changedAt })
  return { id, frame: `id: ${id}\nevent: order-status\ndata: ${data}\n\n` }
}
