import type { JsonObject } from '@market/contracts/canonicalJson'
import { StartupError } from '@market/kit/errors'
import { createGuardedFetch } from '@market/kit/guardedFetch'
import type { Log } from '@market/kit/log'
import type { Kysely } from 'kysely'
import type { Config } from '../config.ts'
import type { MarketDatabase } from '../db/types.ts'
import { type IssuerKeys, type IssuerKeyStore, type KeyAges, keepIssuerKeys, type TrustedIssuer } from './issuerKeys.ts'

export type TrustedIssuers = {
  find(issuer: string): (TrustedIssuer & { keys: IssuerKeys }) | undefined
  /** Fetches the keys that are due, of each issuer by itself. Never throws; ends early with the signal. */
  refresh(signal?: AbortSignal): Promise<void>
}

/** How often it is looked whether keys are due; `createTrustedIssuers` knows when they are. */
export const REFRESH_SECONDS = 5

const TIMEOUT_MS = 10_000
const MAX_DOCUMENT_BYTES = 256 * 1024

/** The issuers that are configured. Throws `StartupError` when two go by one name: a token's keys must not be a guess. */
export function trustedIssuers(config: Config): TrustedIssuer[] {
  const service: TrustedIssuer[] = config.AUTH_SERVICE_URL
    ? [
        {
          issuer: config.AUTH_JWT_ISSUER,
          jwksUrl: `${config.AUTH_SERVICE_URL}/.well-known/jwks.json`,
          audience: config.MARKET_JWT_AUDIENCE,
          algorithms: ['RS256'],
        },
      ]
    : []
  const others = [...service, ...(config.MARKET_TRUSTED_ISSUERS ?? [])]
  const ownKeys = config.MARKET_JWT_PRIVATE_KEY ?? config.MARKET_JWT_PREVIOUS_KEYS
  const names = [...(ownKeys ? [config.MARKET_JWT_ISSUER] : []), ...others.map(({ issuer }) => issuer)]
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice === undefined) return others
  throw new StartupError(
    `${JSON.stringify(twice)} names two issuers: compare MARKET_JWT_ISSUER, AUTH_JWT_ISSUER and MARKET_TRUSTED_ISSUERS`,
  )
}

/** The issuers whose tokens count here beside our own (market-api.md 3.1). Asks none of them yet. */
export function createTrustedIssuers(
  issuers: TrustedIssuer[],
  options: KeyAges & { store: IssuerKeyStore; now: () => Date; log: Log },
): TrustedIssuers {
  // Their origins are the operator's word, so they may be private; what they redirect to is not followed.
  const fetchGuarded = createGuardedFetch({
    configured: new Map(issuers.map(({ jwksUrl }) => [new URL(jwksUrl).origin, { Accept: 'application/json' }])),
    maxRedirects: 0,
    maxResponseBytes: MAX_DOCUMENT_BYTES,
  })
  const fetchText = async (url: string) => {
    const { status, text } = await fetchGuarded(url, { timeoutMs: TIMEOUT_MS, configuredOnly: true })
    if (status !== 200) throw new Error(`HTTP ${status}`)
    return text
  }
  const now = () => options.now().getTime()
  const known = new Map(
    issuers.map((one) => [one.issuer, { ...one, keys: keepIssuerKeys(one, { ...options, fetchText, now }) }]),
  )

  return {
    find: (issuer) => known.get(issuer),
    async refresh(signal) {
      const all = [...known.values()].map(async ({ keys }) => {
        await keys.ready()
        await keys.refreshWhenDue()
      })
      // A fetch under way may take 10 s; who stops need not wait for it.
      await new Promise<void>((resolve, reject) => {
        const stop = () => resolve()
        const finished = Promise.all(all).finally(() => signal?.removeEventListener('abort', stop))
        finished.then(stop, reject)
        signal?.addEventListener('abort', stop)
        if (signal?.aborted) stop()
      })
    },
  }
}

/** Keys in the table `issuer_keys`; of several replicas the one that fetched last counts. */
export function issuerKeyStore(db: () => Kysely<MarketDatabase>): IssuerKeyStore {
  return {
    async load(issuer) {
      const row = await db()
        .selectFrom('issuer_keys')
        .select(['jwks', 'fetched_at'])
        .where('issuer', '=', issuer)
        .executeTakeFirst()
      return row && { jwks: row.jwks, fetchedAt: row.fetched_at }
    },
    async save(issuer, jwks, fetchedAt) {
      await db()
        .insertInto('issuer_keys')
        .values({ issuer, jwks: jwks as JsonObject, fetched_at: fetchedAt })
        .onConflict((conflict) =>
          conflict
            .column('issuer')
            .doUpdateSet(({ ref }) => ({ jwks: ref('excluded.jwks'), fetched_at: ref('excluded.fetched_at') }))
            .whereRef('issuer_keys.fetched_at', '<=', 'excluded.fetched_at'),
        )
        .execute()
    },
  }
}
