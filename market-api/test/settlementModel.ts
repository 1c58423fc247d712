import {
  type BlockRef,
  type LogPosition,
  type MinedTransaction,
  type PaymentLog,
  type PaymentPage,
  type PaymentSource,
  PaymentSourceError,
  type TrustLog,
  type UnreadableLog,
} from '../src/payments/paymentSource.ts'

/** A chain that changes its mind, a source that reads it badly, and what an order on it is worth by the book. */

export const START_SECONDS = 1_780_000_000
const SECONDS_A_BLOCK = 5
/** How many of the last blocks are read in every round (payments.md W5). */
const RECHECKED = 64
/** A position behind everything in its block. */
const LAST = 2_147_483_647

export type Payment = {
  reference: string
  gateway: string
  token: bigint | null
  amountWei: bigint | null
  emitter: string
}
export type TrustWord = { gateway: string; avatar: string; expirySeconds: bigint; emitter: string }
export type Entry =
  | ({ kind: 'payment' } & Payment)
  | ({ kind: 'trust' } & TrustWord)
  /** Somebody's transfer with nothing readable in its data. */
  | { kind: 'noise' }
export type Transaction = { hash: string; entries: Entry[] }
export type Log = LogPosition & { txHash: string; blockHash: string; seconds: number; entry: Entry }
export type Block = { number: number; hash: string; seconds: number; transactions: Transaction[]; logs: Log[] }

/** What becomes of a transaction whose block is gone. */
export type Fate = 'dropped' | 'waits' | 'again'
export type Reorg = {
  depth: number
  /** How much longer the other branch is. */
  longer: number
  /** Of the first, second, … transaction, over and over. */
  fates: Fate[]
  /** The transactions come in again in the other order. */
  turned: boolean
}

export type SimulatedChain = {
  blocks: Block[]
  submit(entries: Entry[]): void
  /** A block with at most so many of the transactions that wait. */
  mine(transactions: number): void
  reorg(how: Reorg): void
}

const hex = (n: number, bytes: number) => `0x${n.toString(16).padStart(bytes * 2, '0')}`

export function createChain(): SimulatedChain {
  let serial = 0
  let waiting: Transaction[] = []
  const blocks: Block[] = []

  function append(transactions: Transaction[]) {
    serial += 1
    const number = blocks.length
    const block: Block = {
      number,
      hash: hex(serial, 32),
      // Another branch has mostly other times.
      seconds: START_SECONDS + number * SECONDS_A_BLOCK + (serial % 3),
      transactions,
      logs: [],
    }
    // What others do in the block moves our logs about; before each stands one of the token, as in a real transaction.
    let logIndex = serial % 3
    for (const [transactionIndex, { hash, entries }] of transactions.entries()) {
      for (const entry of entries) {
        const place = { blockNumber: number, transactionIndex, logIndex: logIndex + 1 }
        block.logs.push({ ...place, txHash: hash, blockHash: block.hash, seconds: block.seconds, entry })
        logIndex += 2
      }
      logIndex += serial % 2
    }
    blocks.push(block)
  }
  append([])

  return {
    blocks,
    submit(entries) {
      serial += 1
      waiting.push({ hash: hex(0x1000000 + serial, 32), entries })
    },
    mine(transactions) {
      append(waiting.splice(0, transactions))
    },
    reorg({ depth, longer, fates, turned }) {
      const gone = blocks.splice(Math.max(1, blocks.length - depth))
      if (gone.length === 0) return
      const again: Transaction[] = []
      for (const [n, transaction] of gone.flatMap(({ transactions }) => transactions).entries()) {
        const fate = fates[n % fates.length]
        if (fate === 'again') again.push(transaction)
        if (fate === 'waits') waiting.push(transaction)
      }
      if (turned) again.reverse()
      const length = Math.max(0, gone.length + longer)
      // What finds no block in a shorter branch waits.
      if (length === 0) waiting = [...again, ...waiting]
      for (let n = 0; n < length; n += 1) append(again.splice(0, Math.ceil(again.length / (length - n))))
    },
  }
}

export const SOURCE_METHODS = ['readHead', 'readBlock', 'readPayments', 'readTrust', 'readTransaction'] as const
export type SourceMethod = (typeof SOURCE_METHODS)[number]

/** Calls of one method that fail: so many after so many that don't. */
export type Fault = { method: SourceMethod; after: number; calls: number }

export type SimulatedSource = PaymentSource & {
  /** Undone by `heal`, like all that follows but for `stall`. */
  fault(fault: Fault): void
  /** Leaves this row of payments out of every page. */
  forget(nth: number): void
  /** The indexer reads no new blocks, nor that old ones are gone, until `unstall`. */
  stall(): void
  unstall(): void
  /** The node is so many blocks behind the indexer. */
  lag(blocks: number): void
  /** Happens before the nth call from now on. */
  interject(call: number, what: () => Promise<void> | void): void
  heal(): void
  /** Whether it leaves out nothing of the chain. */
  showsAll(): boolean
}

/**
 * Reads the chain as an indexer beside a node (`blockHash` unknown, a page ends with its last row, anybody's logs), or as a node
 * alone (a page ends with the blocks it covers, never above the head it was asked for; only the factories' logs).
 */
export function connectSimulated(
  chain: SimulatedChain,
  kind: 'indexer' | 'node',
  factories: readonly string[],
): SimulatedSource {
  let faults: Fault[] = []
  let forgotten: number | undefined
  let stalledAt: Block[] | undefined
  let behind = 0
  let calls = 0
  let interjections: { call: number; what: () => Promise<void> | void }[] = []

  const noded = () => chain.blocks.slice(0, Math.max(1, chain.blocks.length - behind))
  const indexed = () => (kind === 'node' ? noded() : (stalledAt ?? chain.blocks))
  const logs = () =>
    indexed()
      .flatMap((block) => block.logs)
      .filter(({ entry }) => kind === 'indexer' || entry.kind === 'noise' || factories.includes(entry.emitter))

  const isPayment = ({ entry }: Log) =>
    entry.kind === 'payment' && (kind === 'indexer' || factories.includes(entry.emitter))

  async function enter(method: SourceMethod) {
    calls += 1
    const now = interjections.filter(({ call }) => call === calls)
    interjections = interjections.filter(({ call }) => call > calls)
    for (const { what } of now) await what()
    for (const fault of faults) {
      if (fault.method !== method) continue
      fault.after -= 1
      if (fault.after >= 0 || fault.calls <= 0) continue
      fault.calls -= 1
      throw new PaymentSourceError(`${method} is out of order`)
    }
  }

  const source: SimulatedSource = {
    fault: (fault) => void faults.push({ ...fault }),
    forget: (nth) => void (forgotten = nth),
    stall: () => void (stalledAt ??= [...chain.blocks]),
    unstall: () => void (stalledAt = undefined),
    lag: (blocks) => void (behind = blocks),
    interject: (call, what) => void interjections.push({ call: calls + call, what }),
    heal() {
      faults = []
      interjections = []
      forgotten = undefined
      behind = 0
    },
    showsAll: () => forgotten === undefined && (kind === 'node' || stalledAt === undefined) && behind === 0,

    async readHead() {
      await enter('readHead')
      const { number, hash } = noded().at(-1)!
      return { number, hash }
    },
    async readBlock(number) {
      await enter('readBlock')
      const block = noded()[number]
      return block && { number, hash: block.hash }
    },
    async readPayments(after, limit, head) {
      await enter('readPayments')
      const payments = logs().filter(({ entry }) => entry.kind !== 'trust')
      // Of what is older the poller takes the source's word.
      const recent = payments.filter(({ blockNumber }) => blockNumber > noded().length - RECHECKED)
      const left = forgotten === undefined ? undefined : recent[forgotten % recent.length]
      const rows = payments.filter((log) => log !== left && (!after || isBehind(log, after)))
      return kind === 'indexer' ? indexerPage(rows, limit) : nodePage(rows, after, limit, head)
    },
    async readTrust(gateway, { emitters, after }) {
      await enter('readTrust')
      return logs().flatMap((log): TrustLog[] => {
        const { entry } = log
        if (entry.kind !== 'trust' || entry.gateway !== gateway) return []
        if ((emitters && !emitters.includes(entry.emitter)) || (after && !isBehind(log, after))) return []
        const { avatar: trustReceiver, expirySeconds, emitter } = entry
        return [{ ...position(log), emitter, trustReceiver, expirySeconds }]
      })
    },
    async readGateway() {
      return []
    },
    async readTransaction(txHash): Promise<MinedTransaction | undefined> {
      await enter('readTransaction')
      for (const { number, hash, transactions, logs: mined } of noded()) {
        const transactionIndex = transactions.findIndex((transaction) => transaction.hash === txHash)
        if (transactionIndex < 0) continue
        const logIndexes = mined
          .filter((log) => log.txHash === txHash && isPayment(log))
          .map(({ logIndex }) => logIndex)
        return { blockNumber: number, blockHash: hash, transactionIndex, logIndexes }
      }
      return undefined
    },
  }

  function indexerPage(rows: Log[], limit: number): PaymentPage {
    const page = rows.slice(0, limit)
    const end = page.at(-1)
    return { ...asFacts(page), end: end && position(end), full: page.length === limit }
  }

  /** At most three blocks at once. */
  function nodePage(rows: Log[], after: LogPosition | undefined, limit: number, head: BlockRef): PaymentPage {
    const from = Math.max(0, after ? after.blockNumber + (after.transactionIndex === LAST ? 1 : 0) : 0)
    if (from > head.number) return { logs: [], unreadable: [], end: undefined, full: false }
    const to = Math.min(head.number, from + 2)
    const block = noded()[to]
    if (!block || (to === head.number && block.hash !== head.hash)) {
      throw new PaymentSourceError(`block ${to} was replaced while its logs were read`)
    }
    const found = rows.filter(({ blockNumber }) => blockNumber <= to)
    const page = found.slice(0, limit)
    const isHeld = found.length > page.length
    const end = isHeld ? position(page.at(-1)!) : { blockNumber: to, transactionIndex: LAST, logIndex: LAST }
    return { ...asFacts(page), end, full: isHeld || to < head.number }
  }

  function asFacts(rows: Log[]): Pick<PaymentPage, 'logs' | 'unreadable'> {
    const found: PaymentLog[] = []
    const unreadable: UnreadableLog[] = []
    for (const { entry, ...log } of rows) {
      const at = { ...position(log), txHash: log.txHash, payer: null }
      if (entry.kind === 'payment') {
        const { gateway, token: tokenId, amountWei, emitter, reference: paymentReference } = entry
        const blockHash = kind === 'node' ? log.blockHash : null
        const blockTime = new Date(log.seconds * 1000)
        found.push({ ...at, blockHash, blockTime, emitter, gateway, payee: null, tokenId, amountWei, paymentReference })
      } else {
        unreadable.push({ ...at, reason: 'no_reference', gateway: null, tokenId: null, amountWei: null })
      }
    }
    return { logs: found, unreadable }
  }
  return source
}

const position = ({ blockNumber, transactionIndex, logIndex }: LogPosition): LogPosition => ({
  blockNumber,
  transactionIndex,
  logIndex,
})

const isBehind = (a: LogPosition, b: LogPosition) =>
  a.blockNumber > b.blockNumber ||
  (a.blockNumber === b.blockNumber &&
    (a.transactionIndex > b.transactionIndex || (a.transactionIndex === b.transactionIndex && a.logIndex > b.logIndex)))

/** What decides about an order of this history, besides the chain. */
export type Book = {
  confirm: number
  finalize: number
  /** Only these say which gateway trusts whom and what it was paid; undefined = anybody. */
  factories: string[] | undefined
}
export type Ordered = { reference: string; priceWei: bigint; gateways: string[] }
export type Worth = {
  seenWei: bigint
  /** Undefined = not paid. */
  paidBy: { txHash: string; logIndex: number } | undefined
  confirmed: boolean
  complete: boolean
  /** The next head, if no payment comes, at which more is so. */
  next: number | undefined
}

/** payments.md 18, read off the chain from its first block to its head, every time anew. */
export function worthOf(blocks: readonly Block[], order: Ordered, book: Book): Worth {
  const head = blocks.length - 1
  const money = blocks.flatMap(({ logs }) => logs).filter((log) => isMoney(blocks, log, order, book))
  const isPaidBy = (logs: Log[]) => logs.length > 0 && sum(logs) >= order.priceWei
  const isDeep = (confirmations: number, at: number) =>
    isPaidBy(confirmations === 0 ? money : money.filter(({ blockNumber }) => blockNumber <= at - confirmations))
  const completeAt = (at: number) => isDeep(book.finalize, at)
  const confirmedAt = (at: number) => completeAt(at) || isDeep(book.confirm, at)
  // Blocks are in order, and so are the logs in each.
  const paying = money.find((_, n) => isPaidBy(money.slice(0, n + 1)))
  const ahead = Array.from({ length: book.confirm + book.finalize + 2 }, (_, n) => head + 1 + n)
  return {
    seenWei: sum(money),
    paidBy: paying && { txHash: paying.txHash, logIndex: paying.logIndex },
    confirmed: confirmedAt(head),
    complete: completeAt(head),
    next: ahead.find((at) => confirmedAt(at) !== confirmedAt(head) || completeAt(at) !== completeAt(head)),
  }
}

const amountOf = ({ entry }: Log) => (entry.kind === 'payment' ? entry.amountWei : null) ?? 0n
const sum = (logs: Log[]) => logs.reduce((total, log) => total + amountOf(log), 0n)

/** Whether this log is money for the order: to its gateway, readable, in a token that the gateway trusted just there. */
export function isMoney(blocks: readonly Block[], log: Log, { reference, gateways }: Ordered, book: Book): boolean {
  if (log.entry.kind !== 'payment' || log.entry.reference !== reference) return false
  const { gateway, token, amountWei, emitter } = log.entry
  if (!gateways.includes(gateway) || token === null || amountWei === null) return false
  if (book.factories && !book.factories.includes(emitter)) return false
  const said: bigint[] = []
  for (const before of blocks.flatMap(({ logs }) => logs)) {
    if (before === log) break
    if (before.entry.kind !== 'trust' || before.entry.gateway !== gateway) continue
    if (BigInt(before.entry.avatar) !== token) continue
    if (book.factories && !book.factories.includes(before.entry.emitter)) continue
    said.push(before.entry.expirySeconds)
  }
  return said.length > 0 && said.at(-1)! > BigInt(log.seconds)
}
