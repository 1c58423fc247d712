import { getAddress } from 'viem'

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

/**
 * The EIP-4361 text a wallet signs. Not viem's: that one refuses hosts such as `market:65001`, which a page may well be on.
 */
export function signInMessage(
  request: SignInRequest,
  origin: URL,
  nonce: string,
  issuedAt: Date,
  expiresAt: Date,
): string {
  return [
    `${origin.host} wants you to sign in with your Ethereum account:`,
    getAddress(request.address),
    '',
    request.statement ?? 'Sign in to Circles Market',
    '',
    `URI: ${origin.origin}`,
    'Version: 1',
    `Chain ID: ${request.chainId}`,
    `Nonce: ${nonce}`,
    `Issued At: ${issuedAt.toISOString()}`,
    `Expiration Time: ${expiresAt.toISOString()}`,
  ].join('\n')
}
