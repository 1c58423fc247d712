import { invalidParams, RpcError } from './node.ts'

/**
 * `http503`: the host is overloaded. `cut`: the connection ends without an answer. `stall`: no answer until the fault is over.
 * `garbage`: text that is no JSON. `error`: a JSON-RPC error. `empty`: no rows, no logs, null. `truncate`: every other row or log
 * is left out, the next time the others. `lieHead`: `eth_blockNumber` and the latest block are `blocks` further than they are.
 */
export const FAULTS = ['http503', 'cut', 'stall', 'garbage', 'error', 'empty', 'truncate', 'lieHead'] as const
export type FaultKind = (typeof FAULTS)[number]

/** Where calls don't fail on purpose: for whoever scripts the chain, and for wallets with a node of their own. */
export const DIRECT_PATH = '/direct'

export type FaultOptions = {
  /** Names, such as `circles_query`; `*` is each of them but the dev chain's own. */
  methods: readonly string[]
  fault: FaultKind
  /** Until it is over; without it when it is cleared. */
  forMs?: number
  /** So many calls fail; without it all. */
  times?: number
  /** `lieHead` only; below 0 it lags. A million without it. */
  blocks?: number
}

/** By method, how many calls have failed on purpose since faults were last cleared. */
export type FailedCalls = Record<string, number>

/** What befalls one call. */
export type Fault = {
  kind: FaultKind
  blocks: number
  /** The how manieth call it is that fails this way, from 0. */
  nth: number
  over: Promise<void>
}

export interface Faults {
  /** Of several that fit a call the last set befalls it. Throws invalid params. */
  set(options: unknown): void
  /** What befalls this call, if anything; it counts as failed then. */
  take(method: string): Fault | undefined
  failed(): FailedCalls
  /** Ends all of them and gives what `failed` gave. */
  clear(): FailedCalls
}

type Standing = Fault & { methods: readonly string[]; left: number; end(): void }

const LIE_BLOCKS = 1_000_000

export function keepFaults(): Faults {
  let standing: Standing[] = []
  let failed: FailedCalls = {}

  return {
    set(value) {
      const { methods, fault: kind, forMs, times = Infinity, blocks = LIE_BLOCKS } = parseOptions(value)
      let end!: () => void
      const over = new Promise<void>((resolve) => (end = resolve))
      const fault = { methods, kind, blocks, left: times, nth: 0, over, end }
      standing.unshift(fault)
      if (forMs === undefined) return
      const timer = setTimeout(() => {
        standing = standing.filter((one) => one !== fault)
        end()
      }, forMs)
      timer.unref()
      void over.then(() => clearTimeout(timer))
    },

    take(method) {
      const isOurs = method.startsWith('dev_')
      const fits = ({ methods, left }: Standing) => left > 0 && methods.some((name) => name === '*' || name === method)
      const fault = isOurs ? undefined : standing.find(fits)
      if (!fault) return undefined
      failed[method] = (failed[method] ?? 0) + 1
      fault.left -= 1
      const { kind, blocks, nth, over } = fault
      fault.nth += 1
      return { kind, blocks, nth, over }
    },

    failed: () => ({ ...failed }),

    clear() {
      // Those that are used up as well: calls may still hang on them.
      for (const { end } of standing) end()
      standing = []
      const calls = failed
      failed = {}
      return calls
    },
  }
}

/** A node's answer after the fault; what is no answer, such as an error, stays as it is. Throws what `error` answers. */
export function falsify({ kind, blocks, nth }: Fault, call: unknown, body: string): string {
  if (kind === 'error') throw new RpcError(-32000, 'fails on purpose')
  const answer = JSON.parse(body) as { result?: unknown }
  if (answer.result === undefined) return body
  if (kind === 'empty') answer.result = withRows(answer.result, () => []) ?? null
  if (kind === 'truncate') {
    answer.result = withRows(answer.result, (rows) => rows.filter((_, i) => (i + nth) % 2 === 1)) ?? answer.result
  }
  if (kind === 'lieHead' && asksForHead(call)) answer.result = withHead(answer.result, blocks)
  return JSON.stringify(answer)
}

/** Of a page of `circles_query`, or the logs of `eth_getLogs`; undefined when it is neither. */
function withRows(result: unknown, edit: (rows: unknown[]) => unknown[]): unknown {
  if (Array.isArray(result)) return edit(result)
  const { rows } = (result ?? {}) as { rows?: unknown }
  return Array.isArray(rows) ? { ...(result as object), rows: edit(rows) } : undefined
}

function asksForHead(call: unknown): boolean {
  const { method, params } = call as { method: string; params?: unknown[] }
  return method === 'eth_blockNumber' || (method === 'eth_getBlockByNumber' && params?.[0] === 'latest')
}

function withHead(result: unknown, blocks: number): unknown {
  const moved = (number: string) => `0x${Math.max(0, Number(number) + blocks).toString(16)}`
  if (typeof result === 'string') return moved(result)
  const { number } = (result ?? {}) as { number?: unknown }
  return typeof number === 'string' ? { ...(result as object), number: moved(number) } : result
}

function parseOptions(value: unknown): FaultOptions {
  const { methods, fault, forMs, times, blocks } = (value ?? {}) as Record<keyof FaultOptions, unknown>
  if (!Array.isArray(methods) || methods.length === 0 || !methods.every((name) => typeof name === 'string')) {
    throw invalidParams('methods is no list of names')
  }
  if (!FAULTS.includes(fault as FaultKind)) {
    throw invalidParams(`unknown fault ${String(fault)}; there are ${FAULTS.join(', ')}`)
  }
  for (const [name, number] of Object.entries({ forMs, times })) {
    if (number !== undefined && !(Number.isSafeInteger(number) && (number as number) > 0)) {
      throw invalidParams(`${name} is no whole number above 0`)
    }
  }
  if (blocks !== undefined && !Number.isSafeInteger(blocks)) throw invalidParams('blocks is no whole number')
  return value as FaultOptions
}
