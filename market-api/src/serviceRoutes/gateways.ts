import type { Kysely } from 'kysely'
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
