import { hexToString, type Hex } from 'viem'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Chain, eventually, faucet, pay, startChain, trust, type Wallet } from '../test/chain.ts'
import { circlesQuery } from './circlesQuery.ts'
import { deployDevContracts, devContracts, devCurrencyAvatar } from './deployment.ts'

let chain: Chain
let seller: Wallet
let gateway: `0x${string}`
beforeAll(async () => {
  chain = await startChain()
  await deployDevContracts(chain.url)
  seller = chain.newWallet()
  gateway = (await chain.openGateway(seller)).toLowerCase() as `0x${string}`
})
afterAll(() => chain.stop())

const reference = (n: number) => `pay_${n.toString(16).toUpperCase().padStart(32, '0')}`
const ascending = ['blockNumber', 'transactionIndex', 'logIndex'].map((column) => ({ column, sortOrder: 'ASC' }))
const query = (table: string, rest: object = {}) =>
  circlesQuery(chain.url, { namespace: 'CrcV2_PaymentGateway', table, columns: [], ...rest })
const where = (column: string, filterType: string, value: unknown) => ({
  type: 'FilterPredicate',
  filterType,
  column,
  value,
})

async function records(table: string, rest: object = {}) {
  const { columns, rows } = await query(table, rest)
  return rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]!])))
}

it('answers a payment with every column of the wire', async () => {
  const buyer = chain.newWallet()
  await faucet(buyer, 10n ** 30n)
  const receipt = await chain.mined(await pay(buyer, gateway, 10n ** 30n, reference(1)))
  const { timestamp } = await chain.client.getBlock()

  expect(await records('PaymentReceived')).toEqual([
    {
      blockNumber: Number(receipt.blockNumber),
      timestamp: Number(timestamp),
      transactionIndex: 0,
      logIndex: 1,
      transactionHash: receipt.transactionHash,
      emitter: devContracts.gatewayFactory,
      payer: buyer.account.address.toLowerCase(),
      payee: seller.account.address.toLowerCase(),
      gateway,
      tokenId: BigInt(devCurrencyAvatar).toString(),
      amount: '1000000000000000000000000000000',
      data: `0x${Buffer.from(reference(1)).toString('hex')}`,
    },
  ])
})

it('answers the gateways and whom they trust', async () => {
  await trust(seller, gateway, 2n ** 96n - 1n)
  await trust(seller, gateway, 0n)
  const found = await records('TrustUpdated', {
    filter: [where('gateway', 'Equals', gateway), where('emitter', 'Equals', devContracts.gatewayFactory)],
    order: ascending,
  })
  expect(found).toMatchObject([
    { gateway, trustReceiver: devCurrencyAvatar, expiry: '79228162514264337593543950335' },
    { gateway, trustReceiver: devCurrencyAvatar, expiry: '0' },
  ])
  const created = await records('GatewayCreated', { filter: [where('gateway', 'Equals', gateway)] })
  expect(created).toMatchObject([{ owner: seller.account.address.toLowerCase(), gateway }])
})

it('pages through payments that share blocks, each exactly once', async () => {
  const buyers = [chain.newWallet(), chain.newWallet()] as const
  for (const buyer of buyers) await faucet(buyer, 100n)
  const before = await chain.head()
  let sent = 100
  for (const block of [3, 1, 4]) {
    await chain.ask('evm_setAutomine', false)
    for (let i = 0; i < block; i++) {
      const buyer = buyers[i % 2]!
      const nonce = await chain.client.getTransactionCount({ address: buyer.account.address, blockTag: 'pending' })
      await pay(buyer, gateway, 1n, reference(sent++), nonce)
    }
    await chain.ask('anvil_mine', '0x1')
    await chain.ask('evm_setAutomine', true)
  }
  await eventually(async () => (await chain.head()) === before + 3)

  const pages: string[][] = []
  let cursor = [before, 0, 0]
  for (;;) {
    const page = await records('PaymentReceived', { filter: [after(cursor)], order: ascending, limit: 3 })
    if (page.length === 0) break
    pages.push(page.map((row) => hexToString(row.data as Hex)))
    const last = page.at(-1)!
    cursor = [last.blockNumber, last.transactionIndex, last.logIndex] as number[]
  }
  expect(pages.map((page) => page.length)).toEqual([3, 3, 2])
  expect(pages.flat().toSorted()).toEqual(Array.from({ length: 8 }, (_, i) => reference(100 + i)))

  const newestFirst = ascending.map(({ column }) => ({ column, sortOrder: 'DESC' }))
  const backwards = await records('PaymentReceived', { filter: [after([before, 0, 0])], order: newestFirst })
  expect(backwards.map((row) => hexToString(row.data as Hex)).toReversed()).toEqual(pages.flat())
})

it('answers nothing to a cursor ahead of the chain', async () => {
  expect(await records('PaymentReceived', { filter: [after([1_000_000, 0, 0])] })).toEqual([])
})

it('compares amounts as numbers, and names as in the table', async () => {
  const buyer = chain.newWallet()
  await faucet(buyer, 1000n)
  for (const amount of [9n, 10n, 100n]) await pay(buyer, gateway, amount, reference(Number(amount)))
  const payer = where('PAYER', 'Equals', buyer.account.address)
  const amounts = async (...filter: object[]) => {
    const rest = { columns: ['AMOUNT'], filter: [payer, ...filter], order: ascending }
    return (await query('PaymentReceived', rest)).rows.flat()
  }

  expect(await amounts(where('amount', 'GreaterThan', '9'))).toEqual(['10', '100'])
  expect(await amounts(where('amount', 'In', [9, '100']))).toEqual(['9', '100'])
  const shouted = { Type: 'FilterPredicate', FilterType: 'LessThanOrEquals', Column: 'amount', Value: 10 }
  expect(await amounts(shouted)).toEqual(['9', '10'])
  expect(await query('PaymentReceived', { columns: ['AMOUNT', 'gateway'], filter: [payer], limit: 1 })).toEqual({
    columns: ['amount', 'gateway'],
    rows: [['9', gateway]],
  })
})

it('forgets a payment that a reorg takes away', async () => {
  const buyer = chain.newWallet()
  await faucet(buyer, 1n)
  await pay(buyer, gateway, 1n, reference(7))
  const filter = [where('payer', 'Equals', buyer.account.address)]
  expect(await records('PaymentReceived', { filter })).toHaveLength(1)
  await chain.ask('anvil_reorg', 1, [])
  expect(await records('PaymentReceived', { filter })).toEqual([])
})

it.each([
  ['a namespace', { namespace: 'CrcV2' }, 'unknown table CrcV2.PaymentReceived'],
  ['a table', { table: 'PaymentsReceived' }, 'unknown table CrcV2_PaymentGateway.PaymentsReceived'],
  ['a column', { columns: ['sender'] }, 'unknown column sender in PaymentReceived'],
  ['a filtered column', { filter: [where('trustReceiver', 'Equals', '0x')] }, 'unknown column trustReceiver'],
  ['an ordered column', { order: [{ column: 'constructor', sortOrder: 'ASC' }] }, 'unknown column constructor'],
  ['a sort order', { order: [{ column: 'amount', sortOrder: 'up' }] }, 'unknown sortOrder up'],
  ['a filter type', { filter: [where('amount', 'Like', '1')] }, 'unknown filterType Like'],
  ['a value of the wrong kind', { filter: [where('amount', 'Equals', 'much')] }, '"much" is no value for'],
  ['an empty conjunction', { filter: [{ type: 'Conjunction', conjunctionType: 'Or' }] }, 'without predicates'],
  ['a limit', { limit: -1 }, '-1 is no limit'],
])('refuses %s it does not know', async (_, rest, message) => {
  await expect(query('PaymentReceived', rest)).rejects.toMatchObject({
    code: -32602,
    message: expect.stringContaining(message),
  })
})

const both = (...predicates: object[]) => ({ type: 'Conjunction', conjunctionType: 'And', predicates })

/** The cursor of the market's poller: strictly behind (block, transaction, log). */
function after([block, transaction, log]: number[]) {
  return {
    type: 'Conjunction',
    conjunctionType: 'Or',
    predicates: [
      where('blockNumber', 'GreaterThan', block),
      both(where('blockNumber', 'Equals', block), where('transactionIndex', 'GreaterThan', transaction)),
      both(
        where('blockNumber', 'Equals', block),
        where('transactionIndex', 'Equals', transaction),
        where('logIndex', 'GreaterThan', log),
      ),
    ],
  }
}
