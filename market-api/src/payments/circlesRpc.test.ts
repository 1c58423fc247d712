import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { connectCirclesRpc, parseAmount, parseHexBlock, referenceOf } from './circlesRpc.ts'
import { PaymentSourceError } from './paymentSource.ts'

const P = 'pay_0123456789ABCDEF0123456789ABCDEF'
const hex = (text: string) => `0x${Buffer.from(text).toString('hex')}`
const COLUMNS = [
  'blockNumber',
  'timestamp',
  'transactionIndex',
  'logIndex',
  'transactionHash',
  'emitter',
  'payer',
  'payee',
  'gateway',
  'tokenId',
  'amount',
  'data',
]
const row = (block: number, data = hex(P), amount: unknown = '5') => [
  block,
  1780000000,
  2,
  7,
  `0xAB${block}`,
  '0xfac',
  '0xpayer',
  '0xpayee',
  '0xGATE',
  '2748',
  amount,
  data,
]

type Asked = { method: string; params: [{ filter: unknown; order: unknown; limit: number; columns: unknown[] }] }

let server: Server
let source: ReturnType<typeof connectCirclesRpc>
let asked: Asked[] = []
/** What the indexer answers, one after another; the last stays. */
let answers: (object | string)[] = []

beforeAll(async () => {
  server = createServer(async (request, response) => {
    let body = ''
    for await (const part of request) body += part
    asked.push(JSON.parse(body))
    const answer = answers.length > 1 ? answers.shift() : answers[0]
    response.end(typeof answer === 'string' ? answer : JSON.stringify({ jsonrpc: '2.0', id: 1, ...answer }))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  source = connectCirclesRpc({ circlesRpc: url, rpc: url, timeoutMs: 1000 })
})
afterAll(() => server.close())
beforeEach(() => {
  asked = []
})

describe('circlesRpc', () => {
  it('payments:P1 asks from the beginning without a cursor, in chain order, a page at a time', async () => {
    answers = [{ result: { columns: COLUMNS, rows: [] } }]
    await source.readPayments(undefined, 500)
    const [query] = asked[0]!.params
    expect(asked[0]!.method).toBe('circles_query')
    expect(query).toEqual({
      namespace: 'CrcV2_PaymentGateway',
      table: 'PaymentReceived',
      columns: [],
      filter: [],
      order: ['blockNumber', 'transactionIndex', 'logIndex'].map((column) => ({ column, sortOrder: 'ASC' })),
      limit: 500,
    })
  })

  it('payments:P2 goes on behind its cursor', async () => {
    answers = [{ result: { columns: COLUMNS, rows: [] } }]
    await source.readPayments({ blockNumber: 100, transactionIndex: 2, logIndex: 7 }, 500)
    const is = (filterType: string, column: string, value: number) => ({
      type: 'FilterPredicate',
      filterType,
      column,
      value,
    })
    expect(asked[0]!.params[0].filter).toEqual([
      {
        type: 'Conjunction',
        conjunctionType: 'Or',
        predicates: [
          is('GreaterThan', 'blockNumber', 100),
          {
            type: 'Conjunction',
            conjunctionType: 'And',
            predicates: [is('Equals', 'blockNumber', 100), is('GreaterThan', 'transactionIndex', 2)],
          },
          {
            type: 'Conjunction',
            conjunctionType: 'And',
            predicates: [
              is('Equals', 'blockNumber', 100),
              is('Equals', 'transactionIndex', 2),
              is('GreaterThan', 'logIndex', 7),
            ],
          },
        ],
      },
    ])
  })

  it('reads a row, columns in any case, addresses in lower case', async () => {
    answers = [{ result: { Columns: COLUMNS.map((name) => name.toUpperCase()), Rows: [row(9)] } }]
    const page = await source.readPayments(undefined, 500)
    expect(page).toMatchObject({
      full: false,
      unreadable: 0,
      end: { blockNumber: 9, transactionIndex: 2, logIndex: 7 },
    })
    expect(page.logs).toEqual([
      {
        blockNumber: 9,
        transactionIndex: 2,
        logIndex: 7,
        txHash: '0xab9',
        blockTime: new Date(1780000000_000),
        gateway: '0xgate',
        payer: '0xpayer',
        payee: '0xpayee',
        tokenId: 2748n,
        amountWei: 5n,
        paymentReference: P,
      },
    ])
  })

  it("payments:P4 moves past rows that are nobody's payment", async () => {
    answers = [{ result: { columns: COLUMNS, rows: [row(1, hex('pay_12')), row(2, hex(P), '-1'), row(3)] } }]
    const page = await source.readPayments(undefined, 3)
    expect(page).toMatchObject({ unreadable: 2, full: true, end: { blockNumber: 3 } })
    expect(page.logs.map((log) => log.blockNumber)).toEqual([3])
  })

  it('keeps an amount nobody can read as unknown, never as zero', async () => {
    answers = [{ result: { columns: COLUMNS, rows: [row(1, hex(P), null)] } }]
    expect((await source.readPayments(undefined, 3)).logs[0]).toMatchObject({ amountWei: null })
  })

  it('payments:P27 takes an error, a missing result and garbage for a failure, never for an empty page', async () => {
    for (const answer of [
      { error: { code: -1, message: 'boom' } },
      {},
      { result: null },
      { result: {} },
      '<html>',
      '{',
    ]) {
      answers = [answer]
      await expect(source.readPayments(undefined, 5), JSON.stringify(answer)).rejects.toThrow(PaymentSourceError)
    }
  })

  it('stops at a renamed column instead of losing what it holds', async () => {
    answers = [{ result: { columns: COLUMNS.map((name) => (name === 'data' ? 'payload' : name)), rows: [row(1)] } }]
    await expect(source.readPayments(undefined, 5)).rejects.toThrow('columns missing: data')
  })

  it('payments:P39 reads trust page by page', async () => {
    const columns = ['blockNumber', 'transactionIndex', 'logIndex', 'trustReceiver', 'expiry']
    const trust = (n: number) => Array.from({ length: n }, (_, i) => [i + 1, 0, 0, `0x${i}`, '99'])
    answers = [{ result: { columns, rows: trust(1000) } }, { result: { columns, rows: trust(500) } }]
    expect(await source.readTrust('0xgate')).toHaveLength(1500)
    expect(asked).toHaveLength(2)
  })

  it('payments:P8 reads the head as nodes write it', () => {
    expect(parseHexBlock('0xFF')).toBe(255)
    expect(parseHexBlock('ff')).toBe(255)
    expect(parseHexBlock('0x')).toBe(0)
    for (const bad of ['', '  ', null, 5, '0xzz']) expect(() => parseHexBlock(bad)).toThrow(PaymentSourceError)
    expect(() => parseHexBlock('0x10000000000000000')).toThrow('overflow')
  })

  it("payments:P3 payments:P5 payments:P6 reads the payer's text", () => {
    expect(referenceOf(hex(P.toLowerCase()))).toBe(P)
    expect(referenceOf(hex(' invoice-77 '))).toBe('invoice-77')
    expect(referenceOf(Buffer.from('invoice-77').toString('base64'))).toBe('invoice-77')
    for (const bad of [hex('a\0b'), hex('x'.repeat(257)), hex(' '), '0xff', '0x1', '!', null, 7]) {
      expect(referenceOf(bad), String(bad)).toBeUndefined()
    }
  })

  it('reads amounts as decimal text, hex or integer, and nothing else', () => {
    expect(parseAmount('12')).toBe(12n)
    expect(parseAmount('0x10')).toBe(16n)
    expect(parseAmount(7)).toBe(7n)
    for (const bad of ['', '1.5', 'abc', 1.5, null, undefined, {}, '9'.repeat(80)]) expect(parseAmount(bad)).toBeNull()
  })
})
