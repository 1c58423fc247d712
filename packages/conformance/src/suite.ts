import { type Check, Deviation, type Need, objectOf, shown, Untested } from './check.ts'
import { type Answer, NoAnswerError } from './httpCall.ts'
import { openSubject, type Subject, type Target } from './subject.ts'

export type Finding = {
  id: string
  title: string
  section: string
  verdict: 'passed' | 'failed' | 'skipped'
  ms: number
  /** Of one that failed. */
  expected?: string
  came?: string
  /** Why it was skipped. */
  reason?: string
}

export type Report = {
  url: string
  passed: number
  failed: number
  skipped: number
  unitsAtMost: number
  checks: Finding[]
}

/** What the caller named doesn't allow a run: nobody answers, the sku isn't mapped, there is too little of it. */
export class UnfitError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'UnfitError'
  }
}

const MISSING: Record<Need, (target: Target) => string | undefined> = {
  sku: ({ sku }) => (sku === undefined ? 'needs --seller and --sku' : undefined),
  depletedSku: ({ depletedSku }) => (depletedSku === undefined ? 'needs --seller and --depleted-sku' : undefined),
  crashCommands: ({ killCommand, restartCommand }) =>
    killCommand === undefined || restartCommand === undefined
      ? 'needs --kill-command and --restart-command'
      : undefined,
}

const missingFor = ({ needs }: Check, target: Target) => needs.map((need) => MISSING[need](target)).find(Boolean)

/** Units of the sku that these checks use at most at an adapter which keeps the contract. */
export function unitsOf(checks: readonly Check[], target: Target): number {
  return target.sku === undefined
    ? 0
    : checks.filter((check) => !missingFor(check, target)).reduce((sum, { units }) => sum + units, 0)
}

/**
 * Makes sure that the adapter is there and has what the checks will use.
 *
 * @throws UnfitError
 */
export async function lookBefore(checks: readonly Check[], target: Target): Promise<{ stock: number | undefined }> {
  const subject = openSubject(target)
  let answer: Answer
  try {
    answer = await subject.inventory(target.sku ?? target.unmappedSku)
  } catch (error) {
    if (!(error instanceof NoAnswerError)) throw error
    throw new UnfitError(`${target.url} does not answer: ${error.message}`)
  }
  if (target.sku === undefined) return { stock: undefined }
  const of = `${target.sku} of ${target.seller} on chain ${target.chain}`
  if (answer.status === 404) throw new UnfitError(`the adapter has no mapping for ${of}: ${shown(answer)}`)
  const { value } = objectOf(answer.json)
  const units = unitsOf(checks, target)
  if (answer.status === 200 && typeof value === 'number' && value < units) {
    throw new UnfitError(
      `${of} has a stock of ${value}; these checks use up to ${units}: restock, or name fewer with --only`,
    )
  }
  return { stock: answer.status === 200 && typeof value === 'number' ? value : undefined }
}

/** Runs the checks one after another and tells of each as it ends. */
export async function runChecks(
  checks: readonly Check[],
  target: Target,
  told: (finding: Finding) => void = () => {},
): Promise<Report> {
  const subject = openSubject(target)
  const findings: Finding[] = []
  for (const check of checks) {
    const finding = await runCheck(check, subject)
    findings.push(finding)
    told(finding)
  }
  const count = (verdict: Finding['verdict']) => findings.filter((finding) => finding.verdict === verdict).length
  return {
    url: target.url,
    passed: count('passed'),
    failed: count('failed'),
    skipped: count('skipped'),
    unitsAtMost: unitsOf(checks, target),
    checks: findings,
  }
}

async function runCheck(check: Check, subject: Subject): Promise<Finding> {
  const { id, title, section } = check
  const missing = missingFor(check, subject.target)
  if (missing !== undefined) return { id, title, section, verdict: 'skipped', ms: 0, reason: missing }
  const started = performance.now()
  const end = () => ({ id, title, section, ms: Math.round(performance.now() - started) })
  try {
    await check.run(subject)
    return { ...end(), verdict: 'passed' }
  } catch (error) {
    if (error instanceof Untested) return { ...end(), verdict: 'skipped', reason: error.message }
    if (error instanceof Deviation) {
      const { expected, came } = error
      return { ...end(), verdict: 'failed', expected, came }
    }
    if (error instanceof NoAnswerError) {
      return { ...end(), verdict: 'failed', expected: 'an answer', came: error.message }
    }
    throw error
  }
}
