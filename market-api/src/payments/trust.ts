import type { LogPosition, TrustLog } from './paymentSource.ts'

/** Token id → avatar: its low 160 bits (payments.md 3). */
export function avatarOfToken(tokenId: bigint): string {
  const magnitude = tokenId < 0n ? -tokenId : tokenId
  return `0x${(magnitude & (2n ** 160n - 1n)).toString(16).padStart(40, '0')}`
}

export const comparePositions = (a: LogPosition, b: LogPosition) =>
  a.blockNumber - b.blockNumber || a.transactionIndex - b.transactionIndex || a.logIndex - b.logIndex

/**
 * Whether a gateway trusted a token's avatar when the transfer happened: the newest word on that avatar up to the transfer's
 * place in the chain, still running at its block's time (payments.md 6, W13). `expiry == now` is not trusted.
 */
export function trustedAt(
  logs: readonly TrustLog[],
  avatar: string,
  at: LogPosition,
  blockTimeSeconds: bigint,
): boolean {
  let newest: TrustLog | undefined
  for (const log of logs) {
    if (log.trustReceiver !== avatar || comparePositions(log, at) > 0) continue
    if (!newest || comparePositions(log, newest) > 0) newest = log
  }
  return newest !== undefined && newest.expirySeconds > blockTimeSeconds
}
