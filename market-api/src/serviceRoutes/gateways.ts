import { messageOf, UpstreamError } from '@market/kit/errors'
import type { Kysely } from 'kysely'
import type { MarketContext } from '../context.ts'
import type { MarketDatabase } from '../db/types.ts'

/** The gateways on record of each of these sellers; one query however many. */
export async function findGateways(
  db: Kysely<MarketDatabase>,
  chainId: number,
  sellers: string[],
): Promise<Map<string, Set<string>>> {
  if (sellers.length === 0) return new Map()
  const rows = await db
    .selectFrom('seller_gateways')
    .select(['seller_address', 'gateway_address'])
    .where('chain_id', '=', chainId)
    .where('seller_address', 'in', sellers)
    .execute()
  const gateways = new Map<string, Set<string>>()
  for (const { seller_address, gateway_address } of rows) {
    gateways.set(seller_address, (gateways.get(seller_address) ?? new Set()).add(gateway_address))
  }
  return gateways
}

/**
 * Whether a payment to this address would be seen: it is a gateway, by the operator's word or because its factory made it
 * (payments.md W1). The chain is asked once; what is found is kept.
 *
 * @throws UpstreamError 502 `payments_unavailable`: it is not on record, and the chain can't be asked
 */
export async function isGateway(ctx: MarketContext, chainId: number, address: string): Promise<boolean> {
  const { PAYMENT_GATEWAYS: allowed, PAYMENT_GATEWAY_FACTORY_ENFORCED: enforced } = ctx.config
  if (allowed) return allowed.includes(address)
  const { gateways } = ctx.paymentMemory
  if (gateways.has(address)) return true
  const known =
    (await isOnRecord(ctx, 'payment_gateways', chainId, address)) ||
    (await isOnRecord(ctx, 'seller_gateways', chainId, address)) ||
    (await findOnChain())
  if (known) gateways.add(address)
  return known

  async function findOnChain(): Promise<boolean> {
    const created = await ctx.paymentSource.readGateway(address).catch((error) => {
      ctx.log.warn({ gateway: address, reason: messageOf(error) }, 'can not ask whether this is a gateway')
      throw new UpstreamError('payments_unavailable', 'It can not be said at the moment whether that can be paid')
    })
    const factories = ctx.config.PAYMENT_GATEWAY_FACTORY
    const vouched = created.find(({ emitter }) => !enforced || (emitter !== null && factories!.includes(emitter)))
    if (!vouched) return false
    await ctx.db
      .insertInto('payment_gateways')
      .values({ chain_id: chainId, gateway_address: address, owner_address: vouched.owner })
      .onConflict((conflict) => conflict.doNothing())
      .execute()
    return true
  }
}

async function isOnRecord(
  { db }: MarketContext,
  table: 'payment_gateways' | 'seller_gateways',
  chainId: number,
  address: string,
): Promise<boolean> {
  const row = await db
    .selectFrom(table)
    .select('gateway_address')
    .where('chain_id', '=', chainId)
    .where('gateway_address', '=', address)
    .executeTakeFirst()
  return row !== undefined
}
