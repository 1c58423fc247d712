import { profileCidOfDigest } from '@market/contracts/cid'
import { inTransaction } from '@market/kit/db'
import { messageOf } from '@market/kit/errors'
import { acquireLease, assertLease, type Lease } from '@market/kit/lease'
import { sql } from 'kysely'
import type { MarketContext } from '../context.ts'
import { type ReadNamespace, readNamespaces } from './readNamespaces.ts'

/**
 * One round of the catalog index: asks the name registry which profile each known seller has, and reads again those that
 * changed or that could not be read whole. One replica does it at a time.
 */
export async function followAvatars(ctx: MarketContext): Promise<void> {
  const lease = await acquireLease(ctx.db, 'catalog', ctx.instance, ctx.config.LEASE_SECONDS)
  if (!lease) return
  const chainId = ctx.config.CHAIN_ID
  await sql`
    insert into catalog_avatars (chain_id, avatar)
    select distinct chain_id, seller_address from market_service_routes where enabled and chain_id = ${chainId}
    on conflict do nothing`.execute(ctx.db)
  const avatars = await ctx.db
    .selectFrom('catalog_avatars')
    .select(['avatar', 'indexed_digest'])
    .where('chain_id', '=', chainId)
    .orderBy('avatar')
    .execute()
  const digests = await ctx.nameRegistry.readDigests(avatars.map(({ avatar }) => avatar))
  for (const { avatar, indexed_digest } of avatars) {
    const digest = digests.get(avatar)
    if (digest !== undefined && digest !== indexed_digest) await indexAvatar(ctx, lease, avatar, digest)
  }
}

/** Reads what the profile leads to and makes it the catalog of this avatar, in one transaction. */
async function indexAvatar(ctx: MarketContext, lease: Lease, avatar: string, digest: string): Promise<void> {
  const chainId = ctx.config.CHAIN_ID
  const profileCid = profileCidOfDigest(digest)
  let namespaces: ReadNamespace[] = []
  try {
    const nowSeconds = Math.floor(ctx.now().getTime() / 1000)
    if (profileCid) {
      const known = await knownProducts(ctx, avatar)
      namespaces = await readNamespaces(ctx.ipfs, { profileCid, avatar, chainId, nowSeconds, known })
    }
  } catch (error) {
    // What was indexed before stays: an unreadable profile is no reason to empty the shop.
    ctx.log.warn({ avatar, profileCid, reason: messageOf(error) }, 'profile not readable')
    const fault = {
      stage: 'profile',
      code: 'UNREADABLE',
      cid: profileCid ?? null,
      message: 'The profile can not be read',
    }
    await ctx.db
      .updateTable('catalog_avatars')
      .set({ registry_digest: digest, fault })
      .where('chain_id', '=', chainId)
      .where('avatar', '=', avatar)
      .execute()
    return
  }

  const complete = namespaces.every((namespace) => namespace.complete)
  await inTransaction(ctx.db, async (tx) => {
    await assertLease(tx, lease)
    const ofAvatar = { chain_id: chainId, avatar }
    await tx
      .deleteFrom('catalog_namespaces')
      .where('chain_id', '=', chainId)
      .where('avatar', '=', avatar)
      .where((is) =>
        namespaces.length
          ? is(
              'operator',
              'not in',
              namespaces.map((n) => n.operator),
            )
          : is.lit(true),
      )
      .execute()
    for (const { operator, winners, faults, dropped, walked } of namespaces) {
      // As text: the driver takes an array for one of Postgres' own.
      const found = { faults: JSON.stringify(faults), dropped: JSON.stringify(dropped) }
      await tx
        .insertInto('catalog_namespaces')
        .values({ ...ofAvatar, operator, ...found })
        .onConflict((conflict) => conflict.columns(['chain_id', 'operator', 'avatar']).doUpdateSet(found))
        .execute()
      if (walked) {
        await tx
          .deleteFrom('catalog_products')
          .where('chain_id', '=', chainId)
          .where('operator', '=', operator)
          .where('seller_address', '=', avatar)
          .execute()
      }
      if (winners.length === 0) continue
      await tx
        .insertInto('catalog_products')
        .values(
          winners.map((winner) => ({
            chain_id: chainId,
            operator,
            seller_address: avatar,
            sku: winner.sku,
            product_cid: winner.link.cid,
            link_keccak: winner.linkKeccak,
            published_at: winner.signedAt,
            chunk_depth: winner.depth,
            index_in_chunk: winner.indexInChunk,
            product: winner.product as never,
          })),
        )
        .onConflict((conflict) =>
          conflict.columns(['chain_id', 'operator', 'seller_address', 'sku']).doUpdateSet((is) => ({
            product_cid: is.ref('excluded.product_cid'),
            link_keccak: is.ref('excluded.link_keccak'),
            published_at: is.ref('excluded.published_at'),
            chunk_depth: is.ref('excluded.chunk_depth'),
            index_in_chunk: is.ref('excluded.index_in_chunk'),
            product: is.ref('excluded.product'),
          })),
        )
        .execute()
    }
    await tx
      .updateTable('catalog_avatars')
      .set({
        registry_digest: digest,
        fault: null,
        // Left as it was when something was missing, so that the next round tries again.
        ...(complete ? { indexed_digest: digest, indexed_at: ctx.now() } : {}),
      })
      .where('chain_id', '=', chainId)
      .where('avatar', '=', avatar)
      .execute()
  })
  const products = namespaces.reduce((n, { winners }) => n + winners.length, 0)
  const faults = namespaces.reduce((n, namespace) => n + namespace.faults.length, 0)
  ctx.log.info({ avatar, profileCid, products, faults, complete }, 'catalog indexed')
}

async function knownProducts(ctx: MarketContext, avatar: string) {
  const rows = await ctx.db
    .selectFrom('catalog_products')
    .select(['product_cid', 'product'])
    .where('chain_id', '=', ctx.config.CHAIN_ID)
    .where('seller_address', '=', avatar)
    .execute()
  return new Map(rows.map((row) => [row.product_cid, row.product]))
}
