/** A sign-in. Plain data: a page may keep it and hand it to the next `Market`. */
export type Session = {
  token: string
  /** Who signed in, lower case. */
  address: string
  chainId: number
  /** Unix milliseconds, by this machine's clock. */
  expiresAtMs: number
}

/** A token about to run out might do so on its way. */
const RENEW_BEFORE_MS = 30_000
const LEAST_LEFT_MS = 5000

export type SessionKeeper = ReturnType<typeof keepSession>

/** Who is signed in, signed in again by `renew` when that runs out. Whoever never signed in, or signed out, is left alone. */
export function keepSession(renew?: () => Promise<unknown>, first?: Session) {
  let session = first
  let renewing: Promise<void> | undefined
  const current = () => session
  const leftMs = () => (session ? session.expiresAtMs - Date.now() : 0)

  /** One at a time, for all who need it. */
  const renewOnce = () =>
    (renewing ??= (async () => {
      await renew!()
    })().finally(() => (renewing = undefined)))

  return {
    get: current,
    set(next: Session | undefined) {
      session = next
    },

    /** What to send; undefined when nobody is signed in any more. Throws what `renew` throws. */
    async token(): Promise<string | undefined> {
      if (session && renew && leftMs() < RENEW_BEFORE_MS) await renewOnce()
      return leftMs() > LEAST_LEFT_MS ? session!.token : undefined
    },

    /** The market refused this token. True when there is another one to try with. */
    async replace(refused: string | undefined): Promise<boolean> {
      if (!session || !renew) return false
      // Otherwise somebody else met the same refusal and has signed in since.
      if (session.token === refused) await renewOnce()
      const token = current()?.token
      return token !== undefined && token !== refused
    },
  }
}
