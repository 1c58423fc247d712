import { readFileSync } from 'node:fs'
import { secp256k1 } from '@noble/curves/secp256k1.js'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { JsonValue } from './canonicalJson.ts'
import {
  type CustomDataLink,
  type LinkDraft,
  addressOfPrivateKey,
  checkLinkShape,
  checkSignedLink,
  FUTURE_SKEW_SECONDS,
  linkDigest,
  linkPreimage,
  LinkSigningError,
  recoverLinkSigner,
  signLink,
  verifyEoaSignature,
  verifyLink,
} from './link.ts'

const read = (name: string) => JSON.parse(readFileSync(new URL(`../vectors/${name}`, import.meta.url), 'utf8'))

interface LinkVector {
  id: string
  link: CustomDataLink
  canonical: string
  keccak: string
  recovered: string
  lowS: boolean
  accept: boolean
}
interface NegativeVector {
  id: string
  code: string
  link: CustomDataLink
  keccak?: string
  recovered?: string
}
const { links } = read('links.json') as { links: LinkVector[] }
const negative = (read('negative.json') as { links: NegativeVector[] }).links
const { link: published } = read('crosscheck.json') as {
  link: {
    stored: CustomDataLink
    canonicalWithNulls: string
    keccakWithNulls: string
    recoveredWithNulls: string
    keccakWithoutNulls: string
    recoveredWithoutNulls: string
  }
}
interface TestKey {
  label: string
  privateKey: string
  publicKey: string
  address: string
  fingerprint: string
}
const { keys } = read('keys.json') as { keys: TestKey[] }
const [sellerA, sellerB] = keys as [TestKey, TestKey]

const window = { start: 1_780_000_000, end: 1_780_001_000 }
const verdictOf = (link: unknown, { chainId = 100, owner = ownerOf(link) } = {}): string => {
  const verdict = verifyLink(link, { chainId, window, owner })
  return verdict.ok ? 'ok' : verdict.code
}
const ownerOf = (link: unknown): string => String((link as CustomDataLink).signerAddress)
const isLowS = (signature: string): boolean => BigInt(`0x${signature.slice(66, 130)}`) <= secp256k1.Point.Fn.ORDER / 2n

const draft: LinkDraft = {
  name: 'product/clay-mug',
  cid: 'QmVpUrsUrqo5BCDw8PYpMaEedYoCcsaw22cvYUpzukyQDy',
  chainId: 100,
  signedAt: 1_780_000_010,
  nonce: '0xc4961690fdeb0dc34ed20c18174108d8',
}
const signed = signLink(draft, sellerA.privateKey)

describe('links', () => {
  it.each(links)('catalog:5 judges $id as its vector says', (vector) => {
    const { link, canonical, keccak, recovered, lowS, accept } = vector
    expect(linkPreimage(link)).toBe(canonical)
    expect(linkDigest(link)).toBe(keccak)
    expect(recoverLinkSigner(keccak, link.signature)).toBe(recovered)
    expect(isLowS(link.signature)).toBe(lowS)
    expect(verifyEoaSignature(link, keccak).ok).toBe(accept)
  })

  it.each(links.filter(({ id }) => id === 'mug1'))('catalog:5 makes the very signature of $id', ({ link }) => {
    expect(signed).toEqual(link)
    expect(Object.keys(signed)).toEqual(Object.keys(link))
  })

  it('catalog:6 recovers the published link only with both encryption members as null', () => {
    const { stored } = published
    expect(linkPreimage(stored)).toBe(published.canonicalWithNulls)
    expect(linkDigest(stored)).toBe(published.keccakWithNulls)
    expect(recoverLinkSigner(published.keccakWithNulls, stored.signature)).toBe(published.recoveredWithNulls)
    expect(recoverLinkSigner(published.keccakWithoutNulls, stored.signature)).toBe(published.recoveredWithoutNulls)
    expect(isLowS(stored.signature)).toBe(true)
    const context = { chainId: 100, window: { start: 0, end: stored.signedAt }, owner: published.recoveredWithNulls }
    expect(verifyLink(stored, context)).toMatchObject({ ok: true, signer: published.recoveredWithNulls })
  })

  it('catalog:7 fails the published link once its signer is lower-cased before hashing', () => {
    const { stored } = published
    const lowered = { ...stored, signerAddress: stored.signerAddress.toLowerCase() }
    expect(verifyEoaSignature(lowered, linkDigest(lowered))).toMatchObject({ ok: false, code: 'SIGNER' })
  })
})

describe('links that must fail', () => {
  const numbers: Record<string, string[]> = {
    'catalog:8': [
      'tampered-cid',
      'tampered-name',
      'tampered-time',
      'tampered-extension',
      'chain-rewritten',
      'stranger-signs',
    ],
    'catalog:9': ['high-s'],
    'catalog:10': ['eip191-over-digest', 'eip191-over-text', 'sha256-digest', 'nulls-left-out-of-preimage'],
    'catalog:11': ['sig-64', 'sig-66', 'sig-no-prefix', 'sig-zero', 'sig-r-ge-n', 'sig-s-zero', 'sig-v29', 'sig-v0'],
    'catalog:12': [
      'nonce-upper',
      'nonce-15-bytes',
      'critical-extension',
      'encrypted-half',
      'wrong-context',
      'hyphen-context',
    ],
    'catalog:13': ['future-31', 'before-window'],
    'catalog:14': ['wrong-chain'],
  }
  const cases = Object.entries(numbers).flatMap(([number, ids]) =>
    ids.map((id) => ({ number, ...negative.find((vector) => vector.id === id)! })),
  )

  for (const { number, id, link, code, keccak, recovered } of cases) {
    it(`${number} gives ${id} the code ${code}`, () => {
      expect(verdictOf(link)).toBe(code)
      if (keccak) expect(linkDigest(link)).toBe(keccak)
      if (keccak && recovered) expect(recoverLinkSigner(keccak, link.signature)).toBe(recovered)
    })
  }

  it('catalog:8 leaves only the replay for the namespace walk', () => {
    const covered = new Set(cases.map(({ id }) => id))
    expect(negative.filter(({ id }) => !covered.has(id)).map(({ id }) => id)).toEqual(['nonce-replay'])
  })

  it('catalog:9 refuses the high-s twin although it recovers the signer', () => {
    const { link } = negative.find(({ id }) => id === 'high-s')!
    expect(recoverLinkSigner(linkDigest(link), link.signature)).toBe(link.signerAddress)
    expect(verdictOf(link)).toBe('HIGH_S')
  })

  it('catalog:13 takes a link signed 30 seconds after the end, and at the start', () => {
    for (const signedAt of [window.start, window.end + FUTURE_SKEW_SECONDS]) {
      expect(verdictOf(signLink({ ...draft, signedAt }, sellerA.privateKey))).toBe('ok')
    }
  })

  it('catalog:34 counts a product link only in the namespace of its signer', () => {
    expect(verdictOf(signed, { owner: sellerA.address.toUpperCase().replace('0X', '0x') })).toBe('ok')
    expect(verdictOf(signed, { owner: sellerB.address })).toBe('SIGNER_NOT_OWNER')
    const note = signLink({ ...draft, name: 'note/hello' }, sellerA.privateKey)
    expect(verdictOf(note, { owner: sellerB.address })).toBe('ok')
  })

  it('runs the checks in the order of the specification', () => {
    const [beyond, low, high] = ['ff', '11', 'f1'].map((byte) => byte.repeat(32))
    // From each line on, all faults at once: the code must be that of the first.
    const faults: Array<[string, Partial<CustomDataLink>]> = [
      ['SHAPE', { name: '' }],
      ['ENVELOPE', { '@type': 'Link' }],
      ['CHAIN', { chainId: 1 }],
      ['WINDOW', { signedAt: 1 }],
      ['NONCE', { nonce: '0x' }],
      ['SIG_SHAPE', { signature: '0x' }],
    ]
    for (const [index, [code]] of faults.entries()) {
      expect(verdictOf(Object.assign({}, signed, ...faults.slice(index).map(([, fault]) => fault)))).toBe(code)
    }
    expect(verdictOf({ ...signed, signature: `0x${beyond}${high}00` })).toBe('SIG_VALUE')
    expect(verdictOf({ ...signed, signature: `0x${low}${high}00` })).toBe('SIG_V')
    expect(verdictOf({ ...signed, signature: `0x${low}${high}1b` })).toBe('HIGH_S')
    const lease = { extensions: { lease: 1 }, criticalExtensions: ['lease'] }
    expect(verdictOf({ ...signed, ...lease })).toBe('SIGNER')
    const leased = signLink({ ...draft, ...lease }, sellerA.privateKey)
    expect(verdictOf(leased, { owner: sellerB.address })).toBe('CRITICAL_EXTENSION')
  })

  it.each([
    ['text', 'x'],
    ['null', null],
    ['an array', [signed]],
    ['no nonce', { ...signed, nonce: undefined }],
    ['a context in an array', { ...signed, '@context': [signed['@context']] }],
    ['chainId as text', { ...signed, chainId: '100' }],
    ['a fraction in signedAt', { ...signed, signedAt: 1_780_000_010.5 }],
    ['a negative signedAt', { ...signed, signedAt: -1 }],
    ['encrypted as text', { ...signed, encrypted: 'false' }],
    ['a CID that is no multihash', { ...signed, cid: `Qm${'z'.repeat(44)}` }],
    ['a short address', { ...signed, signerAddress: '0x12' }],
    ['extensions as an array', { ...signed, extensions: [] }],
    ['an extension without a name', { ...signed, extensions: { '': 1 } }],
    ['criticalExtensions as text', { ...signed, criticalExtensions: 'lease' }],
    ['a string without canonical form', { ...signed, note: '\ud800' }],
  ])('calls %s a SHAPE fault', (_what, link) => {
    expect(verdictOf(link, { owner: sellerA.address })).toBe('SHAPE')
  })

  it('calls encryption members on a link in clear an ENVELOPE fault', () => {
    expect(verdictOf({ ...signed, encryptionAlgorithm: 'x25519' })).toBe('ENVELOPE')
    expect(verdictOf({ ...signed, encryptionKeyFingerprint: '0xab' })).toBe('ENVELOPE')
  })
})

describe('who may sign product links of a namespace', () => {
  const owner = sellerB.address
  const signedAt = draft.signedAt
  /** Signed by seller A, in the namespace of seller B. */
  const authority = (key: JsonValue, fingerprint = sellerA.fingerprint, holdToSigningKeys = false) => {
    const fault = checkSignedLink(signed, { owner, signingKeys: { [fingerprint]: key }, holdToSigningKeys })
    return fault?.code ?? 'ok'
  }
  const key = { '@type': 'SigningKey', publicKey: sellerA.publicKey, validFrom: signedAt }

  it('market-api:W-37 refuses a key that the owner does not list', () => {
    for (const signingKeys of [undefined, null, {}, [], 'all', { [sellerB.fingerprint]: key }]) {
      expect(checkSignedLink(signed, { owner, signingKeys })?.code).toBe('SIGNER_NOT_OWNER')
    }
  })

  it('market-api:W-37 takes a key that the owner lists and that covers the time of signing', () => {
    expect(authority(key)).toBe('ok')
    expect(authority(key, sellerA.fingerprint.toUpperCase().replace('0X', '0x'))).toBe('ok')
    const signingKeys = { [sellerA.fingerprint]: key }
    expect(verifyLink(signed, { chainId: 100, window, owner, signingKeys })).toMatchObject({
      ok: true,
      signer: sellerA.address,
    })
  })

  it.each<[string, JsonValue, string]>([
    ['from this very second', { validFrom: signedAt }, 'ok'],
    ['from a second later', { validFrom: signedAt + 1 }, 'SIGNING_KEY'],
    ['until a second later', { validFrom: 0, validTo: signedAt + 1 }, 'ok'],
    ['until this very second', { validFrom: 0, validTo: signedAt }, 'SIGNING_KEY'],
    ['revoked a second later', { validFrom: 0, revokedAt: signedAt + 1 }, 'ok'],
    ['revoked at this very second', { validFrom: 0, revokedAt: signedAt }, 'SIGNING_KEY'],
    ['revoked before, valid for long', { validFrom: 0, validTo: 2 ** 40, revokedAt: 1 }, 'SIGNING_KEY'],
    ['with both ends unset, as the reference writes it', { validFrom: 0, validTo: 0, revokedAt: 0 }, 'ok'],
    ['with both ends null', { validFrom: 0, validTo: null, revokedAt: null }, 'ok'],
    ['from nowhere', {}, 'SIGNING_KEY'],
    ['from text', { validFrom: String(signedAt) }, 'SIGNING_KEY'],
    ['revoked at text', { validFrom: 0, revokedAt: '1' }, 'SIGNING_KEY'],
    ['that is no object', null, 'SIGNING_KEY'],
  ])('market-api:W-37 judges a listed key valid %s', (_what, listed, code) => {
    expect(authority(listed)).toBe(code)
  })

  it('market-api:W-37 knows a key by its whole fingerprint only', () => {
    for (const fingerprint of [
      sellerA.address,
      `${sellerA.fingerprint}00`,
      sellerA.publicKey,
      `${sellerA.fingerprint}\n`,
    ]) {
      expect(authority(key, fingerprint)).toBe('SIGNER_NOT_OWNER')
    }
  })

  it('market-api:W-37 asks only of product links who signed', () => {
    const note = signLink({ ...draft, name: 'note/hello' }, sellerA.privateKey)
    expect(checkSignedLink(note, { owner, holdToSigningKeys: true })).toBeUndefined()
  })

  /** Signed by its owner, seller A. */
  const heldTo = (signingKeys: JsonValue, holdToSigningKeys = true) =>
    checkSignedLink(signed, { owner: sellerA.address, signingKeys, holdToSigningKeys })?.code ?? 'ok'

  it('catalog:65 holds an owner that lists keys to them, when the operator says so', () => {
    const expired = { [sellerA.fingerprint]: { ...key, validFrom: 1, validTo: signedAt - 1 } }
    expect(heldTo(expired)).toBe('SIGNING_KEY')
    expect(heldTo(expired, false)).toBe('ok')
    expect(heldTo({ [sellerA.fingerprint]: { ...key, revokedAt: signedAt - 1 } })).toBe('SIGNING_KEY')
    expect(heldTo({ [sellerA.fingerprint]: { ...key, revokedAt: 0 } })).toBe('ok')
    expect(heldTo({ [sellerA.fingerprint]: key })).toBe('ok')
  })

  it('catalog:65 refuses the own key of an owner that lists others only', () => {
    expect(heldTo({ [sellerB.fingerprint]: key })).toBe('SIGNING_KEY')
    expect(heldTo({ [sellerB.fingerprint]: key }, false)).toBe('ok')
  })

  it('catalog:65 leaves an owner without listed keys alone', () => {
    for (const signingKeys of [null, {}, [], 'none']) expect(heldTo(signingKeys)).toBe('ok')
  })

  it('catalog:65 treats a listed key of somebody else the same, whatever the operator says', () => {
    expect(authority(key, sellerA.fingerprint, true)).toBe('ok')
    expect(authority({ ...key, validTo: signedAt }, sellerA.fingerprint, true)).toBe('SIGNING_KEY')
    expect(authority(key, sellerB.fingerprint, true)).toBe('SIGNER_NOT_OWNER')
  })

  it('takes the recovery that is handed in, and believes only the signer', () => {
    const asked: string[][] = []
    const recover = (answer?: string) => (digest: string, signature: string) => {
      asked.push([digest, signature])
      return answer
    }
    const digest = linkDigest(signed)
    expect(verifyEoaSignature(signed, digest, recover(sellerA.address))).toEqual({ ok: true, signer: sellerA.address })
    expect(asked).toEqual([[digest, signed.signature]])
    for (const answer of [sellerB.address, undefined]) {
      expect(verifyEoaSignature(signed, digest, recover(answer))).toMatchObject({ ok: false, code: 'SIGNER' })
    }
  })
})

describe('signing', () => {
  it.each(keys)('knows the address of $label', ({ privateKey, address }) => {
    expect(addressOfPrivateKey(privateKey)).toBe(address)
  })

  it.each([
    ['U+2028', { name: 'note/\u2028' }],
    ['a member name beyond ASCII', { extensions: { größe: 1 } }],
    ['a fraction', { extensions: { weight: 1.5 } }],
    ['a nonce in upper case', { nonce: draft.nonce.toUpperCase() }],
    ['a CIDv1', { cid: 'bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku' }],
    ['half of the encryption members', { encrypted: true }],
    ['the signer of another key', { signerAddress: sellerB.address }],
    ['a signer in mixed case', { signerAddress: sellerA.address.toUpperCase().replace('0X', '0x') }],
  ])('refuses %s', (_what, change) => {
    expect(() => signLink({ ...draft, ...change }, sellerA.privateKey)).toThrow(LinkSigningError)
  })

  const drafts = fc.record({
    name: fc.constantFrom('product/a', 'product/clay-mug', 'note/Größe'),
    cid: fc.constant(draft.cid),
    chainId: fc.constantFrom(1, 100),
    signedAt: fc.integer({ min: window.start, max: window.end }),
    nonce: fc.nat(9).map((digit) => `0x${String(digit).repeat(32)}`),
    extensions: fc.dictionary(fc.constantFrom('a', 'b', '__proto__'), fc.nat(3), { noNullPrototype: true }),
  })

  it('verifies what it signed, and refuses it after a change of any one character', () => {
    fc.assert(
      fc.property(drafts, fc.constantFrom(sellerA, sellerB), fc.nat(), (anyDraft, seller, where) => {
        const link = signLink(anyDraft, seller.privateKey)
        const digest = linkDigest(link)
        expect(verdictOf(link, { chainId: link.chainId })).toBe('ok')
        expect(isLowS(link.signature)).toBe(true)
        // A change that leaves the text JSON, anywhere in the signed text.
        const text = linkPreimage(link)
        const digits = [...text.matchAll(/[0-9]/g)].map(({ index }) => index)
        const position = digits[where % digits.length]!
        const digit = String((Number(text[position]) + 1) % 10)
        const tampered = JSON.parse(text.slice(0, position) + digit + text.slice(position + 1)) as CustomDataLink
        tampered.signature = link.signature
        expect(linkDigest(tampered)).not.toBe(digest)
        expect(verifyEoaSignature(tampered, linkDigest(tampered)).ok).toBe(false)
      }),
      { numRuns: 60 },
    )
  })

  it('splits the cheap checks from the recovery without changing the verdict', () => {
    fc.assert(
      fc.property(fc.constantFrom(...links, ...negative), ({ link }) => {
        const shaped = checkLinkShape(link, { chainId: 100, window })
        const byHand = shaped.ok ? verifyEoaSignature(shaped.link, shaped.digest) : shaped
        const code = byHand.ok ? (checkSignedLink(link, { owner: ownerOf(link) })?.code ?? 'ok') : byHand.code
        expect(code).toBe(verdictOf(link))
      }),
      { numRuns: 60 },
    )
  })

  it('recovers nobody from what is no signature', () => {
    const digest = linkDigest(signed)
    expect(recoverLinkSigner(digest, '0x')).toBeUndefined()
    expect(recoverLinkSigner(digest, `0x${'00'.repeat(65)}`)).toBeUndefined()
    expect(recoverLinkSigner(digest, `0x${'ff'.repeat(65)}`)).toBeUndefined()
  })
})
