import { MarketError, marketError, NetworkError } from './errors.ts'
import { msUntilRetry, sleep } from './patience.ts'
import type { SessionKeeper } from './session.ts'

/** Of every call. */
export type CallOptions = {
  /** Ends the call; it throws the signal's reason. */
  signal?: AbortSignal | undefined
  /** For one try, its answer included. */
  timeoutMs?: number
  /** How long what does no harm when done twice is tried again, if the market is out of reach or busy; 0: never. */
  retryForMs?: number
}

export type Request = {
  method?: 'GET' | 'POST' | 'PATCH'
  path: string
  /** Sent as JSON. */
  json?: object
  body?: string | Uint8Array<ArrayBuffer>
  headers?: Record<string, string>
  /** Whether asking twice comes to the same as asking once. GETs always do. */
  repeatable?: boolean
  /** Whether the token goes along, if there is one. */
  signed?: boolean
}

export type Connection = ReturnType<typeof openConnection>

type Settings = {
  baseUrl: string
  session?: SessionKeeper | undefined
  timeoutMs?: number | undefined
  retryForMs?: number | undefined
  /** Instead of the platform's. */
  fetch?: typeof globalThis.fetch | undefined
}

const TIMEOUT_MS = 15_000
const RETRY_FOR_MS = 10_000
/** Twice what the largest object may have; an answer that never ends must not fill the memory. */
const MAX_ANSWER_BYTES = 16 * 1024 * 1024

/** The way to one market. Throws `MarketError` for what it refuses, `NetworkError` when there is no knowing. */
export function openConnection({ session, ...settings }: Settings) {
  const baseUrl = settings.baseUrl.replace(/\/+$/, '')

  const ask = async (request: Request, token: string | undefined, signal: AbortSignal): Promise<Response> => {
    const { method = 'GET', path, json, body = json && JSON.stringify(json), headers } = request
    try {
      return await (settings.fetch ?? globalThis.fetch)(baseUrl + path, {
        method,
        // Nothing here works by cookies.
        credentials: 'omit',
        signal,
        headers: {
          Accept: 'application/json, application/ld+json',
          ...(json && { 'Content-Type': 'application/json' }),
          ...(token && { Authorization: `Bearer ${token}` }),
          ...headers,
        },
        ...(body !== undefined && { body }),
      })
    } catch (error) {
      if (signal.aborted) throw signal.reason
      const { code } = ((error as Error).cause ?? {}) as { code?: unknown }
      const why = typeof code === 'string' ? ` (${code})` : ''
      throw new NetworkError('unreachable', `${baseUrl} can't be reached${why}`, { cause: error })
    }
  }

  const refusal = async (response: Response, signal: AbortSignal): Promise<MarketError> =>
    marketError(response.status, response.headers, new TextDecoder().decode(await readBytes(response, signal)))

  /** With the token there is; if that is refused, with a new one, once. */
  const withToken = async <T>(request: Request, work: (token: string | undefined) => Promise<T>): Promise<T> => {
    if (!request.signed || !session) return work(undefined)
    const token = await session.token()
    try {
      return await work(token)
    } catch (error) {
      const refused = error instanceof MarketError && error.status === 401
      if (!refused || !(await session.replace(token))) throw error
      return work(await session.token())
    }
  }

  const send = async (
    request: Request,
    options: CallOptions = {},
  ): Promise<{ headers: Headers; bytes: Uint8Array }> => {
    const timeoutMs = options.timeoutMs ?? settings.timeoutMs ?? TIMEOUT_MS
    const giveUpAt = Date.now() + (options.retryForMs ?? settings.retryForMs ?? RETRY_FOR_MS)
    const repeatable = request.repeatable ?? (request.method ?? 'GET') === 'GET'
    for (let tries = 0; ; tries += 1) {
      try {
        return await withToken(request, (token) =>
          within(timeoutMs, baseUrl, options.signal, async (signal) => {
            const response = await ask(request, token, signal)
            if (!response.ok) throw await refusal(response, signal)
            return { headers: response.headers, bytes: await readBytes(response, signal) }
          }),
        )
      } catch (error) {
        const waitMs = repeatable ? msUntilRetry(error, tries) : undefined
        if (waitMs === undefined || Date.now() + waitMs > giveUpAt) throw error
        await sleep(waitMs, options.signal)
      }
    }
  }

  return {
    baseUrl,

    /** The answer's bytes, all of them. */
    send,

    async json<T>(request: Request, options?: CallOptions): Promise<{ headers: Headers; body: T }> {
      const { headers, bytes } = await send(request, options)
      try {
        return { headers, body: JSON.parse(new TextDecoder().decode(bytes)) as T }
      } catch (error) {
        throw new NetworkError('broken', `what answers at ${baseUrl} is no market`, { cause: error })
      }
    },

    /** An answer that goes on, once: `timeoutMs` is for its headers. To be closed by whoever asked. */
    async stream(request: Request, { signal, timeoutMs = settings.timeoutMs ?? TIMEOUT_MS }: CallOptions) {
      const ending = new AbortController()
      const end = () => ending.abort(signal?.reason)
      signal?.addEventListener('abort', end)
      const close = () => {
        signal?.removeEventListener('abort', end)
        ending.abort()
      }
      try {
        const response = await withToken(request, (token) =>
          within(timeoutMs, baseUrl, signal, async (headersDue) => {
            const late = () => ending.abort(headersDue.reason)
            headersDue.addEventListener('abort', late)
            try {
              const answer = await ask(request, token, ending.signal)
              if (!answer.ok) throw await refusal(answer, ending.signal)
              return answer
            } finally {
              headersDue.removeEventListener('abort', late)
            }
          }),
        )
        if (!response.body) throw new NetworkError('broken', `what answers at ${baseUrl} is no stream`)
        return { body: response.body, close }
      } catch (error) {
        close()
        throw error
      }
    },
  }
}

/** Runs `work` with a signal that fires with the caller's, and with a `NetworkError` when the time is over. */
async function within<T>(
  ms: number,
  baseUrl: string,
  signal: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted()
  const controller = new AbortController()
  const late = () => controller.abort(new NetworkError('timeout', `${baseUrl} did not answer within ${ms} ms`))
  const timer = setTimeout(late, ms)
  const end = () => controller.abort(signal!.reason)
  signal?.addEventListener('abort', end)
  try {
    return await work(controller.signal)
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', end)
  }
}

async function readBytes(response: Response, signal: AbortSignal): Promise<Uint8Array> {
  const parts: Uint8Array[] = []
  let length = 0
  const reader = response.body?.getReader()
  try {
    for (let read = await reader?.read(); read && !read.done; read = await reader!.read()) {
      length += read.value.length
      if (length > MAX_ANSWER_BYTES) throw new RangeError(`more than ${MAX_ANSWER_BYTES} bytes`)
      parts.push(read.value)
    }
  } catch (error) {
    reader!.cancel().catch(() => {})
    if (signal.aborted) throw signal.reason
    throw new NetworkError('broken', `the answer did not come through: ${(error as Error).message}`, { cause: error })
  }
  const bytes = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}
