import type { Database } from '@market/kit/db'
import type { Failpoint } from '@market/kit/failpoint'
import type { Log } from '@market/kit/log'
import type { Kysely } from 'kysely'
import type { CatalogIndexer } from './catalog/indexer.ts'
import type { Ipfs } from './catalog/ipfs/ipfs.ts'
import type { LinkSignatures } from './catalog/linkSignatures.ts'
import type { NameRegistry } from './catalog/nameRegistry.ts'
import type { createPageCache } from './catalog/pageCache.ts'
import type { Config } from './config.ts'
import type { MarketDatabase } from './db/types.ts'
import type { OrderStreams } from './orders/events/orderStreams.ts'
import type { AdapterClient } from './serviceRoutes/adapterClient.ts'
import type { PaymentMemory } from './payments/paymentMemory.ts'
import type { PaymentSource } from './payments/paymentSource.ts'
import type { AuthService } from './signIn/authService.ts'
import type { SignInLimits } from './signIn/limits.ts'
import type { Tokens } from './signIn/tokens.ts'
import type { TrustedIssuers } from './signIn/trustedIssuers.ts'
import type { WalletSignatures } from './signIn/walletSignatures.ts'
import type { MarketMetrics } from './metrics.ts'

/** What a verb is handed: the database, the clock, randomness, the log, and the ports to the outside world. */
export type MarketContext = {
  config: Config
  database: Database<MarketDatabase>
  db: Kysely<MarketDatabase>
  now: () => Date
  /** 16 bytes of a CSPRNG. */
  random16: () => Uint8Array
  log: Log
  metrics: MarketMetrics
  failpoint: Failpoint
  tokens: Tokens
  issuers: TrustedIssuers
  wallets: WalletSignatures
  signInLimits: SignInLimits
  /** Who signs people in when we have no key to do it with. */
  authService: AuthService | undefined
  ipfs: Ipfs
  nameRegistry: NameRegistry
  signatures: LinkSignatures
  indexer: CatalogIndexer
  pages: ReturnType<typeof createPageCache>
  orderStreams: OrderStreams
  paymentSource: PaymentSource
  paymentMemory: PaymentMemory
  adapters: AdapterClient
  /** Names this process among replicas: lease holder, job lock. */
  instance: string
}
