import { UpstreamError } from '@market/kit/errors'
import { readCapped } from '@market/kit/outbound'

/** A service that signs people in for us; its answers are handed on as they are. */
export type AuthService = {
  /**
   * @throws UpstreamError `sign_in_unavailable`: 504 without an answer in time, 502 without a usable one.
   */
  post(
    path: '/challenge' | '/verify',
    request: { body: string; contentType: string; origin: string | undefined; client: string | undefined },
  ): Promise<{ status: number; headers: Record<string, string>; body: string }>
}

const TIMEOUT_MS = 15_000
const MAX_ANSWER_BYTES = 64 * 1024

/** The sign-in service of `AUTH_SERVICE_URL` (market-api.md 1.5). */
export function connectAuthService(baseUrl: string, timeoutMs = TIMEOUT_MS): AuthService {
  return {
    async post(path, { body, contentType, origin, client }) {
      const signal = AbortSignal.timeout(timeoutMs)
      const headers = new Headers({ 'Content-Type': contentType, Accept: 'application/json' })
      if (origin !== undefined) headers.set('Origin', origin)
      if (client !== undefined) headers.set('X-Forwarded-For', client)
      try {
        const response = await fetch(baseUrl + path, { method: 'POST', headers, body, redirect: 'error', signal })
        const answer = await readCapped(response, MAX_ANSWER_BYTES)
        return { status: response.status, headers: handedOn(response.headers), body: new TextDecoder().decode(answer) }
      } catch (error) {
        const text = 'The sign-in service does not answer; try again'
        throw new UpstreamError('sign_in_unavailable', text, { cause: error, timeout: signal.aborted })
      }
    },
  }
}

/** Everything else an upstream says about itself stays here (market-api.md W-29). */
function handedOn(headers: Headers): Record<string, string> {
  const cacheControl = headers.get('cache-control')
  const retryAfter = headers.get('retry-after')
  return {
    'Content-Type': headers.get('content-type') ?? 'application/json',
    ...(cacheControl === null ? {} : { 'Cache-Control': cacheControl }),
    ...(retryAfter === null ? {} : { 'Retry-After': retryAfter }),
  }
}
