import type { Faults } from './faults.ts'
import { property } from './filter.ts'
import type { MiningControl } from './miningMode.ts'
import { invalidParams } from './node.ts'
import { mineTogether, reorgAway, reorgShift } from './reorg.ts'

export type DevMethod = (params: unknown[]) => unknown

const MOST_LOGS = 1000

/** What scripts call; scenarios.ts has a function for each. */
export function devMethods(nodeUrl: string, faults: Faults, mining: MiningControl): [string, DevMethod][] {
  return [
    ['dev_setFault', ([options]) => faults.set(options)],
    ['dev_failedCalls', () => faults.failed()],
    ['dev_clearFaults', () => faults.clear()],
    ['dev_setMining', ([options]) => mining.set(property(options, 'mode'), property(options, 'forMs'))],
    ['dev_reorgAway', ([hash]) => mining.standStill(() => reorgAway(nodeUrl, transactionHash(hash)))],
    [
      'dev_reorgShift',
      ([hash, logsBefore]) => mining.standStill(() => reorgShift(nodeUrl, transactionHash(hash), count(logsBefore))),
    ],
    [
      'dev_mineTogether',
      ([raws, logsBefore]) => mining.standStill(() => mineTogether(nodeUrl, signed(raws), count(logsBefore))),
    ],
  ]
}

type Hex = `0x${string}`

function transactionHash(value: unknown): Hex {
  if (typeof value === 'string' && /^0x[0-9a-f]{64}$/i.test(value)) return value.toLowerCase() as Hex
  throw invalidParams(`${String(value)} is no transaction hash`)
}

function signed(value: unknown): Hex[] {
  const isRaw = (each: unknown) => typeof each === 'string' && /^0x([0-9a-f]{2})+$/i.test(each)
  if (Array.isArray(value) && value.every(isRaw)) return value as Hex[]
  throw invalidParams('no list of signed transactions')
}

function count(value: unknown): number {
  if (Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= MOST_LOGS) return value as number
  throw invalidParams(`${String(value)} is no number of logs up to ${MOST_LOGS}`)
}
