import { readFileSync } from 'node:fs'
import { keccak_256 } from '@noble/hashes/sha3.js'
import { bytesToHex, utf8ToBytes } from '@noble/hashes/utils.js'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { NameIndexDoc, NamespaceChunk, StoredDocument } from './catalogDocuments.ts'
import { insertLinks } from './insertLinks.ts'
import { signLink } from './link.ts'
import { appendLink, appendToIndex } from './namespaceWalk.ts'

const rotation = JSON.parse(readFileSync(new URL('../vectors/rotation.json', import.meta.url), 'utf8')) as {
  payloadCid: string
  closedChunk: { cid: string }
  head: { cid: string }
  index: { cid: string }
  firstSignature: string
  lastSignature: string
  replaceInFullHead: { name: string; cid: string; signedAt: number; nonceLabel: string; headCid: string; prev: string }
}

const CHAIN = 100
const BASE = 1_780_000_000
const keccak = (text: string) => `0x${bytesToHex(keccak_256(utf8ToBytes(text)))}`

describe('inserting links', () => {
  const key = keccak('market-catalog-vectors/v1/rotation')
  const vectorNonce = (label: string) => keccak(`market-catalog-vectors/v1/nonce/${label}`).slice(0, 34)
  const links = Array.from({ length: 101 }, (_, i) =>
    signLink(
      {
        name: `product/n${String(i).padStart(3, '0')}`,
        cid: rotation.payloadCid,
        chainId: CHAIN,
        signedAt: BASE + i,
        nonce: vectorNonce(`rot${i}`),
      },
      key,
    ),
  )

  it('catalog:30 closes a full chunk, and gives head and index the CIDs of the vector', () => {
    const { chunks, index } = insertLinks({}, links)
    expect(chunks.map(({ cid }) => cid)).toEqual([rotation.closedChunk.cid, rotation.head.cid])
    expect(index.cid).toBe(rotation.index.cid)
    expect(index.document.head).toBe(rotation.head.cid)
    expect([links[0]!.signature, links.at(-1)!.signature]).toEqual([rotation.firstSignature, rotation.lastSignature])
  })

  it('catalog:30 closes a full head even if it holds the name', () => {
    const { name, cid, signedAt, nonceLabel, headCid, prev } = rotation.replaceInFullHead
    const full = insertLinks({}, links.slice(0, 100))
    const link = signLink({ name, cid, chainId: CHAIN, signedAt, nonce: vectorNonce(nonceLabel) }, key)
    const { chunks } = insertLinks({ head: full.chunks[0]!, index: full.index.document }, [link])
    expect(chunks.map((chunk) => chunk.cid)).toEqual([prev, headCid])
  })

  it('comes to what one insert after the other comes to', () => {
    const names = fc.constantFrom(...Array.from({ length: 130 }, (_, i) => `product/${i}`), '__proto__', '7')
    fc.assert(
      fc.property(fc.array(names, { maxLength: 260, size: 'max' }), fc.nat({ max: 260 }), (sequence, first) => {
        const all = sequence.map((name, i) => ({ ...links[0]!, name, signedAt: BASE + i }))
        let head: StoredDocument<NamespaceChunk> | undefined
        let index: StoredDocument<NameIndexDoc> | undefined
        const closed: string[] = []
        for (const link of all) {
          const appended = appendLink(head, link)
          if (appended.closed) closed.push(appended.closed.cid)
          head = appended.head
          index = appendToIndex(index?.document, appended)
        }
        const begun = insertLinks({}, all.slice(0, first))
        const tip = first > 0 ? { head: begun.chunks.at(-1)!, index: begun.index.document } : {}
        const ended = insertLinks(tip, all.slice(first))
        if (all.length === 0) return
        expect(ended.index.cid).toBe(index!.cid)
        const chain = [...(first > 0 ? begun.chunks.slice(0, -1) : []), ...ended.chunks].map(({ cid }) => cid)
        expect(chain).toEqual([...closed, head!.cid])
      }),
      { numRuns: 15 },
    )
  })
})
