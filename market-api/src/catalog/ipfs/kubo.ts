import { MAX_OBJECT_BYTES } from '@market/contracts/cid'
import { messageOf } from '@market/kit/errors'
import { readCapped } from '@market/kit/outbound'
import { type Ipfs, IpfsUnavailableError, verified } from './ipfs.ts'

/** Every parameter of `add` that decides a CID, spelled out: Kubo's defaults have changed and will again (catalog.md 3.4). */
const ADD =
  'cid-version=0&raw-leaves=false&chunker=size-262144&hash=sha2-256&trickle=false&wrap-with-directory=false&pin=true'

/**
 * A Kubo node by its RPC. It searches the network for a block it lacks and may never answer, so every call has a deadline.
 * @param url with or without `/api/v0`
 */
export function connectKubo(url: string, options: { bearer?: string | undefined; timeoutMs: number }): Ipfs {
  const base = `${url.replace(/\/+$/, '').replace(/\/api\/v0$/, '')}/api/v0`
  const headers: Record<string, string> = options.bearer ? { Authorization: `Bearer ${options.bearer}` } : {}

  const call = async (path: string, body?: FormData): Promise<Uint8Array> => {
    try {
      const response = await fetch(`${base}/${path}`, {
        method: 'POST',
        headers,
        redirect: 'error',
        signal: AbortSignal.timeout(options.timeoutMs),
        ...(body ? { body } : {}),
      })
      const bytes = await readCapped(response, MAX_OBJECT_BYTES)
      if (!response.ok) {
        throw new IpfsUnavailableError(`Kubo answered ${response.status}: ${errorMessage(bytes).slice(0, 200)}`)
      }
      return bytes
    } catch (error) {
      if (error instanceof IpfsUnavailableError) throw error
      throw new IpfsUnavailableError(`Kubo: ${messageOf(error)}`, { cause: error })
    }
  }

  return verified({
    kind: 'kubo',
    async check() {
      await call('version')
    },
    async put(bytes) {
      const form = new FormData()
      form.append('file', new Blob([bytes as Uint8Array<ArrayBuffer>]))
      const answer = new TextDecoder().decode(await call(`add?${ADD}`, form))
      const last = answer.trim().split('\n').at(-1) ?? ''
      const { Hash } = parseAnswer(last) as { Hash?: unknown }
      if (typeof Hash !== 'string') throw new IpfsUnavailableError('Kubo named no hash for what was added')
      return Hash
    },
    read: (cid) => call(`cat?arg=${cid}`),
  })
}

function errorMessage(bytes: Uint8Array): string {
  const { Message } = parseAnswer(new TextDecoder().decode(bytes)) as { Message?: unknown }
  return typeof Message === 'string' ? Message : 'no reason given'
}

function parseAnswer(text: string): object {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? value : {}
  } catch {
    return {}
  }
}
