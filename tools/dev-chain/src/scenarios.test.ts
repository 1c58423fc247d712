import { type Hex, hexToString } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { type Chain, eventually, startChain } from '../test/chain.ts'
import { deployDevContracts, devCurrencyAvatar } from './deployment.ts'
import { type Facade, startFacade } from './facade.ts'
import { type Miner, startMiner } from './mining.ts'
import { askNode } from './node.ts'
import { payInCrc, signPayments } from './payInCrc.ts'
import {
  clearFaults,
  directUrl,
  mine,
  mineTogether,
  pauseMining,
  payInParts,
  remine,
  reorgAway,
  reorgShift,
  resumeMining,
  setFault,
} from './scenarios.ts'

const DEPTH = 4
let chain: Chain
let miner: Miner
let facade: Facade
let gateway: string
beforeAll(async () => {
  chain = await startChain()
  await deployDevContracts(chain.url)
  gateway = (await chain.openGateway(chain.newWallet())).toLowerCase()
  miner = startMiner({ nodeUrl: chain.url, blockMs: 5, depth: DEPTH })
  facade = await startFacade({ nodeUrl: chain.url, port: 0, miner })
})
afterEach(() => resumeMining(facade.url))
afterAll(async () => {
  await Promise.all([miner.stop(), facade.stop()])
  await chain.stop()
})

const newBuyer = () => privateKeyToAccount(generatePrivateKey())
const pay = (reference: string, buyer = newBuyer(), amount = 1n) =>
  payInCrc(facade.url, buyer, { gateway, amount, reference })
const receiptOf = (hash: string) => chain.ask<{ blockNumber: Hex } | null>('eth_getTransactionReceipt', hash)
const blockOf = async (hash: string) => Number((await receiptOf(hash))?.blockNumber)
const hashAt = async (number: number) =>
  (await chain.ask<{ hash: Hex }>('eth_getBlockByNumber', `0x${number.toString(16)}`, false)).hash

/** The payments with this reference, as the market sees them. */
async function paymentsOf(reference: string) {
  const query = { namespace: 'CrcV2_PaymentGateway', table: 'PaymentReceived', limit: 1000 }
  const { columns, rows } = await askNode<{ columns: string[]; rows: any[][] }>(facade.url, 'circles_query', [query])
  return rows
    .map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])))
    .filter(({ data }) => hexToString(data) === reference)
}

/** As long as the miner needs to look twice. */
async function expectRest(head: number): Promise<void> {
  const until = Date.now() + 250
  await eventually(async () => {
    expect(await chain.head()).toBe(head)
    return Date.now() > until
  })
}

const buried = (hash: string) =>
  eventually(async () => {
    const head = await chain.head()
    const count = await chain.ask<Hex>('eth_getBlockTransactionCountByNumber', `0x${head.toString(16)}`)
    return Number(count) === 0 && head >= (await blockOf(hash)) + DEPTH
  })

it('mines as many blocks as it is told', async () => {
  await pauseMining(facade.url)
  const head = await chain.head()
  await mine(facade.url, 20)
  expect(await chain.head()).toBe(head + 20)
})

it('leaves nothing on top of a payment while mining is paused, and goes on after that', async () => {
  await pauseMining(facade.url)
  const hash = await pay('paused')
  const block = await blockOf(hash)
  await expectRest(block)
  await resumeMining(facade.url)
  await buried(hash)
})

it('mines again by itself after the time it was told', async () => {
  await pauseMining(facade.url, { forMs: 50 })
  await buried(await pay('for a moment'))
})

it('holds transactions until blocks come again', async () => {
  await pauseMining(facade.url, { holdTransactions: true })
  const head = await chain.head()
  const paying = pay('held')
  await eventually(async () => (await chain.ask<{ pending: Hex }>('txpool_status')).pending === '0x1')
  expect(await chain.head()).toBe(head)
  // The faucet's alone: the wallet has not signed the transfer yet.
  await mine(facade.url, 1)
  expect(await paymentsOf('held')).toEqual([])
  await resumeMining(facade.url)
  await buried(await paying)
  expect(await paymentsOf('held')).toHaveLength(1)
})

it('takes a payment away and leaves everybody else where they were', async () => {
  await pauseMining(facade.url)
  const buyer = newBuyer()
  const txHash = await pay('gone', buyer)
  const other = await pay('stays')
  const later = await pay('gone as well', buyer)
  await mine(facade.url, 2)
  const before = { block: await blockOf(txHash), other: await blockOf(other), head: await chain.head() }
  const [parent, replaced] = [await hashAt(before.block - 1), await hashAt(before.block)]

  const reorg = await reorgAway(facade.url, { txHash: txHash.toUpperCase().replace('0X', '0x') })
  expect(reorg).toMatchObject({
    forkBlock: before.block - 1,
    depth: before.head - before.block + 1,
    head: before.head + 1,
  })
  expect(reorg.taken.map(({ hash }) => hash)).toEqual([txHash, expect.anything(), later])
  expect(await chain.head()).toBe(before.head + 1)
  expect(await hashAt(before.block - 1)).toBe(parent)
  expect(await hashAt(before.block)).not.toBe(replaced)
  expect([await receiptOf(txHash), await receiptOf(later)]).toEqual([null, null])
  expect(await blockOf(other)).toBe(before.other)
  expect(await paymentsOf('gone')).toEqual([])
  expect(await paymentsOf('stays')).toHaveLength(1)

  // The miner does not bring them back.
  await resumeMining(facade.url)
  await buried(other)
  expect(await chain.ask('txpool_status')).toEqual({ pending: '0x0', queued: '0x0' })
  expect(await receiptOf(txHash)).toBeNull()

  const mined = await remine(facade.url, { taken: reorg.taken })
  expect(mined.map(({ hash, succeeded }) => [hash, succeeded])).toEqual(
    reorg.taken.map(({ hash }) => [hash, true] as const),
  )
  expect(await paymentsOf('gone')).toMatchObject([{ transactionHash: txHash, blockNumber: mined[0]!.blockNumber }])
  expect(await paymentsOf('gone as well')).toHaveLength(1)
  await buried(txHash)
})

it('keeps mining paused after a reorg', async () => {
  await pauseMining(facade.url)
  const { taken, head } = await reorgAway(facade.url, { txHash: await pay('paused again') })
  await expectRest(head)
  const [mined] = await remine(facade.url, { taken })
  expect(mined).toMatchObject({ blockNumber: head + 1 })
  await expectRest(head + 1)

  await pauseMining(facade.url, { holdTransactions: true })
  await reorgAway(facade.url, { txHash: mined!.hash })
  await askNode(facade.url, 'eth_sendRawTransaction', [taken[0]!.raw])
  await expectRest(head + 2)
  await resumeMining(facade.url)
  await buried(mined!.hash)
})

it('payments:P26 gives the transaction that comes in again other log indexes', async () => {
  const txHash = await pay('again')
  const [first] = await paymentsOf('again')
  expect(first).toMatchObject({ transactionIndex: 0, logIndex: 1 })
  const { taken } = await reorgAway(facade.url, { txHash })
  const [mined] = await remine(facade.url, { taken, logsBefore: 3 })
  expect(mined).toMatchObject({ hash: txHash, transactionIndex: 3, logIndexes: [3, 4], succeeded: true })
  expect(await paymentsOf('again')).toMatchObject([
    { transactionHash: txHash, blockNumber: mined!.blockNumber, transactionIndex: 3, logIndex: 4 },
  ])
})

it('payments:P26 shifts a transaction within its block in one reorg', async () => {
  await pauseMining(facade.url)
  const buyer = newBuyer()
  const txHash = await pay('shifted', buyer)
  const later = await pay('behind it', buyer)
  const [block, laterBlock] = [await blockOf(txHash), await blockOf(later)]
  expect(await reorgShift(facade.url, { txHash, logsBefore: 8 })).toMatchObject({ taken: [], forkBlock: block - 1 })
  expect(await paymentsOf('shifted')).toMatchObject([
    { transactionHash: txHash, blockNumber: block, transactionIndex: 8, logIndex: 9 },
  ])
  expect(await blockOf(later)).toBe(laterBlock)
})

it('scripts the chain while all of it fails for others', async () => {
  const txHash = await pay('in an outage')
  await setFault(facade.url, { methods: ['*'], fault: 'http503' })
  try {
    const { taken } = await reorgAway(facade.url, { txHash })
    await remine(facade.url, { taken })
    await payInCrc(directUrl(facade.url), newBuyer(), { gateway, amount: 1n, reference: 'in an outage' })
    await payInParts(facade.url, newBuyer(), { gateway, reference: 'in an outage', amounts: [1n] })
  } finally {
    await clearFaults(facade.url)
  }
  expect(await paymentsOf('in an outage')).toHaveLength(3)
})

it('two reorgs at once come one after the other', async () => {
  const hashes = await Promise.all([pay('twice'), pay('twice')])
  const reorgs = await Promise.all(hashes.map((txHash) => reorgAway(facade.url, { txHash })))
  expect(reorgs.map(({ taken }) => taken.map(({ hash }) => hash))).toEqual(hashes.map((hash) => [hash]))
  expect(await paymentsOf('twice')).toEqual([])
})

it('pays in parts, each in its own block or all in one', async () => {
  await pauseMining(facade.url)
  const parts = { gateway, reference: 'parts', amounts: [3n, 3n, 4n] }
  const apart = await payInParts(facade.url, newBuyer(), parts)
  const together = await payInParts(facade.url, newBuyer(), { ...parts, oneBlock: true })
  const found = await paymentsOf('parts')
  expect(found.map(({ transactionHash }) => transactionHash)).toEqual([...apart, ...together])
  expect(found.map(({ amount }) => amount)).toEqual(['3', '3', '4', '3', '3', '4'])
  expect(new Set(found.slice(0, 3).map(({ blockNumber }) => blockNumber)).size).toBe(3)
  expect(new Set(found.slice(3).map(({ blockNumber }) => blockNumber)).size).toBe(1)
})

it("pays in anybody's CRC", async () => {
  const buyer = newBuyer()
  await payInCrc(facade.url, buyer, { gateway, amount: 1n, reference: 'own', avatar: buyer.address })
  await pay('own')
  expect((await paymentsOf('own')).map(({ tokenId }) => tokenId)).toEqual(
    [buyer.address, devCurrencyAvatar].map((avatar) => BigInt(avatar).toString()),
  )
})

it('says what it can not do', async () => {
  const txHash = `0x${'ab'.repeat(32)}`
  await expect(reorgAway(facade.url, { txHash })).rejects.toThrow(`${txHash} is in no block`)
  await expect(reorgAway(facade.url, { txHash: '0x1' })).rejects.toThrow('0x1 is no transaction hash')
  await expect(remine(facade.url, { taken: [], logsBefore: -1 })).rejects.toThrow('-1 is no number of logs')
  await expect(askNode(facade.url, 'dev_setMining', [{ mode: 'slow' }])).rejects.toThrow('unknown mode slow')
  await expect(pauseMining(facade.url, { forMs: 0 })).rejects.toThrow('forMs is no whole number above 0')

  const [faucet, ...transfers] = await signPayments(facade.url, newBuyer(), {
    gateway,
    reference: 'gap',
    amounts: [1n],
  })
  await expect(mineTogether(facade.url, { raws: transfers })).rejects.toThrow('an earlier one of its sender is missing')
  await mineTogether(facade.url, { raws: [faucet!] })
  await expect(mineTogether(facade.url, { raws: [faucet!] })).rejects.toThrow('nonce too low')
})
