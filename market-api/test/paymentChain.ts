import { deployDevContracts, devContracts, gatewayAbi, gatewayFactoryAbi, hubAbi } from '@market/dev-chain/deployment'
import { startFacade } from '@market/dev-chain/facade'
import { startAnvil } from '@market/devstack/anvil'
import { freePort } from '@market/devstack/ports'
import { startLocalServer } from '@market/testkit/localServer'
import { decodeFunctionResult, encodeFunctionData, type Hex, toHex } from 'viem'
import { connectCirclesRpc } from '../src/payments/circlesRpc.ts'
import { connectEvmNode } from '../src/payments/evmNode.ts'
import type { BlockRef, LogPosition, PaymentLog, PaymentSource, UnreadableLog } from '../src/payments/paymentSource.ts'

export const AVATAR = '0xdec2c00000000000000000000000000000000001'
const FACTORY = devContracts.gatewayFactory
const HUB = devContracts.hub

type Transaction = { from: Hex; to: Hex; data: Hex }

/** A real node with the gateway contracts, an indexer in front of it, and a block only when one is asked for. */
export async function startPaymentChain() {
  const anvil = await startAnvil({ port: await freePort() })
  await deployDevContracts(anvil.url)
  const facade = await startFacade({ nodeUrl: anvil.url, port: 0 })
  const rpc = <T>(method: string, ...params: unknown[]) => askAll<T>(anvil.url, [{ method, params }]).then(([r]) => r!)
  await rpc('evm_setAutomine', false)
  await rpc('evm_setBlockGasLimit', '0x3b9aca00')
  const accounts = await rpc<Hex[]>('eth_accounts')

  const read = async <T>(functionName: 'gatewayOf', address: Hex): Promise<T> => {
    const data = encodeFunctionData({ abi: gatewayFactoryAbi, functionName, args: [address] })
    const answer = await rpc<Hex>('eth_call', { to: FACTORY, data }, 'latest')
    return decodeFunctionResult({ abi: gatewayFactoryAbi, functionName, data: answer }) as T
  }
  /** They wait for a block; each sender's are in this order. */
  const sendAll = async (transactions: Transaction[]): Promise<Hex[]> => {
    // Anvil works on the calls of a batch at the same time, and would give two of them one nonce.
    const nonces = new Map<Hex, number>()
    for (const { from } of transactions) {
      if (!nonces.has(from)) nonces.set(from, Number(await rpc('eth_getTransactionCount', from, 'pending')))
    }
    const calls = transactions.map((transaction) => {
      const nonce = nonces.get(transaction.from)!
      nonces.set(transaction.from, nonce + 1)
      return { method: 'eth_sendTransaction', params: [{ ...transaction, nonce: toHex(nonce), gas: '0x1e8480' }] }
    })
    const hashes: Hex[] = []
    for (let i = 0; i < calls.length; i += 500) hashes.push(...(await askAll<Hex>(anvil.url, calls.slice(i, i + 500))))
    return hashes
  }
  const send = (transaction: Transaction) => sendAll([transaction]).then(([hash]) => hash!)
  const mine = async (blocks = 1) => rpc('anvil_mine', toHex(blocks))

  const chain = {
    url: anvil.url,
    facadeUrl: facade.url,
    accounts,
    rpc,
    send,
    sendAll,
    mine,
    stop: () => Promise.all([facade.stop(), anvil.stop()]),

    async openGateway(owner: Hex): Promise<Hex> {
      await send({
        from: owner,
        to: FACTORY,
        data: encodeFunctionData({ abi: gatewayFactoryAbi, functionName: 'createGateway' }),
      })
      await mine()
      return (await read<Hex>('gatewayOf', owner)).toLowerCase() as Hex
    },
    faucet: (payer: Hex, amount: bigint, to: Hex = HUB) =>
      send({
        from: payer,
        to,
        data: encodeFunctionData({ abi: hubAbi, functionName: 'faucet', args: [AVATAR, amount] }),
      }),
    payment: (payer: Hex, gateway: Hex, amount: bigint, data: Hex): Transaction => ({
      from: payer,
      to: HUB,
      data: transfer(payer, gateway, amount, data),
    }),
    trust: (owner: Hex, gateway: Hex, avatar: Hex, expiry: bigint): Transaction => ({
      from: owner,
      to: gateway,
      data: encodeFunctionData({ abi: gatewayAbi, functionName: 'setTrust', args: [avatar, expiry] }),
    }),
    /** A contract that says whatever it is told to twice to the hub, in one transaction. */
    async placeTwice(at: Hex) {
      const call = `5f5f365f5f73${HUB.slice(2)}5af150`
      await rpc('anvil_setCode', at, `0x365f5f37${call}${call}00`)
    },
    /** A contract that emits any log: four topics, then data. */
    async placeEmitter(at: Hex) {
      await rpc('anvil_setCode', at, '0x365f5f376060356040356020355f35608036036080a400')
    },
    circles: (more = {}) =>
      connectCirclesRpc({ circlesRpc: facade.url, rpc: anvil.url, timeoutMs: 10_000, chainId: 100, ...more }),
    evm: (more: { logRange?: number; startBlock?: number; factories?: readonly string[] } = {}) =>
      connectEvmNode({
        rpc: anvil.url,
        timeoutMs: 10_000,
        chainId: 100,
        factories: [FACTORY],
        startBlock: 0,
        logRange: 2000,
        ...more,
      }),
  }
  return chain
}
export type PaymentChain = Awaited<ReturnType<typeof startPaymentChain>>

export const transfer = (from: Hex, gateway: Hex, amount: bigint, data: Hex): Hex =>
  encodeFunctionData({
    abi: hubAbi,
    functionName: 'safeTransferFrom',
    args: [from, gateway, BigInt(AVATAR), amount, data],
  })

async function askAll<T>(url: string, calls: { method: string; params: unknown[] }[]): Promise<T[]> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(calls.map((call, id) => ({ jsonrpc: '2.0', id, ...call }))),
  })
  const answers = (await response.json()) as { id: number; result?: T; error?: { message: string } }[]
  return answers
    .toSorted((a, b) => a.id - b.id)
    .map(({ result, error }) => {
      if (error) throw new Error(error.message)
      return result as T
    })
}

/** Every page up to the head, as the poller reads them. */
export async function readAllPayments(
  source: PaymentSource,
  { after, limit = 100, head }: { after?: LogPosition; limit?: number; head?: BlockRef } = {},
) {
  const upTo = head ?? (await source.readHead())
  const logs: PaymentLog[] = []
  const unreadable: UnreadableLog[] = []
  let pages = 0
  for (let at = after; ;) {
    const page = await source.readPayments(at, limit, upTo)
    pages += 1
    logs.push(...page.logs)
    unreadable.push(...page.unreadable)
    at = page.end ?? at
    if (!page.full) return { logs, unreadable, pages, end: at }
  }
}

export type Call = { id: number; method: string; params: unknown[] }
/** What goes out: a JSON-RPC answer, text as it is with its status, or a connection that hangs or is cut. */
export type Reply =
  { result?: unknown; error?: unknown; id?: unknown } | { status?: number; text: string } | 'hang' | 'cut'

/** A host that answers by script. */
export async function startScriptedRpc() {
  const host = {
    url: '',
    asked: [] as Call[],
    answerTo: (_call: Call): Reply => ({ error: { code: -32601, message: 'no script' } }),
    methods: () => host.asked.map(({ method }) => method),
    stop: () => server.stop(),
  }
  const server = await startLocalServer(async (request, response) => {
    let body = ''
    for await (const part of request) body += part
    const call = JSON.parse(body) as Call
    host.asked.push(call)
    const reply = host.answerTo(call)
    if (reply === 'hang') return
    if (reply === 'cut') return void request.socket.destroy()
    if ('text' in reply) return void response.writeHead(reply.status ?? 200).end(reply.text)
    response.end(JSON.stringify({ jsonrpc: '2.0', id: call.id, ...reply }))
  })
  host.url = server.url
  return host
}
export type ScriptedRpc = Awaited<ReturnType<typeof startScriptedRpc>>
