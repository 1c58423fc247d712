import type { MarketContext } from '../context.ts'

/** Why a sku is not in the index: its offer was refused, something could not be read just now, or it just isn't there. */
export type MissingReason = 'refused' | 'unavailable' | 'absent'

/**
 * What keeps a seller's sku out of the index, so that a buyer isn't told "not found" about what is only out of reach. Asked on
 * the way to an error only.
 */
export async function explainMissing(
  { db }: MarketContext,
  scope: { operator: string | null; chainId: number },
  { seller, sku }: { seller: string; sku: string },
): Promise<MissingReason> {
  const name = sku.toLowerCase()
  const states = await db
    .selectFrom('catalog_products')
    .select(['faults', 'retry'])
    .where('chain_id', '=', scope.chainId)
    .where('seller_address', '=', seller)
    .where('sku', '=', name)
    .where('kind', '=', 'none')
    .where('removed_revision', 'is', null)
    .$if(scope.operator !== null, (query) => query.where('operator', '=', scope.operator!))
    .execute()
  if (states.some(({ retry }) => retry)) return 'unavailable'
  if (states.some(({ faults }) => faults?.some(({ code }) => code === 'PAYLOAD_INVALID'))) return 'refused'

  const undecided = await db
    .selectFrom('catalog_links')
    .select('avatar')
    .where('chain_id', '=', scope.chainId)
    .where('avatar', '=', seller)
    .where('sku', '=', name)
    .where('code', '=', 'UNVERIFIED')
    .where('removed_revision', 'is', null)
    .limit(1)
    .executeTakeFirst()
  if (undecided) return 'unavailable'

  const avatar = await db
    .selectFrom('catalog_avatars')
    .select('fault')
    .where('chain_id', '=', scope.chainId)
    .where('avatar', '=', seller)
    .where('fault', 'is not', null)
    .executeTakeFirst()
  const namespaces = await db
    .selectFrom('catalog_namespaces')
    .select(['fault', 'tail_fault'])
    .where('chain_id', '=', scope.chainId)
    .where('avatar', '=', seller)
    .where('faulty', '=', true)
    .$if(scope.operator !== null, (query) => query.where('operator', '=', scope.operator!))
    .execute()
  const faults = [avatar?.fault, ...namespaces.flatMap(({ fault, tail_fault }) => [fault, tail_fault])]
  return faults.some((fault) => fault?.code === 'UNAVAILABLE') ? 'unavailable' : 'absent'
}
