import { devContracts } from '@market/dev-chain/deployment'
import { type Hex, stringToHex } from 'viem'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { connectCirclesRpc } from '../src/payments/circlesRpc.ts'
import { connectEvmNode } from '../src/payments/evmNode.ts'
import { type LogPosition, type PaymentSource, PaymentSourceError } from '../src/payments/paymentSource.ts'
import { comparePositions } from '../src/payments/trust.ts'
import {
  AVATAR,
  type Call,
  type PaymentChain,
  readAllPayments,
  type Reply,
  type ScriptedRpc,
  startPaymentChain,
  startScriptedRpc,
  transfer,
} from './paymentChain.ts'

// One contract, two sources, a real chain. What only one of them can do wrong is tested beside it.

const FACTORY = devContracts.gatewayFactory
const P = (n: number) => `pay_${n.toString(16).toUpperCase().padStart(32, '0')}`
const TWICE: Hex = '0x00000000000000000000000000000000000000d2'
const address = (n: number): Hex => `0x${n.toString(16).padStart(40, '0')}`

let chain: PaymentChain
beforeAll(async () => {
  chain = await startPaymentChain()
})
afterAll(() => chain.stop())

const SOURCES = [
  { name: 'circlesRpc', connect: () => chain.circles() },
  // Small ranges, so that pages end in all the ways they can.
  { name: 'evmNode', connect: () => chain.evm({ logRange: 3 }) },
]

describe('a chain with payments', () => {
  const gateways: Hex[] = []
  /** The amounts, each payment's own, in the order of the chain. */
  const amounts: bigint[] = []
  let unreadable = 0

  beforeAll(async () => {
    const [ann, ben, cat, owner1, owner2] = chain.accounts as [Hex, Hex, Hex, Hex, Hex]
    gateways.push(await chain.openGateway(owner1), await chain.openGateway(owner2))
    const [first, second] = gateways as [Hex, Hex]
    await chain.placeTwice(TWICE)
    for (const payer of [ann, ben, cat]) await chain.faucet(payer, 10n ** 24n)
    await chain.faucet(ann, 1000n, TWICE)
    await chain.mine(3)

    const pay = async (payer: Hex, gateway: Hex, data: Hex) => {
      amounts.push(BigInt(amounts.length + 1))
      await chain.send(chain.payment(payer, gateway, amounts.at(-1)!, data))
    }
    // Five in one block, then one a block, then one transaction with two of them among others.
    for (const [i, payer] of [ann, ben, cat, ann, ben].entries())
      await pay(payer, i % 2 ? second : first, stringToHex(P(i)))
    await chain.mine(4)
    for (const i of [5, 6, 7]) {
      await pay(ann, first, stringToHex(P(i).toLowerCase()))
      await chain.mine(i - 4)
    }
    await pay(ben, second, stringToHex(' invoice-77 '))
    amounts.push(500n, 500n)
    await chain.send({ from: cat, to: TWICE, data: transfer(TWICE, first, 500n, stringToHex(P(9))) })
    await pay(ann, second, stringToHex(P(10)))
    await chain.mine()
    const nobodys = ['pay_12', ' ', 'a\0b', 'x'.repeat(257), ''].map((text) => stringToHex(text))
    for (const data of [...nobodys, '0xff', '0x'] as Hex[]) {
      unreadable += 1
      await chain.send(chain.payment(cat, first, 7n, data))
    }
    await chain.mine()
    await pay(ann, first, stringToHex(P(11)))
    await chain.mine(5)
  })

  describe.each(SOURCES)('$name', ({ connect }) => {
    let source: PaymentSource
    beforeAll(() => {
      source = connect()
    })

    it('payments:P1 gives every payment from the beginning on, in the order of the chain, several of one block too', async () => {
      const { logs } = await readAllPayments(source)
      expect(logs.map(({ amountWei }) => amountWei)).toEqual(amounts)
      expect(logs).toEqual(logs.toSorted(comparePositions))
      expect(new Set(logs.slice(0, 5).map(({ blockNumber }) => blockNumber)).size).toBe(1)
      const [one, other] = logs.filter(({ amountWei }) => amountWei === 500n)
      expect(one!.txHash).toBe(other!.txHash)
      expect(other!.logIndex).toBeGreaterThan(one!.logIndex)
      expect(new Set(logs.map(({ gateway }) => gateway))).toEqual(new Set(gateways))
    })

    it('payments:P2 goes on behind any position, at any page size, with nothing lost or repeated', async () => {
      const { logs, unreadable: nobodys } = await readAllPayments(source)
      const head = await source.readHead()
      for (const limit of [1, 2, 3, 7, 100]) {
        const all = await readAllPayments(source, { limit, head })
        expect({ logs: all.logs, unreadable: all.unreadable }, `limit ${limit}`).toEqual({ logs, unreadable: nobodys })
      }
      for (const after of [...logs, ...nobodys]) {
        const rest = await readAllPayments(source, { after, limit: 2, head })
        expect(rest.logs).toEqual(logs.filter((log) => comparePositions(log, after) > 0))
        expect(rest.unreadable).toEqual(nobodys.filter((log) => comparePositions(log, after) > 0))
      }
    })

    it('gives a page of as many as are asked for and no more', async () => {
      const page = await source.readPayments(undefined, 1, await source.readHead())
      expect(page.logs.length + page.unreadable.length).toBeLessThanOrEqual(1)
      expect(page.full).toBe(true)
    })

    it('has nothing behind the end, and says so at once', async () => {
      const { end } = await readAllPayments(source)
      expect(await source.readPayments(end, 10, await source.readHead())).toMatchObject({
        logs: [],
        unreadable: [],
        full: false,
      })
    })

    it("payments:P3 payments:P5 reads the payer's text as the market compares it", async () => {
      const { logs } = await readAllPayments(source)
      const references = logs.map(({ paymentReference }) => paymentReference)
      expect(references.slice(5, 9)).toEqual([P(5), P(6), P(7), 'invoice-77'])
    })

    it("payments:P4 payments:P6 keeps what is nobody's payment and moves past it", async () => {
      const { logs, unreadable: nobodys } = await readAllPayments(source)
      expect(nobodys).toHaveLength(unreadable)
      for (const log of nobodys) {
        expect(log).toEqual({
          blockNumber: expect.any(Number),
          transactionIndex: expect.any(Number),
          logIndex: expect.any(Number),
          reason: 'no_reference',
          txHash: expect.stringMatching(/^0x[0-9a-f]{64}$/),
          gateway: gateways[0],
          payer: chain.accounts[2],
          tokenId: BigInt(AVATAR),
          amountWei: 7n,
        })
        expect(comparePositions(logs.at(-1)!, log)).toBeGreaterThan(0)
      }
    })

    it('knows of each payment who paid whom what, by whose word, and when', async () => {
      const { logs } = await readAllPayments(source)
      const [log] = logs
      const block = await chain.rpc<{ timestamp: string }>(
        'eth_getBlockByNumber',
        `0x${log!.blockNumber.toString(16)}`,
        false,
      )
      expect(log).toMatchObject({
        txHash: expect.stringMatching(/^0x[0-9a-f]{64}$/),
        blockTime: new Date(Number(block.timestamp) * 1000),
        emitter: FACTORY,
        gateway: gateways[0],
        payer: chain.accounts[0],
        payee: chain.accounts[3],
        tokenId: BigInt(AVATAR),
        amountWei: 1n,
        paymentReference: P(0),
      })
    })

    it('names the owner of a gateway, and nobody for what is none', async () => {
      expect(await source.readGateway(gateways[1]!)).toEqual([
        {
          blockNumber: expect.any(Number),
          transactionIndex: expect.any(Number),
          logIndex: expect.any(Number),
          emitter: FACTORY,
          gateway: gateways[1],
          owner: chain.accounts[4],
        },
      ])
      expect(await source.readGateway(address(77))).toEqual([])
    })

    it('reads blocks and transactions of the node, and knows what it does not have', async () => {
      const { logs } = await readAllPayments(source)
      const log = logs.find(({ amountWei }) => amountWei === 500n)!
      const head = await source.readHead()
      expect(head.number).toBe(Number(await chain.rpc('eth_blockNumber')))
      expect(await source.readBlock(head.number)).toEqual(head)
      expect(await source.readBlock(head.number + 1)).toBeUndefined()
      expect(await source.readTransaction(log.txHash)).toMatchObject({
        blockNumber: log.blockNumber,
        blockHash: (await source.readBlock(log.blockNumber))!.hash,
        transactionIndex: log.transactionIndex,
        logIndexes: expect.arrayContaining([log.logIndex, log.logIndex + 2]),
      })
      expect(await source.readTransaction(`0x${'12'.repeat(32)}`)).toBeUndefined()
    })
  })

  it('is the same chain for both sources, but for the block hashes, which only a node knows', async () => {
    const [indexer, node] = await Promise.all(SOURCES.map(({ connect }) => readAllPayments(connect())))
    expect(node!.logs.map((log) => ({ ...log, blockHash: null }))).toEqual(indexer!.logs)
    expect(node!.unreadable).toEqual(indexer!.unreadable)
    for (const { blockNumber, blockHash } of node!.logs) {
      expect(await chain.evm().readBlock(blockNumber)).toEqual({ number: blockNumber, hash: blockHash })
    }
  })

  it('counts only what the named contracts report, when a node is read', async () => {
    const liar = address(0x1a)
    await chain.placeEmitter(liar)
    const [log] = (await chain.rpc<{ topics: Hex[]; data: Hex }[]>('eth_getLogs', {
      address: FACTORY,
      fromBlock: '0x0',
      topics: [(await topicOfPayments())!],
    })) as [{ topics: Hex[]; data: Hex }]
    const words = log.topics.map((topic) => topic.slice(2)).join('')
    const before = await readAllPayments(chain.evm())
    await chain.send({ from: chain.accounts[0]!, to: liar, data: `0x${words}${log.data.slice(2)}` })
    // Half of it: a log by that name that nobody can read.
    await chain.send({ from: chain.accounts[0]!, to: liar, data: `0x${words}${log.data.slice(2, 80)}` })
    await chain.mine()
    expect((await readAllPayments(chain.evm())).logs).toEqual(before.logs)
    const both = await readAllPayments(chain.evm({ factories: [FACTORY, liar] }))
    expect(both.logs.slice(0, -1)).toEqual(before.logs)
    expect(both.logs.at(-1)).toMatchObject({ emitter: liar, gateway: gateways[0], paymentReference: P(0) })
    expect(both.unreadable.at(-1)).toMatchObject({ reason: 'no_reference', gateway: gateways[0], amountWei: null })
  })

  async function topicOfPayments() {
    const { logs } = await readAllPayments(chain.evm())
    const receipt = await chain.rpc<{ logs: { topics: Hex[]; logIndex: string }[] }>(
      'eth_getTransactionReceipt',
      logs[0]!.txHash,
    )
    return receipt.logs.find(({ logIndex }) => Number(logIndex) === logs[0]!.logIndex)!.topics[0]
  }
})

describe('a gateway that trusts many', () => {
  const ROWS = 1500
  let gateway: Hex
  let quiet: Hex

  beforeAll(async () => {
    const owner = chain.accounts[5]!
    gateway = await chain.openGateway(owner)
    quiet = await chain.openGateway(chain.accounts[6]!)
    const rows = Array.from({ length: ROWS }, (_, i) => chain.trust(owner, gateway, address(i + 1), BigInt(i)))
    await chain.sendAll(rows.slice(0, 1200))
    await chain.mine(2)
    await chain.sendAll(rows.slice(1200))
    await chain.mine()
  })

  describe.each(SOURCES)('$name', ({ connect }) => {
    it('payments:P39 reads all 1,500 words of it', async () => {
      const logs = (await connect().readTrust(gateway, {})).toSorted(comparePositions)
      expect(logs.map(({ trustReceiver, expirySeconds }) => [trustReceiver, expirySeconds])).toEqual(
        Array.from({ length: ROWS }, (_, i) => [address(i + 1), BigInt(i)]),
      )
      expect(logs.every(({ emitter }) => emitter === FACTORY)).toBe(true)
    })

    it('reads only what came behind a position, and only of the emitters that count', async () => {
      const source = connect()
      const logs = (await source.readTrust(gateway, {})).toSorted(comparePositions)
      expect(await source.readTrust(gateway, { after: logs[1297]! })).toEqual(logs.slice(1298))
      expect(await source.readTrust(gateway, { after: logs.at(-1)! })).toEqual([])
      const other = address(99)
      expect(await source.readTrust(gateway, { emitters: [FACTORY] })).toHaveLength(ROWS)
      expect(await source.readTrust(gateway, { emitters: [other, FACTORY], after: logs[0]! })).toHaveLength(ROWS - 1)
      for (const emitters of [[other], [other, address(98)], []]) {
        expect(await source.readTrust(gateway, { emitters })).toEqual([])
      }
      expect(await source.readTrust(quiet, {})).toEqual([])
    })
  })

  it('says the same to both sources', async () => {
    const [indexer, node] = await Promise.all(SOURCES.map(({ connect }) => connect().readTrust(gateway, {})))
    expect(node!.toSorted(comparePositions)).toEqual(indexer!.toSorted(comparePositions))
  })
})

describe.each(SOURCES)('a chain that changes its mind, seen through $name', ({ connect }) => {
  let source: PaymentSource
  let gateway: Hex
  beforeAll(async () => {
    source = connect()
    gateway = await chain.openGateway(chain.accounts[7]!)
    await chain.faucet(chain.accounts[8]!, 10n ** 24n)
    await chain.mine()
  })

  const payOnce = async (reference: string) => {
    const before = await source.readHead()
    const after: LogPosition = { blockNumber: before.number, transactionIndex: 2_147_483_647, logIndex: 2_147_483_647 }
    const txHash = await chain.send(chain.payment(chain.accounts[8]!, gateway, 3n, stringToHex(reference)))
    await chain.mine(3)
    const [log] = (await readAllPayments(source, { after })).logs
    expect(log).toMatchObject({ txHash, paymentReference: reference })
    return { after, log: log!, head: await source.readHead() }
  }

  it('no longer shows the payment of a block that was replaced, and gives the block its new name', async () => {
    const { after, log, head } = await payOnce(P(1))
    const block = await source.readBlock(log.blockNumber)
    await chain.rpc('anvil_reorg', 3, [])
    expect(await source.readHead()).toMatchObject({ number: head.number, hash: expect.not.stringContaining(head.hash) })
    const replaced = await source.readBlock(log.blockNumber)
    expect(replaced).toMatchObject({ number: log.blockNumber })
    expect(replaced!.hash).not.toBe(block!.hash)
    expect((await readAllPayments(source, { after })).logs).toEqual([])
    expect(await source.readTransaction(log.txHash)).toBeUndefined()
  })

  it('payments:P26 shows a payment that was mined again where it stands now', async () => {
    const { after, log } = await payOnce(P(2))
    const raw = await chain.rpc<Hex>('eth_getRawTransactionByHash', log.txHash)
    const filler = chain.payment(chain.accounts[9]!, gateway, 0n, stringToHex('filler'))
    await chain.rpc('anvil_reorg', 3, [
      [filler, 1],
      [raw, 1],
    ])
    const { logs } = await readAllPayments(source, { after })
    expect(logs.map(({ paymentReference }) => paymentReference)).toEqual(['filler', P(2)])
    const moved = logs[1]!
    expect(moved).toMatchObject({ txHash: log.txHash, amountWei: 3n, gateway })
    expect([moved.blockNumber, moved.transactionIndex]).toEqual([log.blockNumber + 1, log.transactionIndex + 1])
    expect(moved.logIndex).toBeGreaterThan(log.logIndex)
    expect(await source.readTransaction(log.txHash)).toMatchObject({
      blockNumber: moved.blockNumber,
      transactionIndex: moved.transactionIndex,
      logIndexes: expect.arrayContaining([moved.logIndex]),
    })
    expect((await source.readTransaction(log.txHash))!.logIndexes).not.toContain(log.logIndex)
  })
})

describe('a host that fails', () => {
  const HASH = `0x${'ab'.repeat(32)}`
  const HEAD = { number: 16, hash: HASH }
  let host: ScriptedRpc
  beforeAll(async () => {
    host = await startScriptedRpc()
  })
  afterAll(() => host.stop())

  const columns = (
    'blockNumber transactionIndex logIndex timestamp transactionHash emitter gateway amount tokenId data ' +
    'trustReceiver expiry owner'
  ).split(' ')
  const results: Record<string, unknown> = {
    eth_chainId: '0x64',
    eth_blockNumber: '0x10',
    eth_getTransactionReceipt: null,
    eth_getLogs: [],
    circles_query: { columns, rows: [] },
  }
  /** Of a host on which all is well and nothing happens. */
  const well = ({ method, params }: Call) =>
    method === 'eth_getBlockByNumber' ? { number: params[0], hash: HASH } : results[method]
  /** All is well, but for one method. */
  const but = (method: string, reply: Reply | ((times: number) => Reply)) => {
    let times = 0
    host.answerTo = (call) => {
      if (call.method !== method) return { result: well(call) }
      times += 1
      return typeof reply === 'function' ? reply(times) : reply
    }
  }
  beforeEach(() => {
    host.asked.length = 0
    host.answerTo = (call) => ({ result: well(call) })
  })

  const long = JSON.stringify({ jsonrpc: '2.0', id: 1, result: 'x'.repeat(17 * 1024 * 1024) })
  const faults: [string, Reply, string?][] = [
    ['HTTP 500', { status: 500, text: 'oops' }, 'HTTP 500'],
    ['HTTP 200 with an error', { error: { code: -32000, message: 'boom' } }, 'error -32000: boom'],
    ['an error without a code', { error: 'boom' }],
    ['no result', {}, 'no result'],
    ['silence', 'hang', 'no answer within 300 ms'],
    ['a cut connection', 'cut', 'no answer'],
    ['garbage', { text: '<html>' }, 'not a JSON-RPC answer'],
    ['nothing', { text: '' }, 'not a JSON-RPC answer'],
    ['half an answer', { text: '{"jsonrpc":"2.0","id":1,"result":[' }, 'not a JSON-RPC answer'],
    ['a batch', { text: '[{"jsonrpc":"2.0","id":1,"result":[]}]' }, 'not a JSON-RPC answer'],
    ['more than anybody asked for', { text: long }, 'longer than'],
    ["another call's answer", { id: 9999, result: [] }, 'another call'],
    ["another call's answer, in words", { id: '9999', result: [] }, 'another call'],
    ['a word', { result: 'yes' }],
    ['null', { result: null }],
    ['a list of nulls', { result: [null] }],
    ['a table of nulls', { result: { columns, rows: [null] } }],
    ['an empty object', { result: {} }],
  ]

  describe.each([
    {
      name: 'circlesRpc',
      method: 'circles_query',
      connect: (url: string): PaymentSource =>
        connectCirclesRpc({ circlesRpc: url, rpc: url, timeoutMs: 300, chainId: 100 }),
    },
    {
      name: 'evmNode',
      method: 'eth_getLogs',
      connect: (url: string): PaymentSource =>
        connectEvmNode({ rpc: url, timeoutMs: 300, chainId: 100, factories: [FACTORY], startBlock: 0, logRange: 1 }),
    },
  ])('$name', ({ method, connect }) => {
    const failure = async (work: Promise<unknown>): Promise<PaymentSourceError> => {
      const error = await work.then(
        (value) => expect.fail(`no failure, but ${JSON.stringify(value)}`),
        (thrown: unknown) => thrown,
      )
      expect(error).toBeInstanceOf(PaymentSourceError)
      return error as PaymentSourceError
    }

    it.each(faults)('payments:P27 takes %s for a failure, never for an empty page', async (_, reply, said = '') => {
      const source = connect(host.url)
      but(method, reply)
      expect((await failure(source.readPayments(undefined, 5, HEAD))).message).toContain(said)
      await failure(source.readTrust(address(1), {}))
      await failure(source.readGateway(address(1)))
      host.answerTo = (call) => ({ result: well(call) })
      expect(await source.readPayments(undefined, 5, HEAD)).toMatchObject({ logs: [] })
    })

    it('is not misled when nothing is wrong', async () => {
      const source = connect(host.url)
      expect(await source.readHead()).toEqual(HEAD)
      expect(await source.readPayments(undefined, 5, HEAD)).toMatchObject({ logs: [], unreadable: [] })
      expect(await source.readTrust(address(1), {})).toEqual([])
      expect(await source.readGateway(address(1))).toEqual([])
      expect(await source.readTransaction(HASH)).toBeUndefined()
    })

    it('asks once more when the connection was cut, and only then', async () => {
      const source = connect(host.url)
      but(method, (times) => (times === 1 ? 'cut' : { result: results[method] }))
      await source.readPayments(undefined, 5, HEAD)
      expect(host.methods().filter((one) => one === method)).toHaveLength(2)
      host.asked.length = 0
      but(method, { status: 503, text: '' })
      await failure(source.readPayments(undefined, 5, HEAD))
      expect(host.methods()).toEqual([method])
    })

    it('believes no head that the node cannot show', async () => {
      const source = connect(host.url)
      const blocks: [Reply, string][] = [
        [{ result: null }, 'says its head is 16, but does not have that block'],
        [{ result: { number: '0xf', hash: HASH } }, 'asked for block 16, got another'],
        [{ result: { number: '0x10', hash: '0x12' } }, 'hash is not a hash'],
        [{ result: { number: '0x10' } }, 'hash is not a hash'],
        [{ result: [] }, 'not an object'],
        [{ error: { code: -32000, message: 'header not found' } }, 'header not found'],
      ]
      for (const [reply, said] of blocks) {
        but('eth_getBlockByNumber', reply)
        expect((await failure(source.readHead())).message).toContain(said)
      }
      for (const number of ['', '0xzz', '0x10000000000000000', '0x20000000000000', null, 16]) {
        but('eth_blockNumber', { result: number })
        await failure(source.readHead())
      }
    })

    it('reads nothing of another chain, and looks again after an error', async () => {
      const source = connect(host.url)
      but('eth_chainId', { result: '0x1' })
      expect((await failure(source.readHead())).message).toBe('the node is on chain 1, CHAIN_ID is 100')
      host.answerTo = (call) => ({ result: well(call) })
      await source.readHead()
      await source.readHead()
      expect(host.methods().filter((one) => one === 'eth_chainId')).toHaveLength(2)
      but('eth_blockNumber', { status: 502, text: '' })
      await failure(source.readHead())
      but('eth_chainId', { result: '0x1' })
      expect((await failure(source.readHead())).message).toBe('the node is on chain 1, CHAIN_ID is 100')
    })

    it('takes no receipt that is not one', async () => {
      const source = connect(host.url)
      const receipt = {
        transactionHash: HASH,
        blockNumber: '0x10',
        blockHash: HASH,
        transactionIndex: '0x0',
        logs: [{ logIndex: '0x7' }],
      }
      but('eth_getTransactionReceipt', { result: receipt })
      const mined = { blockNumber: 16, blockHash: HASH, transactionIndex: 0, logIndexes: [7] }
      expect(await source.readTransaction(HASH)).toEqual(mined)
      but('eth_getTransactionReceipt', { result: { ...receipt, blockNumber: null, blockHash: null } })
      expect(await source.readTransaction(HASH)).toBeUndefined()
      for (const wrong of [
        { transactionHash: `0x${'cd'.repeat(32)}` },
        { blockNumber: null },
        { blockNumber: 16 },
        { blockHash: '0x' },
        { transactionIndex: '0x80000000' },
        { logs: null },
        { logs: [{}] },
        { logs: [null] },
      ]) {
        but('eth_getTransactionReceipt', { result: { ...receipt, ...wrong } })
        await failure(source.readTransaction(HASH))
      }
    })

    it('never says what its URL holds', async () => {
      const keys = ['k3y-in-the-path', 'k3y-in-the-query', 'k3y%20encoded']
      const url = `${host.url}/v3/${keys[0]}/rpc?apikey=${keys[1]}&other=${keys[2]}`
      const replies: Reply[] = [
        { error: { code: -32001, message: `project ${keys[0]} with ${keys[1]}, k3y encoded, is out; see ${url}` } },
        'cut',
        'hang',
        { status: 401, text: url },
        { text: url },
      ]
      for (const reply of replies) {
        host.answerTo = () => reply
        for (const read of [
          (source: PaymentSource) => source.readPayments(undefined, 5, HEAD),
          (source: PaymentSource) => source.readHead(),
        ]) {
          const error = await failure(read(connect(url)))
          for (let at: unknown = error; at instanceof Error; at = at.cause)
            expect(`${at.message}${at.stack}`).not.toMatch(/k3y/)
        }
      }
      const nowhere = await failure(connect('http://user:k3y-password@127.0.0.1:9/').readHead())
      expect(`${nowhere.message}${nowhere.stack}`).not.toMatch(/k3y/)
    })
  })
})
