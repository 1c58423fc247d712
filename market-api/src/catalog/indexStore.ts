import type { JsonObject } from '@market/contracts/canonicalJson'
import { FUTURE_SKEW_SECONDS } from '@market/contracts/link'
import { type Kysely, sql, type Transaction } from 'kysely'
import type { CatalogFault, MarketDatabase } from '../db/types.ts'
import type { LinkRow } from './linkRows.ts'
import { CATALOG_CHANNEL } from './pageCache.ts'

/** Names one namespace: an avatar's, under one operator. */
export type NamespaceKey = { chainId: number; avatar: string; operator: string }

export type StoredAvatar = {
  version: number
  registryBlock: bigint | null
  indexedDigest: string | null
  fault: CatalogFault | null
  signingKeys: JsonObject | null
  attempts: number
}

export type StoredNamespace = {
  operator: string
  indexCid: string | null
  headSeq: number
  completeSeq: number
  fault: CatalogFault | null
  tailFault: CatalogFault | null
  newestSignedAt: number | null
  recheckAt: Date | null
}

export type StoredLink = LinkRow & { added_revision: string }

/** A row of `catalog_products` as resolved, before it has revisions. */
export type ProductRow = {
  sku: string
  kind: 'product' | 'tombstone' | 'none'
  faults: CatalogFault[] | null
  retry: boolean
  product_cid: string | null
  link_keccak: string | null
  published_at: number | null
  chunk_depth: number | null
  index_in_chunk: number | null
  name: string | null
  category: string | null
  price: string | null
  price_currency: string | null
  /** What a search finds it by. */
  text: string | null
}

export type StoredProduct = Omit<ProductRow, 'name' | 'category' | 'price' | 'price_currency' | 'text'> & {
  added_revision: string
}

type Db = Kysely<MarketDatabase>
type Tx = Transaction<MarketDatabase>

export async function findAvatar(db: Db, chainId: number, avatar: string): Promise<StoredAvatar | undefined> {
  const row = await db
    .selectFrom('catalog_avatars')
    .select(['version', 'registry_block', 'indexed_digest', 'fault', 'signing_keys', 'attempts'])
    .where('chain_id', '=', chainId)
    .where('avatar', '=', avatar)
    .executeTakeFirst()
  return (
    row && {
      version: row.version,
      registryBlock: row.registry_block === null ? null : BigInt(row.registry_block),
      indexedDigest: row.indexed_digest,
      fault: row.fault,
      signingKeys: row.signing_keys,
      attempts: row.attempts,
    }
  )
}

export async function listNamespaces(db: Db, chainId: number, avatar: string): Promise<StoredNamespace[]> {
  const rows = await db
    .selectFrom('catalog_namespaces')
    .selectAll()
    .where('chain_id', '=', chainId)
    .where('avatar', '=', avatar)
    .execute()
  return rows.map((row) => ({
    operator: row.operator,
    indexCid: row.index_cid,
    headSeq: row.head_seq,
    completeSeq: row.complete_seq,
    fault: row.fault,
    tailFault: row.tail_fault,
    newestSignedAt: row.newest_signed_at === null ? null : Number(row.newest_signed_at),
    recheckAt: row.recheck_at,
  }))
}

/** Position by CID of the chunks up to `upToSeq`. */
export async function knownChunks(db: Db, key: NamespaceKey, upToSeq: number): Promise<Map<string, number>> {
  if (upToSeq === 0) return new Map()
  const rows = await inNamespace(db.selectFrom('catalog_chunks'), key)
    .select(['chunk_cid', 'chunk_seq'])
    .where('chunk_seq', '<=', upToSeq)
    .execute()
  return new Map(rows.map((row) => [row.chunk_cid, row.chunk_seq]))
}

export type LinkFilter =
  | { fromSeq: number }
  | { belowSeq: number }
  | { skus: string[] }
  | { nonces: string[] }
  | { dueBy: Date; limit: number }
  | { authorized: true }
  | { signedBetween: [number, number] }

/**
 * When a verdict should be looked at again (catalog.md 4.7); null = it is for ever. A contract may change its mind, and an
 * account without code may get code: soon, if the link is new, and hardly any more if it is old.
 */
const verdictDueAt = sql`verdict_at + case
  when code = 'UNVERIFIED' then interval '10 seconds'
  when account = 'contract' then interval '10 minutes'
  when code not in ('SIG_SHAPE', 'SIG_VALUE', 'SIG_V', 'HIGH_S', 'SIGNER') then null
  when extract(epoch from verdict_at) - signed_at < 86400 then interval '1 minute'
  else interval '1 day' end`

/** Live links of a namespace, by one of the ways an indexing pass looks at them; each is an index of its own. */
export async function listLinks(db: Db, key: NamespaceKey, filter: LinkFilter): Promise<StoredLink[]> {
  const rows = await inNamespace(db.selectFrom('catalog_links'), key)
    .selectAll()
    .where('removed_revision', 'is', null)
    .$if('fromSeq' in filter, (q) => q.where('chunk_seq', '>=', (filter as { fromSeq: number }).fromSeq))
    .$if('belowSeq' in filter, (q) => q.where('chunk_seq', '<', (filter as { belowSeq: number }).belowSeq))
    .$if('skus' in filter, (q) => q.where(sql<boolean>`sku = any(${(filter as { skus: string[] }).skus}::text[])`))
    .$if('nonces' in filter, (q) =>
      q.where(sql<boolean>`nonce = any(${(filter as { nonces: string[] }).nonces}::text[])`),
    )
    .$if('dueBy' in filter, (q) => {
      const { dueBy, limit } = filter as { dueBy: Date; limit: number }
      return q
        .where((is) => is.or([is('account', '=', 'contract'), is('code', 'is not', null)]))
        .where(sql<boolean>`${verdictDueAt} <= ${dueBy}`)
        .orderBy('chunk_seq', 'desc')
        .orderBy('index_in_chunk', 'desc')
        .limit(limit)
    })
    .$if('authorized' in filter, (q) =>
      q
        .where('sku', 'is not', null)
        .where((is) => is.or([is('code', 'is', null), is('code', 'in', ['SIGNER_NOT_OWNER', 'SIGNING_KEY'])])),
    )
    .$if('signedBetween' in filter, (q) => {
      const [after, until] = (filter as { signedBetween: [number, number] }).signedBetween
      return q.where('code', 'is', null).where('signed_at', '>', after).where('signed_at', '<=', until)
    })
    .execute()
  return rows.map(toLink)
}

export const toLink = (row: {
  [K in keyof StoredLink]: K extends 'signed_at'
    ? string | number | null
    : K extends 'added_revision' | 'verdict_block'
      ? string | number | null
      : StoredLink[K]
}): StoredLink => ({
  chunk_seq: row.chunk_seq,
  index_in_chunk: row.index_in_chunk,
  added_revision: String(row.added_revision),
  code: row.code,
  reason: row.reason,
  account: row.account,
  verdict_at: row.verdict_at,
  verdict_block: row.verdict_block === null ? null : String(row.verdict_block),
  name: row.name,
  sku: row.sku,
  payload_cid: row.payload_cid,
  signer: row.signer,
  signed_at: row.signed_at === null ? null : Number(row.signed_at),
  nonce: row.nonce,
  link_keccak: row.link_keccak,
  signature: row.signature,
})

/** What the index says of these skus now. `retry` = those for which something could not be had. */
export async function listProducts(
  db: Db,
  key: NamespaceKey,
  filter: { skus: string[] } | { retry: true },
): Promise<StoredProduct[]> {
  const rows = await db
    .selectFrom('catalog_products')
    .select([
      'sku',
      'added_revision',
      'kind',
      'faults',
      'retry',
      'product_cid',
      'link_keccak',
      'published_at',
      'chunk_depth',
      'index_in_chunk',
    ])
    .where('chain_id', '=', key.chainId)
    .where('seller_address', '=', key.avatar)
    .where('operator', '=', key.operator)
    .where('removed_revision', 'is', null)
    .$if('skus' in filter, (q) => q.where(sql<boolean>`sku = any(${(filter as { skus: string[] }).skus}::text[])`))
    .$if('retry' in filter, (q) => q.where('retry', '=', true).where('faults', 'is not', null))
    .execute()
  return rows.map((row) => ({
    ...row,
    added_revision: String(row.added_revision),
    published_at: row.published_at === null ? null : Number(row.published_at),
  }))
}

/**
 * The next revision, of a change of this avatar's; pages in memory that show it are forgotten at commit. The row's lock keeps
 * every other writer of the index waiting until this transaction ends.
 */
export async function nextRevision(tx: Tx, chainId: number, avatar: string): Promise<string> {
  await sql`select pg_notify(${CATALOG_CHANNEL}, ${avatar})`.execute(tx)
  const { rows } = await sql<{ revision: string }>`
    insert into catalog_state as s (chain_id, revision) values (${chainId}, 1)
    on conflict (chain_id) do update set revision = s.revision + 1 returning revision`.execute(tx)
  return rows[0]!.revision
}

/** True when the avatar's rows are still those of `version`, which they then stay until the transaction ends. */
export async function lockAvatar(tx: Tx, chainId: number, avatar: string, version: number): Promise<boolean> {
  const row = await tx
    .selectFrom('catalog_avatars')
    .select('version')
    .where('chain_id', '=', chainId)
    .where('avatar', '=', avatar)
    .forUpdate()
    .executeTakeFirst()
  return row?.version === version
}

export type NamespaceChange = {
  key: NamespaceKey
  namespace: Omit<StoredNamespace, 'newestSignedAt' | 'operator' | 'recheckAt'>
  /** Chunks from this position on are replaced by `chunks`. */
  fromSeq: number
  chunks: { seq: number; cid: string }[]
  /** Chunks below this position are forgotten. */
  keepFromSeq: number
  removedLinks: Pick<StoredLink, 'chunk_seq' | 'index_in_chunk' | 'added_revision'>[]
  /** Links that were looked at again and stay what they are. */
  confirmedLinks: Pick<StoredLink, 'chunk_seq' | 'index_in_chunk' | 'added_revision' | 'verdict_at' | 'verdict_block'>[]
  addedLinks: LinkRow[]
  /** How many chunks were put on top of those that stay. */
  depthShift: number
  removedProducts: Pick<StoredProduct, 'sku' | 'added_revision'>[]
  addedProducts: ProductRow[]
  /** Whether index, chain or faults are other than before. */
  moved: boolean
  /** Links signed later than this are not for sale yet. */
  horizonSeconds: number
}

/** False when the change is only that something was looked at again: nobody's page differs. */
export const isVisible = (change: NamespaceChange) =>
  change.moved ||
  [change.removedLinks, change.addedLinks, change.removedProducts, change.addedProducts].some((rows) => rows.length > 0)

/** Writes one namespace's change under one revision. */
export async function saveNamespace(tx: Tx, revision: string, change: NamespaceChange): Promise<void> {
  const { key, namespace, fromSeq, chunks, keepFromSeq, removedLinks, removedProducts, depthShift } = change
  const columns = {
    index_cid: namespace.indexCid,
    head_seq: namespace.headSeq,
    complete_seq: namespace.completeSeq,
    fault: json(namespace.fault),
    tail_fault: json(namespace.tailFault),
    changed_revision: revision,
  } as never
  await tx
    .insertInto('catalog_namespaces')
    .values({ chain_id: key.chainId, avatar: key.avatar, operator: key.operator, ...(columns as object) } as never)
    .onConflict((conflict) => conflict.columns(['chain_id', 'avatar', 'operator']).doUpdateSet(columns))
    .execute()

  await sql`
    delete from catalog_chunks where ${ofNamespace(key)} and (chunk_seq >= ${fromSeq} or chunk_seq < ${keepFromSeq})`.execute(
    tx,
  )
  await eachBatch(chunks, (batch) =>
    sql`
      insert into catalog_chunks (chain_id, avatar, operator, chunk_seq, chunk_cid)
      select ${key.chainId}, ${key.avatar}, ${key.operator}, seq, cid
      from json_to_recordset(${batch}::json) as r(seq int, cid text)`.execute(tx),
  )
  await eachBatch(removedLinks, (batch) =>
    sql`
      update catalog_links l set removed_revision = ${revision}
      from json_to_recordset(${batch}::json) as r(chunk_seq int, index_in_chunk int, added_revision bigint)
      where ${ofNamespace(key, 'l')} and l.chunk_seq = r.chunk_seq and l.index_in_chunk = r.index_in_chunk
        and l.added_revision = r.added_revision`.execute(tx),
  )
  await eachBatch(change.confirmedLinks, (batch) =>
    sql`
      update catalog_links l set verdict_at = r.verdict_at, verdict_block = r.verdict_block
      from json_to_recordset(${batch}::json) as r(chunk_seq int, index_in_chunk int, added_revision bigint,
        verdict_at timestamptz, verdict_block bigint)
      where ${ofNamespace(key, 'l')} and l.chunk_seq = r.chunk_seq and l.index_in_chunk = r.index_in_chunk
        and l.added_revision = r.added_revision`.execute(tx),
  )
  await eachBatch(change.addedLinks, (batch) =>
    sql`
      insert into catalog_links (chain_id, avatar, operator, added_revision, chunk_seq, index_in_chunk, code,
        reason, account, verdict_at, verdict_block, name, sku, payload_cid, signer, signed_at, nonce, link_keccak, signature)
      select ${key.chainId}, ${key.avatar}, ${key.operator}, ${revision}, r.*
      from json_to_recordset(${batch}::json) as r(chunk_seq int, index_in_chunk int, code text,
        reason text, account text, verdict_at timestamptz, verdict_block bigint, name text, sku text, payload_cid text,
        signer text, signed_at bigint, nonce text, link_keccak text, signature text)`.execute(tx),
  )

  await eachBatch(removedProducts, (batch) =>
    sql`
      update catalog_products p set removed_revision = ${revision}
      from json_to_recordset(${batch}::json) as r(sku text, added_revision bigint)
      where p.chain_id = ${key.chainId} and p.operator = ${key.operator} and p.seller_address = ${key.avatar}
        and p.sku = r.sku and p.added_revision = r.added_revision`.execute(tx),
  )
  if (depthShift !== 0) {
    // Order within the seller stays as it is; only against another seller's link of the same second could it differ.
    await sql`
      update catalog_products set chunk_depth = chunk_depth + ${depthShift}
      where chain_id = ${key.chainId} and operator = ${key.operator} and seller_address = ${key.avatar}
        and removed_revision is null and chunk_depth is not null`.execute(tx)
  }
  await eachBatch(change.addedProducts, (batch) =>
    sql`
      insert into catalog_products (chain_id, operator, seller_address, added_revision, sku, kind, faults, retry,
        product_cid, link_keccak, published_at, chunk_depth, index_in_chunk, name, category, price,
        price_currency, words)
      select ${key.chainId}, ${key.operator}, ${key.avatar}, ${revision}, sku, kind, faults, retry, product_cid,
        link_keccak, published_at, chunk_depth, index_in_chunk, name, category, price, price_currency,
        to_tsvector('simple', text)
      from json_to_recordset(${batch}::json) as r(sku text, kind text, faults jsonb, retry boolean, product_cid text,
        link_keccak text, published_at bigint, chunk_depth int, index_in_chunk int, name text,
        category text, price numeric, price_currency text, text text)`.execute(tx),
  )
  await sql`
    update catalog_namespaces n set
      oldest_signed_at = (select min(signed_at) from catalog_links l
        where ${ofNamespace(key, 'l')} and removed_revision is null and code is null),
      newest_signed_at = (select max(signed_at) from catalog_links l
        where ${ofNamespace(key, 'l')} and removed_revision is null and code is null and signed_at <= ${change.horizonSeconds}),
      faulty = exists (select from catalog_links l where ${ofNamespace(key, 'l')} and removed_revision is null
          and code in ('SHAPE', 'ENVELOPE', 'UNVERIFIED'))
        or exists (select from catalog_products p where p.chain_id = ${key.chainId} and p.operator = ${key.operator}
          and p.seller_address = ${key.avatar} and p.removed_revision is null and p.faults is not null),
      recheck_at = least(
        (select min(${verdictDueAt}) from catalog_links l
          where ${ofNamespace(key, 'l')} and removed_revision is null and (account = 'contract' or code is not null)),
        (select to_timestamp(min(signed_at) - ${FUTURE_SKEW_SECONDS}) from catalog_links l
          where ${ofNamespace(key, 'l')} and removed_revision is null and code is null
            and signed_at > ${change.horizonSeconds} and signed_at < ${FAR_FUTURE_SECONDS}))
    where ${ofNamespace(key, 'n')}`.execute(tx)
}

/** Takes everything a namespace showed away, under a revision like any other change. */
export async function removeNamespace(tx: Tx, revision: string, key: NamespaceKey): Promise<void> {
  await sql`delete from catalog_chunks where ${ofNamespace(key)}`.execute(tx)
  await sql`update catalog_links set removed_revision = ${revision} where ${ofNamespace(key)} and removed_revision is null`.execute(
    tx,
  )
  await sql`
    update catalog_products set removed_revision = ${revision}
    where chain_id = ${key.chainId} and operator = ${key.operator} and seller_address = ${key.avatar}
      and removed_revision is null`.execute(tx)
  await sql`
    update catalog_namespaces set index_cid = null, head_seq = 0, complete_seq = 0, fault = null, tail_fault = null,
      oldest_signed_at = null, newest_signed_at = null, recheck_at = null, faulty = false, changed_revision = ${revision}
    where ${ofNamespace(key)}`.execute(tx)
}

/** The year 3000; a link signed for later than that is never due. */
const FAR_FUTURE_SECONDS = 32_503_680_000

const json = (value: unknown) => (value === null ? null : JSON.stringify(value))

const ofNamespace = ({ chainId, avatar, operator }: NamespaceKey, alias?: string) => {
  const column = (name: string) => sql.ref(alias ? `${alias}.${name}` : name)
  return sql`${column('chain_id')} = ${chainId} and ${column('avatar')} = ${avatar} and ${column('operator')} = ${operator}`
}

function inNamespace<Q extends { where(column: any, op: '=', value: any): Q }>(query: Q, key: NamespaceKey): Q {
  return query.where('chain_id', '=', key.chainId).where('avatar', '=', key.avatar).where('operator', '=', key.operator)
}

/** As JSON text, one parameter however many rows: Postgres takes no more than 65,535 parameters. */
async function eachBatch<T>(rows: T[], run: (batch: string) => Promise<unknown>): Promise<void> {
  for (let i = 0; i < rows.length; i += 1000) await run(JSON.stringify(rows.slice(i, i + 1000)))
}
