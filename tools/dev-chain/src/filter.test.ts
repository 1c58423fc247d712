import fc from 'fast-check'
import { expect, it } from 'vitest'
import { parseFilter } from './filter.ts'
import { readTable, type Row } from './tables.ts'

const table = readTable('CrcV2_PaymentGateway', 'PaymentReceived')

type Predicate =
  | { type: 'FilterPredicate'; column: string; filterType: string; value: unknown }
  | { type: 'Conjunction'; conjunctionType: 'And' | 'Or'; predicates: Predicate[] }

const plain = (value: unknown) => (/^\d+$/.test(String(value)) ? Number(value) : String(value))

/** What SQL would say, on rows whose numbers are small enough for JavaScript. */
function model(predicate: Predicate, row: Row): boolean {
  if (predicate.type === 'Conjunction') {
    const verdicts = predicate.predicates.map((each) => model(each, row))
    return predicate.conjunctionType === 'And' ? !verdicts.includes(false) : verdicts.includes(true)
  }
  const cell = plain(row[predicate.column])
  const { value } = predicate
  switch (predicate.filterType) {
    case 'In':
      return (value as unknown[]).map(plain).includes(cell)
    case 'Equals':
      return cell === plain(value)
    case 'NotEquals':
      return cell !== plain(value)
    case 'GreaterThan':
      return cell > plain(value)
    case 'GreaterThanOrEquals':
      return cell >= plain(value)
    case 'LessThan':
      return cell < plain(value)
    default:
      return cell <= plain(value)
  }
}

const small = fc.nat(12)
const payer = fc.constantFrom('0xa', '0xb')
const columns = {
  blockNumber: small,
  logIndex: small,
  amount: small.map(String),
  payer,
}
const rows = fc.record<Row>(columns)

const ordered = ['Equals', 'NotEquals', 'GreaterThan', 'GreaterThanOrEquals', 'LessThan', 'LessThanOrEquals']
const comparison: fc.Arbitrary<Predicate> = fc
  .constantFrom('blockNumber', 'blockNumber', 'logIndex', 'amount', 'payer')
  .chain((column) => {
    const value: fc.Arbitrary<unknown> = columns[column as keyof typeof columns]
    const head = { type: fc.constant('FilterPredicate' as const), column: fc.constant(column) }
    return fc.oneof(
      { weight: 6, arbitrary: fc.record({ ...head, filterType: fc.constantFrom(...ordered), value }) },
      fc.record({ ...head, filterType: fc.constant('In'), value: fc.array(value, { maxLength: 3 }) }),
    )
  })
const { predicate } = fc.letrec<{ predicate: Predicate }>((tie) => ({
  predicate: fc.oneof(
    { maxDepth: 3, depthSize: 'small' },
    comparison,
    fc.record({
      type: fc.constant('Conjunction' as const),
      conjunctionType: fc.constantFrom('And' as const, 'Or' as const),
      predicates: fc.array(tie('predicate'), { minLength: 1, maxLength: 3 }),
    }),
  ),
}))

it('matches what the model matches, and never in a block before its bound', () => {
  fc.assert(
    fc.property(fc.array(predicate, { maxLength: 3 }), fc.array(rows, { minLength: 5 }), (list, some) => {
      const filter = parseFilter(table, list)
      for (const row of some) {
        const matches = filter.matches(row)
        expect(matches).toBe(list.every((each) => model(each, row)))
        if (matches) expect(BigInt(row.blockNumber!)).toBeGreaterThanOrEqual(filter.fromBlock)
      }
    }),
    { numRuns: 500 },
  )
})

const at = (filterType: string, value: unknown) => ({
  type: 'FilterPredicate',
  column: 'blockNumber',
  filterType,
  value,
})
const or = (...predicates: object[]) => ({ type: 'Conjunction', conjunctionType: 'Or', predicates })
const bound = (...filter: object[]) => parseFilter(table, filter).fromBlock

it('reads no block before the cursor', () => {
  expect(bound(or(at('GreaterThan', 7), at('Equals', '7')))).toBe(7n)
  expect(bound(or(at('GreaterThan', 7), at('LessThan', 3)))).toBe(0n)
  expect(bound(at('GreaterThan', 7), at('In', [5, 9]))).toBe(8n)
  expect(bound(at('GreaterThan', -1))).toBe(0n)
  expect(bound()).toBe(0n)
})
