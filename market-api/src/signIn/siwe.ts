import { getAddress } from 'viem'
import { createSiweMessage } from 'viem/siwe'

export type SignInRequest = {
  address: string
  chainId: number
  statement?: string | undefined
  expirationMinutes?: number | undefined
}

const DEFAULT_MINUTES = 10
const MAX_MINUTES = 30

/** One printable line: anything else could forge the fields below it (market-api.md W-34). */
export function isStatement(text: string): boolean {
  return text.length <= 200 && /^[\x20-\x7e\u00a0-\u{10ffff}]+$/u.test(text) && !/[\u2028\u2029]/.test(text)
}

/** Lifetime of a challenge in minutes: 10, or what the client asked for, within 1 to 30. */
export function lifetimeMinutes(asked: number | undefined): number {
  return Math.min(MAX_MINUTES, Math.max(1, Math.floor(asked ?? DEFAULT_MINUTES)))
}

/**
 * The host a sign-in is for: the page's own origin when it is allowed, else the market's public host when that is.
 * Undefined when neither may sign in (market-api.md 3.6).
 */
export function signInOrigin(pageOrigin: string | undefined, publicBase: string, allowed: string[]): URL | undefined {
  const may = (url: URL) => allowed.includes('*') || allowed.some((host) => host.toLowerCase() === url.host)
  for (const text of [pageOrigin, publicBase]) {
    if (text === undefined || !URL.canParse(text)) continue
    const url = new URL(text)
    if (/^https?:$/.test(url.protocol) && may(url)) return url
  }
  return undefined
}

/** The EIP-4361 text a wallet signs. */
export function signInMessage(
  request: SignInRequest,
  origin: URL,
  nonce: string,
  issuedAt: Date,
  expiresAt: Date,
): string {
  return createSiweMessage({
    domain: origin.host,
    address: getAddress(request.address),
    statement: request.statement ?? 'Sign in to Circles Market',
    uri: origin.origin,
    version: '1',
    chainId: request.chainId,
    nonce,
    issuedAt,
    expirationTime: expiresAt,
  })
}
