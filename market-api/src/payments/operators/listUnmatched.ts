import { type RawBuilder, sql } from 'kysely'
import {
  type Db,
  type ExplainedTransfer,
  explainTransfer,
  gatewaysOnRecord,
  listPaymentChains,
  listRowErrors,
  listTransfers,
  readOwners,
  type RowError,
  type Wei,
} from './records.ts'

export type UnmatchedGateway = {
  chainId: number
  gateway: string
  owners: string[]
  transfers: number
  unreadable: number
  /** Of both; what has no readable amount counts nothing. */
  wei: Wei
}

export type Unmatched = { gateways: UnmatchedGateway[]; transfers: ExplainedTransfer[]; unreadable: RowError[] }

/**
 * Value whose reference no order has, and logs that name none: totals by gateway, most first, then the newest rows.
 *
 * @param of.all to any gateway; else only to those on record (see `gatewaysOnRecord`)
 */
export async function listUnmatched(
  db: Db,
  of: { all: boolean; limit: number; chainId?: number | undefined },
): Promise<Unmatched> {
  const chains = of.chainId === undefined ? await listPaymentChains(db) : [of.chainId]
  const perChain: Unmatched[] = []
  for (const chainId of chains) perChain.push(await listUnmatchedOn(db, chainId, of))
  const newest = <T extends { blockNumber: number }>(rows: T[]) =>
    rows.toSorted((a, b) => b.blockNumber - a.blockNumber).slice(0, of.limit)
  return {
    gateways: perChain.flatMap(({ gateways }) => gateways).toSorted((a, b) => Number(BigInt(b.wei) - BigInt(a.wei))),
    transfers: newest(perChain.flatMap(({ transfers }) => transfers)),
    unreadable: newest(perChain.flatMap(({ unreadable }) => unreadable)),
  }
}

async function listUnmatchedOn(
  db: Db,
  chainId: number,
  { all, limit }: { all: boolean; limit: number },
): Promise<Unmatched> {
  const chain = sql.lit(chainId)
  const toWanted = (gateway: RawBuilder<unknown>) =>
    all ? sql`true` : sql`${gateway} in (${gatewaysOnRecord(chainId)})`
  const unmatched = sql`t.chain_id = ${chain} and t.ignored_reason = 'no_order' and t.orphaned_at is null
    and ${toWanted(sql`t.gateway_address`)}`
  const unreadable = sql`e.chain_id = ${chain} and ${toWanted(sql`e.gateway_address`)}`
  const totals = await sql<{ gateway: string; transfers: number; unreadable: number; wei: string }>`
    select gateway, sum(transfers)::int as transfers, sum(unreadable)::int as unreadable, sum(wei)::text as wei
      from (
        select t.gateway_address as gateway, count(*) as transfers, 0 as unreadable, coalesce(sum(t.amount_wei), 0) as wei
          from payment_transfers t where ${unmatched} group by t.gateway_address
        union all
        select coalesce(e.gateway_address, '?'), 0, count(*),
               coalesce(sum(case when e.amount_wei ~ '^[0-9]{1,78}$' then e.amount_wei::numeric end), 0)
          from payment_row_errors e where ${unreadable} group by 1
      ) as each_kind
     group by gateway order by sum(wei) desc, gateway limit ${limit}`.execute(db)
  const transfers = await listTransfers(db, unmatched, limit)
  const owners = await readOwners(
    db,
    chainId,
    totals.rows.map(({ gateway }) => gateway),
  )
  return {
    gateways: totals.rows.map((row, i) => ({ chainId, ...row, owners: owners[i]!.owners })),
    transfers: transfers.map((row) => explainTransfer(row, undefined)),
    unreadable: await listRowErrors(db, unreadable, limit),
  }
}
