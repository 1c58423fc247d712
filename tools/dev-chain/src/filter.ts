import { invalidParams } from './node.ts'
import { type Column, readColumn, type Row, type Table } from './tables.ts'

export interface Filter {
  matches(row: Row): boolean
  /** No row of an earlier block matches: the node need not read those blocks. */
  fromBlock: bigint
}

type Order = -1 | 0 | 1

const comparisons = new Map<unknown, (order: Order) => boolean>([
  ['Equals', (order) => order === 0],
  ['NotEquals', (order) => order !== 0],
  ['GreaterThan', (order) => order > 0],
  ['GreaterThanOrEquals', (order) => order >= 0],
  ['LessThan', (order) => order < 0],
  ['LessThanOrEquals', (order) => order <= 0],
])

/** The entries of a query's `filter`, all of which must hold. */
export function parseFilter(table: Table, filter: unknown): Filter {
  return all(listOf(filter, 'filter').map((each) => parsePredicate(table, each)))
}

function parsePredicate(table: Table, predicate: unknown): Filter {
  const type = property(predicate, 'type')
  if (type === 'FilterPredicate') return parseComparison(table, predicate)
  if (type !== 'Conjunction') throw invalidParams(`unknown predicate type ${String(type)}`)

  const parts = listOf(property(predicate, 'predicates'), 'predicates').map((each) => parsePredicate(table, each))
  if (parts.length === 0) throw invalidParams('a Conjunction without predicates')
  const conjunctionType = property(predicate, 'conjunctionType')
  if (conjunctionType === 'And') return all(parts)
  if (conjunctionType === 'Or') return any(parts)
  throw invalidParams(`unknown conjunctionType ${String(conjunctionType)}`)
}

function parseComparison(table: Table, predicate: unknown): Filter {
  const column = readColumn(table, property(predicate, 'column'))
  const filterType = property(predicate, 'filterType')
  const value = property(predicate, 'value')
  if (filterType === 'In') {
    return any(listOf(value, 'value').map((each) => comparison(column, 'Equals', each)))
  }
  return comparison(column, filterType, value)
}

function comparison(column: Column, filterType: unknown, value: unknown): Filter {
  const holds = comparisons.get(filterType)
  if (!holds) throw invalidParams(`unknown filterType ${String(filterType)}`)
  const wanted = comparable(column, value)
  return {
    matches: (row) => holds(compare(comparable(column, row[column.name]), wanted)),
    fromBlock: column.name === 'blockNumber' && typeof wanted === 'bigint' ? firstBlock(filterType, wanted) : 0n,
  }
}

function firstBlock(filterType: unknown, block: bigint): bigint {
  if (block < 0n) return 0n
  if (filterType === 'GreaterThan') return block + 1n
  return filterType === 'Equals' || filterType === 'GreaterThanOrEquals' ? block : 0n
}

const all = (parts: Filter[]): Filter => ({
  matches: (row) => parts.every((part) => part.matches(row)),
  fromBlock: parts.reduce((latest, { fromBlock }) => (fromBlock > latest ? fromBlock : latest), 0n),
})

const any = (parts: Filter[]): Filter => ({
  matches: (row) => parts.some((part) => part.matches(row)),
  fromBlock: parts.map(({ fromBlock }) => fromBlock).reduce((a, b) => (a < b ? a : b), parts[0]?.fromBlock ?? 0n),
})

export function compareRows(column: Column, left: Row, right: Row): Order {
  return compare(comparable(column, left[column.name]), comparable(column, right[column.name]))
}

function compare(left: bigint | string, right: bigint | string): Order {
  return left < right ? -1 : left > right ? 1 : 0
}

function comparable(column: Column, value: unknown): bigint | string {
  if (column.kind === 'text') {
    if (typeof value === 'string') return value.toLowerCase()
  } else if (Number.isSafeInteger(value) || (typeof value === 'string' && /^-?\d+$/.test(value))) {
    return BigInt(value as number | string)
  }
  throw invalidParams(`${JSON.stringify(value)} is no value for the column ${column.name}`)
}

export function listOf(value: unknown, name: string): unknown[] {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) throw invalidParams(`${name} is not a list`)
  return value
}

/** Hosts take any spelling of a property's name: `filterType`, `FilterType`. */
export function property(object: unknown, name: string): unknown {
  if (typeof object !== 'object' || object === null) return undefined
  return Object.entries(object).find(([key]) => key.toLowerCase() === name.toLowerCase())?.[1]
}
