import { setTimeout as delay } from 'node:timers/promises'
import { oneOf, type Random } from './random.ts'
import type { Process, World } from './world.ts'

export type Counts = { kills: number; stalls: number; cuts: number }

/** Longer than a worker holds a job without saying so, so that others take over what the stalled one still believes to have. */
const MAX_STALL_MS = 6000
const MAX_DOWN_MS = 1500
const MAX_PAUSE_MS = 700

/**
 * One trouble after the other, some of them at the same time, until `signal` says stop; then all of it is mended. `counts` grows.
 * At least one market-api is let run.
 */
export async function makeTrouble(world: World, random: Random, counts: Counts, signal: AbortSignal): Promise<void> {
  const busy = new Set<Process>()
  const mending: Promise<void>[] = []

  /** Does something to a process that nothing is done to, and undoes it a while later. */
  const strike = (process: Process, forMs: number, begin: () => unknown, end: () => unknown) => {
    busy.add(process)
    const work = async () => {
      await begin()
      await delay(forMs, undefined, { signal }).catch(() => {})
      await end()
      busy.delete(process)
    }
    mending.push(work())
  }
  const victim = (): Process | undefined => {
    const left = world.replicas.filter((replica) => !busy.has(replica))
    const some = left.length > 1 ? left : []
    const all = busy.has(world.dispenser) ? some : [...some, world.dispenser]
    return all.length > 0 ? oneOf(random, all) : undefined
  }
  const kill = () => {
    const process = victim()
    if (!process) return
    counts.kills += 1
    strike(process, random(MAX_DOWN_MS), process.kill, process.start)
  }
  const stall = () => {
    const process = victim()
    if (!process) return
    counts.stalls += 1
    strike(process, random(MAX_STALL_MS), process.stall, process.resume)
  }
  const cut = () => {
    const link = oneOf(random, Object.values(world.links))
    const some = link.connections().filter(() => random(2) === 0)
    const kinds = [
      () => some.forEach(link.reset),
      () => some.forEach((pair) => link.cutHalf(pair, random(3000))),
      () => some.forEach((pair) => link.delay(pair, random(4000))),
      () => some.forEach((pair) => link.blackhole(pair, random(5000))),
      () => link.refuse(random(1500)),
    ]
    oneOf(random, kinds)()
    counts.cuts += 1
  }
  const terminate = async () => {
    const database = oneOf(random, ['circles_market_api', 'circles_codedisp'])
    // Ours among them: what the driver of the chaos does straight, it does again.
    await world.superuser`
      select pg_terminate_backend(pid) from pg_stat_activity
       where datname = ${database} and backend_type = 'client backend' and random() < 0.5
         and application_name not in ('postgres.js', 'chaos')`
    counts.cuts += 1
  }
  const troubles = [kill, stall, cut, cut, terminate]

  world.adapter.misbehave()
  while (!signal.aborted) {
    await oneOf(random, troubles)()
    await delay(50 + random(MAX_PAUSE_MS), undefined, { signal }).catch(() => {})
  }
  world.adapter.behave()
  await Promise.all(mending)
}
