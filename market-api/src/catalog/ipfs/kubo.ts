import { MAX_OBJECT_BYTES } from '@market/contracts/cid'
import { readCapped, TooLargeError } from '@market/kit/outbound'
import { type Ipfs, IpfsMismatchError, IpfsTooLargeError, IpfsUnavailableError } from './ipfs.ts'
import { verifiedIpfs } from './verifiedIpfs.ts'

/** Every parameter of `add` that decides a CID, spelled out: Kubo's defaults have changed and will again (catalog.md 3.4). */
const ADD =
  'cid-version=0&raw-leaves=false&chunker=size-262144&hash=sha2-256&trickle=false&wrap-with-directory=false&pin=false'

/** The largest object in one block, with what dag-pb puts around it. Kubo itself makes none above 2 MiB. */
const MAX_BLOCK_BYTES = MAX_OBJECT_BYTES + 1024
/** Versions, hashes, refusals. */
const MAX_ANSWER_BYTES = 65_536

type Call = { body?: FormData; maxBytes: number; signal: AbortSignal }

/** Kubo answered, and it was no. Its words are for logs and for deciding: they never become part of a message. */
class KuboRefusedError extends IpfsUnavailableError {
  readonly said: string

  constructor(command: string, status: number, said: string) {
    const isMissing = status >= 500 && /not found|could not find/i.test(said)
    const reason = isMissing ? 'missing' : status === 504 ? 'timeout' : 'unreachable'
    super(reason, `Kubo answered ${command} with ${status}`, { cause: said.slice(0, 500) })
    this.said = said
  }
}

/**
 * A Kubo node by its RPC. It searches the network for a block it lacks and may never answer, so every call has a deadline;
 * reading a file has one more when it must be read by its blocks.
 * @param url with or without `/api/v0`
 */
export function connectKubo(url: string, options: { bearer?: string | undefined; timeoutMs: number }): Ipfs {
  const base = `${url.replace(/\/+$/, '').replace(/\/api\/v0$/, '')}/api/v0`
  const headers: Record<string, string> = options.bearer ? { Authorization: `Bearer ${options.bearer}` } : {}
  const deadline = () => AbortSignal.timeout(options.timeoutMs)

  const attempt = async (command: string, query: string, { body, maxBytes, signal }: Call) => {
    const request = { method: 'POST', headers, redirect: 'error', signal, ...(body ? { body } : {}) } as const
    const response = await fetch(`${base}/${command}${query}`, request)
    if (!response.ok) {
      const refusal = await readCapped(response, MAX_ANSWER_BYTES).catch(() => new Uint8Array())
      throw new KuboRefusedError(command, response.status, String(parseAnswer(refusal).Message ?? ''))
    }
    // What Kubo announces instead of a content-length.
    if (Number(response.headers.get('x-content-length')) > maxBytes) {
      await response.body?.cancel()
      throw new TooLargeError(`answer exceeds ${maxBytes} bytes`)
    }
    return readCapped(response, maxBytes)
  }

  /** Calls may be repeated: content has the same name however often it's added. `TooLargeError` is the caller's to judge. */
  const call = async (command: string, query = '', given: Partial<Call> = {}): Promise<Uint8Array> => {
    const { signal = deadline(), maxBytes = MAX_ANSWER_BYTES } = given
    const once = () => attempt(command, query, { ...given, maxBytes, signal })
    const isFinal = (error: unknown) =>
      error instanceof KuboRefusedError || error instanceof TooLargeError || signal.aborted
    try {
      return await once().catch((error) => {
        // A connection kept for the next call may have been closed meanwhile.
        if (isFinal(error)) throw error
        return once()
      })
    } catch (error) {
      if (error instanceof KuboRefusedError || error instanceof TooLargeError) throw error
      if (signal.aborted)
        throw new IpfsUnavailableError('timeout', `Kubo took too long to ${command}`, { cause: error })
      throw new IpfsUnavailableError('unreachable', `Kubo can't be reached to ${command}`, { cause: error })
    }
  }
  /** The last of the JSON lines of an answer. */
  const ask = async (command: string, query?: string, given?: Partial<Call>): Promise<Record<string, unknown>> => {
    try {
      return parseAnswer(await call(command, query, given))
    } catch (error) {
      if (!(error instanceof TooLargeError)) throw error
      throw new IpfsUnavailableError('unreachable', `No answer of a Kubo to ${command}`, { cause: error })
    }
  }

  return verifiedIpfs({
    kind: 'kubo',
    async check() {
      const { Version } = await ask('version')
      if (typeof Version !== 'string') throw new IpfsUnavailableError('unreachable', 'No Kubo answers at IPFS_RPC_URL')
    },
    async put(cid, bytes) {
      const body = new FormData()
      body.append('file', new Blob([bytes as Uint8Array<ArrayBuffer>]))
      const { Hash } = await ask('add', `?${ADD}`, { body })
      if (Hash !== cid) throw new IpfsMismatchError(`Kubo gave ${cid} another name`)
      // Only what has the right name: a pin is for ever.
      const { Pins } = await ask('pin/add', `?arg=${cid}`)
      if (!Array.isArray(Pins) || !Pins.includes(cid)) {
        throw new IpfsUnavailableError('unreachable', `Kubo did not confirm the pin of ${cid}`)
      }
    },
    async readFile(cid) {
      try {
        return await call('cat', `?arg=${cid}`, { maxBytes: MAX_OBJECT_BYTES })
      } catch (error) {
        if (error instanceof TooLargeError) throw new IpfsTooLargeError(`${cid} is too large`, { cause: error })
        if (error instanceof KuboRefusedError && /is a directory/i.test(error.said)) {
          throw new IpfsMismatchError(`${cid} is a directory`, { cause: error })
        }
        throw error
      }
    },
    blockReader() {
      const signal = deadline()
      return async (cid) => {
        try {
          return await call('block/get', `?arg=${cid}`, { maxBytes: MAX_BLOCK_BYTES, signal })
        } catch (error) {
          // Nobody has seen whether it's really the block of that CID, so this is not yet known for ever.
          if (error instanceof TooLargeError)
            throw new IpfsMismatchError(`${cid} is no block of a file`, { cause: error })
          throw error
        }
      }
    },
    async unpin(cid) {
      try {
        await ask('pin/rm', `?arg=${cid}`)
      } catch (error) {
        if (!(error instanceof KuboRefusedError && /not pinned/i.test(error.said))) throw error
      }
    },
  })
}

/** The last JSON line; nothing when it is no object. */
function parseAnswer(bytes: Uint8Array): Record<string, unknown> {
  try {
    const line = new TextDecoder().decode(bytes).trim().split('\n').at(-1) ?? ''
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}
