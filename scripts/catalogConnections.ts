import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { addressOfPrivateKey, type LinkFault, type SignedBy } from '@market/contracts/link'
import type { CheckSignature } from '@market/contracts/namespaceWalk'
import { env as fields } from '@market/kit/config'
import { messageOf } from '@market/kit/errors'
import { IpfsMismatchError, IpfsTooLargeError, openIpfs, openLinkSignatures } from '@market/market-api/ops'
import { Market, MarketError } from '@market/sdk/market'
import { marketStorage } from '@market/sdk/marketStorage'
import type { CatalogStorage } from '@market/sdk/publishCatalog'
import { privateKeyToAccount } from 'viem/accounts'
import { UsageError } from './usageError.ts'

const env = process.env
const GNOSIS_NAME_REGISTRY = '0xa27566fd89162cc3d40cb59c87aaaa49b85f3474'
const IPFS_TIMEOUT_MS = 15_000
const RPC_TIMEOUT_MS = 15_000

/** A place where documents are, and what it is called. */
export type CatalogPlace = { name: string; storage: CatalogStorage }

/** The store that is named: a market's, Kubo, a folder, or that of `npm start` on this machine. */
export async function openPlace(options: {
  market?: string | undefined
  chainId: number
  /** Signs in to the market with it. */
  key?: string | undefined
  /** Only reading: a folder that is not there is not made. */
  readOnly?: boolean
}): Promise<CatalogPlace> {
  if (options.market !== undefined) return openMarket(options.market, options)
  const config = { IPFS_RPC_URL: undefined, IPFS_RPC_BEARER: undefined, IPFS_STORE_DIR: '', IPFS_TIMEOUT_MS }
  if (env.IPFS_RPC_URL) {
    if (!/^https?:/.test(env.IPFS_RPC_URL)) throw new UsageError('IPFS_RPC_URL must be an http or https URL')
    const bearer = env.IPFS_RPC_BEARER ? fields.secret().parse(env.IPFS_RPC_BEARER) : undefined
    const storage = await openIpfs({ ...config, IPFS_RPC_URL: env.IPFS_RPC_URL, IPFS_RPC_BEARER: bearer })
    return { name: `Kubo at ${env.IPFS_RPC_URL}`, storage }
  }
  const folder = resolve(env.IPFS_STORE_DIR || join(env.MARKET_DATA_DIR || '.market', 'ipfs'))
  if (!existsSync(folder) && (options.readOnly || !env.IPFS_STORE_DIR)) {
    throw new UsageError(
      env.IPFS_STORE_DIR
        ? `IPFS_STORE_DIR ${folder} is not there`
        : 'no store to work on: name a market with --market, set IPFS_RPC_URL or IPFS_STORE_DIR, or run `npm start` first',
    )
  }
  const store = await openIpfs({ ...config, IPFS_STORE_DIR: folder })
  const has = async (cid: string) =>
    store.get(cid).then(
      () => true,
      () => false,
    )
  return {
    name: `the store in ${folder}`,
    storage: { get: (cid) => store.get(cid), put: (bytes) => store.put(bytes), has },
  }
}

function openMarket(url: string, { chainId, key }: { chainId: number; key?: string | undefined }): CatalogPlace {
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) throw new UsageError('--market must be an http or https URL')
  const market = new Market(url)
  const account = key === undefined ? undefined : privateKeyToAccount(key as `0x${string}`)
  const signIn = async () => {
    if (!account) return
    const { address } = account
    await market.signIn({ address, signMessage: (message) => account.signMessage({ message }) }, chainId)
  }
  return { name: `the market at ${url}`, storage: marketStorage(market, { signIn }) }
}

/** Why bytes can't be had, in the words of the catalog (catalog.md 4.4). */
export function readFault(error: unknown): { code: 'UNAVAILABLE' | 'CID_MISMATCH' | 'TOO_LARGE'; detail: string } {
  const detail = messageOf(error)
  const code = error instanceof MarketError ? error.code : undefined
  if (error instanceof IpfsTooLargeError || code === 'object_too_large') return { code: 'TOO_LARGE', detail }
  if (error instanceof IpfsMismatchError || code === 'ipfs_mismatch') return { code: 'CID_MISMATCH', detail }
  return { code: 'UNAVAILABLE', detail }
}

/** The chain and the registry on it; unset, those of the dev chain of `npm start`. */
export async function chainOf(): Promise<{ rpcUrl: string; registry: string }> {
  const registry = env.NAME_REGISTRY_ADDRESS?.toLowerCase()
  if (registry !== undefined && registry !== '' && !/^0x[0-9a-f]{40}$/.test(registry)) {
    throw new UsageError('NAME_REGISTRY_ADDRESS must be a 0x address')
  }
  if (env.RPC) {
    if (!/^https?:\/\//.test(env.RPC)) throw new UsageError('RPC must be an http or https URL')
    return { rpcUrl: env.RPC, registry: registry || GNOSIS_NAME_REGISTRY }
  }
  const rpcUrl = `http://127.0.0.1:${env.DEV_CHAIN_PORT || 65020}`
  if (registry) return { rpcUrl, registry }
  // Not in the container image, where there is no dev chain either.
  const devChain = await import('@market/dev-chain/deployment').catch(() => undefined)
  if (!devChain) throw new UsageError('no chain to work on: set RPC')
  return { rpcUrl, registry: devChain.devContracts.nameRegistry }
}

/** Verdicts as the market gives them, those of contract accounts by asking the chain. Throws when it does not answer. */
export async function openSignatureCheck(rpcUrl: string, chainId: number): Promise<CheckSignature> {
  const signatures = await openLinkSignatures({ rpcUrl, chainId, timeoutMs: RPC_TIMEOUT_MS })
  return async (link, digest): Promise<SignedBy | LinkFault> => {
    const verdict = await signatures.check(link, digest)
    if (verdict.kind === 'valid') return { ok: true, signer: verdict.signer }
    if (verdict.kind === 'invalid') return { ok: false, code: verdict.code, reason: verdict.reason }
    throw new UnverifiedError(verdict.reason)
  }
}

/** The chain did not say whether a signature is good. */
export class UnverifiedError extends Error {}

const PRIVATE_KEY = /^(0x)?[0-9a-fA-F]{64}$/

/**
 * The private key that `--key` names. Never in the arguments themselves: every process of the machine can read those, and
 * the shell writes them down. Throws `UsageError`, which says where it looked and never what it found.
 */
export function readPrivateKey(source: string): string {
  if (PRIVATE_KEY.test(source)) {
    throw new UsageError(
      "--key must not be the key itself: every process on this machine can read a command's arguments, and the shell keeps them in its history. Use env:NAME, file:PATH or -",
    )
  }
  const [, kind, where] = /^(env|file):(.+)$/s.exec(source) ?? []
  let text: string | undefined
  try {
    if (source === '-') text = readFileSync(0, 'utf8')
    else if (kind === 'env') text = env[where!]
    else if (kind === 'file') text = readFileSync(where!, 'utf8')
    else throw new UsageError('--key must be env:NAME, file:PATH or -')
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(`--key ${source} can't be read: ${messageOf(error)}`)
  }
  const place = source === '-' ? 'standard input' : kind === 'env' ? `the variable ${where}` : `the file ${where}`
  if (text === undefined || text.trim() === '') throw new UsageError(`no key to sign with: ${place} is empty`)
  if (!PRIVATE_KEY.test(text.trim())) throw new UsageError(`${place} holds no private key of 32 bytes in hex`)
  const key = `0x${text.trim().replace(/^0x/, '').toLowerCase()}`
  try {
    addressOfPrivateKey(key)
    return key
  } catch {
    throw new UsageError(`${place} holds no private key of the curve`)
  }
}
