import { setTimeout as delay } from 'node:timers/promises'
import { decimalFromWei, weiFromDecimal } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import { payInCrc } from '@market/dev-chain/payInCrc'
import {
  clearFaults,
  directUrl,
  failedCalls,
  pauseMining,
  type Reorg,
  remine,
  reorgAway,
  resumeMining,
  setFault,
} from '@market/dev-chain/scenarios'
import { codesOf } from '@market/sdk/delivered'
import type { Market } from '@market/sdk/market'
import type { Payment } from '@market/sdk/verify'
import type { PrivateKeyAccount } from 'viem'

/** An order that waits for payment. */
export type Purchase = {
  market: Market
  orderId: string
  payment: Payment
  account: PrivateKeyAccount
  rpc: string
  timeoutMs: number
  deadline: AbortSignal
  /** Tells what has happened. */
  done(step: string): void
}

export type Outcome = { transactions: string[]; codes: string[] }

export type Scenario = { about: string; play(purchase: Purchase): Promise<Outcome> }

/** What may become of a payment, by the name it is asked for. */
export const scenarios: Record<string, Scenario> = {
  split: { about: 'the buyer pays in three parts; only the last one pays the order', play: split },
  underpaid: { about: 'the buyer pays too little, is told how much is missing, and pays that', play: underpaid },
  overpaid: { about: 'the buyer pays half as much again; the operator sees the surplus', play: overpaid },
  late: { about: 'the buyer cancels and pays all the same; the operator sees money without an order', play: late },
  outage: { about: "the chain's RPC fails while the buyer pays; the market catches up", play: outage },
  reorg: { about: "the payment's block is taken off the chain; the order waits until it is there again", play: reorg },
}

const POLL_MS = 200

export async function payAtOnce(purchase: Purchase): Promise<Outcome> {
  const transactions = [await pay(purchase, purchase.payment.amountWei)]
  return { transactions, codes: await follow(purchase) }
}

async function split(purchase: Purchase): Promise<Outcome> {
  const { amountWei } = purchase.payment
  const transactions = [await pay(purchase, amountWei / 5n)]
  await stillMissing(purchase, transactions)
  transactions.push(await pay(purchase, (amountWei * 3n) / 10n))
  const rest = await stillMissing(purchase, transactions)
  transactions.push(await pay(purchase, rest))
  return { transactions, codes: await follow(purchase) }
}

async function underpaid(purchase: Purchase): Promise<Outcome> {
  const tooLittle = await pay(purchase, (purchase.payment.amountWei * 3n) / 5n)
  const rest = await pay(purchase, await stillMissing(purchase, [tooLittle]))
  return { transactions: [tooLittle, rest], codes: await follow(purchase) }
}

async function overpaid(purchase: Purchase): Promise<Outcome> {
  const surplus = purchase.payment.amountWei / 2n
  const transactions = [await pay(purchase, purchase.payment.amountWei + surplus)]
  const codes = await follow(purchase)
  purchase.done(
    `${decimalFromWei(surplus)} CRC too much; the operator sees it: npm run ops -- payments list --state overpaid`,
  )
  return { transactions, codes }
}

async function late(purchase: Purchase): Promise<Outcome> {
  const { market, orderId, done } = purchase
  const { orderStatus } = await market.cancel(orderId)
  done(`order is ${lastPart(orderStatus)}, by its buyer`)
  const transactions = [await pay(purchase, purchase.payment.amountWei)]
  const { text } = await until(purchase, 'the late payment in the timeline', async () =>
    (await seenPayments(purchase)).find(({ data }) => data.late === true),
  )
  done(`the timeline says: ${text}`)
  const order = await market.order(orderId)
  done(`order is still ${lastPart(order.orderStatus)}; the operator sees it: npm run ops -- payments list --state late`)
  return { transactions, codes: codesOf(order) }
}

async function outage(purchase: Purchase): Promise<Outcome> {
  const { market, orderId, rpc, timeoutMs, done } = purchase
  await setFault(rpc, { methods: ['*'], fault: 'http503', forMs: timeoutMs })
  const transactions: string[] = []
  try {
    done("the chain's RPC fails; the buyer's wallet has another one")
    transactions.push(await pay(purchase, purchase.payment.amountWei, directUrl(rpc)))
    // The market reads payments by one of these two.
    const inVain = async () => {
      const { circles_query: queries = 0, eth_getLogs: reads = 0 } = await failedCalls(rpc)
      return queries + reads >= 2 && queries + reads
    }
    const times = await until(purchase, 'the market asking for payments', inVain)
    const { orderStatus } = await market.order(orderId)
    done(`the market has asked for payments ${times} times in vain; order is ${lastPart(orderStatus)}`)
  } finally {
    await clearFaults(rpc)
  }
  done("the chain's RPC answers again")
  return { transactions, codes: await follow(purchase) }
}

async function reorg(purchase: Purchase): Promise<Outcome> {
  const { rpc, timeoutMs, done } = purchase
  // With a block every tenth of a second the payment would be final before anybody looks.
  await pauseMining(rpc, { forMs: timeoutMs })
  try {
    const txHash = await pay(purchase, purchase.payment.amountWei)
    let gone: Reorg | undefined
    const codes = await follow(purchase, async (status) => {
      if (status === OrderStatus.paymentProcessing && !gone) {
        gone = await reorgAway(rpc, { txHash })
        done(`a reorg has taken block ${gone.forkBlock + 1}, which the payment was in, off the chain`)
      } else if (status === OrderStatus.paymentDue && gone) {
        // With other log indexes: told apart by them, the payment would count twice (payments.md P26).
        const [payment] = await remine(rpc, { ...gone, logsBefore: 2 })
        done(`the payment is in the chain again, in block ${payment!.blockNumber}`)
        await resumeMining(rpc)
      }
    })
    return { transactions: [txHash], codes }
  } finally {
    await resumeMining(rpc)
  }
}

/** Wei; the hash of its transaction. */
async function pay({ payment, account, rpc, done }: Purchase, amount: bigint, wallet = rpc): Promise<string> {
  const { address: gateway, reference } = payment
  const txHash = await payInCrc(wallet, account, { gateway, amount, reference })
  done(`paid ${decimalFromWei(amount)} CRC with reference ${reference}`)
  return txHash
}

/** Once these transactions count: what the order's timeline leaves to pay, in wei. */
async function stillMissing(purchase: Purchase, transactions: readonly string[]): Promise<bigint> {
  const { market, orderId, payment, done } = purchase
  const counted = await until(purchase, 'a payment that counts', async () => {
    const seen = (await seenPayments(purchase)).filter(({ data }) => data.counted === true)
    const isThere = (hash: string) => seen.some(({ data }) => data.transactionHash === hash)
    return transactions.every(isThere) && seen
  })
  const paid = counted.reduce((sum, { data }) => sum + weiFromDecimal(String(data.amount)), 0n)
  const missing = payment.amountWei - paid
  const { orderStatus } = await market.order(orderId)
  if (orderStatus !== OrderStatus.paymentDue) throw new Error(`order ${orderId} is ${lastPart(orderStatus)} too early`)
  done(`by the timeline ${decimalFromWei(missing)} CRC are missing; order is ${lastPart(orderStatus)}`)
  return missing
}

const seenPayments = async ({ market, orderId, deadline }: Purchase) =>
  (await market.timeline(orderId, { signal: deadline })).filter(({ kind }) => kind === 'paymentSeen')

/** Watches the order until the code is in it, telling each new status; `meanwhile` may do something about it. */
async function follow(
  { market, orderId, deadline, done }: Purchase,
  meanwhile: (status: string) => Promise<void> = async () => {},
): Promise<string[]> {
  try {
    for await (const { newStatus } of market.watchOrder(orderId, { signal: deadline })) {
      done(`order is ${lastPart(newStatus)}`)
      await meanwhile(newStatus)
    }
    const codes = codesOf(await market.awaitDelivery(orderId, { signal: deadline, pollMs: 100 }))
    if (codes.length > 0) {
      done('the code is in the order')
      return codes
    }
  } catch (error) {
    if (!deadline.aborted) throw error
  }
  const [{ orderStatus }, jobs] = await Promise.all([market.order(orderId), market.fulfillments(orderId)])
  const state = jobs.map((job) => `${job.state}${job.reason ? ` (${job.reason})` : ''}`).join(', ') || 'not begun'
  const seconds = Math.round(process.uptime())
  throw new Error(`no code after ${seconds} s; order ${orderId} is ${lastPart(orderStatus)}, delivery ${state}`)
}

async function until<T>({ deadline }: Purchase, what: string, look: () => Promise<T | undefined | false>): Promise<T> {
  while (!deadline.aborted) {
    const found = await look()
    if (found !== undefined && found !== false) return found
    await delay(POLL_MS, undefined, { signal: deadline }).catch(() => {})
  }
  throw new Error(`no trace of ${what} after ${Math.round(process.uptime())} s`)
}

const lastPart = (iri: string): string => iri.split('/').at(-1) ?? iri
