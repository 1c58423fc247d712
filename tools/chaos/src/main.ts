import { randomInt } from 'node:crypto'
import { Command } from 'commander'
import { type ChaosReport, runChaos } from './runChaos.ts'

// `npm run chaos`: a whole market is maltreated while orders are paid. Exit code 1 when a paid line is lost, doubled or unexplained.

type Options = { orders: string; seconds: string; rest: string; replicas: string; seed?: string; json?: boolean }

const whole = (name: string, text: string, least: number) => {
  const number = Number(text)
  if (!Number.isSafeInteger(number) || number < least)
    program.error(`--${name} has to be a whole number from ${least} on`)
  return number
}

const program = new Command('npm run chaos --')
  .description('Kills, stalls and cuts a market while orders are paid, then counts what was delivered.')
  .option('--orders <n>', 'orders', '600')
  .option('--seconds <s>', 'seconds of trouble', '120')
  .option('--rest <s>', 'seconds at most until everything is still afterwards', '180')
  .option('--replicas <n>', 'processes of market-api', '3')
  .option('--seed <x>', 'repeats a run, as far as processes can be made to')
  .option('--json', 'print the report as one JSON object')
  .parse()
const options = program.opts<Options>()

const report = await runChaos({
  orders: whole('orders', options.orders, 1),
  seconds: whole('seconds', options.seconds, 1),
  restSeconds: whole('rest', options.rest, 1),
  replicas: whole('replicas', options.replicas, 1),
  seed: options.seed === undefined ? randomInt(1e9) : whole('seed', options.seed, 0),
  say: (text) => console.error(text),
})
if (options.json) console.log(JSON.stringify(report))
else print(report)
process.exitCode = report.duplicates.length + report.losses.length + report.wrong.length > 0 ? 1 : 0

function print(done: ChaosReport) {
  const list = (counts: Record<string, number>) => {
    const each = Object.entries(counts).map(([name, n]) => `${name} ${n}`)
    const sum = Object.values(counts).reduce((total, n) => total + n, 0)
    return each.length > 0 ? `${sum} (${each.join(', ')})` : '0'
  }
  const { duplicates, losses, wrong, waiting, faults, exits, ...rest } = done
  const figures = {
    orders: rest.orders,
    paid: rest.paid,
    lines: rest.lines,
    kills: rest.kills,
    stalls: rest.stalls,
    cuts: rest.cuts,
    faults: list(faults),
    deliveries: rest.deliveries,
    waiting: list(waiting),
    duplicates: duplicates.length,
    losses: losses.length,
    'other faults': wrong.length,
    'ends of their own': exits.length,
    seconds: rest.seconds,
    seed: rest.seed,
  }
  for (const [name, value] of Object.entries(figures)) console.log(`${name.padEnd(18)} ${value}`)
  for (const [what, all] of Object.entries({ 'ended by itself': exits, duplicate: duplicates, loss: losses, wrong }))
    for (const one of all) console.log(`${what}: ${one}`)
}
