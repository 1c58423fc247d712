import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { startAnvil } from '@market/devstack/anvil'
import { freePort } from '@market/devstack/ports'
import { until } from '@market/testkit/until'
import { type Abi, encodeFunctionData, type Hex } from 'viem'
import { sign } from 'viem/accounts'
import { safeDouble } from '@market/testkit/contractAccounts.gen'

export interface Asked {
  id: number
  method: string
  params: [{ from?: string; to?: string; data?: string; gas?: string }, string]
}
export type Answer = { status?: number; body: string } | 'nothing'

/** Stands between the market and a node: notes what is asked, and may answer in the node's place. */
export function startNodeProxy(answerTo: (asked: Asked) => Promise<Answer>) {
  const proxy = {
    url: '',
    asked: [] as Asked[],
    mostAtOnce: 0,
    answerTo,
    methods: () => proxy.asked.map(({ method }) => method),
    calls: () => proxy.asked.filter(({ method }) => method === 'eth_call').map(({ params }) => params[0]),
    listen: () => new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)).then(nameIt),
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
  let atOnce = 0
  const server = createServer(async (request, response) => {
    let body = ''
    for await (const part of request) body += part
    const asked = JSON.parse(body) as Asked
    proxy.asked.push(asked)
    proxy.mostAtOnce = Math.max(proxy.mostAtOnce, (atOnce += 1))
    const answer = await proxy.answerTo(asked)
    atOnce -= 1
    if (answer === 'nothing') return
    response.statusCode = answer.status ?? 200
    response.end(answer.body)
  })
  const nameIt = () => (proxy.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  return proxy
}

/** A real chain, 100, on which contract accounts are put at addresses of choice. */
export async function startAccountChain() {
  const anvil = await startAnvil({ port: await freePort() })

  const ask = async (asked: object): Promise<{ status: number; body: string }> => {
    const response = await fetch(anvil.url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(asked),
    })
    return { status: response.status, body: await response.text() }
  }
  const rpc = async <T>(method: string, ...params: unknown[]): Promise<T> => {
    const { result, error } = JSON.parse((await ask({ jsonrpc: '2.0', id: 1, method, params })).body)
    if (error) throw new Error(error.message)
    return result
  }
  const send = async (transaction: { to?: Hex; data: Hex }): Promise<string> => {
    const [from] = await rpc<string[]>('eth_accounts')
    const hash = await rpc<string>('eth_sendTransaction', { from, gas: '0x4c4b40', ...transaction })
    const receipt = await until('the transaction is in a block', () =>
      rpc<{ status: string; contractAddress: string } | undefined>('eth_getTransactionReceipt', hash).then(
        (found) => found ?? undefined,
      ),
    )
    if (receipt.status !== '0x1') throw new Error('the transaction failed')
    return receipt.contractAddress
  }
  /** Puts a compiled contract at an address of choice, where no constructor has run. */
  const place = async (contract: { abi: Abi; bytecode: Hex }, at: Hex, ...setup: unknown[]) => {
    const deployed = await send({ data: contract.bytecode })
    await rpc('anvil_setCode', at, await rpc('eth_getCode', deployed, 'latest'))
    await send({ to: at, data: encodeFunctionData({ abi: contract.abi, functionName: 'setup', args: setup }) })
  }
  const placeSafe = (at: Hex, owners: Hex[], threshold = owners.length) =>
    place(safeDouble as unknown as { abi: Abi; bytecode: Hex }, at, owners, BigInt(threshold))

  return { url: anvil.url, ask, rpc, send, place, placeSafe, stop: () => anvil.stop() }
}
export type AccountChain = Awaited<ReturnType<typeof startAccountChain>>

/** The signatures of these keys in the order of their addresses, as a Safe takes them. */
export async function signed(hash: string, ...by: Array<{ address: Hex; privateKey: Hex }>): Promise<Hex> {
  const parts = by
    .toSorted((a, b) => (a.address.toLowerCase() < b.address.toLowerCase() ? -1 : 1))
    .map(async ({ privateKey }) => (await sign({ hash: hash as Hex, privateKey, to: 'hex' })).slice(2))
  return `0x${(await Promise.all(parts)).join('')}`
}
