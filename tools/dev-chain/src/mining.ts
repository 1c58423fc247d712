import { setTimeout as delay } from 'node:timers/promises'
import { askNode } from './node.ts'

export interface MinerOptions {
  nodeUrl: string
  /** Between two blocks. */
  blockMs?: number
  /** How many blocks end up on top of the last transaction. */
  depth?: number
  /** Told once when the node stops answering, and again after it did. */
  onTrouble?: (error: unknown) => void
}

export interface Miner {
  /** Resolves when the block it may just be making is there. */
  pause(): Promise<void>
  resume(): void
  stop(): Promise<void>
}

interface Block {
  number: string
  hash: string
  parentHash: string
  transactions: string[]
}

/** How often a resting miner looks for a new transaction. */
const WATCH_MS = 100

/** Without it a transaction would stay in the last block for ever, and no payment would become final. */
export function startMiner({ nodeUrl, blockMs = 100, depth = 14, onTrouble }: MinerOptions): Miner {
  const stopping = new AbortController()
  const { signal } = stopping
  const ask = <T>(method: string, params: unknown[] = []) => askNode<T>(nodeUrl, method, params, signal)

  let head: { hash: string; buried: number } | undefined
  let paused = false
  let current: Promise<'mined' | 'resting'> | undefined

  /** How many empty blocks stand on the last transaction; `depth` when it is that far down, or there is none. */
  async function buriedUnder(block: Block): Promise<number> {
    if (block.transactions.length > 0) return 0
    if (block.hash === head?.hash) return head.buried
    if (block.parentHash === head?.hash) return Math.min(head.buried + 1, depth)
    // The first look, several blocks at once, or a reorg: nothing known about what is underneath.
    const number = Number(block.number)
    for (let buried = 1; buried < depth && buried <= number; buried++) {
      const below = `0x${(number - buried).toString(16)}`
      const count = await ask<string>('eth_getBlockTransactionCountByNumber', [below])
      if (Number(count) > 0) return buried
    }
    return depth
  }

  async function step(): Promise<'mined' | 'resting'> {
    const block = await ask<Block>('eth_getBlockByNumber', ['latest', false])
    head = { hash: block.hash, buried: await buriedUnder(block) }
    if (head.buried >= depth) return 'resting'
    await ask('anvil_mine', ['0x1'])
    return 'mined'
  }

  async function run(): Promise<void> {
    let troubled = false
    while (!signal.aborted) {
      let pauseMs = WATCH_MS
      try {
        current = paused ? undefined : step()
        if ((await current) === 'mined') pauseMs = blockMs
        troubled = false
      } catch (error) {
        if (!troubled && !signal.aborted) onTrouble?.(error)
        troubled = true
      }
      await delay(pauseMs, undefined, { signal }).catch(() => {})
    }
  }

  const finished = run()
  return {
    pause: async () => {
      paused = true
      await current?.catch(() => {})
    },
    resume: () => {
      paused = false
    },
    stop: async () => {
      stopping.abort()
      await finished
    },
  }
}
