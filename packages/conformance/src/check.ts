import type { Answer } from './httpCall.ts'
import type { Subject } from './subject.ts'

/** What the caller has to name for a check to make sense. */
export type Need = 'sku' | 'depletedSku' | 'crashCommands'

export type Check = {
  /** Stable: what `--only` takes and a build may look for. */
  id: string
  /** The promise that is checked, in one line. */
  title: string
  /** Where the contract says so. */
  section: string
  needs: readonly Need[]
  /** Units of the sku that an adapter which keeps the promise delivers meanwhile, at most. */
  units: number
  /** @throws Deviation the promise was not kept; Untested it could not be tried */
  run(subject: Subject): Promise<void>
}

/** The adapter did something else than the contract says. */
export class Deviation extends Error {
  readonly expected: string
  readonly came: string

  constructor(expected: string, came: string) {
    super(`expected ${expected}, came ${came}`)
    this.name = 'Deviation'
    this.expected = expected
    this.came = came
  }
}

/** The circumstances did not allow the check. */
export class Untested extends Error {
  constructor(reason: string) {
    super(reason)
    this.name = 'Untested'
  }
}

/** @throws Deviation unless it holds */
export function must(holds: unknown, expected: string, came: string | Answer): asserts holds {
  if (!holds) throw new Deviation(expected, typeof came === 'string' ? came : shown(came))
}

const MAX_SHOWN = 400

/** An answer in one line. */
export function shown({ status, text }: Answer): string {
  const line = text.replaceAll(/\s+/g, ' ').trim()
  return `HTTP ${status} ${line === '' ? 'without a body' : shortened(line)}`
}

export const shortened = (text: string) => (text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}…` : text)

/** The object that an answer is, or an empty one: members are then missing, which the check says. */
export function objectOf(value: unknown): Record<string, unknown> {
  return value !== null && typeof value === 'object' && !Array.isArray(value) ? (value as Record<string, unknown>) : {}
}
