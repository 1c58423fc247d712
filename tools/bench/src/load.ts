import autocannon from 'autocannon'

export type Load = { requestsPerSecond: number; p50: number; p99: number; errors: string }

/** Steady load on one URL, or on each in turn; keep-alive, no pipelining. */
export async function load(
  urls: string | string[],
  { seconds = 5, connections = 32 }: { seconds?: number; connections?: number } = {},
): Promise<Load> {
  const list = [urls].flat()
  const { origin } = new URL(list[0]!)
  const result = await autocannon({
    url: origin,
    connections,
    duration: seconds,
    requests: list.map((url) => ({ path: url.slice(origin.length) })),
  })
  return {
    requestsPerSecond: result.requests.average,
    p50: result.latency.p50,
    p99: result.latency.p99,
    errors: describeErrors(result),
  }
}

/** Empty when all went well. */
function describeErrors(result: { errors: number; timeouts: number; non2xx: number }): string {
  const counts = [
    [result.errors - result.timeouts, 'connections lost'],
    [result.timeouts, 'timed out'],
    [result.non2xx, 'not 2xx'],
  ] as const
  return counts.flatMap(([n, what]) => (n > 0 ? [`${n} ${what}`] : [])).join(', ')
}

/** The median of `runs` loads, by requests per second. */
export async function medianLoad(
  urls: string | string[] | (() => string[]),
  options: { runs?: number; seconds?: number; connections?: number } = {},
): Promise<Load> {
  const loads: Load[] = []
  for (let i = 0; i < (options.runs ?? 3); i += 1) {
    loads.push(await load(typeof urls === 'function' ? urls() : urls, options))
  }
  return median(loads, (one) => one.requestsPerSecond)
}

export function median<T>(values: T[], by: (value: T) => number): T {
  return values.toSorted((a, b) => by(a) - by(b))[Math.floor(values.length / 2)]!
}

/** One aligned line of the report. */
export function report(what: string, figure: string, aim = ''): void {
  console.log(`${what.padEnd(58)} ${figure.padStart(34)}${aim && `   aim ${aim}`}`)
}

export const describeLoad = ({ requestsPerSecond, p50, p99, errors }: Load) =>
  `${Math.round(requestsPerSecond)}/s  p50 ${p50} ms  p99 ${p99} ms${errors && `  (${errors})`}`
