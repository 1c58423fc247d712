import type { Miner } from './mining.ts'
import { askNode, invalidParams } from './node.ts'

/**
 * `on`: a block for each transaction, and empty ones on top. `transactions`: nothing on top. `off`: no block at all but those
 * that are asked for; transactions wait.
 */
export const MINING_MODES = ['on', 'transactions', 'off'] as const
export type MiningMode = (typeof MINING_MODES)[number]

export interface MiningControl {
  /** With `forMs` it is `on` again after that, should whoever asked be gone by then. Throws invalid params. */
  set(mode: unknown, forMs?: unknown): Promise<void>
  /** Meanwhile there is no block but those that `work` makes. One after the other. */
  standStill<T>(work: () => Promise<T>): Promise<T>
  stop(): void
}

export function controlMining(nodeUrl: string, miner: Miner | undefined): MiningControl {
  let mode: MiningMode = 'on'
  let timer: NodeJS.Timeout | undefined
  let turn: Promise<unknown> = Promise.resolve()

  const inTurn = <T>(work: () => Promise<T>): Promise<T> => {
    const mine = turn.then(work)
    turn = mine.catch(() => {})
    return mine
  }

  async function apply(wanted: MiningMode): Promise<void> {
    if (wanted === 'on') miner?.resume()
    else await miner?.pause()
    // Turned on, it mines at once what has waited.
    await askNode(nodeUrl, 'evm_setAutomine', [wanted !== 'off'])
  }

  function set(wanted: unknown, forMs?: unknown): Promise<void> {
    if (!isMode(wanted)) throw invalidParams(`unknown mode ${String(wanted)}; there are ${MINING_MODES.join(', ')}`)
    if (forMs !== undefined && !(Number.isSafeInteger(forMs) && (forMs as number) > 0)) {
      throw invalidParams('forMs is no whole number above 0')
    }
    return inTurn(async () => {
      await apply(wanted)
      mode = wanted
      clearTimeout(timer)
      if (forMs === undefined) return
      timer = setTimeout(() => void set('on').catch(() => {}), forMs as number)
      timer.unref()
    })
  }

  return {
    set,
    standStill: (work) =>
      inTurn(async () => {
        await apply('off')
        try {
          return await work()
        } finally {
          await apply(mode)
        }
      }),
    stop: () => clearTimeout(timer),
  }
}

const isMode = (value: unknown): value is MiningMode => MINING_MODES.includes(value as MiningMode)
