import { type CustomDataLink, type LinkFaultCode, linkPreimage, verifyEoaSignature } from '@market/contracts/link'
import { isContractSignature, signatureCalls } from '@market/contracts/safeMessage'
import { accountAccepts, type AccountKind, readAccountKind } from '../chain/accounts.ts'
import { connectNode, NodeError, numberOf } from '../chain/node.ts'
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
const KEEP_ACCOUNT_MS: Record<AccountKind, number> = {
  none: MINUTE_MS,
  contract: 60 * MINUTE_MS,
  delegated: 60 * MINUTE_MS,
}
const ACCOUNTS_KEPT = 20_000
const BLOCK_KEPT_MS = 1_000

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
    const kind = await readAccountKind(ask, account)
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
    return (await accountAccepts(ask, signer, calls)) ? block : undefined
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
