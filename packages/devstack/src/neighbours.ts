import { causeOf, DevstackError } from './errors.ts'

const PROBE_TIMEOUT_MS = 5_000
const GNOSIS_CHAIN_ID = 100

/** What the operator has named instead of a part of ours. */
interface Neighbours {
  chain?: { rpc: string; circlesRpc: string } | undefined
  ipfsRpcUrl?: string | undefined
  env: NodeJS.ProcessEnv
}

/** Asks what the operator named before anything is started: the services would only report it after a long wait. */
export async function assertNeighboursAnswer({ chain, ipfsRpcUrl, env }: Neighbours): Promise<void> {
  await Promise.all([
    chain && assertChain(chain, Number(env.CHAIN_ID || GNOSIS_CHAIN_ID)),
    ipfsRpcUrl && assertKubo(ipfsRpcUrl, env.IPFS_RPC_BEARER?.trim()),
  ])
}

async function assertChain({ rpc, circlesRpc }: NonNullable<Neighbours['chain']>, chainId: number) {
  const found = Number((await callRpc('RPC', rpc, 'eth_chainId', [])).result)
  if (found !== chainId) {
    throw new DevstackError(
      `RPC ${hostOf(rpc)} is a node of chain ${found}, not of ${chainId}; correct RPC or CHAIN_ID`,
    )
  }
  const query = {
    namespace: 'CrcV2_PaymentGateway',
    table: 'PaymentReceived',
    columns: [],
    filter: [],
    order: [],
    limit: 1,
  }
  const { error } = await callRpc('CIRCLES_RPC', circlesRpc, 'circles_query', [query])
  if (error?.code === -32601) {
    throw new DevstackError(
      `CIRCLES_RPC ${hostOf(circlesRpc)} knows no circles_query; set CIRCLES_RPC to a Circles RPC host`,
    )
  }
}

/** The whole answer; `variable` is where the URL comes from. */
export async function callRpc(variable: string, url: string, method: string, params: unknown[]) {
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params })
  const text = await probe(variable, url, { headers: { 'content-type': 'application/json' }, body })
  try {
    return JSON.parse(text) as { result?: unknown; error?: { code?: number } }
  } catch {
    throw new DevstackError(`${variable} ${hostOf(url)} does not answer as JSON-RPC does; correct ${variable}`)
  }
}

async function assertKubo(url: string, bearer: string | undefined) {
  const version = `${url.replace(/\/+$/, '').replace(/\/api\/v0$/, '')}/api/v0/version`
  await probe('IPFS_RPC_URL', version, bearer ? { headers: { authorization: `Bearer ${bearer}` } } : {})
}

async function probe(variable: string, url: string, init: RequestInit): Promise<string> {
  const fail = (why: string) =>
    new DevstackError(`${variable} ${hostOf(url)} ${why}; start what should be there, correct ${variable}, or unset it`)
  try {
    const response = await fetch(url, { ...init, method: 'POST', signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) })
    if (!response.ok) throw fail(`answers ${response.status}`)
    return await response.text()
  } catch (error) {
    if (error instanceof DevstackError) throw error
    const { name, cause } = error as Error
    const why = name === 'TimeoutError' ? `within ${PROBE_TIMEOUT_MS / 1000} s` : `(${causeOf(cause ?? error)})`
    throw fail(`does not answer ${why}`)
  }
}

/** The rest of such a URL may hold a key. */
const hostOf = (url: string) => new URL(url).host
