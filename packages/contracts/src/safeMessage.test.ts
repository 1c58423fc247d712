import { readFileSync } from 'node:fs'
import { keccak_256 } from '@noble/hashes/sha3.js'
import { bytesToHex, hexToBytes, utf8ToBytes } from '@noble/hashes/utils.js'
import { describe, expect, it } from 'vitest'
import { linkDigest, linkPreimage, recoverLinkSigner } from './link.ts'
import {
  isContractSignature,
  SAFE_DOMAIN_TYPE_HASH,
  SAFE_MESSAGE_TYPE_HASH,
  safeDomainSeparator,
  safeMessageHash,
  safeMessageStructHash,
  signatureCalls,
} from './safeMessage.ts'

const vector = JSON.parse(readFileSync(new URL('../vectors/safe.json', import.meta.url), 'utf8')) as {
  safe: string
  owner: string
  chainId: number
  link: { signerAddress: string }
  canonical: string
  keccak: string
  domainTypeHash: string
  safeMessageTypeHash: string
  domainSeparator: string
  domainSeparatorChain1: string
  safeMsgS1: string
  paths: Array<{
    id: string
    hashOwnerSigns: string
    signature: string
    recoveredOwner: string
    ethCall: { to: string; from: string; data: string; success: string }
  }>
  wrongChain: { hashOwnerSigns: string; signature: string }
}
const { safe, owner, chainId, canonical, keccak } = vector
const message = utf8ToBytes(canonical)
const digest = hexToBytes(keccak.slice(2))

describe('the vectors of a Safe', () => {
  it('catalog:16 recomputes the link, its canonical text and its digest', () => {
    expect(vector.link.signerAddress).toBe(safe)
    expect(linkPreimage(vector.link)).toBe(canonical)
    expect(linkDigest(vector.link)).toBe(keccak)
  })

  it('catalog:16 recomputes type hashes and domain separators, the address in any case', () => {
    expect(SAFE_DOMAIN_TYPE_HASH).toBe(vector.domainTypeHash)
    expect(SAFE_MESSAGE_TYPE_HASH).toBe(vector.safeMessageTypeHash)
    expect(safeDomainSeparator(chainId, safe)).toBe(vector.domainSeparator)
    expect(safeDomainSeparator(chainId, `0x${safe.slice(2).toUpperCase()}`)).toBe(vector.domainSeparator)
    expect(safeDomainSeparator(1, safe)).toBe(vector.domainSeparatorChain1)
  })

  it('catalog:16 recomputes safeMsgS1', () => {
    expect(safeMessageStructHash(message)).toBe(vector.safeMsgS1)
  })

  const hashes: Record<string, string> = {
    'S1-bytes': safeMessageHash(chainId, safe, message),
    'S2-bytes32-keccak': safeMessageHash(chainId, safe, digest),
    'S3-bytes32-safehash': safeMessageHash(chainId, safe, hexToBytes(safeMessageHash(chainId, safe, message).slice(2))),
  }

  it.each(vector.paths)('catalog:16 recomputes the hash that the owner signs for $id', (path) => {
    expect(hashes[path.id]).toBe(path.hashOwnerSigns)
    expect(recoverLinkSigner(path.hashOwnerSigns, path.signature)).toBe(owner)
    expect(path.recoveredOwner).toBe(owner)
  })

  it.each(vector.paths.map((path, index) => ({ ...path, index })))(
    'catalog:16 recomputes calldata and success value of $id, in the NEW order',
    ({ id, index, signature, ethCall }) => {
      const call = signatureCalls({ preimage: canonical, digest: keccak, chainId, signer: safe, signature })[index]!
      expect(call.path).toBe(id.slice(0, 2))
      expect(call.data).toBe(ethCall.data)
      expect(call.magic).toBe(ethCall.success.slice(0, 10))
      expect([ethCall.to, ethCall.from]).toEqual([safe, safe])
    },
  )

  it('catalog:16 recomputes the hash of the wrong chain, which the owner did sign', () => {
    const { hashOwnerSigns, signature } = vector.wrongChain
    expect(safeMessageHash(1, safe, message)).toBe(hashOwnerSigns)
    expect(recoverLinkSigner(hashOwnerSigns, signature)).toBe(owner)
  })
})

describe('signatures of contract accounts', () => {
  const signed = { preimage: canonical, digest: keccak, chainId, signer: safe }

  it('go out byte for byte, at any length', () => {
    for (const length of [0, 1, 31, 32, 33, 65, 130, 2_047]) {
      const signature = bytesToHex(Uint8Array.from({ length }, (_, index) => index + 1))
      for (const { path, data } of signatureCalls({ ...signed, signature: `0x${signature}` })) {
        // The last argument: its offset is in the second word, its length before it, zeros to a full word behind it.
        const words = data.slice(10)
        const at = 2 * Number.parseInt(words.slice(64, 128), 16)
        expect([path, Number.parseInt(words.slice(at, at + 64), 16)]).toEqual([path, length])
        expect(words.slice(at + 64)).toBe(signature.padEnd(64 * Math.ceil(length / 32), '0'))
      }
    }
  })

  it('hash what S3 asks from the text, not from the digest', () => {
    const other = signatureCalls({ ...signed, digest: `0x${bytesToHex(keccak_256(digest))}`, signature: '0x' })
    const calls = signatureCalls({ ...signed, signature: '0x' })
    expect(other[2]).toEqual(calls[2])
    expect(other[1]).not.toEqual(calls[1])
  })

  it.each<[string, string, boolean]>([
    ['nothing, for a message approved on chain', '0x', true],
    ['both cases', '0xaB', true],
    ['4,096 characters', `0x${'ab'.repeat(2_047)}`, true],
    ['4,098 characters', `0x${'ab'.repeat(2_048)}`, false],
    ['half a byte', '0xabc', false],
    ['no prefix', 'abcd', false],
    ['a line feed', '0xab\n', false],
    ['no hex', '0xzz', false],
    ['no text', '', false],
  ])('are judged by form: %s', (_what, signature, allowed) => {
    expect(isContractSignature(signature)).toBe(allowed)
  })
})
