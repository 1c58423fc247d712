import { createGate } from '@market/kit/gate'
import { type AbiEvent, decodeEventLog, type Hex, parseAbiItem, toEventSelector } from 'viem'
import { connectChain, hashOf, listOf, quantityOf, recordOf, toHex } from './chainReads.ts'
import { RpcFailure } from './jsonRpc.ts'
import { blockTimeOf, type ClaimedPayment, sortOutPayments } from './paymentFacts.ts'
import { endOfBlock, type LogPosition, MAX_INDEX, type PaymentSource, PaymentSourceError } from './paymentSource.ts'
import { comparePositions } from './trust.ts'

const HEADERS_AT_ONCE = 8
const HEADERS_KEPT = 4096

/**
 * A plain node: the logs of the contracts that gateways are made by and report through (payments.md 2, 18), from
 * `startBlock` on, of `logRange` blocks at a time or as many as the node gives.
 */
export function connectEvmNode({
  rpc,
  timeoutMs,
  chainId,
  factories,
  startBlock,
  logRange,
}: {
  rpc: string
  timeoutMs: number
  chainId: number
  factories: readonly string[]
  startBlock: number
  logRange: number
}): PaymentSource {
  // A node takes an empty list of addresses for every contract there is.
  if (factories.length === 0) throw new RangeError('without a factory, every contract could report a payment')
  const { ask, readHead, readBlock, readTransaction } = connectChain({ rpc, timeoutMs, chainId, emitters: factories })
  const secondsOfBlock = createBlockTimes(ask)
  const paymentSpan = createSpan(logRange)
  const wholeSpan = createSpan(Number.MAX_SAFE_INTEGER)
  /** How far payments are read: the trust that decides on them must be known as far. */
  let paymentsHead = 0

  /** The logs of as many blocks from `from` on as the node gives at once, and the last of these blocks. */
  const readRange = async (filter: LogFilter, from: number, last: number, span: Span) => {
    for (;;) {
      const to = Math.min(last, from + span.size() - 1)
      const blocks = to - from + 1
      try {
        const params = { address: filter.addresses, topics: filter.topics, fromBlock: toHex(from), toBlock: toHex(to) }
        const logs = logsOf(await ask('eth_getLogs', [params]), filter, from, to)
        span.wasGranted()
        return { logs, to }
      } catch (error) {
        if (!(error instanceof RpcFailure) || blocks === 1) throw error
        const isTooSlow = error.kind === 'timeout' || error.status === 504
        if (!isTooSlow && !isTooMuch(error)) throw error
        span.shrinkTo(blocks / 2)
        // Maybe that was too much for it, maybe it stalls: the next round finds out.
        if (isTooSlow) throw error
      }
    }
  }

  /**
   * A node that has fallen behind answers for blocks it doesn't have, with no logs. Whoever has the last of them has what
   * is below. Behind a balancer another node may answer this, which the poller's second look at the newest blocks makes up.
   */
  const requireBlock = async (number: number, logs: NodeLog[], hash?: string) => {
    const block = await readBlock(number)
    if (!block) throw new PaymentSourceError(`the node gave logs up to block ${number}, but does not have that block`)
    const seen = [hash, logs.find((log) => log.blockNumber === number)?.blockHash]
    if (seen.some((one) => one !== undefined && one !== block.hash))
      throw new PaymentSourceError(`block ${number} was replaced while its logs were read`)
  }

  /** Up to the head, or at least as far as `atLeast`. */
  const readAll = async (filter: LogFilter, after?: LogPosition, atLeast = 0): Promise<NodeLog[]> => {
    const last = Math.max((await readHead()).number, atLeast)
    const found: NodeLog[] = []
    let next = firstBlock(after)
    if (next > last) return found
    while (next <= last) {
      const { logs, to } = await readRange(filter, next, last, wholeSpan)
      for (const log of logs) found.push(log)
      next = to + 1
    }
    await requireBlock(last, found)
    return found.filter((log) => isBehind(log, after))
  }

  const firstBlock = (after: LogPosition | undefined) => Math.max(startBlock, after ? blockBehind(after) : 0)

  return {
    readHead,
    readBlock,
    readTransaction,

    async readPayments(after, limit, head) {
      paymentsHead = head.number
      const from = firstBlock(after)
      if (from > head.number) return { logs: [], unreadable: [], end: undefined, full: false }

      const filter = { addresses: factories, topics: [PAYMENT_RECEIVED.topic] }
      const { logs, to } = await readRange(filter, from, head.number, paymentSpan)
      await requireBlock(to, logs, to === head.number ? head.hash : undefined)
      const found = logs.filter((log) => isBehind(log, after))
      const page = found.slice(0, limit)
      const held = found.length > page.length
      // The next page begins in the block where this one ends: what was held back is read again.
      if (held) paymentSpan.shrinkTo(((to - from + 1) * limit) / found.length)

      const claims = await Promise.all(page.map(async (log) => claimOf(log, await secondsOfBlock(log))))
      return {
        ...sortOutPayments(claims),
        end: held ? positionOf(page.at(-1)!) : endOfBlock(to),
        full: held || to < head.number,
      }
    },

    async readTrust(gateway, { emitters, after }) {
      const addresses = emitters ?? factories
      if (addresses.length === 0) return []
      const topics = [TRUST_UPDATED.topic, topicOf(gateway)]
      return (await readAll({ addresses, topics }, after, paymentsHead)).map((log) => {
        const { trustReceiver, expiry } = decode(TRUST_UPDATED, log) as { trustReceiver: string; expiry: bigint }
        return {
          ...positionOf(log),
          emitter: log.address,
          trustReceiver: trustReceiver.toLowerCase(),
          expirySeconds: expiry,
        }
      })
    },

    async readGateway(gateway) {
      const topics = [GATEWAY_CREATED.topic, null, topicOf(gateway)]
      return (await readAll({ addresses: factories, topics })).map((log) => {
        const { owner } = decode(GATEWAY_CREATED, log) as { owner: string }
        return { ...positionOf(log), emitter: log.address, gateway: gateway.toLowerCase(), owner: owner.toLowerCase() }
      })
    },
  }
}

type Event = { abi: AbiEvent; topic: string }
const eventOf = (abi: AbiEvent): Event => ({ abi, topic: toEventSelector(abi) })

const PAYMENT_RECEIVED = eventOf(
  parseAbiItem(
    'event PaymentReceived(address indexed payer, address indexed payee, address indexed gateway, uint256 tokenId, uint256 amount, bytes data)',
  ),
)
const TRUST_UPDATED = eventOf(
  parseAbiItem('event TrustUpdated(address indexed gateway, address indexed trustReceiver, uint96 expiry)'),
)
const GATEWAY_CREATED = eventOf(parseAbiItem('event GatewayCreated(address indexed owner, address indexed gateway)'))

/** An address as an indexed parameter. */
const topicOf = (address: string) => `0x${address.slice(2).toLowerCase().padStart(64, '0')}`

type LogFilter = { addresses: readonly string[]; topics: readonly (string | null)[] }

type NodeLog = LogPosition & {
  address: string
  topics: string[]
  data: string
  txHash: string
  blockHash: string
  /** Not every node says it. */
  blockTimestamp: number | undefined
}

const positionOf = ({ blockNumber, transactionIndex, logIndex }: LogPosition): LogPosition => ({
  blockNumber,
  transactionIndex,
  logIndex,
})

const isBehind = (log: LogPosition, after: LogPosition | undefined) => !after || comparePositions(log, after) > 0

/** The first block in which something may be behind a position. */
const blockBehind = ({ blockNumber, transactionIndex }: LogPosition) =>
  transactionIndex >= MAX_INDEX ? blockNumber + 1 : blockNumber

/** In chain order. Throws at a log that wasn't asked for, or that contradicts another: then the others can't be relied on. */
function logsOf(result: unknown, filter: LogFilter, from: number, to: number): NodeLog[] {
  const logs = listOf(result, 'eth_getLogs: the result').map((value) => logOf(value))
  for (const log of logs) {
    const asked =
      log.blockNumber >= from &&
      log.blockNumber <= to &&
      filter.addresses.includes(log.address) &&
      filter.topics.every((topic, i) => topic === null || topic === log.topics[i])
    if (!asked) throw new PaymentSourceError('eth_getLogs: a log that was not asked for')
  }
  logs.sort(comparePositions)
  for (const [i, log] of logs.entries()) {
    const last = logs[i - 1]
    if (last?.blockNumber !== log.blockNumber) continue
    if (log.logIndex <= last.logIndex || log.blockHash !== last.blockHash)
      throw new PaymentSourceError(`eth_getLogs: two answers for one place in block ${log.blockNumber}`)
    if ((log.txHash === last.txHash) !== (log.transactionIndex === last.transactionIndex))
      throw new PaymentSourceError(`eth_getLogs: a transaction in two places of block ${log.blockNumber}`)
  }
  return logs
}

function logOf(value: unknown): NodeLog {
  const log = recordOf(value, 'eth_getLogs: a log')
  if (log.removed === true) throw new PaymentSourceError('eth_getLogs: a log that was removed')
  const topics = listOf(log.topics, 'eth_getLogs: topics').map((topic) => hashOf(topic, 'eth_getLogs: a topic'))
  const { address, data, blockTimestamp } = log
  if (typeof address !== 'string' || !/^0x[0-9a-f]{40}$/i.test(address))
    throw new PaymentSourceError('eth_getLogs: address is not an address')
  if (typeof data !== 'string' || !/^0x([0-9a-f]{2})*$/i.test(data))
    throw new PaymentSourceError('eth_getLogs: data is not hex')
  return {
    blockNumber: quantityOf(log.blockNumber, 'eth_getLogs: blockNumber'),
    transactionIndex: quantityOf(log.transactionIndex, 'eth_getLogs: transactionIndex', MAX_INDEX),
    logIndex: quantityOf(log.logIndex, 'eth_getLogs: logIndex', MAX_INDEX),
    address: address.toLowerCase(),
    topics,
    data: data.toLowerCase(),
    txHash: hashOf(log.transactionHash, 'eth_getLogs: transactionHash'),
    blockHash: hashOf(log.blockHash, 'eth_getLogs: blockHash'),
    blockTimestamp:
      typeof blockTimestamp === 'string' ? quantityOf(blockTimestamp, 'eth_getLogs: blockTimestamp') : undefined,
  }
}

function decode({ abi }: Event, { topics, data }: NodeLog): Record<string, unknown> {
  try {
    return decodeEventLog({ abi: [abi], topics: topics as [Hex, ...Hex[]], data: data as Hex }).args as never
  } catch (cause) {
    throw new PaymentSourceError(`eth_getLogs: not a ${abi.name} log`, { cause })
  }
}

/** A log that is none but by its name may be value with a broken reference all the same: it is kept as unreadable. */
function claimOf(log: NodeLog, seconds: number): ClaimedPayment {
  const { txHash, blockHash } = log
  const facts = { ...positionOf(log), txHash, blockHash, blockTime: blockTimeOf(seconds), emitter: log.address }
  let args: { payer: string; payee: string; gateway: string; tokenId: bigint; amount: bigint; data: string }
  try {
    args = decode(PAYMENT_RECEIVED, log) as typeof args
  } catch {
    const [, payer = null, payee = null, gateway = null] = log.topics.map((topic) => `0x${topic.slice(26)}`)
    return { ...facts, gateway, payer, payee, tokenId: null, amountWei: null, data: null }
  }
  return {
    ...facts,
    gateway: args.gateway.toLowerCase(),
    payer: args.payer.toLowerCase(),
    payee: args.payee.toLowerCase(),
    tokenId: args.tokenId,
    amountWei: args.amount,
    data: args.data,
  }
}

type Span = ReturnType<typeof createSpan>

/** How many blocks to ask for at once: fewer when it was too much, more again after a run of answers. */
function createSpan(most: number) {
  let size = most
  let run = 0
  return {
    size: () => size,
    shrinkTo(blocks: number) {
      size = Math.max(1, Math.floor(blocks))
      run = 0
    },
    wasGranted() {
      run += 1
      if (run % 8 === 0) size = Math.min(most, size * 2)
    },
  }
}

/**
 * What nodes and hosts say when they want to be asked for less (geth, Nethermind, Erigon, reth, Besu, Infura, Alchemy,
 * QuickNode, Ankr). There is no agreement on the code: -32005, -32602, -32000 and -32614 all occur, and -32005 is also said
 * of too many calls, for which asking for less is no cure, nor harm.
 */
const WANTS_LESS =
  /more than|too (many|large|big|wide|long)|exceed|limit|maximum|narrow|\brange\b|response size|time(d)? ?out|took too long/i
/** A range that isn't there yet, and a caller that is too fast. */
const WANTS_SOMETHING_ELSE = /invalid block range|beyond|too many requests|rate.?limit|per second|quota|credits/i

function isTooMuch({ kind, status, code, message }: RpcFailure): boolean {
  if (kind === 'too_long' || status === 413) return true
  if (kind !== 'refused' || status === 429 || WANTS_SOMETHING_ELSE.test(message)) return false
  return code === -32005 || WANTS_LESS.test(message)
}

/** Each block's header is read once, a few at a time. By its hash: a header of the block's number may be another block's. */
function createBlockTimes(ask: (method: string, params: unknown[]) => Promise<unknown>) {
  const known = new Map<string, Promise<number>>()
  const inTurn = createGate(HEADERS_AT_ONCE)

  const read = async ({ blockHash, blockNumber }: NodeLog) => {
    const of = 'eth_getBlockByHash'
    const block = await ask(of, [blockHash, false])
    if (block === null) throw new PaymentSourceError(`block ${blockNumber} was replaced while its logs were read`)
    const { hash, number, timestamp } = recordOf(block, of)
    if (hashOf(hash, `${of}: hash`) !== blockHash || quantityOf(number, `${of}: number`) !== blockNumber)
      throw new PaymentSourceError(`${of}: another block than was asked for`)
    return quantityOf(timestamp, `${of}: timestamp`)
  }

  return async (log: NodeLog): Promise<number> => {
    if (log.blockTimestamp !== undefined) return log.blockTimestamp
    const earlier = known.get(log.blockHash)
    if (earlier) return earlier
    const reading = inTurn(() => read(log))
    known.set(log.blockHash, reading)
    reading.catch(() => known.delete(log.blockHash))
    if (known.size > HEADERS_KEPT) known.delete(known.keys().next().value!)
    return reading
  }
}
