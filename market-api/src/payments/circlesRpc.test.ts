import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Call, type ScriptedRpc, startScriptedRpc } from '../../test/paymentChain.ts'
import { parseHexBlock } from './chainReads.ts'
import { connectCirclesRpc, parseAmount } from './circlesRpc.ts'
import { referenceOf } from './paymentFacts.ts'
import { type PaymentSource, PaymentSourceError } from './paymentSource.ts'
import { avatarOfToken } from './trust.ts'

const P = 'pay_0123456789ABCDEF0123456789ABCDEF'
const hex = (text: string) => `0x${Buffer.from(text).toString('hex')}`
const address = (n: number) => `0x${n.toString(16).padStart(40, '0')}`
const hash = (n: number) => `0x${n.toString(16).padStart(64, '0')}`

const HEAD = { number: 1000, hash: hash(1000) }
const [FACTORY, GATEWAY, PAYER, PAYEE] = [address(0xfac), address(0x9a7e), address(0xa), address(0xb)]

/** A row of each table, by column; a test changes what it is about. */
const payment = (block: number, changes: Record<string, unknown> = {}) => ({
  blockNumber: block,
  timestamp: 1780000000,
  transactionIndex: 2,
  logIndex: 7,
  transactionHash: hash(block),
  emitter: FACTORY,
  payer: PAYER,
  payee: PAYEE,
  gateway: GATEWAY,
  tokenId: '2748',
  amount: '5',
  data: hex(P),
  ...changes,
})
const word = (block: number, changes: Record<string, unknown> = {}) => ({
  blockNumber: block,
  transactionIndex: 0,
  logIndex: 0,
  emitter: FACTORY,
  gateway: GATEWAY,
  trustReceiver: address(block),
  expiry: '99',
  ...changes,
})
type Cells = Record<string, unknown>
const table = (rows: Cells[], columns = Object.keys(rows[0] ?? payment(1))) => ({
  columns,
  rows: rows.map((row) => columns.map((column) => row[column])),
})

let host: ScriptedRpc
let source: PaymentSource
beforeAll(async () => {
  host = await startScriptedRpc()
  source = connectCirclesRpc({ circlesRpc: host.url, rpc: host.url, timeoutMs: 2000, chainId: 100 })
})
afterAll(() => host.stop())
beforeEach(() => {
  host.asked.length = 0
})

/** What the indexer answers, one after another; the last stays. */
function answers(...results: object[]) {
  let next = 0
  host.answerTo = () => ({ result: results[Math.min(next++, results.length - 1)] })
}
type Query = { table: string; filter: unknown[]; limit: number }
const queries = () => host.asked.map(({ params }: Call) => params[0] as unknown as Query)
const read = (...rows: Cells[]) => {
  answers(table(rows))
  return source.readPayments(undefined, 500, HEAD)
}
const failure = (said: string) => new PaymentSourceError(said)

const is = (filterType: string, column: string, value: number | string) => ({
  type: 'FilterPredicate',
  filterType,
  column,
  value,
})
const and = (...predicates: object[]) => ({ type: 'Conjunction', conjunctionType: 'And', predicates })
const behind = (block: number, transaction: number, log: number) => ({
  type: 'Conjunction',
  conjunctionType: 'Or',
  predicates: [
    is('GreaterThan', 'blockNumber', block),
    and(is('Equals', 'blockNumber', block), is('GreaterThan', 'transactionIndex', transaction)),
    and(
      is('Equals', 'blockNumber', block),
      is('Equals', 'transactionIndex', transaction),
      is('GreaterThan', 'logIndex', log),
    ),
  ],
})

describe('payments of a Circles indexer', () => {
  it('payments:P1 asks from the beginning without a cursor, in chain order, a page at a time', async () => {
    await read()
    expect(host.methods()).toEqual(['circles_query'])
    expect(queries()).toEqual([
      {
        namespace: 'CrcV2_PaymentGateway',
        table: 'PaymentReceived',
        columns: [],
        filter: [],
        order: ['blockNumber', 'transactionIndex', 'logIndex'].map((column) => ({ column, sortOrder: 'ASC' })),
        limit: 500,
      },
    ])
  })

  it('payments:P2 goes on behind its cursor', async () => {
    answers(table([]))
    await source.readPayments({ blockNumber: 100, transactionIndex: 2, logIndex: 7 }, 500, HEAD)
    expect(queries()[0]!.filter).toEqual([behind(100, 2, 7)])
  })

  it('reads a row, columns in any case, hex in lower case', async () => {
    const row = payment(9, { transactionHash: `0x${'AB'.repeat(32)}`, gateway: ` ${'AB'.repeat(20)} ` })
    const { columns, rows } = table([row])
    answers({ Columns: columns.map((name) => name.toUpperCase()), Rows: rows })
    const position = { blockNumber: 9, transactionIndex: 2, logIndex: 7 }
    expect(await source.readPayments(undefined, 500, HEAD)).toEqual({
      full: false,
      end: position,
      unreadable: [],
      logs: [
        {
          ...position,
          txHash: `0x${'ab'.repeat(32)}`,
          blockHash: null,
          blockTime: new Date(1780000000_000),
          emitter: FACTORY,
          gateway: `0x${'ab'.repeat(20)}`,
          payer: PAYER,
          payee: PAYEE,
          tokenId: 2748n,
          amountWei: 5n,
          paymentReference: P,
        },
      ],
    })
  })

  it('takes numbers in text, and answers whose id is nobody’s', async () => {
    const row = payment(1, { blockNumber: '9', transactionIndex: ' 2 ', logIndex: '0', timestamp: '1780000000' })
    for (const id of [null, undefined, 'abc', '']) {
      host.answerTo = () => ({ id, result: table([row]) })
      expect((await source.readPayments(undefined, 5, HEAD)).logs[0]).toMatchObject({
        blockNumber: 9,
        transactionIndex: 2,
        logIndex: 0,
        blockTime: new Date(1780000000_000),
      })
    }
  })

  it('does without what only some hosts say', async () => {
    const { emitter: _1, payer: _2, payee: _3, ...row } = payment(1)
    expect((await read(row)).logs).toMatchObject([{ emitter: null, payer: null, payee: null, gateway: GATEWAY }])
    const garbage = await read(payment(1, { emitter: '0x1', payer: 7, payee: null }))
    expect(garbage.logs).toMatchObject([{ emitter: null, payer: null, payee: null }])
  })

  it("payments:P4 moves past rows that are nobody's payment, and keeps what they say", async () => {
    answers(
      table([
        payment(1, { data: hex('pay_12') }),
        payment(2, { amount: '-1' }),
        payment(3, { transactionHash: '0xab' }),
        payment(4, { gateway: '' }),
        payment(5),
      ]),
    )
    const page = await source.readPayments(undefined, 5, HEAD)
    expect(page).toMatchObject({ full: true, end: { blockNumber: 5 } })
    expect(page.logs.map((log) => log.blockNumber)).toEqual([5])
    const said = { transactionIndex: 2, logIndex: 7, gateway: GATEWAY, payer: PAYER, tokenId: 2748n, amountWei: 5n }
    expect(page.unreadable).toEqual([
      { ...said, blockNumber: 1, reason: 'no_reference', txHash: hash(1) },
      { ...said, blockNumber: 2, reason: 'negative_amount', txHash: hash(2), amountWei: -1n },
      { ...said, blockNumber: 3, reason: 'no_transaction', txHash: null },
      { ...said, blockNumber: 4, reason: 'no_gateway', txHash: hash(4), gateway: null },
    ])
  })

  it('payments:P7 keeps a token id wider than an address whole', async () => {
    const { logs } = await read(payment(1, { tokenId: (2n ** 160n + 0xabcn).toString() }))
    expect(logs[0]!.tokenId).toBe(2n ** 160n + 0xabcn)
    expect(avatarOfToken(logs[0]!.tokenId!)).toBe('0x0000000000000000000000000000000000000abc')
  })

  it('keeps an amount nobody can read as unknown, never as zero', async () => {
    for (const amount of [null, '', 'many', '1.5', {}, (2n ** 256n).toString()]) {
      expect((await read(payment(1, { amount }))).logs, String(amount)).toMatchObject([{ amountWei: null }])
    }
  })

  it('keeps a time that cannot be one as unknown', async () => {
    for (const timestamp of [null, 0, -1, 1.5, '', 'now', true, [1780000000], 1e12, '1e400']) {
      expect((await read(payment(1, { timestamp }))).logs, String(timestamp)).toMatchObject([{ blockTime: null }])
    }
  })

  it.each(['blockNumber', 'logIndex', 'timestamp', 'transactionHash', 'gateway', 'amount', 'tokenId', 'data'])(
    'stops when the column %s is renamed, instead of losing what it holds',
    async (column) => {
      const { [column]: cell, ...rest } = payment(1) as Cells
      await expect(read({ ...rest, [`${column}Text`]: cell })).rejects.toThrow(
        failure(`circles_query: columns missing: ${column}`),
      )
      answers({ columns: Object.keys(rest), rows: [] })
      await expect(source.readPayments(undefined, 5, HEAD)).rejects.toThrow(`columns missing: ${column}`)
    },
  )

  it('stops at a row whose place in the chain it cannot read', async () => {
    for (const wrong of [null, undefined, '', ' ', true, -1, 1.5, '-1', '1e3', '0x10', [1], {}, NaN, 2 ** 53]) {
      for (const column of ['blockNumber', 'transactionIndex', 'logIndex']) {
        const rows = [payment(1), payment(2, { [column]: wrong })]
        await expect(read(...rows), `${column} ${wrong}`).rejects.toThrow(
          failure(`circles_query: ${column} is not a number`),
        )
      }
    }
    await expect(read(payment(1, { logIndex: 2 ** 31 }))).rejects.toThrow('logIndex is not a number')
    await expect(read(payment(1, { transactionIndex: '2147483648' }))).rejects.toThrow('transactionIndex')
    expect((await read(payment(1, { logIndex: 2 ** 31 - 1 }))).logs).toHaveLength(1)
  })

  it('stops at a row with more or fewer values than columns', async () => {
    const { columns, rows } = table([payment(1), payment(2)])
    for (const wrong of [rows[1]!.slice(1), [...rows[1]!, 0], [], 'row', null, {}]) {
      answers({ columns, rows: [rows[0], wrong] })
      await expect(source.readPayments(undefined, 5, HEAD)).rejects.toThrow(PaymentSourceError)
    }
  })

  it('stops at rows out of order, said twice, or from before the cursor', async () => {
    await expect(read(payment(2), payment(1))).rejects.toThrow(failure('circles_query: rows out of order'))
    await expect(read(payment(1), payment(1))).rejects.toThrow('rows out of order')
    await expect(read(payment(1), payment(1, { transactionIndex: 1, logIndex: 9 }))).rejects.toThrow(
      'rows out of order',
    )
    await expect(read(payment(1), payment(1, { logIndex: 6 }))).rejects.toThrow('rows out of order')
    for (const at of [2, 3]) {
      answers(table([payment(2), payment(4)]))
      const asked = source.readPayments({ blockNumber: at, transactionIndex: 2, logIndex: 7 }, 5, HEAD)
      await expect(asked).rejects.toThrow('a row at or before the position that was asked from')
    }
  })

  it('takes no more than it asked for, and comes back for the rest', async () => {
    answers(table([payment(1), payment(2), payment(3)]))
    const page = await source.readPayments(undefined, 2, HEAD)
    expect(page).toMatchObject({ full: true, end: { blockNumber: 2 } })
    expect(page.logs).toHaveLength(2)
  })

  it('stays where it is when there is nothing', async () => {
    answers({ columns: [], rows: [] })
    expect(await source.readPayments(undefined, 2, HEAD)).toEqual({
      logs: [],
      unreadable: [],
      end: undefined,
      full: false,
    })
  })
})

describe('trust of a Circles indexer', () => {
  const ofGateway = is('Equals', 'gateway', GATEWAY)

  it('payments:P39 reads page by page, until one is not full', async () => {
    const words = Array.from({ length: 1500 }, (_, i) => word(i + 1))
    answers(table(words.slice(0, 1000)), table(words.slice(1000)))
    const logs = await source.readTrust(GATEWAY, {})
    expect(logs.map((log) => log.trustReceiver)).toEqual(words.map((row) => row.trustReceiver))
    expect(queries()).toMatchObject([
      { table: 'TrustUpdated', limit: 1000, filter: [ofGateway] },
      { table: 'TrustUpdated', limit: 1000, filter: [ofGateway, behind(1000, 0, 0)] },
    ])
  })

  it('gives up on a gateway that fills more pages than anybody trusts', async () => {
    host.answerTo = () => {
      const from = (host.asked.length - 1) * 1000
      return { result: table(Array.from({ length: 1000 }, (_, i) => word(from + i + 1))) }
    }
    await expect(source.readTrust(GATEWAY, {})).rejects.toThrow('more than 50000 rows of TrustUpdated')
    expect(host.asked).toHaveLength(50)
  })

  it('reads only what came behind a position', async () => {
    answers(table([word(8)]))
    const after = { blockNumber: 7, transactionIndex: 1, logIndex: 2 }
    expect(await source.readTrust(GATEWAY.toUpperCase().replace('0X', '0x'), { after })).toHaveLength(1)
    expect(queries()[0]!.filter).toEqual([ofGateway, behind(7, 1, 2)])
    await expect(source.readTrust(GATEWAY, { after: { ...after, blockNumber: 8 } })).rejects.toThrow(PaymentSourceError)
  })

  it('lets the server filter by a single emitter, and filters itself in any case', async () => {
    const rows = [
      word(1),
      word(2, { emitter: address(6) }),
      word(3, { emitter: null }),
      word(4, { emitter: FACTORY.toUpperCase() }),
    ]
    answers(table(rows))
    const blocks = async (emitters?: string[]) =>
      (await source.readTrust(GATEWAY, emitters ? { emitters } : {})).map(({ blockNumber }) => blockNumber)
    expect(await blocks([FACTORY])).toEqual([1, 4])
    expect(await blocks([FACTORY, address(6)])).toEqual([1, 2, 4])
    expect(await blocks()).toEqual([1, 2, 3, 4])
    expect(queries().map(({ filter }) => filter)).toEqual([
      [ofGateway, is('Equals', 'emitter', FACTORY)],
      [ofGateway],
      [ofGateway],
    ])
  })

  it('pages by what it read, also where nothing of it counts', async () => {
    const rows = Array.from({ length: 1000 }, (_, i) => word(i + 1, { emitter: address(6) }))
    answers(table(rows), table([word(1001)]))
    expect(await source.readTrust(GATEWAY, { emitters: [FACTORY, address(7)] })).toMatchObject([{ blockNumber: 1001 }])
    expect(queries()[1]!.filter).toEqual([ofGateway, behind(1000, 0, 0)])
  })

  it('payments:P13 takes nothing for the factory’s word when nobody says whose it is', async () => {
    const { emitter: _, ...row } = word(1)
    for (const emitters of [[FACTORY], [FACTORY, address(6)]]) {
      answers(table([row]))
      await expect(source.readTrust(GATEWAY, { emitters })).rejects.toThrow(
        failure('circles_query: columns missing: emitter'),
      )
    }
    expect(await source.readTrust(GATEWAY, {})).toMatchObject([{ emitter: null, expirySeconds: 99n }])
  })

  it('stops at renamed columns, rows of another gateway, and receivers that are none', async () => {
    for (const column of ['trustReceiver', 'expiry', 'gateway']) {
      const { [column]: _, ...row } = word(1) as Cells
      answers(table([row]))
      await expect(source.readTrust(GATEWAY, {})).rejects.toThrow(`columns missing: ${column}`)
    }
    answers(table([word(1, { gateway: address(1) })]))
    await expect(source.readTrust(GATEWAY, {})).rejects.toThrow('a row of another gateway')
    answers(table([word(1, { trustReceiver: '0x' })]))
    await expect(source.readTrust(GATEWAY, {})).rejects.toThrow('trustReceiver is not an address')
  })

  it('takes a time that nobody can read for one that is over', async () => {
    answers(table([word(1, { expiry: 'never' }), word(2, { expiry: (2n ** 96n - 1n).toString() })]))
    const logs = await source.readTrust(GATEWAY, {})
    expect(logs.map(({ expirySeconds }) => expirySeconds)).toEqual([0n, 2n ** 96n - 1n])
  })
})

describe('gateways of a Circles indexer', () => {
  const created = (block: number, changes: Cells = {}) => ({
    blockNumber: block,
    transactionIndex: 0,
    logIndex: 0,
    emitter: FACTORY,
    owner: PAYEE,
    gateway: GATEWAY,
    ...changes,
  })

  it('gives everybody’s word on who created it', async () => {
    answers(table([created(1), created(2, { emitter: address(6), owner: address(7) })]))
    const at = { transactionIndex: 0, logIndex: 0, gateway: GATEWAY }
    expect(await source.readGateway(GATEWAY)).toEqual([
      { ...at, blockNumber: 1, emitter: FACTORY, owner: PAYEE },
      { ...at, blockNumber: 2, emitter: address(6), owner: address(7) },
    ])
    expect(queries()).toMatchObject([{ table: 'GatewayCreated', filter: [is('Equals', 'gateway', GATEWAY)] }])
  })

  it('stops at a row of another gateway, and at an owner that is none', async () => {
    for (const wrong of [{ gateway: address(1) }, { owner: null }, { owner: '0x12' }]) {
      answers(table([created(1, wrong)]))
      await expect(source.readGateway(GATEWAY)).rejects.toThrow(PaymentSourceError)
    }
  })
})

describe('what hosts write', () => {
  it('payments:P8 reads the head as nodes write it', () => {
    expect(parseHexBlock('0xFF')).toBe(255)
    expect(parseHexBlock('0XFF')).toBe(255)
    expect(parseHexBlock('ff')).toBe(255)
    expect(parseHexBlock(' 0x10 ')).toBe(16)
    expect(parseHexBlock('0x')).toBe(0)
    for (const bad of ['', '  ', null, undefined, 5, '0xzz', '0x-1', '0x1.5'])
      expect(() => parseHexBlock(bad)).toThrow(PaymentSourceError)
    expect(() => parseHexBlock('0x10000000000000000')).toThrow('overflow')
    expect(() => parseHexBlock('0x8000000000000000')).toThrow('overflow')
    expect(() => parseHexBlock('0x7fffffffffffffff')).toThrow('not a block of this world')
  })

  it("payments:P3 payments:P5 payments:P6 reads the payer's text", () => {
    expect(referenceOf(hex(P.toLowerCase()))).toBe(P)
    expect(referenceOf(hex(' invoice-77 '))).toBe('invoice-77')
    expect(referenceOf(hex('ünïcode'))).toBe('ünïcode')
    expect(referenceOf(Buffer.from('invoice-77').toString('base64'))).toBe('invoice-77')
    expect(referenceOf(hex('x'.repeat(256)))).toBe('x'.repeat(256))
    for (const bad of [hex('a\0b'), hex('x'.repeat(257)), hex(' '), '0x', '0xff', '0x1', '!', '', null, 7]) {
      expect(referenceOf(bad), String(bad)).toBeUndefined()
    }
  })

  it('reads amounts as decimal text, hex or integer, and nothing else', () => {
    expect(parseAmount('12')).toBe(12n)
    expect(parseAmount('0x10')).toBe(16n)
    expect(parseAmount(7)).toBe(7n)
    expect(parseAmount('-7')).toBe(-7n)
    expect(parseAmount((2n ** 256n - 1n).toString())).toBe(2n ** 256n - 1n)
    for (const bad of [
      '',
      '0x',
      '1.5',
      'abc',
      1.5,
      2 ** 53,
      null,
      undefined,
      {},
      true,
      '9'.repeat(78),
      '9'.repeat(80),
    ]) {
      expect(parseAmount(bad), String(bad)).toBeNull()
    }
  })
})
