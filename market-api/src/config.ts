import { env } from '@market/kit/config'
import * as z from 'zod'

/** Every variable market-api reads, with default and unit. `.env.example` lists the same. */
export const Config = z.object({
  PORT: env.int(1, 65535, 5084),
  /** Address to listen on; unset = all of them. */
  HOST: env.text().optional(),
  /** Proxies in front that each add to X-Forwarded-For; 0 = the client is whoever connects. */
  TRUSTED_PROXY_HOPS: env.int(0, 10, 0),
  LOG_LEVEL: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
  POSTGRES_CONNECTION: env.secret('is required: postgres://user:password@host:port/database'),
  POSTGRES_POOL_SIZE: env.int(4, 100, 20),
  DB_WAIT_SECONDS: env.int(0, 600, 30),

  /** Where browsers reach this service; feed URLs and links are built from it. */
  PUBLIC_BASE_URL: env.url('is required: the URL browsers reach the market at, such as https://market.example.com'),
  /** Hosts (host[:port]) whose pages may ask for a sign-in. `*` admits any: development only. */
  MARKET_AUTH_ALLOWED_DOMAINS: env
    .text('is required: comma-separated hosts whose pages may sign in, such as shop.example.com')
    .pipe(env.list()),
  /** Ed25519 private key as JWK JSON, made by `ops jwt-key`. */
  MARKET_JWT_PRIVATE_KEY: env.secret('is required: make one with `npm run ops -- jwt-key`'),
  MARKET_JWT_ISSUER: env.text().default('Circles.Market'),
  MARKET_JWT_AUDIENCE: env.text().default('market-api'),

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

  POLL_SECONDS: env.int(1, 3600, 5),
  PAGE_SIZE: env.int(1, 1000, 500),
  CONFIRM_CONFIRMATIONS: env.int(0, 10_000, 3),
  FINALIZE_CONFIRMATIONS: env.int(0, 10_000, 12),
  /** Seconds a replica that polls or indexes may be silent before another takes over. */
  LEASE_SECONDS: env.int(2, 3600, 30),

  /** Shared with the adapters. */
  CIRCLES_SERVICE_KEY: env.secret('is required: the key shared with the adapters'),
  MARKET_CODE_DISPENSER_TOKEN: env.secret().optional(),
  MARKET_CODE_DISPENSER_PORT: env.int(1, 65535, 5680),
  MARKET_CODE_DISPENSER_ORIGIN: env.url().optional(),
  OUTBOUND_INVENTORY_TIMEOUT_MS: env.int(50, 60_000, 800),
  OUTBOUND_AVAILABILITY_TIMEOUT_MS: env.int(50, 60_000, 800),
  OUTBOUND_FULFILLMENT_TIMEOUT_MS: env.int(1000, 600_000, 45_000),
  OUTBOUND_MAX_RESPONSE_BYTES: env.int(1024, 16_777_216, 65_536),
  /** Redirects followed to look at stock; those of a configured adapter never are. */
  OUTBOUND_MAX_REDIRECTS: env.int(0, 20, 3),
  FULFILLMENT_WORKERS: env.int(0, 100, 8),

  /** Fault tests only: the process kills itself at this named instant. */
  FAILPOINT: z.string().optional(),
})
export type Config = z.infer<typeof Config>
