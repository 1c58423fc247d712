import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import {
  MARKET_CONTEXT,
  PROFILE_CONTEXT,
  productLinkName,
  SCHEMA_ORG_CONTEXT,
  storedDocument,
} from '@market/contracts/catalogDocuments'
import { insertLinks } from '@market/contracts/insertLinks'
import { type CustomDataLink, LINK_CONTEXT, type LinkDraft, linkPreimage, signLink } from '@market/contracts/link'
import { weiFromJsonNumber } from '@market/contracts/money'
import { safeMessageHash } from '@market/contracts/safeMessage'
import { payInCrc } from '@market/dev-chain/payInCrc'
import { freePort } from '@market/devstack/ports'
import { spawnTethered } from '@market/devstack/tether'
import { failReads } from '@market/testkit/rpcProxy'
import { type AdapterBehaviour, connectStandInAdapter } from '@market/testkit/standInAdapter'
import type { MarketPlace } from '@market/testkit/standInMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { type Hex, keccak256, stringToHex } from 'viem'
import { generatePrivateKey, type PrivateKeyAccount, privateKeyToAccount } from 'viem/accounts'
import { inject } from 'vitest'
import { nameProfile, openGateway } from './devChain.ts'

export const CHAIN_ID = 100
export const BASKETS = '/api/cart/v1/baskets'
export const ORDERS = '/api/cart/v1/orders'
export const JSONLD = 'application/ld+json; charset=utf-8'

/** A market of somebody's (MARKET_URL): asked as any client may, and never set up. Without it the run starts its own. */
export const outsideMarket = process.env.MARKET_URL?.trim().replace(/\/+$/, '') || undefined

export type Answer = {
  status: number
  headers: Headers
  text: string
  /** Parsed when there is JSON; what a test expects of it is the test's business. */
  body: any
}
export type CallOptions = {
  token?: string | undefined
  json?: unknown
  /** Sent as it is, without a content type. */
  body?: string | Uint8Array<ArrayBuffer>
  headers?: Record<string, string>
}
export type Call = (method: string, path: string, options?: CallOptions) => Promise<Answer>

/** Raw HTTP against one base URL: whatever the status, it is an answer. */
export const caller =
  (base: string): Call =>
  async (
    method,
    path,
    { token, json, body = json === undefined ? undefined : JSON.stringify(json), headers = {} } = {},
  ) => {
    const response = await fetch(base + path, {
      method,
      // `fetch` gives a text body a type of its own; a client without one is what some tests are about.
      ...(body === undefined ? {} : { body: typeof body === 'string' ? Buffer.from(body) : body }),
      headers: {
        ...(json === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
        ...headers,
      },
      redirect: 'manual',
    })
    const text = await response.text()
    return { status: response.status, headers: response.headers, text, body: parsed(text) }
  }

function parsed(text: string): any {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export type Person = { key: Hex; account: PrivateKeyAccount; address: string; token: string }

/** Signs in with a plain key, as a page of the market's own origin. */
export async function signIn(call: Call, key: Hex = generatePrivateKey()): Promise<Person> {
  const account = privateKeyToAccount(key)
  const challenge = await call('POST', '/api/auth/challenge', { json: { address: account.address, chainId: CHAIN_ID } })
  const signature = await account.signMessage({ message: challenge.body?.message ?? '' })
  const { challengeId } = challenge.body ?? {}
  const verified = await call('POST', '/api/auth/verify', { json: { challengeId, signature } })
  if (verified.status !== 200) throw new Error(`sign-in failed: ${challenge.text} ${verified.text}`)
  return { key, account, address: account.address.toLowerCase(), token: verified.body.token }
}

export type Line = { seller: string; sku: string; quantity?: number; [member: string]: unknown }

/** A line as wallets send it. */
export const lineOf = ({ seller, sku, quantity = 1, ...more }: Line) => ({
  '@type': 'OrderItem',
  orderQuantity: quantity,
  seller,
  orderedItem: { '@type': 'Product', sku },
  ...more,
})

/** One basket and what may be done with it; `options` go with every call, a call's own over them. */
export function basketAt(call: Call, id: string, options: CallOptions = {}) {
  const path = `${BASKETS}/${id}`
  const ask = (method: string, rest: string, own: CallOptions) =>
    call(method, path + rest, { ...options, ...own, headers: { ...options.headers, ...own.headers } })
  return {
    id,
    get: (own: CallOptions = {}) => ask('GET', '', own),
    patch: (json: unknown, own: CallOptions = {}) => ask('PATCH', '', { json, ...own }),
    put: (lines: Line[], own: CallOptions = {}) => ask('PATCH', '', { json: { items: lines.map(lineOf) }, ...own }),
    validate: (own: CallOptions = {}) => ask('POST', '/validate', own),
    preview: (own: CallOptions = {}, query = '') => ask('POST', `/preview${query}`, own),
    checkout: (own: CallOptions = {}, query = '') => ask('POST', `/checkout${query}`, own),
    /** The same basket for somebody else, or for nobody in particular. */
    as: (other: CallOptions) => basketAt(call, id, other),
  }
}
export type Basket = ReturnType<typeof basketAt>

/** What a seller offers under a sku: an offer, several, or null to take it down. */
export type Offering = Record<string, unknown> | Record<string, unknown>[] | null

/** Something to sell: what its seller publishes, and what adapter and operator say about it. */
export type Ware = {
  offer: Exclude<Offering, null>
  stock?: number
  isOneOff?: boolean
  offerType?: string
  /** The operator has written nothing down about it. */
  unrouted?: boolean
  /** Nobody has the document that its link names. */
  lost?: boolean
}

export type Market = Awaited<ReturnType<typeof openMarket>>
export type Seller = Awaited<ReturnType<Market['seller']>>

/** The run's own market, which other suites use at the same time, or the one at `place`. */
export async function openMarket(place?: MarketPlace) {
  const where = place ?? (await sharedPlace())
  const { marketUrl, rpcUrl, rpcProxyUrl, ipfsStoreDir, env } = where
  const sql = postgres(where.database, { max: 4, onnotice: () => {} })
  const call = caller(marketUrl)
  const adapter = connectStandInAdapter(where.adapterUrl)
  const operator = privateKeyToAccount(generatePrivateKey()).address.toLowerCase()
  const replicas: { stop(): Promise<void> }[] = []

  const pin = async (bytes: Uint8Array, cid: string, token: string) => {
    const { status } = await call('POST', '/api/pin', { body: bytes as Uint8Array<ArrayBuffer>, token })
    if (status === 200) return
    // What the market would never take from a client may still come to it from the network.
    const path = join(ipfsStoreDir, cid.slice(-2), cid)
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, bytes)
  }

  /** Somebody who sells: a key of their own, a catalog in this operator's namespace, routes the operator has written. */
  const seller = async (payTo?: string) => {
    const person = await signIn(call)
    const { key, account, address, token } = person
    const links = new Map<string, CustomDataLink>()
    let publications = 0
    let nonces = 0

    const draftOf = (sku: string, cid: string): LinkDraft => {
      nonces += 1
      const nonce = keccak256(stringToHex(`${address}/${nonces}`)).slice(0, 34)
      return { name: productLinkName(sku), cid, chainId: CHAIN_ID, signedAt: Math.floor(Date.now() / 1000), nonce }
    }

    const product = (sku: string, offering: Exclude<Offering, null>) =>
      storedDocument({
        '@context': [SCHEMA_ORG_CONTEXT, MARKET_CONTEXT],
        '@type': 'Product',
        name: `The ${sku}`,
        sku,
        offers: [offering].flat().map((offer) => ({
          '@type': 'Offer',
          priceCurrency: 'CRC',
          potentialAction: { '@type': 'PayAction', recipient: { '@id': `eip155:${CHAIN_ID}:${payTo ?? address}` } },
          ...offer,
        })),
      })

    /** Gives the CID of the profile. */
    const pinNamespace = async (of: CustomDataLink[]) => {
      const { chunks, index } = insertLinks({}, of)
      const profile = storedDocument({
        '@context': PROFILE_CONTEXT,
        '@type': 'Profile',
        name: 'A seller',
        namespaces: { [operator]: index.cid },
      })
      for (const { bytes, cid } of [...chunks, index, profile]) await pin(bytes, cid, token)
      return profile.cid
    }

    /** What the operator writes down about a sku, or, disabled, takes back. */
    const route = async (sku: string, { offerType = 'codedispenser', isOneOff = false, enabled = true } = {}) => {
      await sql`
        insert into market_service_routes (chain_id, seller_address, sku, offer_type, is_one_off, enabled)
          values (${CHAIN_ID}, ${address}, ${sku}, ${isOneOff ? null : offerType}, ${isOneOff}, ${enabled})
          on conflict (chain_id, seller_address, sku) do update
            set offer_type = excluded.offer_type, is_one_off = excluded.is_one_off, enabled = excluded.enabled`
    }

    /** Changes the catalog, and returns when the market has read all of it. `lost`: skus whose document nobody has. */
    const publish = async (offerings: Record<string, Offering>, lost: string[] = []) => {
      publications += 1
      // Its link comes last, and so first in the list.
      links.delete('publication-mark')
      // A product whose price counts publications: the market reads a namespace as a whole, so with that the rest is read.
      for (const [sku, offering] of Object.entries({ ...offerings, 'publication-mark': { price: publications } })) {
        if (offering === null) {
          links.delete(sku)
          continue
        }
        const { bytes, cid } = product(sku, offering)
        if (!lost.includes(sku)) await pin(bytes, cid, token)
        links.set(sku, signLink(draftOf(sku, cid), key))
      }
      await nameProfile(rpcUrl, account, await pinNamespace([...links.values()]))
      await until(`publication ${publications} of ${address} is listed`, async () => {
        const { body } = await call('GET', `/api/operator/${operator}/catalog?avatars=${address}&pageSize=100`)
        return body.products.some(
          ({ product: { sku, offers } }: { product: { sku: string; offers: { price: number }[] } }) =>
            sku === 'publication-mark' && offers[0]!.price === publications,
        )
      })
    }

    return {
      ...person,
      route,
      publish,
      /** Puts all of it up for sale at once: a publication takes a second or two. */
      async shelve(wares: Record<string, Ware>) {
        const all = Object.entries(wares)
        await Promise.all(
          all.flatMap(([sku, { stock = 0, isOneOff = false, offerType = 'codedispenser', unrouted = false }]) => [
            unrouted ? undefined : route(sku, { isOneOff, offerType }),
            adapter.set(address, sku, { stock }),
          ]),
        )
        await publish(
          Object.fromEntries(all.map(([sku, { offer }]) => [sku, offer])),
          all.filter(([, { lost }]) => lost).map(([sku]) => sku),
        )
      },
      line: (sku: string, quantity = 1, more: object = {}): Line => ({ seller: address, sku, quantity, ...more }),
      /** Pins a catalog that a Safe of this key's has signed; gives the CID of the profile, for the registry. */
      async publishAs(safe: string, offerings: Record<string, Exclude<Offering, null>>) {
        const signed = await Promise.all(
          Object.entries(offerings).map(async ([sku, offering]) => {
            const { bytes, cid } = product(sku, offering)
            await pin(bytes, cid, token)
            return signLinkForSafe(draftOf(sku, cid), safe, account)
          }),
        )
        return pinNamespace(signed)
      },
      /** What the adapter says about a sku of this seller. */
      adapter: (sku: string, behaviour: AdapterBehaviour) => adapter.set(address, sku, behaviour),
      adapterCalls: () => adapter.calls(address),
      /** On the operator's record as one of this seller's gateways. */
      recordGateway: (gateway: string) => sql`
        insert into seller_gateways (chain_id, seller_address, gateway_address)
          values (${CHAIN_ID}, ${address}, ${gateway}) on conflict do nothing`,
    }
  }

  return {
    place: where,
    url: marketUrl,
    call,
    sql,
    operator,
    seller,
    /** What the adapter says about a sku of whomever. */
    adapterFor: adapter.set,
    /** Reads of the chain that name this address fail for this market, until they don't any more. */
    failChainReads: (address: string, fail: boolean) => failReads(rpcProxyUrl, address, fail),
    signIn: () => signIn(call),
    /** A new basket in this operator's namespace, with lines when some are named. */
    async basket(lines: Line[] = [], { buyer, token, ...options }: CallOptions & { buyer?: string } = {}) {
      const made = await call('POST', BASKETS, { json: { operator, chainId: CHAIN_ID, buyer }, token, ...options })
      if (made.status !== 200) throw new Error(`no basket: ${made.status} ${made.text}`)
      const basket = basketAt(call, made.body.basketId, { token, ...options })
      if (lines.length > 0) {
        const { status, text } = await basket.put(lines)
        if (status !== 200) throw new Error(`no lines: ${status} ${text}`)
      }
      return basket
    },
    /** Pays so much of an order, in CRC as a decimal number. */
    pay: (account: PrivateKeyAccount, gateway: string, price: number, reference: string) =>
      payInCrc(rpcUrl, account, { gateway, amount: weiFromJsonNumber(price), reference }),
    /** Another process of the market on the same database, configured a little differently; '' unsets a variable. */
    async replica(changes: NodeJS.ProcessEnv = {}) {
      for (let tries = 1; ; tries += 1) {
        const port = await freePort()
        const url = `http://127.0.0.1:${port}`
        const lines: string[] = []
        const child = await spawnTethered({
          command: process.execPath,
          args: [new URL('../../market-api/dist/main.js', import.meta.url).pathname],
          env: { ...env, PORT: String(port), ...changes },
          stopSignal: 'SIGTERM',
          onLine: (line) => lines.push(line),
        })
        // Its own word, not an answer: another run on this machine may answer on a port that both found free.
        await until(
          'the replica is ready or ends',
          async () => {
            const isOver = await Promise.race([child.exited.then(() => true), false])
            return isOver || lines.some((line) => line.includes('"msg":"ready"'))
          },
          30,
        )
        const last = lines.at(-1) ?? ''
        if (last.includes('is in use') && tries < 3) continue
        if (last.includes('cannot start')) throw new Error(`the replica ended: ${last}`)
        const replica = { url, call: caller(url), stop: () => child.stop(12_000) }
        replicas.push(replica)
        return replica
      }
    },
    async close() {
      await Promise.all(replicas.map((replica) => replica.stop()))
      await sql.end()
    },
  }
}

async function sharedPlace(): Promise<MarketPlace> {
  const response = await fetch(inject('sharedMarketUrl'))
  if (!response.ok) throw new Error(`the market did not start: ${await response.text()}`)
  return (await response.json()) as MarketPlace
}

/** A link in a Safe's name: its owner's key signs the Safe's own hash of the link's text. */
async function signLinkForSafe(draft: LinkDraft, safe: string, owner: PrivateKeyAccount): Promise<CustomDataLink> {
  const link = {
    '@context': LINK_CONTEXT,
    '@type': 'CustomDataLink',
    encrypted: false,
    encryptionAlgorithm: null,
    encryptionKeyFingerprint: null,
    ...draft,
    signerAddress: safe,
  }
  const text = new TextEncoder().encode(linkPreimage(link))
  return { ...link, signature: await owner.sign({ hash: safeMessageHash(CHAIN_ID, safe, text) as Hex }) }
}

/** What the shared market's services have logged so far. */
export const sharedLog = async () => (await fetch(`${inject('sharedMarketUrl')}/log`)).text()

/**
 * The fixture of market-api.md 10, for one suite: two sellers who are paid at one gateway, and what they sell. `wares` are
 * more of the first seller's.
 */
export async function openFixture(market: Market, wares: Record<string, Ware> = {}) {
  const owner = await market.signIn()
  const gateway = await openGateway(market.place.rpcUrl, owner.account)
  const [s1, s2] = await Promise.all([market.seller(gateway), market.seller(gateway)])
  await Promise.all([
    s1.recordGateway(gateway),
    s2.recordGateway(gateway),
    s1.shelve({
      'tee-black': { offer: { price: 19 }, stock: 5 },
      'print-1': { offer: { price: 40 }, isOneOff: true },
      plain: { offer: { price: 5 }, unrouted: true },
      novel: { offer: { price: 3, requiredSlots: ['vehicle.plate'] }, stock: 10 },
      // Plenty of it, so that no order is in another's way.
      book: { offer: { price: 5 }, stock: 100_000 },
      ...wares,
    }),
    s2.shelve({ mug: { offer: { price: 7.5, requiredSlots: ['contactPoint.email'] }, stock: 100_000 } }),
  ])
  return {
    s1,
    s2,
    gateway,
    tee: (quantity = 1, more: object = {}) => s1.line('tee-black', quantity, more),
    mug: (quantity = 1, more: object = {}) => s2.line('mug', quantity, more),
    book: (quantity = 1, more: object = {}) => s1.line('book', quantity, more),
  }
}
