import { readFileSync } from 'node:fs'
import { type CustomDataLink, linkDigest, recoverLinkSigner, signLink } from '@market/contracts/link'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { recoverSigner } from './recoverSigner.ts'

const vectors = new URL('../../../packages/contracts/vectors/', import.meta.url)
const read = (name: string) => JSON.parse(readFileSync(new URL(name, vectors), 'utf8'))
const { links } = read('links.json') as { links: Array<{ id: string; link: CustomDataLink; recovered: string }> }
const negative = (read('negative.json') as { links: Array<{ id: string; link: CustomDataLink }> }).links
const { keys } = read('keys.json') as { keys: Array<{ privateKey: string }> }

const agree = (digest: string, signature: string) => {
  const signer = recoverLinkSigner(digest, signature)
  expect(recoverSigner(digest, signature)).toBe(signer)
  return signer
}
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
const ORDER = 'fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141'
const FIELD = 'fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f'
const word = (value: bigint) => value.toString(16).padStart(64, '0')

describe('recovery in WebAssembly', () => {
  it.each(links)('catalog:5 recovers the signer of $id', ({ link, recovered }) => {
    expect(recoverSigner(linkDigest(link), link.signature)).toBe(recovered)
  })

  it.each(negative)('answers as the original for $id', ({ link }) => {
    agree(linkDigest(link), link.signature)
  })

  it('answers as the original at the edges of every number', () => {
    const order = BigInt(`0x${ORDER}`)
    // 2 and 3 as r are on the curve, 5 is not; with v 29, r has the order added and stays in the field up to the last one.
    const edges = [
      0n,
      1n,
      2n,
      3n,
      5n,
      BigInt(`0x${FIELD}`) - order - 1n,
      order / 2n,
      order - 1n,
      order,
      2n ** 256n - 1n,
    ]
    const scalars = edges.map(word)
    let found = 0
    for (const r of scalars) {
      for (const s of scalars) {
        for (const v of ['00', '0b', '1b', '1c', '1C', '1d']) {
          for (const digest of [word(0n), ORDER]) {
            if (agree(`0x${digest}`, `0x${r}${s}${v}`) !== undefined) found += 1
          }
        }
      }
    }
    expect(found).toBeGreaterThan(100)
  })

  it('answers as the original for any signature and any change of it', () => {
    const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length }).map(hex)
    fc.assert(
      fc.property(bytes(32), fc.constantFrom(...keys), fc.nat(64), fc.nat(255), (nonce, key, where, byte) => {
        const link = signLink(
          {
            name: 'product/a',
            cid: 'QmVpUrsUrqo5BCDw8PYpMaEedYoCcsaw22cvYUpzukyQDy',
            chainId: 100,
            signedAt: 1,
            nonce: `0x${nonce.slice(0, 32)}`,
          },
          key.privateKey,
        )
        const digest = linkDigest(link)
        expect(agree(digest, link.signature)).toBe(link.signerAddress)
        expect(agree(digest, `0x${link.signature.slice(2).toUpperCase()}`)).toBe(link.signerAddress)
        const changed = Buffer.from(link.signature.slice(2), 'hex')
        changed[where] = byte
        agree(digest, `0x${hex(changed)}`)
        agree(`0x${nonce}`, link.signature)
      }),
      { numRuns: 60 },
    )
    fc.assert(
      fc.property(bytes(32), bytes(64), fc.constantFrom('1b', '1c'), (digest, rs, v) => {
        agree(`0x${digest}`, `0x${rs}${v}`)
      }),
      { numRuns: 60 },
    )
  })

  it('answers as the original for what is no signature or no digest', () => {
    const { link } = links[0]!
    const digest = linkDigest(link)
    const malformed = fc.oneof(
      fc.string(),
      fc.string().map((text) => `0x${text}`),
      fc.constantFrom('', '0x', '0x0'),
    )
    fc.assert(
      fc.property(malformed, (text) => {
        expect(agree(digest, text)).toBeUndefined()
        agree(text, link.signature)
      }),
      { numRuns: 300 },
    )
    for (const text of [link.signature.slice(2), `${link.signature}00`, `${link.signature}\n`]) {
      expect(agree(digest, text)).toBeUndefined()
    }
    for (const text of [digest.slice(2), digest.slice(0, 64), `${digest}00`, `${digest}\n`]) agree(text, link.signature)
  })
})
