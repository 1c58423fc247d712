import { cidV0 } from '@market/contracts/cid'
import { type Market, MarketError, NetworkError } from './market.ts'
import type { CatalogStorage } from './publishCatalog.ts'

/** A token lives for 15 minutes, and with an old one the market would pin as for anybody, on a smaller quota. */
const SIGN_IN_EVERY_MS = 12 * 60_000
/** A market that is busy or restarting is worth waiting for; the quota of the day is not. */
const LONGEST_WAIT_SECONDS = 65
const TRIES = 6
/** Tries are counted here: a limit that the market names is waited for longer than a market that is not there. */
const ONCE = { retryForMs: 0 }

/**
 * A market as the place to publish to. `signIn` is called first and again before its token runs out; without it the market
 * pins for whoever has signed in to it, or for anybody. What may be different in a moment is tried again; what the market
 * refuses is thrown as its `MarketError`.
 */
export function marketStorage(market: Market, { signIn }: { signIn?: () => Promise<unknown> } = {}): CatalogStorage {
  let signedIn: { at: number; done: Promise<unknown> } | undefined
  /** One sign-in serves all who need it at the same time. */
  const beSignedIn = () => {
    if (!signIn || (signedIn && performance.now() - signedIn.at < SIGN_IN_EVERY_MS)) return signedIn?.done
    const attempt = { at: performance.now(), done: signIn() }
    signedIn = attempt
    attempt.done.catch(() => signedIn === attempt && (signedIn = undefined))
    return attempt.done
  }
  return {
    async get(cid) {
      const bytes = await patiently(() => market.raw(cid, ONCE))
      if (cidV0(bytes) !== cid) throw new Error(`what the market gave is not ${cid}`)
      return bytes
    },
    async put(bytes, mediaType) {
      await beSignedIn()
      return patiently(() =>
        mediaType === undefined ? market.pin(bytes, ONCE) : market.pinMedia(bytes, mediaType, ONCE),
      )
    },
  }
}

async function patiently<T>(work: () => Promise<T>): Promise<T> {
  for (let tried = 1; ; tried += 1) {
    try {
      return await work()
    } catch (error) {
      const seconds = secondsToWait(error, tried)
      if (seconds === undefined || tried === TRIES) throw error
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000))
    }
  }
}

/** Until another try; undefined when there is no point in one. */
function secondsToWait(error: unknown, tried: number): number | undefined {
  const patience = 0.2 * 2 ** tried
  if (!(error instanceof MarketError)) return error instanceof NetworkError ? patience : undefined
  if (error.status !== 429 && error.status < 500) return undefined
  const asked = error.retryAfterSeconds ?? patience
  return asked <= LONGEST_WAIT_SECONDS ? asked : undefined
}
