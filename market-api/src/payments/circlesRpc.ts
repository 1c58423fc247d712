import { connectChain, listOf, recordOf } from './chainReads.ts'
import { connectJsonRpc } from './jsonRpc.ts'
import { blockTimeOf, type ClaimedPayment, sortOutPayments } from './paymentFacts.ts'
import { type LogPosition, MAX_INDEX, type PaymentSource, PaymentSourceError } from './paymentSource.ts'
import { comparePositions } from './trust.ts'

const PAGE = 1000
const MAX_PAGES = 50

/** The Circles indexer's JSON-RPC for logs, a node's for blocks and transactions (payments.md 2). */
export function connectCirclesRpc({
  circlesRpc,
  rpc,
  timeoutMs,
  chainId,
}: {
  circlesRpc: string
  rpc: string
  timeoutMs: number
  chainId: number
}): PaymentSource {
  const call = connectJsonRpc({ url: circlesRpc, timeoutMs, anyId: true })
  const { readHead, readBlock, readTransaction } = connectChain({ rpc, timeoutMs, chainId })

  /** At most `limit` rows behind `after`, in chain order. `full` = there may be more. */
  const query = async (
    table: 'PaymentReceived' | 'TrustUpdated' | 'GatewayCreated',
    required: string[],
    filter: object[],
    after: LogPosition | undefined,
    limit: number,
  ): Promise<{ rows: Row[]; full: boolean }> => {
    const all = after ? [...filter, behind(after)] : filter
    const params = [{ namespace: 'CrcV2_PaymentGateway', table, columns: [], filter: all, order: BY_POSITION, limit }]
    const rows = rowsOf(await call('circles_query', params), [...POSITION, ...required])
    requireOrder(rows, after)
    // A host that gives more than it was asked for gave the first of them, too.
    return { rows: rows.slice(0, limit), full: rows.length >= limit }
  }

  const queryAll = async (
    table: 'TrustUpdated' | 'GatewayCreated',
    required: string[],
    filter: object[],
    after?: LogPosition,
  ) => {
    const found: Row[] = []
    for (let page = 0; page < MAX_PAGES; page += 1) {
      const { rows, full } = await query(table, required, filter, found.at(-1)?.position ?? after, PAGE)
      found.push(...rows)
      if (!full) return found
    }
    throw new PaymentSourceError(`circles_query: more than ${MAX_PAGES * PAGE} rows of ${table} for one gateway`)
  }

  return {
    readHead,
    readBlock,
    readTransaction,

    async readPayments(after, limit) {
      const { rows, full } = await query('PaymentReceived', PAYMENT_COLUMNS, [], after, limit)
      return { ...sortOutPayments(rows.map(claimOf)), end: rows.at(-1)?.position, full }
    },

    async readTrust(gateway, { emitters, after }) {
      const filter = [equals('gateway', gateway)]
      if (emitters?.length === 1) filter.push(equals('emitter', emitters[0]!))
      // Without it, rows that somebody forged would pass for the factory's (payments.md 6).
      const required = emitters ? [...TRUST_COLUMNS, 'emitter'] : TRUST_COLUMNS
      const rows = await queryAll('TrustUpdated', required, filter, after)
      return rows
        .map((row) => {
          requireGateway(row, gateway)
          const trustReceiver = requireAddress(row, 'trustReceiver')
          // What can't be read as a time counts as run out (payments.md 6).
          const expirySeconds = parseAmount(row.cell('expiry')) ?? 0n
          return { ...row.position, emitter: addressOf(row.cell('emitter')), trustReceiver, expirySeconds }
        })
        .filter(({ emitter }) => !emitters || (emitter !== null && emitters.includes(emitter)))
    },

    async readGateway(gateway) {
      const rows = await queryAll('GatewayCreated', ['owner', 'gateway'], [equals('gateway', gateway)])
      return rows.map((row) => {
        requireGateway(row, gateway)
        const owner = requireAddress(row, 'owner')
        return { ...row.position, emitter: addressOf(row.cell('emitter')), gateway: gateway.toLowerCase(), owner }
      })
    },
  }
}

const POSITION = ['blockNumber', 'transactionIndex', 'logIndex']
const PAYMENT_COLUMNS = ['timestamp', 'transactionHash', 'gateway', 'amount', 'tokenId', 'data']
const TRUST_COLUMNS = ['gateway', 'trustReceiver', 'expiry']

const BY_POSITION = POSITION.map((column) => ({ column, sortOrder: 'ASC' }))

const is = (filterType: string, column: string, value: number | string) => ({
  type: 'FilterPredicate',
  filterType,
  column,
  value,
})
const equals = (column: string, address: string) => is('Equals', column, address.toLowerCase())

/** Everything behind a position, in the order of BY_POSITION (payments.md 2.1). */
function behind({ blockNumber, transactionIndex, logIndex }: LogPosition): object {
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

type Row = { position: LogPosition; cell: (column: string) => unknown }

/** Members and columns are found by name without case: older hosts spell them differently (payments.md 2.4). */
function rowsOf(result: unknown, required: string[]): Row[] {
  const table = recordOf(result, 'circles_query: the result')
  const members = new Map(Object.entries(table).map(([name, value]) => [name.toLowerCase(), value]))
  const columns = listOf(members.get('columns'), 'circles_query: columns').map((name) => String(name).toLowerCase())
  const rows = listOf(members.get('rows'), 'circles_query: rows')
  // A renamed column would make every row unreadable while the cursor moves on: payments lost (payments.md W8).
  const missing = required.filter((name) => !columns.includes(name.toLowerCase()))
  if (missing.length > 0 && (rows.length > 0 || columns.length > 0))
    throw new PaymentSourceError(`circles_query: columns missing: ${missing.join(', ')}`)

  const at = new Map(columns.map((name, i) => [name, i]))
  return rows.map((row) => {
    const values = listOf(row, 'circles_query: a row')
    if (values.length !== columns.length)
      throw new PaymentSourceError(`circles_query: a row of ${values.length} values for ${columns.length} columns`)
    const cell = (column: string) => values[at.get(column.toLowerCase()) ?? -1]
    const count = (column: string, most: number) => countOf(cell(column), column, most)
    return {
      cell,
      position: {
        blockNumber: count('blockNumber', Number.MAX_SAFE_INTEGER),
        transactionIndex: count('transactionIndex', MAX_INDEX),
        logIndex: count('logIndex', MAX_INDEX),
      },
    }
  })
}

function countOf(value: unknown, column: string, most: number): number {
  const count = typeof value === 'string' && /^[0-9]{1,16}$/.test(value.trim()) ? Number(value) : value
  if (typeof count === 'number' && Number.isSafeInteger(count) && count >= 0 && count <= most) return count
  throw new PaymentSourceError(`circles_query: ${column} is not a number`)
}

/** What is behind the cursor and in order can be gone through without losing anything; nothing else can. */
function requireOrder(rows: Row[], after: LogPosition | undefined) {
  let last = after
  for (const { position } of rows) {
    if (last && comparePositions(position, last) <= 0)
      throw new PaymentSourceError(
        last === after
          ? 'circles_query: a row at or before the position that was asked from'
          : 'circles_query: rows out of order',
      )
    last = position
  }
}

function claimOf({ position, cell }: Row): ClaimedPayment {
  const seconds = cell('timestamp')
  return {
    ...position,
    txHash: hexOf(cell('transactionHash'), 64),
    blockHash: null,
    blockTime: typeof seconds === 'number' || typeof seconds === 'string' ? blockTimeOf(Number(seconds)) : null,
    emitter: addressOf(cell('emitter')),
    gateway: addressOf(cell('gateway')),
    payer: addressOf(cell('payer')),
    payee: addressOf(cell('payee')),
    tokenId: parseAmount(cell('tokenId')),
    amountWei: parseAmount(cell('amount')),
    data: cell('data'),
  }
}

function requireAddress(row: Row, column: string): string {
  const address = addressOf(row.cell(column))
  if (address === null) throw new PaymentSourceError(`circles_query: ${column} is not an address`)
  return address
}

function requireGateway(row: Row, gateway: string) {
  if (requireAddress(row, 'gateway') !== gateway.toLowerCase())
    throw new PaymentSourceError('circles_query: a row of another gateway')
}

/** Lower case; null for anything else (payments.md 3). */
function hexOf(value: unknown, digits: number): string | null {
  if (typeof value !== 'string') return null
  const text = value.trim().toLowerCase().replace(/^0x/, '')
  return text.length === digits && /^[0-9a-f]+$/.test(text) ? `0x${text}` : null
}

const addressOf = (value: unknown) => hexOf(value, 40)

const MAX_UINT256 = 2n ** 256n - 1n

/** Decimal text, `0x` hex or a JSON integer, as far as a `uint256` goes; null for anything else (payments.md 3). */
export function parseAmount(value: unknown): bigint | null {
  if (typeof value === 'number') return Number.isSafeInteger(value) ? BigInt(value) : null
  if (typeof value !== 'string') return null
  const text = value.trim()
  if (!/^-?[0-9]{1,78}$/.test(text) && !/^0x[0-9a-f]{1,64}$/i.test(text)) return null
  const amount = BigInt(text)
  return amount >= -MAX_UINT256 && amount <= MAX_UINT256 ? amount : null
}
