import { AddressError, normalizeAddress } from '@market/contracts/address'
import { UsageError } from './usageError.ts'

/** Trimmed; `what` is named when it is blank. */
export function named(what: string, text: string): string {
  if (text.trim() === '') throw new UsageError(`${what} cannot be empty`)
  return text.trim()
}

export function chainId(text: string): number {
  if (!/^[0-9]{1,15}$/.test(text)) throw new UsageError(`chain_id must be an integer (got: ${text})`)
  return Number(text)
}

export function address(text: string, what = 'seller_address'): string {
  try {
    return normalizeAddress(text)
  } catch (error) {
    if (error instanceof AddressError) throw new UsageError(`${what} must be a 0x hex address (got: ${text})`)
    throw error
  }
}
