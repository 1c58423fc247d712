import { randomBytes, randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import type { Database } from '@market/kit/db'
import { failpointOf } from '@market/kit/failpoint'
import type { Log } from '@market/kit/log'
import { createIndexer } from './catalog/indexer.ts'
import { connectLinkSignatures } from './catalog/linkSignatures.ts'
import { connectNameRegistry } from './catalog/nameRegistry.ts'
import { createPageCache } from './catalog/pageCache.ts'
import type { Config } from './config.ts'
import type { MarketContext } from './context.ts'
import type { MarketDatabase } from './db/types.ts'
import { createMarketMetrics } from './metrics.ts'
import { openIpfs } from './ops.ts'
import { createOrderStreams } from './orders/events/orderStreams.ts'
import { connectCirclesRpc } from './payments/circlesRpc.ts'
import { connectEvmNode } from './payments/evmNode.ts'
import { createPaymentMemory } from './payments/paymentMemory.ts'
import type { PaymentSource } from './payments/paymentSource.ts'
import { createAdapterClient } from './serviceRoutes/adapterClient.ts'
import { serviceKeys } from './serviceRoutes/adapters.ts'
import { connectAuthService } from './signIn/authService.ts'
import { createSignInLimits } from './signIn/limits.ts'
import { createTokens } from './signIn/tokens.ts'
import { createTrustedIssuers, issuerKeyStore, trustedIssuers } from './signIn/trustedIssuers.ts'
import { connectWalletSignatures } from './signIn/walletSignatures.ts'

/** Everything a verb needs, as configured. Throws `StartupError` for what is configured wrongly; asks nobody yet. */
export async function createContext(
  config: Config,
  log: Log,
  openMarketDatabase: () => Database<MarketDatabase>,
): Promise<MarketContext> {
  const now = () => ctx.now()
  const issuers = createTrustedIssuers(trustedIssuers(config), {
    cacheSeconds: config.AUTH_JWKS_CACHE_SECONDS,
    maxStaleSeconds: config.AUTH_JWKS_MAX_STALE_SECONDS,
    store: issuerKeyStore(() => ctx.db),
    now,
    log,
  })
  const tokens = await createTokens({
    privateKeyJwk: config.MARKET_JWT_PRIVATE_KEY?.reveal(),
    previousKeysJwk: config.MARKET_JWT_PREVIOUS_KEYS?.reveal(),
    issuer: config.MARKET_JWT_ISSUER,
    audience: config.MARKET_JWT_AUDIENCE,
    allowedDomains: config.MARKET_AUTH_ALLOWED_DOMAINS,
    issuers,
    now,
  })
  const ipfs = await openIpfs(config)
  const chain = { rpcUrl: config.RPC, timeoutMs: config.RPC_TIMEOUT_MS }
  const database = openMarketDatabase()
  const ctx: MarketContext = {
    config,
    database,
    db: database.db,
    now: () => new Date(),
    random16: () => randomBytes(16),
    log,
    metrics: createMarketMetrics(database.db, config.CHAIN_ID),
    failpoint: failpointOf(config.FAILPOINT),
    tokens,
    issuers,
    wallets: connectWalletSignatures({ ...chain, chainId: config.CHAIN_ID }),
    signInLimits: createSignInLimits({ enabled: config.RATE_LIMIT_ENABLED, nowMs: () => ctx.now().getTime() }),
    authService: config.AUTH_SERVICE_URL ? connectAuthService(config.AUTH_SERVICE_URL) : undefined,
    ipfs,
    nameRegistry: connectNameRegistry(config.RPC, config.NAME_REGISTRY_ADDRESS, config.RPC_TIMEOUT_MS),
    signatures: connectLinkSignatures({ ...chain, chainId: config.CHAIN_ID }),
    // It works with what the context holds when it works, so that a test may put another port in.
    indexer: createIndexer(() => ctx),
    pages: createPageCache(),
    orderStreams: createOrderStreams(() => ctx),
    paymentSource: connectPayments(config),
    paymentMemory: createPaymentMemory(),
    adapters: createAdapterClient({
      keys: serviceKeys(config),
      inventoryTimeoutMs: config.OUTBOUND_INVENTORY_TIMEOUT_MS,
      availabilityTimeoutMs: config.OUTBOUND_AVAILABILITY_TIMEOUT_MS,
      fulfillmentTimeoutMs: config.OUTBOUND_FULFILLMENT_TIMEOUT_MS,
      maxResponseBytes: config.OUTBOUND_MAX_RESPONSE_BYTES,
      maxRedirects: config.OUTBOUND_MAX_REDIRECTS,
    }),
    instance: `${hostname()}:${randomUUID()}`,
  }
  return ctx
}

function connectPayments(config: Config): PaymentSource {
  const node = { rpc: config.RPC, timeoutMs: config.RPC_TIMEOUT_MS, chainId: config.CHAIN_ID }
  if (config.PAYMENTS_SOURCE === 'circles')
    return connectCirclesRpc({ ...node, circlesRpc: config.CIRCLES_RPC ?? config.RPC })
  return connectEvmNode({
    ...node,
    factories: config.PAYMENT_GATEWAY_FACTORY!,
    startBlock: config.PAYMENTS_START_BLOCK,
    logRange: config.PAYMENTS_LOG_RANGE,
  })
}
