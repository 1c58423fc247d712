import autocannon from 'autocannon'

export type Load = { requestsPerSecond: number; p50: number; p99: number; errors: string }

export type Request = { path: string; method?: string; body?: string; headers?: Record<string, string> }

/** Steady load of one request, or of each in turn; keep-alive, no pipelining. */
export async function load(
  requests: Request[],
  { base, seconds = 5, connections = 32 }: { base: string; seconds?: number; connections?: number },
): Promise<Load> {
  const result = await autocannon({
    url: base,
    connections,
    duration: seconds,
    requests: requests.map(({ body, headers, ...rest }) => ({
      ...rest,
      ...(body === undefined ? { headers } : { body, headers: { ...headers, 'Content-Type': 'application/json' } }),
    })),
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
  base: string,
  requests: Request[] | (() => Request[]),
  { runs = 3, ...options }: { runs?: number; seconds?: number; connections?: number } = {},
): Promise<Load> {
  const loads: Load[] = []
  for (let i = 0; i < runs; i += 1) {
    loads.push(await load(typeof requests === 'function' ? requests() : requests, { base, ...options }))
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
