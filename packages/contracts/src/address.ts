import * as z from 'zod'

const ADDRESS = /^0x[0-9a-f]{40}$/

/**
 * Lowercases and checks an address as clients may send it (checksummed, padded with blanks).
 * Throws `AddressError` with the sentence existing clients show (market-api.md 0.2, NormAddr).
 */
export function normalizeAddress(text: string): string {
  const trimmed = text.trim()
  if (trimmed === '') throw new AddressError('Address is required')
  if (!/^0x/i.test(trimmed) || trimmed.length !== 42) {
    throw new AddressError('Address must be 42 chars and start with 0x')
  }
  const lower = trimmed.toLowerCase()
  if (!ADDRESS.test(lower)) throw new AddressError('Address must contain only hexadecimal characters 0-9a-f')
  return lower
}

export class AddressError extends Error {}

export function isAddress(text: string): boolean {
  return ADDRESS.test(text)
}

/** zod schema of an address in any case; parses to lowercase. */
export const Address = z.string().transform((text, ctx) => {
  try {
    return normalizeAddress(text)
  } catch (error) {
    ctx.addIssue({ code: 'custom', message: (error as Error).message })
    return z.NEVER
  }
})

/** `eip155:{chain}:{address}`, the `@id` of persons and organizations on the wire. */
export function eip155Id(chainId: number, address: string): string {
  return `eip155:${chainId}:${address}`
}

/** The inverse of `eip155Id`; undefined when the text is something else. */
export function parseEip155Id(text: string): { chainId: number; address: string } | undefined {
  const match = /^eip155:([0-9]{1,15}):(0x[0-9a-fA-F]{40})$/.exec(text.trim())
  return match ? { chainId: Number(match[1]), address: match[2]!.toLowerCase() } : undefined
}
