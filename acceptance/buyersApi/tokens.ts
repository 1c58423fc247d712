import { createHmac, createPrivateKey, type KeyObject, sign } from 'node:crypto'

// Tokens as JSON and bytes, so that a test may make one that no honest library would.

const encode = (value: object | Buffer) =>
  (Buffer.isBuffer(value) ? value : Buffer.from(JSON.stringify(value))).toString('base64url')

type Part = Record<string, unknown>

/** Header and claims of a token, unverified. */
export function readToken(token: string): { header: Part; claims: Part } {
  const [header, claims] = token
    .split('.')
    .slice(0, 2)
    .map((part) => JSON.parse(Buffer.from(part, 'base64url').toString()) as Part)
  return { header: header!, claims: claims! }
}

const signed = (header: Part, claims: Part, signature: (input: Buffer) => Buffer) => {
  const input = `${encode(header)}.${encode(claims)}`
  return `${input}.${encode(signature(Buffer.from(input)))}`
}

/** A token of the market with other claims, signed by the market's own key; undefined takes a claim out. */
export function reissue(token: string, privateJwk: string, changes: Part): string {
  const { header, claims } = readToken(token)
  const key = createPrivateKey({ key: JSON.parse(privateJwk) as never, format: 'jwk' })
  return signed(header, { ...claims, ...changes }, (input) => sign(null, input, key))
}

export const rs256 = (header: Part, claims: Part, key: KeyObject) =>
  signed({ alg: 'RS256', typ: 'JWT', ...header }, claims, (input) => sign('sha256', input, key))

export const hs256 = (header: Part, claims: Part, secret: string) =>
  signed({ alg: 'HS256', typ: 'JWT', ...header }, claims, (input) =>
    createHmac('sha256', secret).update(input).digest(),
  )

/** Nobody's signature. */
export const unsigned = (claims: Part) => `${encode({ alg: 'none', typ: 'JWT' })}.${encode(claims)}.`
