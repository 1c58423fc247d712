import fc from 'fast-check'
import { encodeAbiParameters, type Hex, parseAbiParameters, stringToHex, toEventSelector } from 'viem'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Call, readAllPayments, type Reply, type ScriptedRpc, startScriptedRpc } from '../../test/paymentChain.ts'
import { connectEvmNode } from './evmNode.ts'
import { PaymentSourceError } from './paymentSource.ts'

const address = (n: number): Hex => `0x${n.toString(16).padStart(40, '0')}`
const hash = (n: number): Hex => `0x${n.toString(16).padStart(64, '0')}`
const quantity = (n: number): Hex => `0x${n.toString(16)}`
const word = (of: Hex) => `0x${of.slice(2).padStart(64, '0')}`

const [FACTORY, GATEWAY, PAYER, PAYEE] = [address(0xfac), address(0x9a7e), address(0xa), address(0xb)]
const LAST = 2_147_483_647
const PAYMENT_RECEIVED = toEventSelector('PaymentReceived(address,address,address,uint256,uint256,bytes)')
const TRUST_UPDATED = toEventSelector('TrustUpdated(address,address,uint96)')

type Log = Record<string, unknown> & { blockNumber: string }

const payment = (block: number, changes: Record<string, unknown> = {}): Log => ({
  address: FACTORY,
  topics: [PAYMENT_RECEIVED, word(PAYER), word(PAYEE), word(GATEWAY)],
  data: encodeAbiParameters(parseAbiParameters('uint256, uint256, bytes'), [7n, 5n, stringToHex('invoice-77')]),
  blockNumber: quantity(block),
  blockHash: hash(block),
  blockTimestamp: quantity(1780000000 + block),
  transactionIndex: '0x0',
  transactionHash: hash(block * 1000),
  logIndex: '0x1',
  removed: false,
  ...changes,
})

/** A node with these logs, up to this block; `refuse` may keep it from answering a range of logs. */
const node = { head: 0, logs: [] as Log[], refuse: (_from: number, _to: number): Reply | undefined => undefined }
let host: ScriptedRpc
beforeAll(async () => {
  host = await startScriptedRpc()
})
afterAll(() => host.stop())
beforeEach(() => {
  host.asked.length = 0
  host.answerTo = answer
  Object.assign(node, { head: 100, logs: [], refuse: () => undefined })
})

function answer({ method, params }: Call): Reply {
  if (method === 'eth_chainId') return { result: '0x64' }
  if (method === 'eth_blockNumber') return { result: quantity(node.head) }
  if (method === 'eth_getBlockByNumber') {
    return { result: Number(params[0]) <= node.head ? { number: params[0], hash: hash(Number(params[0])) } : null }
  }
  if (method === 'eth_getBlockByHash') {
    const number = Number(params[0])
    return { result: { number: quantity(number), hash: params[0], timestamp: quantity(1780000000 + number) } }
  }
  const { fromBlock, toBlock } = params[0] as { fromBlock: string; toBlock: string }
  const [from, to] = [Number(fromBlock), Number(toBlock)]
  const isAsked = ({ blockNumber }: Log) => Number(blockNumber) >= from && Number(blockNumber) <= to
  return node.refuse(from, to) ?? { result: node.logs.filter(isAsked) }
}

const connect = (options: { startBlock?: number; logRange?: number; factories?: string[]; timeoutMs?: number } = {}) =>
  connectEvmNode({
    rpc: host.url,
    timeoutMs: 2000,
    chainId: 100,
    factories: [FACTORY],
    startBlock: 0,
    logRange: 10,
    ...options,
  })
const head = () => ({ number: node.head, hash: hash(node.head) })
const ranges = () =>
  host.asked
    .filter(({ method }) => method === 'eth_getLogs')
    .map(({ params }) => params[0] as { fromBlock: string; toBlock: string })
    .map(({ fromBlock, toBlock }) => [Number(fromBlock), Number(toBlock)])
const blockOf = (logs: { blockNumber: number }[]) => logs.map(({ blockNumber }) => blockNumber)

describe('payments of a node', () => {
  it('reads a log', async () => {
    node.logs = [payment(5)]
    expect(await connect().readPayments(undefined, 10, head())).toEqual({
      logs: [
        {
          blockNumber: 5,
          transactionIndex: 0,
          logIndex: 1,
          txHash: hash(5000),
          blockHash: hash(5),
          blockTime: new Date(1780000005_000),
          emitter: FACTORY,
          gateway: GATEWAY,
          payer: PAYER,
          payee: PAYEE,
          tokenId: 7n,
          amountWei: 5n,
          paymentReference: 'invoice-77',
        },
      ],
      unreadable: [],
      end: { blockNumber: 9, transactionIndex: LAST, logIndex: LAST },
      full: true,
    })
    expect(host.asked[0]!.params).toEqual([
      { address: [FACTORY], topics: [PAYMENT_RECEIVED], fromBlock: '0x0', toBlock: '0x9' },
    ])
  })

  it('goes through the chain in ranges, from the start block on, and has nothing to ask at its end', async () => {
    node.logs = [payment(34), payment(35), payment(99)]
    const source = connect({ startBlock: 35, logRange: 30 })
    const { logs, end } = await readAllPayments(source, { head: head() })
    expect(blockOf(logs)).toEqual([35, 99])
    expect(ranges()).toEqual([
      [35, 64],
      [65, 94],
      [95, 100],
    ])
    expect(end).toEqual({ blockNumber: 100, transactionIndex: LAST, logIndex: LAST })
    host.asked.length = 0
    expect(await source.readPayments(end, 10, head())).toEqual({
      logs: [],
      unreadable: [],
      end: undefined,
      full: false,
    })
    expect(host.asked).toEqual([])
  })

  it('holds back what is more than asked for, and then asks for less', async () => {
    node.head = 20
    node.logs = Array.from({ length: 20 }, (_, i) => payment(i + 1))
    const source = connect({ logRange: 100 })
    const page = await source.readPayments(undefined, 5, head())
    expect(blockOf(page.logs)).toEqual([1, 2, 3, 4, 5])
    expect(page).toMatchObject({ full: true, end: { blockNumber: 5, transactionIndex: 0, logIndex: 1 } })
    const next = await source.readPayments(page.end, 5, head())
    expect(blockOf(next.logs)).toEqual([6, 7, 8, 9])
    expect(ranges()).toEqual([
      [0, 20],
      [5, 9],
    ])
  })

  it.each<[string, Reply]>([
    ['Infura', { error: { code: -32005, message: 'query returned more than 10000 results' } }],
    ['Infura, of blocks', { error: { code: -32602, message: 'range 1000000 exceeds limit of 10000' } }],
    [
      'Alchemy',
      { error: { code: -32602, message: 'Log response size exceeded. This block range should work: [0x1, 0x2]' } },
    ],
    [
      'Erigon, of blocks',
      { error: { code: -32602, message: 'query block range exceeds server limit, narrow your filter: 5' } },
    ],
    ['Erigon, of logs', { error: { code: -32000, message: 'query returns too many logs, narrow your filter: 20000' } }],
    ['reth', { error: { code: -32602, message: 'query exceeds max results 20000, retry with the range 1-2' } }],
    ['Nethermind', { error: { code: -32005, message: 'Too many logs requested. Max logs per response is 1000.' } }],
    ['Besu', { error: { code: -32005, message: 'Requested range exceeds maximum RPC range limit' } }],
    ['Ankr', { error: { code: -32600, message: 'block range is too wide' } }],
    ['QuickNode', { status: 413, text: '{"error":{"code":-32614,"message":"eth_getLogs is limited to a 5 range"}}' }],
    ['a proxy', { status: 413, text: '<html>Request Entity Too Large</html>' }],
    ['a slow node', { error: { code: -32000, message: 'query timeout exceeded' } }],
    ['a node of few words', { error: { code: -32005 } }],
    ['more than a page holds', { text: `{"jsonrpc":"2.0","id":1,"result":"${'x'.repeat(16 * 1024 * 1024)}"}` }],
  ])('asks for half as much when the node wants less: %s', async (_, refusal) => {
    node.logs = [payment(2), payment(9)]
    node.refuse = (from, to) => (to - from + 1 > 5 ? refusal : undefined)
    const source = connect({ logRange: 12 })
    const page = await source.readPayments(undefined, 10, head())
    expect(page).toMatchObject({ full: true, end: { blockNumber: 2 } })
    expect(ranges()).toEqual([
      [0, 11],
      [0, 5],
      [0, 2],
    ])
  })

  it('asks for more again when the node gives what is asked for', async () => {
    node.head = 400
    const source = connect({ logRange: 16 })
    node.refuse = (from, to) => (from === 0 && to > 3 ? { error: { code: -32005 } } : undefined)
    await readAllPayments(source, { head: head() })
    const sizes = ranges().map(([from, to]) => to! - from! + 1)
    expect(sizes.slice(0, 3)).toEqual([16, 8, 4])
    expect(sizes.slice(0, -1).at(-1)).toBe(16)
    expect(Math.max(...sizes)).toBe(16)
  })

  it('gives up at a single block that the node refuses', async () => {
    node.refuse = () => ({ error: { code: -32005, message: 'query returned more than 10000 results' } })
    await expect(connect().readPayments(undefined, 10, head())).rejects.toThrow(
      'query returned more than 10000 results',
    )
    expect(ranges().at(-1)).toEqual([0, 0])
  })

  it.each<[string, Reply]>([
    ['a range beyond its head', { error: { code: -32602, message: 'block range extends beyond current head block' } }],
    ['a range it does not know', { error: { code: -32000, message: 'invalid block range params' } }],
    ['calls too fast', { error: { code: -32005, message: 'daily request rate limited' } }],
    ['calls too many', { status: 429, text: '{"error":{"code":-32005,"message":"limit exceeded"}}' }],
    ['a call it does not have', { error: { code: -32601, message: 'the method eth_getLogs does not exist' } }],
  ])('asks no second time when that would not help: %s', async (_, refusal) => {
    node.refuse = () => refusal
    await expect(connect().readPayments(undefined, 10, head())).rejects.toThrow(PaymentSourceError)
    expect(ranges()).toHaveLength(1)
  })

  it('tries with less in the next round when the node does not answer in time', async () => {
    node.refuse = (from, to) => (to - from > 4 ? 'hang' : undefined)
    const source = connect({ timeoutMs: 100 })
    await expect(source.readPayments(undefined, 10, head())).rejects.toThrow('no answer within 100 ms')
    expect(ranges()).toEqual([[0, 9]])
    expect(await source.readPayments(undefined, 10, head())).toMatchObject({ end: { blockNumber: 4 } })
  })

  it('puts logs in order', async () => {
    const [a, b, c] = [
      payment(1),
      payment(1, { transactionIndex: '0x1', transactionHash: hash(7), logIndex: '0x2' }),
      payment(2),
    ]
    node.logs = [c, b, a]
    const { logs } = await connect().readPayments(undefined, 10, head())
    expect(logs.map(({ blockNumber, logIndex }) => [blockNumber, logIndex])).toEqual([
      [1, 1],
      [1, 2],
      [2, 1],
    ])
  })

  it.each<[string, Log[]]>([
    ['above the range', [payment(1), payment(50)]],
    ['below the range', [payment(0), payment(1)]],
    ['in no block yet', [{ ...payment(1), blockNumber: null as never }]],
    ['of another contract', [payment(1, { address: address(9) })]],
    ['of another event', [payment(1, { topics: [TRUST_UPDATED, word(PAYER), word(PAYEE)] })]],
    ['of no event', [payment(1, { topics: [] })]],
    ['that was removed', [payment(1, { removed: true })]],
    ['said twice', [payment(1), payment(1)]],
    ['at the place of another', [payment(1), payment(1, { transactionIndex: '0x1', transactionHash: hash(7) })]],
    [
      'counted backwards',
      [payment(1), payment(1, { transactionIndex: '0x1', transactionHash: hash(7), logIndex: '0x0' })],
    ],
    ['of another block with the same number', [payment(1), payment(1, { logIndex: '0x2', blockHash: hash(7) })]],
    ['of one transaction in two places', [payment(1), payment(1, { logIndex: '0x2', transactionIndex: '0x1' })]],
    ['of two transactions in one place', [payment(1), payment(1, { logIndex: '0x2', transactionHash: hash(7) })]],
    ['without a hash', [payment(1, { transactionHash: '0x' })]],
    ['without a place', [payment(1, { logIndex: undefined })]],
    ['with a place in decimal', [payment(1, { logIndex: 1 })]],
    ['at a place that no block has', [payment(1, { logIndex: '0x80000000' })]],
    ['with half a byte', [payment(1, { data: '0x123' })]],
    ['with a time that is none', [payment(1, { blockTimestamp: 'now' })]],
  ])('believes nothing of an answer with a log %s', async (_, logs) => {
    host.answerTo = (call) => (call.method === 'eth_getLogs' ? { result: logs } : answer(call))
    const source = connect()
    const genesis = { blockNumber: 0, transactionIndex: LAST, logIndex: LAST }
    await expect(source.readPayments(genesis, 10, head())).rejects.toThrow(PaymentSourceError)
    host.answerTo = (call) => (call.method === 'eth_getLogs' ? { result: [payment(1)] } : answer(call))
    expect((await source.readPayments(genesis, 10, head())).logs).toHaveLength(1)
  })

  it('keeps what it cannot decode as unreadable', async () => {
    const whole = payment(1).data as string
    node.logs = [
      payment(1, { data: whole.slice(0, 130) }),
      payment(2, { data: '0x' }),
      payment(3, { topics: (payment(3).topics as string[]).slice(0, 3) }),
      payment(4),
    ]
    const page = await connect().readPayments(undefined, 10, head())
    expect(blockOf(page.logs)).toEqual([4])
    const facts = { transactionIndex: 0, logIndex: 1, payer: PAYER, tokenId: null, amountWei: null }
    expect(page.unreadable).toEqual([
      { ...facts, blockNumber: 1, reason: 'no_reference', txHash: hash(1000), gateway: GATEWAY },
      { ...facts, blockNumber: 2, reason: 'no_reference', txHash: hash(2000), gateway: GATEWAY },
      { ...facts, blockNumber: 3, reason: 'no_gateway', txHash: hash(3000), gateway: null },
    ])
  })

  it('asks for the time of each block once when the logs do not say it', async () => {
    const inBlock = (block: number) =>
      ['0x1', '0x2', '0x3'].map((logIndex) => payment(block, { blockTimestamp: undefined, logIndex }))
    node.logs = Array.from({ length: 9 }, (_, i) => inBlock(i + 1)).flat()
    const source = connect()
    const { logs } = await source.readPayments(undefined, 100, head())
    expect(logs).toHaveLength(27)
    for (const { blockNumber, blockTime } of logs)
      expect(blockTime).toEqual(new Date((1780000000 + blockNumber) * 1000))
    await source.readPayments(undefined, 100, head())
    expect(host.methods().filter((method) => method === 'eth_getBlockByHash')).toHaveLength(9)
  })

  it('stops at a block that is another than its logs say, and asks again later', async () => {
    node.logs = [payment(5, { blockTimestamp: undefined })]
    const source = connect()
    const right = { hash: hash(5), number: '0x5', timestamp: '0x1' }
    const read = (block: unknown) => {
      host.answerTo = (call) => (call.method === 'eth_getBlockByHash' ? { result: block } : answer(call))
      return source.readPayments(undefined, 10, head())
    }
    for (const wrong of [
      null,
      {},
      { ...right, hash: hash(6) },
      { ...right, number: '0x6' },
      { ...right, timestamp: '' },
    ])
      await expect(read(wrong)).rejects.toThrow(PaymentSourceError)
    expect((await read(right)).logs[0]).toMatchObject({ blockTime: new Date(1000) })
  })

  it('keeps a time that no calendar has as unknown', async () => {
    node.logs = [payment(1, { blockTimestamp: '0x0' }), payment(2, { blockTimestamp: '0xffffffffffff' })]
    const { logs } = await connect().readPayments(undefined, 10, head())
    expect(logs.map(({ blockTime }) => blockTime)).toEqual([null, null])
  })

  it('takes no logs from a node that does not have the blocks', async () => {
    host.answerTo = (call) => (call.method === 'eth_getBlockByNumber' ? { result: null } : answer(call))
    await expect(connect().readPayments(undefined, 10, head())).rejects.toThrow(
      'the node gave logs up to block 9, but does not have that block',
    )
  })

  it('takes no logs of blocks that are replaced meanwhile', async () => {
    const at99 = { blockNumber: 99, transactionIndex: 0, logIndex: 0 }
    const replaced = 'block 100 was replaced while its logs were read'
    await expect(connect().readPayments(at99, 10, { number: 100, hash: hash(7) })).rejects.toThrow(replaced)
    node.logs = [payment(100, { blockHash: hash(7) })]
    await expect(connect().readPayments(at99, 10, head())).rejects.toThrow(replaced)
  })

  it('needs a contract whose word it takes', () => {
    expect(() => connect({ factories: [] })).toThrow(RangeError)
  })

  it('loses nothing and repeats nothing, whatever the node refuses', async () => {
    const places = fc.uniqueArray(fc.tuple(fc.nat(30), fc.nat(3), fc.nat(3)), {
      maxLength: 40,
      selector: ([block, , log]) => `${block}.${log}`,
    })
    await fc.assert(
      fc.asyncProperty(
        places,
        fc.record({ limit: fc.integer({ min: 1, max: 9 }), logRange: fc.integer({ min: 1, max: 40 }) }),
        fc.record({ blocks: fc.integer({ min: 1, max: 40 }), logs: fc.integer({ min: 4, max: 40 }) }),
        fc.integer({ min: 0, max: 33 }),
        async (found, { limit, logRange }, most, startBlock) => {
          // Log indexes rise with the transactions' in every block, as on a chain.
          const logs = found
            .toSorted(([a, , x], [b, , y]) => a - b || x - y)
            .map(([block, , log]) =>
              payment(block, {
                logIndex: quantity(log),
                transactionIndex: quantity(log >> 1),
                transactionHash: hash(block * 1000 + (log >> 1)),
              }),
            )
          Object.assign(node, { head: 33, logs })
          node.refuse = (from, to) => {
            const count = logs.filter((log) => Number(log.blockNumber) >= from && Number(log.blockNumber) <= to).length
            return to - from >= most.blocks || count > most.logs ? { error: { code: -32005 } } : undefined
          }
          const read = await readAllPayments(connect({ startBlock, logRange }), { limit, head: head() })
          const expected = logs.filter((log) => Number(log.blockNumber) >= startBlock)
          expect(read.logs.map(({ blockNumber, logIndex }) => [blockNumber, logIndex])).toEqual(
            expected.map(({ blockNumber, logIndex }) => [Number(blockNumber), Number(logIndex)]),
          )
          expect(read.end).toEqual(
            startBlock > 33 ? undefined : { blockNumber: 33, transactionIndex: LAST, logIndex: LAST },
          )
        },
      ),
      { numRuns: 60 },
    )
  })
})

describe('trust and gateways of a node', () => {
  const trusted = (block: number, receiver: number): Log =>
    payment(block, {
      topics: [TRUST_UPDATED, word(GATEWAY), word(address(receiver))],
      data: encodeAbiParameters(parseAbiParameters('uint96'), [2n ** 96n - 1n]),
    })

  it('tries the whole chain at once, halves on refusal, and remembers what it was granted', async () => {
    node.logs = [trusted(3, 1), trusted(50, 2), trusted(97, 3)]
    node.refuse = (from, to) => (to - from + 1 > 30 ? { error: { code: -32005 } } : undefined)
    const source = connect({ startBlock: 3 })
    const logs = await source.readTrust(GATEWAY, {})
    expect(blockOf(logs)).toEqual([3, 50, 97])
    expect(logs[0]).toEqual({
      blockNumber: 3,
      transactionIndex: 0,
      logIndex: 1,
      emitter: FACTORY,
      trustReceiver: address(1),
      expirySeconds: 2n ** 96n - 1n,
    })
    expect(ranges().slice(0, 5)).toEqual([
      [3, 100],
      [3, 51],
      [3, 26],
      [27, 50],
      [51, 74],
    ])
    host.asked.length = 0
    await source.readTrust(GATEWAY, {})
    expect(ranges()[0]).toEqual([3, 26])
  })

  it('reads trust as far as payments were read, though another node knows less', async () => {
    node.logs = [trusted(90, 1)]
    const source = connect({ logRange: 200 })
    await source.readPayments({ blockNumber: 95, transactionIndex: 0, logIndex: 0 }, 10, head())
    host.asked.length = 0
    host.answerTo = (call) => (call.method === 'eth_blockNumber' ? { result: quantity(80) } : answer(call))
    expect(await source.readTrust(GATEWAY, {})).toHaveLength(1)
    expect(ranges()).toEqual([[0, 100]])
  })

  it('takes no trust from a node that does not have the blocks of the payments', async () => {
    const source = connect({ logRange: 200 })
    await source.readPayments(undefined, 10, head())
    node.head = 80
    await expect(source.readTrust(GATEWAY, {})).rejects.toThrow(
      'the node gave logs up to block 100, but does not have that block',
    )
    await source.readPayments(undefined, 10, head())
    expect(await source.readTrust(GATEWAY, {})).toEqual([])
  })

  it('asks only from a position on, and only what the named contracts said', async () => {
    const source = connect({ factories: [FACTORY, address(6)] })
    node.logs = [trusted(60, 1), { ...trusted(60, 2), logIndex: '0x2' }, trusted(61, 3)]
    const after = { blockNumber: 60, transactionIndex: 0, logIndex: 1 }
    const logs = await source.readTrust(GATEWAY, { after, emitters: [FACTORY] })
    expect(logs.map(({ trustReceiver }) => trustReceiver)).toEqual([address(2), address(3)])
    const filter = { topics: [TRUST_UPDATED, word(GATEWAY)], fromBlock: quantity(60), toBlock: quantity(100) }
    const asked = () => host.asked.find(({ method }) => method === 'eth_getLogs')!.params
    expect(asked()).toEqual([{ ...filter, address: [FACTORY] }])
    host.asked.length = 0
    expect(await source.readTrust(GATEWAY, { emitters: [] })).toEqual([])
    expect(host.asked).toEqual([])
    await source.readTrust(GATEWAY, { after })
    expect(asked()).toEqual([{ ...filter, address: [FACTORY, address(6)] }])
    host.asked.length = 0
    expect(await source.readTrust(GATEWAY, { after: { ...after, blockNumber: 101 } })).toEqual([])
    expect(ranges()).toEqual([])
  })

  it('stops at trust it cannot decode', async () => {
    node.logs = [{ ...trusted(5, 1), data: '0x' }]
    await expect(connect().readTrust(GATEWAY, {})).rejects.toThrow('not a TrustUpdated log')
    node.logs = [{ ...trusted(5, 1), topics: [TRUST_UPDATED, word(address(77)), word(PAYER)] }]
    await expect(connect().readTrust(GATEWAY, {})).rejects.toThrow('a log that was not asked for')
  })
})
