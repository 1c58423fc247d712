import { messageOf } from '@market/kit/errors'
import type { MarketContext } from '../context.ts'
import { type BlockRef, endOfBlock, type LogPosition, PaymentSourceError, type TrustLog } from './paymentSource.ts'
import { deepBlock } from './resolveDoubts.ts'
import { comparePositions, trustedAt } from './trust.ts'

/** What a gateway said, by whom: all of it, and what the factories vouch for. Null = not known. */
type Words = { all: TrustLog[] | null; anchored: TrustLog[] | null }

/** Of deep blocks alone, up to `coveredTo`. */
type KnownTrust = Words & { coveredTo: number; readAt: number }

/** What the poller remembers of gateways' trust, by gateway. */
export type TrustMemory = Map<string, KnownTrust>

const upTo = (logs: TrustLog[] | null, block: number) => logs && logs.filter(({ blockNumber }) => blockNumber <= block)

/** How long trust that can't be read anew is believed, in times of its age limit (payments.md W13). */
const MAX_STALENESS = 10

/**
 * The trust of these gateways up to a block: read again when it is old, or only what came since. A gateway that can't be read is
 * left out, so that it holds up no other; its transfers stay undecided (payments.md 6).
 */
export async function readTrust(
  ctx: MarketContext,
  gateways: Map<string, number>,
  head: BlockRef,
): Promise<Map<string, Words>> {
  const read = await Promise.all(
    [...gateways].map(async ([gateway, block]) => [gateway, await trustOf(ctx, gateway, block, head)] as const),
  )
  return new Map(read.flatMap(([gateway, words]) => (words ? [[gateway, words]] : [])))
}

async function trustOf(ctx: MarketContext, gateway: string, block: number, head: BlockRef): Promise<Words | undefined> {
  const { trust } = ctx.paymentMemory
  const ttlMs = ctx.config.PAYMENT_TRUST_CACHE_TTL_SECONDS * 1000
  const known = trust.get(gateway)
  const age = known ? ctx.now().getTime() - known.readAt : Infinity
  if (known && known.coveredTo >= block && age < ttlMs) return known
  try {
    const isFresh = known !== undefined && age < ttlMs
    const words = await readWords(ctx, gateway, isFresh ? known : undefined)
    if (known) requireWhatWasSaid(ctx, known, words)
    const readAt = isFresh ? known.readAt : ctx.now().getTime()
    // An indexer may follow a reorg long after the node did, and nobody notices: of what is not deep nothing is kept.
    const coveredTo = Math.max(Math.min(block, deepBlock(ctx, head)), known?.coveredTo ?? -1)
    if (coveredTo < 0) return words
    trust.set(gateway, {
      all: upTo(words.all, coveredTo),
      anchored: upTo(words.anchored, coveredTo),
      coveredTo,
      readAt,
    })
    return words
  } catch (error) {
    ctx.metrics.trustFailures.inc()
    // Nothing that was said up to a block changes later, save by a reorg, which clears this memory.
    const isUsable = known !== undefined && known.coveredTo >= block && age < MAX_STALENESS * ttlMs
    ctx.log.warn({ gateway, reason: messageOf(error), stale: isUsable }, 'trust of gateway not readable')
    return isUsable ? known : undefined
  }
}

/**
 * A source that is being set up anew knows no trust for a while, and nobody is untrusted for that.
 *
 * @throws PaymentSourceError when something is missing
 */
function requireWhatWasSaid({ config }: MarketContext, known: KnownTrust, words: Words): void {
  const which = config.PAYMENT_GATEWAY_FACTORY_ENFORCED ? 'anchored' : 'all'
  const now = new Set(words[which]?.map(wordOf))
  if (known[which]?.some((log) => !now.has(wordOf(log))))
    throw new PaymentSourceError('trust that was there is missing')
}

const wordOf = (log: TrustLog) =>
  [log.blockNumber, log.transactionIndex, log.logIndex, log.trustReceiver, log.expirySeconds].join()

async function readWords(ctx: MarketContext, gateway: string, known: KnownTrust | undefined): Promise<Words> {
  const { PAYMENT_GATEWAY_FACTORY: factories, PAYMENT_GATEWAY_FACTORY_ENFORCED: enforced } = ctx.config
  const read = async (before: TrustLog[] | null | undefined, emitters?: readonly string[]) => {
    // Not from the last word on: that may be long ago, and a node that gives few blocks at once would be asked often.
    const after = known && before ? endOfBlock(known.coveredTo) : undefined
    const newer = await ctx.paymentSource.readTrust(gateway, {
      ...(emitters ? { emitters } : {}),
      ...(after ? { after } : {}),
    })
    return after ? [...before!.filter((log) => comparePositions(log, after) <= 0), ...newer] : newer
  }
  if (!factories) return { all: await read(known?.all), anchored: null }
  if (enforced) {
    // What others say only serves to notice that they say something else.
    const [anchored, all] = await Promise.all([read(known?.anchored, factories), read(known?.all).catch(() => null)])
    return { all, anchored }
  }
  const all = await read(known?.all)
  const isAnchorable = all.every(({ emitter }) => emitter !== null)
  return { all, anchored: isAnchorable ? all.filter(({ emitter }) => factories.includes(emitter!)) : null }
}

/** Whether the gateway trusted the token at that place in the chain, by the rule that is configured (payments.md 6). */
export function judge(
  ctx: MarketContext,
  { all, anchored }: Words,
  transfer: LogPosition & { txHash: string; gateway: string; avatar: string; blockTime: Date },
): boolean {
  const seconds = BigInt(Math.floor(transfer.blockTime.getTime() / 1000))
  const verdict = (logs: TrustLog[] | null) => logs && trustedAt(logs, transfer.avatar, transfer, seconds)
  const [byAll, byFactory] = [verdict(all), verdict(anchored)]
  const mode = ctx.config.PAYMENT_GATEWAY_FACTORY_ENFORCED ? 'enforced' : 'shadow'
  if (byAll !== null && byFactory !== null && byAll !== byFactory) {
    ctx.metrics.factoryDivergence.inc({ mode })
    ctx.log.warn(
      { event: 'payment_factory_divergence', mode, gateway: transfer.gateway, tx: transfer.txHash, byAll, byFactory },
      'others than the factory say something else about a token',
    )
  }
  return (ctx.config.PAYMENT_GATEWAY_FACTORY_ENFORCED ? byFactory : byAll) === true
}
