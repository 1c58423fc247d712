import { decimalFromWei } from '@market/contracts/money'
import type { RowError } from '@market/market-api/ops'

// Of what `ops payments` prints for people: at most 100 columns, and nothing of it is obeyed by a terminal.

const WIDTH = 100
export const OPS = 'npm run ops -- payments'

/** A line of a table of two columns. */
export const row = (name: string, text: string) => `${name.padEnd(21)}${text}`

export const crc = (wei: string | bigint) => `${decimalFromWei(BigInt(wei))} CRC`

/** `2026-01-31 12:05 UTC`. */
export const clock = (at: Date) => `${at.toISOString().slice(0, 16).replace('T', ' ')} UTC`

/** Text of a stranger's. */
export const printable = (text: string) => text.replaceAll(/\p{C}/gu, '\ufffd')

export const quoted = (text: string) => {
  const shown = printable(text)
  return `"${shown.length > 80 ? `${shown.slice(0, 79)}…` : shown}"`
}

/** Lines of at most WIDTH columns; those after the first stand under its text. */
export function wrapped(text: string, lead: string): string[] {
  const indent = ' '.repeat(lead.length)
  const lines: string[] = []
  let line = lead
  for (const word of text.split(' ')) {
    const isFirst = line === lead || line === indent
    if (!isFirst && line.length + 1 + word.length > WIDTH) {
      lines.push(line)
      line = indent + word
    } else line += isFirst ? word : ` ${word}`
  }
  return [...lines, line]
}

const REASON: Record<string, string> = {
  no_reference: 'its reference is missing or can not be read',
  negative_amount: 'its amount is negative',
  no_transaction: 'it names no transaction',
  no_gateway: 'it names no gateway',
  refused: 'the database refused it; why is in the log, "payment not stored"',
}

export function rowErrorLines(error: RowError): string[] {
  const isAmount = error.amountWei !== null && /^[0-9]{1,78}$/.test(error.amountWei)
  const amount = isAmount ? crc(error.amountWei!) : 'unreadable amount'
  return [
    ...wrapped(`${amount} at block ${error.blockNumber}: ${REASON[error.reason] ?? printable(error.reason)}`, '  '),
    `    tx    ${error.txHash ?? 'not known'} log ${error.logIndex}`,
    `    from  ${error.payer ?? 'not known'} to ${error.gateway ?? 'not known'}`,
  ]
}
