import { readdirSync, readFileSync } from 'node:fs'
import type { JsonValue } from '@market/contracts/canonicalJson'
import {
  MARKET_CONTEXT,
  NAMESPACE_CONTEXT,
  PROFILE_CONTEXT,
  productLinkName,
  SCHEMA_ORG_CONTEXT,
  storedDocument,
} from '@market/contracts/catalogDocuments'
import { cidToDigest } from '@market/contracts/cid'
import {
  addressOfPrivateKey,
  type CustomDataLink,
  type LinkDraft,
  signLink,
  verifyEoaSignature,
} from '@market/contracts/link'
import { sql } from 'kysely'
import { IpfsUnavailableError } from '../src/catalog/ipfs/ipfs.ts'
import { startMarketApi } from './startMarketApi.ts'

const blocks = new URL('../../packages/contracts/vectors/catalog/blocks/', import.meta.url)
const NO_PROFILE = `0x${'0'.repeat(64)}`

export const OPERATOR = '0x44be146d7e25cb11ab6671e251c816e079e2580a'

type Fault = 'missing' | 'hang'

/**
 * The catalog of one market over a registry that a test writes and a real store whose objects a test may put out of reach.
 * Counts what is asked of both.
 */
export async function startCatalog(env: Record<string, string> = {}) {
  const digests = new Map<string, string>()
  const asked = { registry: 0, ipfs: 0 }
  const faults = new Map<string, Fault>()
  /** Objects too many to write to the disk one by one. */
  const quickly = new Map<string, Uint8Array>()
  let block = 1n
  let registryDown = false

  const api = await startMarketApi({ env })
  const { ctx } = api
  const store = ctx.ipfs
  ctx.nameRegistry = {
    async readDigests(avatars) {
      asked.registry += 1
      if (registryDown) throw new Error('connection refused')
      return { block, digests: new Map(avatars.map((avatar) => [avatar, digests.get(avatar) ?? NO_PROFILE])) }
    },
  }
  ctx.ipfs = {
    ...store,
    async get(cid, options) {
      asked.ipfs += 1
      const fault = faults.get(cid)
      if (fault === 'hang') {
        const ms = options?.timeoutMs ?? 5000
        await new Promise((resolve) => setTimeout(resolve, ms))
      }
      if (fault) throw new IpfsUnavailableError(fault === 'hang' ? 'timeout' : 'missing', 'out of reach')
      return quickly.get(cid) ?? store.get(cid, options)
    },
  }

  // No account has code here; linkSignatures.test.ts asks a real chain.
  ctx.signatures = {
    async check(link, digest) {
      const verdict = verifyEoaSignature(link, digest)
      if (verdict.ok) return { kind: 'valid', signer: verdict.signer, block: null }
      return { kind: 'invalid', code: verdict.code, reason: verdict.reason, account: 'none' }
    },
  }

  const put = async (document: object) => {
    const { cid, bytes } = storedDocument(document)
    await store.put(bytes)
    return cid
  }

  /** A page as JSON, with its headers. */
  const page = async (
    query: Record<string, string | string[]>,
    headers: Record<string, string> = {},
    operator = OPERATOR,
  ) => {
    const params = new URLSearchParams()
    for (const [name, value] of Object.entries(query)) for (const one of [value].flat()) params.append(name, one)
    const response = await fetch(`${api.url}/api/operator/${operator}/catalog?${params}`, { headers })
    const text = await response.text()
    return { status: response.status, headers: response.headers, text, body: text ? JSON.parse(text) : undefined }
  }

  return {
    ...api,
    store,
    digests,
    asked,
    faults,
    put,
    page,
    /** What failed is not held back any longer. */
    async retryNow() {
      await sql`update catalog_avatars set retry_at = now() where retry_at is not null`.execute(ctx.db)
    },
    /** An index that has seen nobody. */
    async forget() {
      await sql`truncate catalog_avatars, catalog_payloads cascade`.execute(ctx.db)
      ctx.pages.clear()
    },
    setRegistryDown(down: boolean) {
      registryDown = down
    },
    /** The sample catalogs of the vectors. */
    async loadVectors() {
      for (const file of readdirSync(blocks)) await store.put(readFileSync(new URL(file, blocks)))
      const manifest = JSON.parse(readFileSync(new URL('../manifest.json', blocks), 'utf8'))
      for (const [avatar, { digest32 }] of Object.entries<{ digest32: string }>(manifest.nameRegistry)) {
        digests.set(avatar, digest32)
      }
    },
    /** Names a profile on chain. */
    register(avatar: string, profileCid: string) {
      block += 1n
      digests.set(avatar, cidToDigest(profileCid))
    },
    /** One round of the loop, waited for until nothing is being read any more. */
    async follow() {
      await ctx.indexer.follow()
      await ctx.indexer.settled()
      ctx.pages.clear()
    },
    /** A seller whose key is made from a number. */
    seller(n: number) {
      const key = `0x${n.toString(16).padStart(64, '0')}`
      const address = addressOfPrivateKey(key)
      let nonces = 0
      const link = (
        draft: Partial<LinkDraft> & Pick<LinkDraft, 'name' | 'cid' | 'signedAt'>,
        signer = key,
      ): CustomDataLink => {
        nonces += 1
        return signLink(
          { chainId: 100, nonce: `0x${(n * 1_000_000 + nonces).toString(16).padStart(32, '0')}`, ...draft },
          signer,
        )
      }
      return {
        key,
        address,
        link,
        productLink: (sku: string, cid: string, signedAt: number) =>
          link({ name: productLinkName(sku), cid, signedAt }),
        /** Pins a product and signs its link. */
        async offer(sku: string, price: number, signedAt: number, more: object = {}) {
          return link({ name: productLinkName(sku), cid: await put(product(sku, price, more)), signedAt })
        },
        async bury(sku: string, signedAt: number) {
          const tombstone = { '@context': MARKET_CONTEXT, '@type': 'Tombstone', sku, at: signedAt }
          return link({ name: productLinkName(sku), cid: await put(tombstone), signedAt })
        },
        /** Makes these the namespace, newest link last, in chunks of `perChunk`. */
        async publish(links: unknown[], { perChunk = 100, profile = {}, operator = OPERATOR, quick = false } = {}) {
          const chunks: string[] = []
          const putChunk = async (chunk: object) => {
            if (!quick) return put(chunk)
            const { cid, bytes } = storedDocument(chunk)
            quickly.set(cid, bytes)
            return cid
          }
          for (let i = 0; i < links.length || i === 0; i += perChunk) {
            const prev = chunks.at(-1) ?? null
            chunks.push(await putChunk(chunkOf(links.slice(i, i + perChunk) as JsonValue[], prev)))
          }
          const index = await put(indexOf(chunks.at(-1)!))
          const profileCid = await put(profileOf({ [operator]: index }, profile))
          block += 1n
          digests.set(address, cidToDigest(profileCid))
          return { chunks, index, profileCid }
        },
      }
    },
  }
}

export const product = (sku: string, price: number, more: object = {}) => ({
  '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
  '@type': 'Product',
  name: `The ${sku}`,
  sku,
  offers: [{ '@type': 'Offer', price, priceCurrency: 'CRC' }],
  ...more,
})

export const chunkOf = (links: JsonValue[], prev: string | null) => ({
  '@context': NAMESPACE_CONTEXT,
  '@type': 'NamespaceChunk',
  prev,
  links,
})

export const indexOf = (head: string) => ({
  '@context': NAMESPACE_CONTEXT,
  '@type': 'NameIndexDoc',
  head,
  entries: {},
})

export const profileOf = (namespaces: object, more: object = {}) => ({
  '@context': PROFILE_CONTEXT,
  '@type': 'Profile',
  name: 'A seller',
  namespaces,
  ...more,
})
