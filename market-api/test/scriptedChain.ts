import { compareRows, listOf, parseFilter, property } from '@market/dev-chain/filter'
import { readColumn, readTable, type Row } from '@market/dev-chain/tables'
import { startLocalServer } from '@market/testkit/localServer'

export const GATEWAY = `0x${'6a'.repeat(20)}`
/** The contract that reports what gateways do. */
export const FACTORY = `0x${'fa'.repeat(20)}`
/** An avatar whose token the gateway trusts once it said so. */
export const AVATAR = `0x${'aa'.repeat(20)}`
export const FOREVER = 2n ** 96n - 1n

const START_SECONDS = 1_780_000_000
const SECONDS_A_BLOCK = 5
export const secondsOf = (block: number) => START_SECONDS + block * SECONDS_A_BLOCK

type TableName = 'PaymentReceived' | 'TrustUpdated' | 'GatewayCreated'
/** Columns of the indexer's table over what it would say of the log. */
type Cells = Record<string, unknown>
export type LogDraft = { table: TableName; cells: Cells }
/** `logIndex` of its first log; otherwise what its place in the block makes it. */
export type Transaction = { hash: string; logs: LogDraft[]; logIndex?: number }
type MinedLog = { table: TableName; txHash: string; transactionIndex: number; logIndex: number; row: Cells }
export type Block = { number: number; hash: string; logs: MinedLog[] }

const hex = (n: number | bigint, bytes: number) => `0x${n.toString(16).padStart(bytes * 2, '0')}`
export const hexOfText = (text: string) => `0x${Buffer.from(text).toString('hex')}`

let transactions = 0
export const transaction = (...logs: LogDraft[]): Transaction => {
  transactions += 1
  return { hash: hex(0xabc_000_000 + transactions, 32), logs }
}

/** A `PaymentReceived` log: what a payer sent with this text in its data. */
export const payment = (
  reference: string,
  amountWei: bigint,
  { gateway = GATEWAY, token = AVATAR, ...cells }: { gateway?: string; token?: string } & Cells = {},
): LogDraft => ({
  table: 'PaymentReceived',
  cells: {
    payer: hex(0xba, 20),
    payee: gateway,
    gateway,
    tokenId: BigInt(token).toString(),
    amount: amountWei.toString(),
    data: hexOfText(reference),
    ...cells,
  },
})

/** A `TrustUpdated` log; an expiry of 0 takes the trust back. */
export const trust = (
  avatar = AVATAR,
  { expiry = FOREVER, gateway = GATEWAY, ...cells }: { expiry?: bigint; gateway?: string } & Cells = {},
): LogDraft => ({
  table: 'TrustUpdated',
  cells: { gateway, trustReceiver: avatar, expiry: expiry.toString(), ...cells },
})

export const gatewayCreated = (gateway: string, owner: string, cells: Cells = {}): LogDraft => ({
  table: 'GatewayCreated',
  cells: { gateway, owner, ...cells },
})

/** What goes wrong: an error in the answer, HTTP 500, a cut connection, silence, or another result than the honest one. */
export type Fault = 'error' | 'http' | 'cut' | 'hang' | ((honest: any) => unknown)

/** The body of an answer to `circles_query`. */
export type Answer = { columns: string[]; rows: unknown[][] }

type Call = { id: number; method: string; params: unknown[] }
type Side = 'node' | 'indexer'

/**
 * A chain that a test writes, behind the two hosts that the market reads it from, over HTTP: a node, and a Circles indexer that
 * filters, orders and limits as one does. Each can be held at what it knew at a time, and made to fail, by method (or table).
 */
export async function startScriptedChain(chainId = 100) {
  let branch = 0
  const newBlock = (drafts: readonly Transaction[], number: number): Block => {
    let next = 0
    const logs = drafts.flatMap((sent, transactionIndex) =>
      sent.logs.map(({ table, cells }, n): MinedLog => {
        const logIndex = n === 0 ? (sent.logIndex ?? next) : next
        next = logIndex + 1
        const place = { blockNumber: number, transactionIndex, logIndex }
        const own = { ...place, timestamp: secondsOf(number), transactionHash: sent.hash, emitter: FACTORY }
        return { table, txHash: sent.hash, transactionIndex, logIndex, row: { ...own, ...cells } }
      }),
    )
    return { number, hash: hex((BigInt(branch) << 64n) + BigInt(number) + 1n, 32), logs }
  }
  let blocks = [newBlock([], 0)]
  const held = new Map<Side, readonly Block[]>()
  const seenBy = (side: Side) => held.get(side) ?? blocks

  const chain = {
    node: '',
    indexer: '',
    faults: new Map<string, Fault>(),
    /** Method, or table for a query, of every call so far. */
    asked: [] as { what: string; params: any[] }[],
    /** Transactions whose rows the indexer leaves out. */
    hidden: new Set<string>(),
    blocks: () => [...blocks],
    head: () => blocks.length - 1,
    /** One block with these transactions. */
    mine(...drafts: Transaction[]) {
      blocks.push(newBlock(drafts, blocks.length))
    },
    /** Empty blocks up to this one. */
    mineTo(number: number) {
      while (chain.head() < number) chain.mine()
    },
    /** Empty blocks, then this one with these transactions. */
    mineAt(number: number, ...drafts: Transaction[]) {
      chain.mineTo(number - 1)
      if (blocks.length !== number) throw new RangeError(`block ${number} is there already`)
      chain.mine(...drafts)
    },
    /** Another branch begins at this block, empty so far; from the genesis on, another chain. */
    reorg(from: number) {
      branch += 1
      blocks = blocks.slice(0, from)
      if (from === 0) chain.mine()
    },
    /** All that this host knows from now on, whatever happens on the chain, until it is let go. */
    hold: (side: Side, known: readonly Block[]) => void held.set(side, known),
    letGo: (side: Side) => void held.delete(side),
    countAsked: (what: string) => chain.asked.filter((call) => call.what === what).length,
    stop: () => Promise.all(servers.map((server) => server.stop())).then(() => {}),
  }

  const nodeMethods: Record<string, (params: any[]) => unknown> = {
    eth_chainId: () => hex(chainId, 1),
    eth_blockNumber: () => `0x${(seenBy('node').length - 1).toString(16)}`,
    eth_getBlockByNumber([number]) {
      const block = seenBy('node')[Number(number)]
      return block ? { number: `0x${block.number.toString(16)}`, hash: block.hash, transactions: [] } : null
    },
    eth_getTransactionReceipt([hash]) {
      for (const { number, hash: blockHash, logs } of seenBy('node')) {
        const own = logs.filter(({ txHash }) => txHash === hash)
        if (!own[0]) continue
        return {
          transactionHash: hash,
          blockHash,
          blockNumber: `0x${number.toString(16)}`,
          transactionIndex: `0x${own[0].transactionIndex.toString(16)}`,
          logs: own.map(({ logIndex }) => ({ logIndex: `0x${logIndex.toString(16)}` })),
        }
      }
      return null
    },
  }

  const circlesQuery = ([query]: unknown[]): Answer => {
    const table = readTable(property(query, 'namespace'), property(query, 'table'))
    const filter = parseFilter(table, property(query, 'filter'))
    const order = listOf(property(query, 'order'), 'order').map((key) => readColumn(table, property(key, 'column')))
    const rows = seenBy('indexer')
      .flatMap(({ logs }) => logs)
      .filter((log) => log.table === table.name && !chain.hidden.has(log.txHash))
      .map(({ row }) => row as Row)
      .filter((row) => filter.matches(row))
      .toSorted((a, b) => order.map((column) => compareRows(column, a, b)).find((n) => n !== 0) ?? 0)
    const columns = table.columns.map(({ name }) => name)
    const limit = Math.min(Number(property(query, 'limit') ?? 100), 1000)
    return { columns, rows: rows.slice(0, limit).map((row) => columns.map((name) => row[name])) }
  }

  const start = (methods: Record<string, (params: any[]) => unknown>) =>
    startLocalServer(async (request, response) => {
      let body = ''
      for await (const part of request) body += part
      const { id, method, params } = JSON.parse(body) as Call
      const what = method === 'circles_query' ? String(property(params[0], 'table')) : method
      chain.asked.push({ what, params })
      const answer = (said: object, status = 200) =>
        void response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify({ id, ...said }))
      const fault = chain.faults.get(what)
      const answered = methods[method]
      if (fault === 'hang') return
      if (fault === 'cut') return void response.destroy()
      if (fault === 'http') return answer({}, 500)
      if (fault === 'error' || !answered) return answer({ error: { code: -32000, message: 'no, by script' } })
      try {
        const honest = answered(params)
        answer({ result: fault ? await fault(honest) : honest })
      } catch (error) {
        answer({ error: { code: -32603, message: String(error) } })
      }
    })
  const servers = [await start(nodeMethods), await start({ circles_query: circlesQuery })]
  chain.node = servers[0]!.url
  chain.indexer = servers[1]!.url
  return chain
}
export type ScriptedChain = Awaited<ReturnType<typeof startScriptedChain>>
