import { normalizePaymentReference } from '@market/contracts/ids'
import { messageOf } from '@market/kit/errors'
import { readCapped } from '@market/kit/outbound'
import {
  type LogPosition,
  type PaymentLog,
  type PaymentSource,
  PaymentSourceError,
  type TrustLog,
} from './paymentSource.ts'

const MAX_ANSWER_BYTES = 16 * 1024 * 1024
const TRUST_PAGE = 1000
const MAX_TRUST_PAGES = 50

/** The Circles indexer's JSON-RPC for logs, a node's for the head (payments.md 2). */
export function connectCirclesRpc(options: { circlesRpc: string; rpc: string; timeoutMs: number }): PaymentSource {
  const query = async (table: string, filter: object[], limit: number): Promise<Table> => {
    const params = [{ namespace: 'CrcV2_PaymentGateway', table, columns: [], filter, order: BY_POSITION, limit }]
    return parseTable(await call(options.circlesRpc, options.timeoutMs, 'circles_query', params))
  }

  return {
    async readPayments(after, limit) {
      const table = await query('PaymentReceived', after ? [behind(after)] : [], limit)
      requireColumns(table, PAYMENT_COLUMNS)
      const positions = table.rows.map((row) => positionOf(row))
      const logs = table.rows.map((row, i) => paymentOf(row, positions[i]!))
      return {
        logs: logs.filter((log) => log !== undefined),
        unreadable: logs.filter((log) => log === undefined).length,
        end: positions.at(-1),
        full: table.rows.length >= limit,
      }
    },

    async readTrust(gateway) {
      const logs: TrustLog[] = []
      const ofGateway = { type: 'FilterPredicate', filterType: 'Equals', column: 'gateway', value: gateway }
      for (let page = 0; page < MAX_TRUST_PAGES; page += 1) {
        const last = logs.at(-1)
        const table = await query('TrustUpdated', last ? [ofGateway, behind(last)] : [ofGateway], TRUST_PAGE)
        if (table.rows.length > 0) requireColumns(table, ['trustReceiver', 'expiry'])
        logs.push(...table.rows.map(trustOf))
        if (table.rows.length < TRUST_PAGE) return logs
      }
      throw new PaymentSourceError(`gateway ${gateway} has more than ${MAX_TRUST_PAGES * TRUST_PAGE} trust entries`)
    },

    async readHead() {
      return parseHexBlock(await call(options.rpc, options.timeoutMs, 'eth_blockNumber', []))
    },
  }
}

const PAYMENT_COLUMNS =
  'blockNumber transactionIndex logIndex timestamp transactionHash gateway amount tokenId data'.split(' ')

const BY_POSITION = ['blockNumber', 'transactionIndex', 'logIndex'].map((column) => ({ column, sortOrder: 'ASC' }))

/** Everything behind a position, in the order of BY_POSITION (payments.md 2.1). */
export function behind({ blockNumber, transactionIndex, logIndex }: LogPosition): object {
  const is = (filterType: string, column: string, value: number) => ({
    type: 'FilterPredicate',
    filterType,
    column,
    value,
  })
  const and = (...predicates: object[]) => ({ type: 'Conjunction', conjunctionType: 'And', predicates })
  return {
    type: 'Conjunction',
    conjunctionType: 'Or',
    predicates: [
      is('GreaterThan', 'blockNumber', blockNumber),
      and(is('Equals', 'blockNumber', blockNumber), is('GreaterThan', 'transactionIndex', transactionIndex)),
      and(
        is('Equals', 'blockNumber', blockNumber),
        is('Equals', 'transactionIndex', transactionIndex),
        is('GreaterThan', 'logIndex', logIndex),
      ),
    ],
  }
}

/** `result` of a JSON-RPC call, retried once when the network failed. */
async function call(url: string, timeoutMs: number, method: string, params: unknown[]): Promise<unknown> {
  const attempt = async () => {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Accept: 'application/json' },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params }),
      signal: AbortSignal.timeout(timeoutMs),
    })
    return { status: response.status, text: new TextDecoder().decode(await readCapped(response, MAX_ANSWER_BYTES)) }
  }
  let answer: Awaited<ReturnType<typeof attempt>>
  try {
    answer = await attempt().catch(attempt)
  } catch (error) {
    throw new PaymentSourceError(
      `${method}: ${messageOf(error instanceof Error && error.cause ? error.cause : error)}`,
      {
        cause: error,
      },
    )
  }
  if (answer.status !== 200) throw new PaymentSourceError(`${method}: HTTP ${answer.status}`)
  let body: { result?: unknown; error?: { message?: unknown } }
  try {
    body = JSON.parse(answer.text)
  } catch {
    throw new PaymentSourceError(`${method}: the answer is not JSON`)
  }
  if (body.error) throw new PaymentSourceError(`${method}: ${String(body.error.message ?? 'error').slice(0, 200)}`)
  if (body.result === undefined || body.result === null) throw new PaymentSourceError(`${method}: no result`)
  return body.result
}

/** Columns are found by name without case: older hosts spell them differently (payments.md 2.4). */
type Row = (column: string) => unknown
type Table = { columns: Set<string>; rows: Row[] }

function parseTable(result: unknown): Table {
  const members = new Map(Object.entries(result as object).map(([name, value]) => [name.toLowerCase(), value]))
  const columns: unknown = members.get('columns')
  const rows: unknown = members.get('rows')
  if (!Array.isArray(columns) || !Array.isArray(rows))
    throw new PaymentSourceError('circles_query: no columns and rows')
  const at = new Map(columns.map((name, i) => [String(name).toLowerCase(), i]))
  return {
    columns: new Set(at.keys()),
    rows: rows.map((row: unknown[]) => (column: string) => row[at.get(column.toLowerCase()) ?? -1]),
  }
}

/** A renamed column would make every row unreadable while the cursor moves on: payments lost (payments.md W8). */
function requireColumns(table: Table, names: string[]) {
  const missing = names.filter((name) => !table.columns.has(name.toLowerCase()))
  if (missing.length > 0) throw new PaymentSourceError(`circles_query: columns missing: ${missing.join(', ')}`)
}

function positionOf(row: Row): LogPosition {
  const read = (column: string) => {
    const n = Number(row(column))
    if (!Number.isSafeInteger(n) || n < 0) throw new PaymentSourceError(`circles_query: ${column} is not a number`)
    return n
  }
  return { blockNumber: read('blockNumber'), transactionIndex: read('transactionIndex'), logIndex: read('logIndex') }
}

/** Undefined when the row can't be a payment of anybody: no hash, no gateway, no readable reference, negative amount. */
function paymentOf(row: Row, position: LogPosition): PaymentLog | undefined {
  const txHash = hexText(row('transactionHash'))
  const gateway = hexText(row('gateway'))
  const paymentReference = referenceOf(row('data'))
  const amountWei = parseAmount(row('amount'))
  if (!txHash || !gateway || !paymentReference || (amountWei !== null && amountWei < 0n)) return undefined
  const seconds = Number(row('timestamp'))
  return {
    ...position,
    txHash,
    gateway,
    paymentReference,
    amountWei,
    tokenId: parseAmount(row('tokenId')),
    payer: hexText(row('payer')) ?? null,
    payee: hexText(row('payee')) ?? null,
    blockTime: Number.isSafeInteger(seconds) && seconds > 0 ? new Date(seconds * 1000) : null,
  }
}

function trustOf(row: Row): TrustLog {
  const trustReceiver = hexText(row('trustReceiver'))
  if (!trustReceiver) throw new PaymentSourceError('circles_query: trustReceiver is not an address')
  // What can't be read as a time counts as run out (payments.md 6).
  return { ...positionOf(row), trustReceiver, expirySeconds: parseAmount(row('expiry')) ?? 0n }
}

const hexText = (value: unknown) =>
  typeof value === 'string' && value.trim() !== '' ? value.trim().toLowerCase() : undefined

/** Decimal text, `0x` hex or a JSON integer; null for anything else (payments.md 3). */
export function parseAmount(value: unknown): bigint | null {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : null
  if (typeof value !== 'string') return null
  const text = value.trim()
  return /^-?[0-9]{1,78}$/.test(text) || /^0x[0-9a-fA-F]{1,64}$/.test(text) ? BigInt(text) : null
}

/** The payer's text: hex or base64 of UTF-8 (payments.md 3). */
export function referenceOf(data: unknown): string | undefined {
  if (typeof data !== 'string') return undefined
  const hex = /^0x/i.test(data)
  if (hex ? !/^0x([0-9a-f]{2})*$/i.test(data) : !/^[A-Za-z0-9+/]+={0,2}$/.test(data)) return undefined
  const bytes = hex ? Buffer.from(data.slice(2), 'hex') : Buffer.from(data, 'base64')
  try {
    return normalizePaymentReference(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    return undefined
  }
}

/** Head block of `eth_blockNumber` (payments.md 2.3). */
export function parseHexBlock(result: unknown): number {
  if (typeof result !== 'string' || result.trim() === '') throw new PaymentSourceError('eth_blockNumber: empty')
  const digits = result.trim().replace(/^0x/i, '')
  if (digits === '') return 0
  if (!/^[0-9a-f]+$/i.test(digits)) throw new PaymentSourceError('eth_blockNumber: not hexadecimal')
  const n = BigInt(`0x${digits}`)
  if (n > 2n ** 63n - 1n) throw new PaymentSourceError('eth_blockNumber: overflow')
  if (n > BigInt(Number.MAX_SAFE_INTEGER)) throw new PaymentSourceError('eth_blockNumber: not a block of this world')
  return Number(n)
}
