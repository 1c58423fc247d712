// The part of autocannon 9 that is used; it ships no types.
declare module 'autocannon' {
  type Result = {
    requests: { average: number }
    latency: { p50: number; p99: number }
    errors: number
    timeouts: number
    non2xx: number
  }
  export default function autocannon(options: {
    url: string
    connections: number
    duration: number
    requests: { path: string; method?: string; body?: string; headers?: Record<string, string> | undefined }[]
  }): Promise<Result>
}
