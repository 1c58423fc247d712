import { env } from '@market/kit/config'
import * as z from 'zod'
import { ASYMMETRIC_ALGORITHMS } from './signIn/issuerKeys.ts'

/** Seconds; zero and less read as the default (market-api.md 7). */
const seconds = (fallback: number) =>
  env.int(-1_000_000_000, 1_000_000_000, fallback).transform((n) => (n > 0 ? n : fallback))

/** Comma-separated; lower case. */
const addresses = () =>
  env
    .text()
    .pipe(env.list())
    .transform((list, ctx) => {
      const lower = list.map((address) => address.toLowerCase())
      const wrong = lower.find((address) => !/^0x[0-9a-f]{40}$/.test(address))
      if (wrong === undefined && lower.length > 0) return lower
      ctx.addIssue({ code: 'custom', message: `must be 0x addresses with commas between, not ${wrong ?? 'nothing'}` })
      return z.NEVER
    })

const TrustedIssuers = z.array(
  z.strictObject({
    issuer: z.string().min(1),
    jwksUrl: env.url(),
    audience: z.string().min(1),
    algorithms: z.array(z.enum(ASYMMETRIC_ALGORITHMS)).min(1).default(['RS256']),
  }),
)

/** Every variable market-api reads, with default and unit. `.env.example` lists the same. */
export const Variables = z.object({
  PORT: env.int(1, 65535, 5084),
  /** Address to listen on; unset = all of them. */
  HOST: env.text().optional(),
  /** Proxies in front that each add to X-Forwarded-For; 0 = the client is whoever connects. */
  TRUSTED_PROXY_HOPS: env.int(0, 10, 0),
  /** Requests that a client address may make in a window, counted by each replica; false: as many as it likes. */
  RATE_LIMIT_ENABLED: env.flag(true),
  RATE_LIMIT_GLOBAL_LIMIT: env.int(1, 1_000_000_000, 300),
  /** Seconds; the window of the limits below too. */
  RATE_LIMIT_GLOBAL_WINDOW_SECONDS: env.int(1, 86_400, 60),
  /** Of these, at most so many to sign in, to check out, and to pin or canonicalize. */
  RATE_LIMIT_AUTH_LIMIT: env.int(1, 1_000_000_000, 30),
  RATE_LIMIT_CHECKOUT_LIMIT: env.int(1, 1_000_000_000, 30),
  RATE_LIMIT_PIN_LIMIT: env.int(1, 1_000_000_000, 300),
  /** production (the image sets it): what is only good enough for a development machine stops the start. */
  NODE_ENV: z.string().optional(),
  LOG_LEVEL: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
  POSTGRES_CONNECTION: env.secret('is required: postgres://user:password@host:port/database'),
  POSTGRES_POOL_SIZE: env.int(4, 100, 20),
  DB_WAIT_SECONDS: env.int(0, 600, 30),

  /** false: the OpenAPI document and its page (`/openapi.json`, `/docs`) are not served. */
  MARKET_API_DOCS: env.flag(true),
  /** Where browsers reach this service; feed URLs and links are built from it. */
  PUBLIC_BASE_URL: env.url('is required: the URL browsers reach the market at, such as https://market.example.com'),
  /** Hosts (host[:port]) whose pages may ask for a sign-in. `*` admits any: development only. */
  MARKET_AUTH_ALLOWED_DOMAINS: env
    .text('is required: comma-separated hosts whose pages may sign in, such as shop.example.com')
    .pipe(env.list()),
  /** Ed25519 private key as JWK JSON, made by `ops jwt-key`. Only a market that trusts another issuer runs without one. */
  MARKET_JWT_PRIVATE_KEY: env.secret().optional(),
  /** JSON array of the keys before it, private or public: tokens they signed are good until they run out. */
  MARKET_JWT_PREVIOUS_KEYS: env.secret().optional(),
  MARKET_JWT_ISSUER: env.text().default('Circles.Market'),
  MARKET_JWT_AUDIENCE: env.text().default('market-api'),
  /** A service whose tokens count here; without a key of our own it also signs people in. */
  AUTH_SERVICE_URL: env.url().optional(),
  AUTH_JWT_ISSUER: env.text().default('circles-auth'),
  /** How long an issuer's keys count as fresh, and how much longer they are believed while it can't be reached. */
  AUTH_JWKS_CACHE_SECONDS: seconds(600),
  AUTH_JWKS_MAX_STALE_SECONDS: seconds(3600),
  /** More issuers: JSON array of `{issuer, jwksUrl, audience, algorithms?}`; algorithms are asymmetric, RS256 unless told. */
  MARKET_TRUSTED_ISSUERS: env
    .text()
    .transform((text, ctx) => {
      const parsed = TrustedIssuers.safeParse(parseJson(text))
      if (parsed.success) return parsed.data
      const { path, message } = parsed.error.issues[0]!
      ctx.addIssue({ code: 'custom', message: `is not as .env.example shows it: ${[...path, message].join(' ')}` })
      return z.NEVER
    })
    .optional(),

  /** Kubo's RPC. Unset: blocks are kept in IPFS_STORE_DIR by this process. */
  IPFS_RPC_URL: env.url().optional(),
  IPFS_RPC_BEARER: env.secret().optional(),
  IPFS_STORE_DIR: env.text().default('./ipfs'),
  IPFS_TIMEOUT_MS: env.int(100, 120_000, 5000),

  /** What a signed-in address may pin in a UTC day. */
  MARKET_PIN_OBJECTS_PER_DAY: env.int(0, 1_000_000_000, 200),
  MARKET_PIN_BYTES_PER_DAY: env.int(0, 1_000_000_000_000, 104_857_600),
  /** What a client address may pin in a UTC day without signing in; 0 = nothing. */
  MARKET_ANONYMOUS_PIN_BYTES_PER_DAY: env.int(0, 1_000_000_000_000, 33_554_432),
  /** Days after which what was in a catalog and no profile names any more is unpinned; 0 = everything is kept. */
  UNPIN_AFTER_DAYS: env.int(0, 3650, 0),

  CHAIN_ID: env.int(1, Number.MAX_SAFE_INTEGER, 100),
  RPC: env.url('is required: JSON-RPC of a node of the chain'),
  CIRCLES_RPC: env.url().optional(),
  NAME_REGISTRY_ADDRESS: z
    .string()
    .regex(/^0x[0-9a-fA-F]{40}$/, 'must be a 0x address')
    .toLowerCase()
    .default('0xa27566fd89162cc3d40cb59c87aaaa49b85f3474'),
  RPC_TIMEOUT_MS: env.int(100, 120_000, 15_000),

  /** Seconds between two looks at the name registry; a published change shows that much later at most, plus the reading. */
  CATALOG_POLL_SECONDS: env.int(1, 3600, 2),
  CATALOG_MAX_AVATARS: env.int(1, 10_000, 500),
  /** Avatars that are followed only because somebody asked for their catalog; sellers with a service route don't count. */
  CATALOG_MAX_VISITED_AVATARS: env.int(0, 1_000_000, 10_000),
  /** true: an avatar that lists signing keys in its profile is held to them, its own key included (catalog.md W33). */
  CATALOG_HOLD_TO_SIGNING_KEYS: env.flag(false),

  /** deny: only a signed-in buyer checks out. allow: anybody may, in the name of the basket's buyer. */
  MARKET_ANONYMOUS_CHECKOUT: z.enum(['allow', 'deny'], { error: 'must be allow or deny' }).default('allow'),
  /** Seconds an unpaid order keeps its goods, then it is cancelled; shorter for one placed without its buyer's token. */
  MARKET_PAYMENT_WINDOW_SECONDS: env.int(1, 2_592_000, 1800),
  MARKET_ANONYMOUS_PAYMENT_WINDOW_SECONDS: env.int(1, 2_592_000, 900),
  /** Unpaid orders at a time: of a signed-in buyer, and of a client network without one. Off with RATE_LIMIT_ENABLED. */
  MARKET_OPEN_ORDERS_PER_BUYER: env.int(1, 100_000, 100),
  MARKET_ANONYMOUS_OPEN_ORDERS: env.int(1, 100_000, 50),

  /** Days after which a basket that ran out is forgotten. */
  BASKET_RETENTION_DAYS: env.int(0, 3650, 7),
  /** Days after payment is final when names, addresses and contacts go from a delivered order; 0 = they are kept. */
  ORDER_PERSONAL_DATA_DAYS: env.int(0, 36_500, 0),

  /** Open event streams: of one address on each side (buyer, seller), and in all. Each replica counts its own. */
  SSE_MAX_SUBSCRIBERS_PER_KEY: env.int(1, 10_000, 100),
  SSE_MAX_STREAMS: env.int(1, 1_000_000, 10_000),
  /** A stream whose client leaves more than this unread is cut. */
  SSE_MAX_BUFFERED_BYTES: env.int(65_536, 16_777_216, 65_536),
  /** Seconds a completed order is kept from being told while an adapter has yet to answer for the first time. */
  SSE_HOLD_SECONDS: env.int(1, 86_400, 120),

  /** circles: an indexer at CIRCLES_RPC. evm: nothing but a node at RPC; needs PAYMENT_GATEWAY_FACTORY. */
  PAYMENTS_SOURCE: z.enum(['circles', 'evm'], { error: 'must be circles or evm' }).default('circles'),
  POLL_SECONDS: env.int(1, 3600, 5),
  PAGE_SIZE: env.int(1, 1000, 500),
  /** evm: no payment is older than this block, and at most so many blocks are asked for at once. */
  PAYMENTS_START_BLOCK: env.int(0, Number.MAX_SAFE_INTEGER, 0),
  PAYMENTS_LOG_RANGE: env.int(1, 10_000_000, 2000),
  /** Blocks on top of a payment; 0 = as soon as it is seen. */
  CONFIRM_CONFIRMATIONS: env.int(0, 10_000, 3),
  FINALIZE_CONFIRMATIONS: env.int(0, 10_000, 12),
  /** Gateways that payments may go to, no others; unset = any that an order names. */
  PAYMENT_GATEWAYS: addresses().optional(),
  /** The contracts that gateways are made by and report through. */
  PAYMENT_GATEWAY_FACTORY: addresses().optional(),
  /** true: only their word counts, which is the default once they are set. false: theirs is compared with everybody's. */
  PAYMENT_GATEWAY_FACTORY_ENFORCED: z
    .enum(['true', 'false', '1', '0'], { error: 'must be true or false' })
    .transform((text) => text === 'true' || text === '1')
    .optional(),
  /** Seconds until a gateway's trust is read again whole. */
  PAYMENT_TRUST_CACHE_TTL_SECONDS: env.int(1, 86_400, 60),
  /** Seconds the replica that reads payments may be silent before another takes over; unset or less than sense: see payments.md 10. */
  PAYMENTS_LEASE_SECONDS: z.string().optional(),
  /** Seconds a replica that indexes catalogs may be silent before another takes over. */
  LEASE_SECONDS: env.int(2, 3600, 30),

  /** Shared with the adapters. */
  CIRCLES_SERVICE_KEY: env.secret('is required: the key shared with the adapters'),
  MARKET_CODE_DISPENSER_TOKEN: env.secret().optional(),
  MARKET_CODE_DISPENSER_PORT: env.int(1, 65535, 5680),
  MARKET_CODE_DISPENSER_ORIGIN: env.url().optional(),
  MARKET_ODOO_ADAPTER_TOKEN: env.secret().optional(),
  MARKET_ODOO_ADAPTER_PORT: env.int(1, 65535, 5678),
  MARKET_ODOO_ADAPTER_ORIGIN: env.url().optional(),
  MARKET_UNLOCK_ADAPTER_TOKEN: env.secret().optional(),
  MARKET_UNLOCK_ADAPTER_PORT: env.int(1, 65535, 5682),
  MARKET_UNLOCK_ADAPTER_ORIGIN: env.url().optional(),
  MARKET_WOOCOMMERCE_ADAPTER_TOKEN: env.secret().optional(),
  MARKET_WOOCOMMERCE_ADAPTER_PORT: env.int(1, 65535, 5679),
  MARKET_WOOCOMMERCE_ADAPTER_ORIGIN: env.url().optional(),
  OUTBOUND_INVENTORY_TIMEOUT_MS: env.int(50, 60_000, 800),
  OUTBOUND_AVAILABILITY_TIMEOUT_MS: env.int(50, 60_000, 800),
  OUTBOUND_FULFILLMENT_TIMEOUT_MS: env.int(1000, 600_000, 45_000),
  OUTBOUND_MAX_RESPONSE_BYTES: env.int(1024, 16_777_216, 65_536),
  /** Redirects followed to look at stock; those of a configured adapter never are. */
  OUTBOUND_MAX_REDIRECTS: env.int(0, 20, 3),
  /** Calls to adapters under way at a time; 0: this replica dispatches nothing. */
  FULFILLMENT_WORKERS: env.int(0, 200, 48),
  /** Of these, to one seller's adapter of one kind. */
  FULFILLMENT_SELLER_CONCURRENCY: env.int(1, 200, 24),
  /** And to all sellers' adapters of one kind, slow ones included. */
  FULFILLMENT_ADAPTER_CONCURRENCY: env.int(1, 1000, 200),
  /**
   * Of older deployments, whose second pass over undelivered orders they steered. Jobs are tried again by themselves here, so
   * they have no other effect than to stop the start where they did before (fulfilment.md 11).
   */
  FULFILLMENT_RECONCILE_ENABLED: env.flag(false),
  FULFILLMENT_RECONCILE_ORDER_IDS: z
    .string()
    .regex(/[^\s,]/, 'names no order')
    .optional(),
  FULFILLMENT_RECONCILE_SETTLED_AFTER: z
    .string()
    .refine(isIsoTime, 'must be a time such as 2026-07-03 or 2026-07-03T12:00:00Z')
    .optional(),

  /** Fault tests only: the process kills itself at this named instant. */
  FAILPOINT: z.string().optional(),
})

const Checked = Variables.refine(
  ({ MARKET_JWT_PRIVATE_KEY, AUTH_SERVICE_URL, MARKET_TRUSTED_ISSUERS = [] }) =>
    MARKET_JWT_PRIVATE_KEY !== undefined || AUTH_SERVICE_URL !== undefined || MARKET_TRUSTED_ISSUERS.length > 0,
  {
    path: ['MARKET_JWT_PRIVATE_KEY'],
    message: 'is required: make one with `npm run ops -- jwt-key`',
    // Also when another variable is wrong: all of them are named at once.
    when: () => true,
  },
)
  .refine(
    (config) => config.PAYMENT_GATEWAY_FACTORY_ENFORCED !== true || config.PAYMENT_GATEWAY_FACTORY !== undefined,
    {
      path: ['PAYMENT_GATEWAY_FACTORY_ENFORCED'],
      message: 'is true, but PAYMENT_GATEWAY_FACTORY names no factory',
      when: () => true,
    },
  )
  .refine((config) => config.PAYMENTS_SOURCE !== 'evm' || config.PAYMENT_GATEWAY_FACTORY !== undefined, {
    path: ['PAYMENT_GATEWAY_FACTORY'],
    message: 'is required with PAYMENTS_SOURCE=evm: its logs are what is read',
    when: () => true,
  })
  .refine(
    (config) =>
      config.FULFILLMENT_RECONCILE_ENABLED !== true ||
      config.FULFILLMENT_RECONCILE_ORDER_IDS !== undefined ||
      config.FULFILLMENT_RECONCILE_SETTLED_AFTER !== undefined,
    {
      path: ['FULFILLMENT_RECONCILE_ENABLED'],
      message:
        'is true, but neither FULFILLMENT_RECONCILE_ORDER_IDS nor FULFILLMENT_RECONCILE_SETTLED_AFTER says for which orders',
      when: () => true,
    },
  )
  .refine(
    ({ NODE_ENV, PAYMENT_GATEWAY_FACTORY, PAYMENT_GATEWAYS }) =>
      NODE_ENV !== 'production' || PAYMENT_GATEWAY_FACTORY !== undefined || PAYMENT_GATEWAYS !== undefined,
    {
      path: ['PAYMENT_GATEWAY_FACTORY'],
      message: 'or PAYMENT_GATEWAYS is required in production: without them any contract could report a payment',
      when: () => true,
    },
  )

export const Config = Checked.transform((config) => ({
  ...config,
  PAYMENT_GATEWAY_FACTORY_ENFORCED:
    config.PAYMENT_GATEWAY_FACTORY_ENFORCED ?? config.PAYMENT_GATEWAY_FACTORY !== undefined,
  PAYMENTS_LEASE_SECONDS: paymentsLease(config.PAYMENTS_LEASE_SECONDS, config.POLL_SECONDS),
}))
export type Config = z.infer<typeof Config>

/** payments.md 10: never shorter than a poll; what is no number reads as unset. */
function paymentsLease(text: string | undefined, pollSeconds: number): number {
  const asked = /^[0-9]{1,9}$/.test(text ?? '') ? Number(text) : undefined
  return asked === undefined ? Math.max(30, 6 * pollSeconds) : Math.max(pollSeconds + 1, asked)
}

/** A day, or a time in seconds or finer, with an offset or without; of a day that the calendar has. */
function isIsoTime(text: string): boolean {
  if (!/^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?)?$/.test(text)) return false
  const day = text.slice(0, 10)
  const midnight = new Date(`${day}T00:00:00Z`)
  if (Number.isNaN(midnight.getTime()) || Number.isNaN(Date.parse(text))) return false
  return midnight.toISOString().startsWith(day)
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
