import { normalizePaymentReference } from '@market/contracts/ids'
import type { LogPosition, PaymentLog, UnreadableLog } from './paymentSource.ts'

/** What a source says of one `PaymentReceived` log, as far as it could be read; `data` as it came. */
export type ClaimedPayment = LogPosition & {
  txHash: string | null
  blockHash: string | null
  blockTime: Date | null
  emitter: string | null
  gateway: string | null
  payer: string | null
  payee: string | null
  tokenId: bigint | null
  amountWei: bigint | null
  data: unknown
}

/** Which of the logs are payments; both sources ask here, so that the same log is the same fact (payments.md 3). */
export function sortOutPayments(claims: readonly ClaimedPayment[]): {
  logs: PaymentLog[]
  unreadable: UnreadableLog[]
} {
  const logs: PaymentLog[] = []
  const unreadable: UnreadableLog[] = []
  for (const { data, txHash, gateway, ...claim } of claims) {
    const { blockNumber, transactionIndex, logIndex, payer, tokenId, amountWei } = claim
    const paymentReference = referenceOf(data)
    const refuse = (reason: UnreadableLog['reason']) =>
      unreadable.push({ blockNumber, transactionIndex, logIndex, reason, txHash, gateway, payer, tokenId, amountWei })
    if (txHash === null) refuse('no_transaction')
    else if (gateway === null) refuse('no_gateway')
    else if (paymentReference === undefined) refuse('no_reference')
    else if (amountWei !== null && amountWei < 0n) refuse('negative_amount')
    else logs.push({ ...claim, txHash, gateway, paymentReference })
  }
  return { logs, unreadable }
}

const UTF8 = new TextDecoder('utf-8', { fatal: true })

/** The payer's text: hex or base64 of UTF-8 (payments.md 3). */
export function referenceOf(data: unknown): string | undefined {
  if (typeof data !== 'string') return undefined
  const hex = /^0x/i.test(data)
  if (hex ? !/^0x([0-9a-f]{2})*$/i.test(data) : !/^[A-Za-z0-9+/]+={0,2}$/.test(data)) return undefined
  const bytes = hex ? Buffer.from(data.slice(2), 'hex') : Buffer.from(data, 'base64')
  try {
    return normalizePaymentReference(UTF8.decode(bytes))
  } catch {
    return undefined
  }
}

const LAST_SECOND_OF_9999 = 253_402_300_799

/** Null for what is no time that a database keeps. */
export const blockTimeOf = (seconds: number): Date | null =>
  Number.isSafeInteger(seconds) && seconds > 0 && seconds <= LAST_SECOND_OF_9999 ? new Date(seconds * 1000) : null
