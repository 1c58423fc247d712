import { sql, type Transaction } from 'kysely'
import type { MarketDatabase } from '../db/types.ts'

/**
 * Tells the streams that an order is complete, unless it isn't, was told already, or one of its jobs is still to have its first
 * outcome: wallets read an order once, on that event, and what was delivered has to be there then (clients.md 8). Called in
 * the transaction that completes the order or ends a job, as the last thing in it: all who tell wait for each other.
 */
export const tellCompletion = (tx: Transaction<MarketDatabase>, orderId: string) => tellCompletions(tx, [orderId])

export async function tellCompletions(tx: Transaction<MarketDatabase>, orderIds: string[]): Promise<void> {
  if (orderIds.length === 0) return
  await sql`select tell_completions(${orderIds}::text[])`.execute(tx)
}
