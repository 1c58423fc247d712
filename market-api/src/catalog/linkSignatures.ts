import { type CustomDataLink, type LinkFaultCode, linkPreimage, verifyEoaSignature } from '@market/contracts/link'
import { isContractSignature, signatureCalls } from '@market/contracts/safeMessage'
import { createGate } from '@market/kit/gate'
import { readCapped } from '@market/kit/outbound'
import { recoverSigner } from './recoverSigner.ts'

/** Checks 6 to 8 of catalog.md 2.8. */
export type SignatureVerdict =
  | {
      kind: 'valid'
      /** Lower case. */
      signer: string
      /** The contract said yes at this block or a later one; null = an account's own key, valid for ever. */
      block: bigint | null
    }
  | {
      kind: 'invalid'
      code: LinkFaultCode
      /** For people; never text from the link or from upstream. */
      reason: string
      /** What the account was. An account gets code, a contract gets other owners: neither answer is for ever. */
      account: 'none' | 'contract'
    }
  | {
      /** The chain did not answer: the link is neither accepted nor refused, and nothing is to be remembered. */
      kind: 'unknown'
      reason: string
    }

export type LinkSignatures = {
  /** For a link that passed `checkLinkShape` for this chain, with the digest from there. */
  check(link: CustomDataLink, digest: string): Promise<SignatureVerdict>
}

const MINUTE_MS = 60_000
/** catalog.md 4.7. A Safe is often deployed after it signed first, so "no code" is looked up again soon (W17). */
const KEEP_ACCOUNT_MS = { none: MINUTE_MS, contract: 60 * MINUTE_MS, delegated: 60 * MINUTE_MS }
const ACCOUNTS_KEPT = 20_000
const BLOCK_KEPT_MS = 1_000
/** catalog.md 4.7. */
const CALLS_AT_ONCE = 32
/** A contract has at most 24 KiB of code; what answers with more than this is no node. */
const MAX_ANSWER_BYTES = 256 * 1024

/** `delegated`: a key's account that borrows a contract's code (EIP-7702); the key goes on to be valid. */
type AccountKind = keyof typeof KEEP_ACCOUNT_MS

/** Who signed a link, asked of the chain where the signer has code (catalog.md 2.4, 2.5). `now` in ms. */
export function connectLinkSignatures(options: {
  rpcUrl: string
  chainId: number
  timeoutMs: number
  now?: () => number
}): LinkSignatures {
  const { chainId, now = Date.now } = options
  const ask = connectNode(options)
  const kindOf = keep(ACCOUNTS_KEPT, now, async (account: string) => {
    const kind = kindOfCode(hexOf(await ask('eth_getCode', [account, 'latest'])))
    return { value: kind, keepMs: KEEP_ACCOUNT_MS[kind] }
  })
  // Read before the contract is asked: what it says held at this block or later, so a verdict never looks too new.
  const blockOf = keep(1, now, async (_chain: 'latest') => {
    const value = numberOf(await ask('eth_blockNumber', []))
    return { value, keepMs: BLOCK_KEPT_MS }
  })

  /** The block at which the contract vouched for the signature; undefined when it does not. */
  const askContract = async (link: CustomDataLink, digest: string, signer: string): Promise<bigint | undefined> => {
    const block = await blockOf('latest')
    const calls = signatureCalls({ preimage: linkPreimage(link), digest, chainId, signer, signature: link.signature })
    for (const { data, magic } of calls) {
      // A Safe judges only for itself as caller. No gas: nodes that take a given one literally fail every call (W-56).
      const answer = await ask('eth_call', [{ from: signer, to: signer, data }, 'latest']).catch(nothing)
      if (hexOf(answer).startsWith(magic)) return block
    }
    return undefined
  }

  const check = async (link: CustomDataLink, digest: string): Promise<SignatureVerdict> => {
    if (!isContractSignature(link.signature)) {
      // Of no account, whatever the chain would say.
      return { kind: 'invalid', code: 'SIG_SHAPE', reason: 'signature is no hex of allowed length', account: 'none' }
    }
    const signer = link.signerAddress.toLowerCase()
    const kind = await kindOf(signer)
    if (kind !== 'none') {
      const block = await askContract(link, digest, signer)
      if (block !== undefined) return { kind: 'valid', signer, block }
      if (kind === 'contract') return REFUSED
    }
    const own = verifyEoaSignature(link, digest, recoverSigner)
    if (own.ok) return { kind: 'valid', signer, block: null }
    if (kind === 'delegated') return REFUSED
    return { kind: 'invalid', code: own.code, reason: own.reason, account: 'none' }
  }

  return {
    check: (link, digest) =>
      check(link, digest).catch((error: unknown) => {
        if (error instanceof NodeError) return { kind: 'unknown', reason: error.message }
        throw error
      }),
  }
}

const REFUSED: SignatureVerdict = {
  kind: 'invalid',
  code: 'SIGNER',
  reason: 'the account of signerAddress does not accept the signature',
  account: 'contract',
}

function kindOfCode(code: string): AccountKind {
  if (code === '0x') return 'none'
  return code.startsWith('0xef0100') ? 'delegated' : 'contract'
}

/**
 * Remembers what `load` finds, the newest `size` of it, each as long as `load` says. Who asks while it is being looked up
 * waits for the same answer; a failure is told to them and then forgotten.
 */
export function keep<K, V>(size: number, now: () => number, load: (key: K) => Promise<{ value: V; keepMs: number }>) {
  const known = new Map<K, { value: Promise<V>; until: number }>()
  return (key: K): Promise<V> => {
    const found = known.get(key)
    if (found && now() < found.until) return found.value
    const loading = load(key)
    const entry = { value: loading.then(({ value }) => value), until: Infinity }
    loading.then(
      ({ keepMs }) => (entry.until = now() + keepMs),
      () => known.get(key) === entry && known.delete(key),
    )
    // Behind all others, so that the first one is always the oldest.
    known.delete(key)
    known.set(key, entry)
    for (const oldest of known.keys()) {
      if (known.size <= size) break
      known.delete(oldest)
    }
    return entry.value
  }
}

/** The node did not answer, or with something that is no answer. Its message holds nothing from upstream. */
class NodeError extends Error {}

/** The contract was run and gave no answer. */
class ExecutionError extends NodeError {}

/** geth, Nethermind, Erigon, Besu, reth and anvil, for a revert and for what else ends a contract before its time. */
const EXECUTION_ENDED =
  /revert|opcode|bad ?instruction|out ?of ?gas|stack ?(under|over)flow|(invalid|bad) ?jump|write protection|evm error/i

/** What an account without an answer says: nothing. */
function nothing(error: unknown): string {
  if (error instanceof ExecutionError) return '0x'
  throw error
}

function hexOf(result: unknown): string {
  if (typeof result === 'string' && /^0x[0-9a-f]*$/i.test(result)) return result.toLowerCase()
  throw new NodeError('the answer is not hex')
}

function numberOf(result: unknown): bigint {
  if (typeof result === 'string' && /^0x[0-9a-f]{1,16}$/i.test(result)) return BigInt(result)
  throw new NodeError('the answer is not a number')
}

/** JSON-RPC, one call a request: in a batch, one contract that computes for seconds would hold up the answers to others. */
function connectNode({ rpcUrl, timeoutMs }: { rpcUrl: string; timeoutMs: number }) {
  const inTurn = createGate(CALLS_AT_ONCE)
  let lastId = 0
  return (method: string, params: unknown[]): Promise<unknown> => {
    const id = (lastId += 1)
    const body = JSON.stringify({ jsonrpc: '2.0', id, method, params })
    // Counts the wait for a turn as well: when the node hangs, nobody waits for more than one time-out.
    const signal = AbortSignal.timeout(timeoutMs)
    return inTurn(async () => resultOf(await post(rpcUrl, body, signal, method), id, method))
  }
}

async function post(url: string, body: string, signal: AbortSignal, method: string): Promise<string> {
  const headers = { 'Content-Type': 'application/json', Accept: 'application/json' }
  const attempt = async () => {
    const response = await fetch(url, { method: 'POST', headers, body, signal })
    return { status: response.status, bytes: await readCapped(response, MAX_ANSWER_BYTES) }
  }
  const { status, bytes } = await attempt()
    // Once more, for the connection that the node closed while it was idle.
    .catch((error) => (signal.aborted ? Promise.reject(error) : attempt()))
    .catch((error) => {
      throw new NodeError(`${method}: ${signal.aborted ? 'no answer in time' : 'no answer'}`, { cause: error })
    })
  if (status !== 200) throw new NodeError(`${method}: HTTP ${status}`)
  return new TextDecoder().decode(bytes)
}

function resultOf(text: string, id: number, method: string): unknown {
  let answer: { id?: unknown; result?: unknown; error?: { code?: unknown; message?: unknown; data?: unknown } } | null
  try {
    answer = JSON.parse(text)
  } catch {
    throw new NodeError(`${method}: the answer is not JSON`)
  }
  // Without the id, an answer mixed up on its way could vouch for another signature.
  if (answer?.id !== id) throw new NodeError(`${method}: the answer is to another call`)
  const { error, result } = answer
  if (!error) return result
  const { code, message, data } = error
  const said = [message, data].filter((part) => typeof part === 'string').join(' ')
  if (code === 3 || EXECUTION_ENDED.test(said)) throw new ExecutionError(`${method}: the contract gave up`)
  throw new NodeError(`${method}: error ${typeof code === 'number' ? code : 'without a code'}`)
}
