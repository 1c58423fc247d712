import { afterAll, afterEach, beforeAll, expect, it, onTestFinished, vi } from 'vitest'
import { type Chain, eventually, free, startChain } from '../test/chain.ts'
import { type Miner, type MinerOptions, startMiner } from './mining.ts'

let chain: Chain
let miner: Miner | undefined
beforeAll(async () => (chain = await startChain()))
afterEach(async () => miner?.stop())
afterAll(() => chain.stop())

const mine = (options: Partial<MinerOptions> = {}) =>
  (miner = startMiner({ nodeUrl: chain.url, blockMs: 5, depth: 6, ...options }))

async function transact(): Promise<number> {
  const wallet = chain.newWallet()
  const receipt = await chain.mined(await wallet.sendTransaction({ to: wallet.account.address, ...free }))
  return Number(receipt.blockNumber)
}

/** Long enough for a miner that would go on to show it: it looks again every 100 ms. */
async function expectRest(head: number): Promise<void> {
  const until = Date.now() + 300
  await eventually(async () => {
    expect(await chain.head()).toBe(head)
    return Date.now() > until
  })
}

it('leaves an empty chain alone', async () => {
  mine()
  await expectRest(0)
})

it('buries a transaction, then rests', async () => {
  mine()
  const block = await transact()
  await eventually(async () => (await chain.head()) === block + 6)
  await expectRest(block + 6)
})

it('buries what was there before it started', async () => {
  const block = await transact()
  await chain.ask('anvil_mine', '0x2')
  mine()
  await eventually(async () => (await chain.head()) === block + 6)
  await expectRest(block + 6)
})

it('buries a transaction that a reorg brought up to the surface again', async () => {
  mine()
  const block = await transact()
  await eventually(async () => (await chain.head()) === block + 6)
  const wallet = chain.newWallet()
  const { address } = wallet.account
  const transfer = { to: address, gas: 21_000n, nonce: 0, chainId: 100, type: 'legacy' } as const
  const moved = await wallet.signTransaction({ ...transfer, ...free })
  await chain.ask('anvil_reorg', 2, [[moved, 1]])
  await eventually(async () => (await chain.head()) === block + 12)
  await expectRest(block + 12)
})

it('is paused only when the block it is making is there', async () => {
  const asked: string[] = []
  const real = globalThis.fetch
  let answer!: () => void
  const held = new Promise<void>((resolve) => (answer = resolve))
  const away = vi.spyOn(globalThis, 'fetch').mockImplementation(async (url, init) => {
    const isMine = String(init?.body).includes('anvil_mine')
    asked.push(isMine ? 'mine' : 'look')
    if (isMine) await held
    return real(url, init)
  })
  onTestFinished(() => away.mockRestore())
  const block = await transact()
  mine()
  await eventually(async () => asked.includes('mine'))
  let isPaused = false
  const pausing = miner!.pause().then(() => (isPaused = true))
  const meanwhile = { head: await chain.head(), isPaused }
  answer()
  await pausing
  expect(meanwhile).toEqual({ head: block, isPaused: false })
  await expectRest(block + 1)
  miner!.resume()
  await eventually(async () => (await chain.head()) === block + 6)
})

it('goes on after the node was away', async () => {
  const block = await transact()
  const onTrouble = vi.fn()
  const real = globalThis.fetch
  const away = vi.spyOn(globalThis, 'fetch').mockRejectedValue(new Error('ECONNREFUSED'))
  mine({ onTrouble })
  await eventually(async () => onTrouble.mock.calls.length > 0 && away.mock.calls.length > 2)
  away.mockImplementation(real)
  await eventually(async () => (await chain.head()) === block + 6)
  expect(onTrouble).toHaveBeenCalledTimes(1)
  away.mockRestore()
})
