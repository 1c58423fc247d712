import { randomInt } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { parseEip155Id } from '@market/contracts/address'
import { weiFromJsonNumber } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import { hubAbi } from '@market/dev-chain/deployment'
import { Command, InvalidArgumentError } from 'commander'
import { createPublicClient, encodeFunctionData, type Hex, http, stringToHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { CHAIN_ID, demoKey, demoOperator, DEMO_CODE_SKU } from './demoSeller.ts'

type Options = { market: string; rpc: string; operator: string; sku: string; seed?: number; timeout: number; json?: boolean }

const wholeNumber = (text: string) => {
  if (!/^[0-9]{1,9}$/.test(text)) throw new InvalidArgumentError('must be a whole number')
  return Number(text)
}

const command = new Command('npm run demo --')
  .description('Buys one code from the running market as a buyer would: through HTTP and the chain only.')
  .option('--market <url>', 'the market', process.env.MARKET_URL ?? `http://127.0.0.1:${process.env.MARKET_API_PORT ?? 65001}`)
  .option('--rpc <url>', 'JSON-RPC of the dev chain', process.env.RPC ?? `http://127.0.0.1:${process.env.DEV_CHAIN_PORT ?? 65020}`)
  .option('--operator <address>', 'whose catalog', demoOperator)
  .option('--sku <sku>', 'what to buy', DEMO_CODE_SKU)
  .option('--seed <n>', 'the same buyer every time', wholeNumber)
  .option('--timeout <seconds>', 'give up after', wholeNumber, 60)
  .option('--json', 'one JSON object at the end instead of a line for each step')
  .addHelpText('after', '\nExamples:\n  npm run demo\n  npm run demo -- --seed 7 --json')

command.parse()
const options = command.opts<Options>()
const deadline = Date.now() + options.timeout * 1000
const began = performance.now()
const steps: { step: string; ms: number }[] = []

class DemoError extends Error {}

try {
  const result = await buy(options)
  if (options.json) console.log(JSON.stringify({ ok: true, ...result, steps, ms: Math.round(performance.now() - began) }))
  else console.log(`\nThe code is ${result.codes.join(', ')}  (${((performance.now() - began) / 1000).toFixed(1)} s)`)
} catch (error) {
  const message = error instanceof Error ? error.message.split('\n')[0] : String(error)
  if (options.json) console.log(JSON.stringify({ ok: false, error: message, steps }))
  else console.error(`\ndemo: ${message}`)
  process.exitCode = 1
}

async function buy({ market, rpc, operator, sku, seed = randomInt(1_000_000_000) }: Options) {
  const wallet = privateKeyToAccount(demoKey(`buyer/${seed}`))
  const buyer = wallet.address.toLowerCase()

  const challenge = await api<{ challengeId: string; message: string }>(market, 'POST', '/api/auth/challenge', {
    address: wallet.address,
    chainId: CHAIN_ID,
  })
  const signature = await wallet.signMessage({ message: challenge.message })
  const { token } = await api<{ token: string }>(market, 'POST', '/api/auth/verify', {
    challengeId: challenge.challengeId,
    signature,
  })
  done(`signed in as ${buyer} (seed ${seed})`)

  const sellers = await api<{ seller: string }[]>(market, 'GET', '/api/sellers')
  if (sellers.length === 0) throw new DemoError('the market has no seller yet')
  const avatars = sellers.map(({ seller }) => `avatars=${seller}`).join('&')
  const catalog = await api<{ products: CatalogItem[] }>(market, 'GET', `/api/operator/${operator}/catalog?${avatars}`)
  const item = catalog.products.find(({ product }) => product.sku === sku)
  const offer = item?.product.offers[0]
  if (!item || !offer) throw new DemoError(`the catalog has no ${sku}`)
  done(`found ${item.product.name} for ${offer.price} ${offer.priceCurrency} among ${catalog.products.length} products`)

  const { basketId } = await api<{ basketId: string }>(market, 'POST', '/api/cart/v1/baskets', { buyer, operator, chainId: CHAIN_ID }, token)
  const basket = `/api/cart/v1/baskets/${basketId}`
  await api(market, 'PATCH', basket, { items: [{ seller: item.seller, orderedItem: { '@type': 'Product', sku }, orderQuantity: 1 }] }, token)
  done('put one into a basket')

  const { valid, missing } = await api<{ valid: boolean; missing: { slot: string }[] }>(market, 'POST', `${basket}/validate`, undefined, token)
  if (!valid) throw new DemoError(`the basket still needs ${missing.map(({ slot }) => slot).join(', ')}`)
  done('the basket is valid')

  const { orderId, paymentReference } = await api<{ orderId: string; paymentReference: string }>(market, 'POST', `${basket}/checkout`, undefined, token)
  done(`checked out: ${orderId}`)

  const payTo = parseEip155Id(offer.potentialAction?.recipient?.['@id'] ?? '')
  if (!payTo) throw new DemoError('the offer does not say whom to pay')
  const txHash = await pay(rpc, wallet, payTo.address, weiFromJsonNumber(offer.price), paymentReference)
  done(`paid ${offer.price} CRC with reference ${paymentReference}`)

  const codes = await follow(market, orderId, token)
  return { buyer, seed, orderId, paymentReference, txHash, codes }
}

/** Watches the order until the code is in it, telling each new status. */
async function follow(market: string, orderId: string, token: string): Promise<string[]> {
  const path = `/api/cart/v1/orders/${orderId}`
  let told = 0
  for (;;) {
    const { events } = await api<{ events: { newStatus: string }[] }>(market, 'GET', `${path}/status-history`, undefined, token)
    for (const { newStatus } of events.slice(told)) done(`order is ${newStatus.split('/').at(-1)}`)
    told = events.length
    const order = await api<Order>(market, 'GET', path, undefined, token)
    const codes = order.outbox.flatMap(({ payload }) => payload.codes ?? [])
    if (codes.length > 0 && order.orderStatus === OrderStatus.paymentComplete) {
      done('the code is in the order')
      return codes
    }
    if (Date.now() > deadline) {
      const { items } = await api<{ items: { state: string; reason: string | null }[] }>(market, 'GET', `${path}/fulfillments`, undefined, token)
      const state = items.map((job) => `${job.state}${job.reason ? ` (${job.reason})` : ''}`).join(', ') || 'not begun'
      throw new DemoError(`no code after ${options.timeout} s; order ${orderId} is ${order.orderStatus.split('/').at(-1)}, delivery ${state}`)
    }
    await delay(100)
  }
}

/** Takes CRC from the dev faucet and sends it to the gateway with the reference in the data, in two signed transactions. */
async function pay(rpc: string, wallet: ReturnType<typeof privateKeyToAccount>, payTo: string, amount: bigint, reference: string): Promise<Hex> {
  const client = createPublicClient({ transport: http(rpc, { retryCount: 5 }), pollingInterval: 50 })
  const chain = await again(async () => (await (await fetch(rpc)).json()) as { contracts: { hub: Hex }; currencyAvatar: Hex })
  const to = chain.contracts.hub
  const nonce = await client.getTransactionCount({ address: wallet.address })
  const calls = [
    encodeFunctionData({ abi: hubAbi, functionName: 'faucet', args: [chain.currencyAvatar, amount] }),
    encodeFunctionData({
      abi: hubAbi,
      functionName: 'safeTransferFrom',
      args: [wallet.address, payTo as Hex, BigInt(chain.currencyAvatar), amount, stringToHex(reference)],
    }),
  ]
  let last: Hex = '0x'
  for (const [i, data] of calls.entries()) {
    // The dev chain asks no fee, so a wallet made a moment ago can pay.
    const serialized = await wallet.signTransaction({ type: 'legacy', chainId: CHAIN_ID, nonce: nonce + i, to, data, gas: 500_000n, gasPrice: 0n })
    last = await client.sendRawTransaction({ serializedTransaction: serialized })
    const { status } = await client.waitForTransactionReceipt({ hash: last, timeout: 20_000 })
    if (status !== 'success') throw new DemoError(`transaction ${last} failed on chain`)
  }
  return last
}

type CatalogItem = {
  seller: string
  product: {
    sku: string
    name: string
    offers: { price: number; priceCurrency: string; potentialAction?: { recipient?: { '@id': string } | null } }[]
  }
}
type Order = { orderStatus: string; outbox: { payload: { codes?: string[] } }[] }

/** One call to the market. A market that is down or restarting is waited for, as a patient front end would. */
async function api<T>(market: string, method: string, path: string, body?: unknown, token?: string): Promise<T> {
  return again(async () => {
    const response = await fetch(market + path, {
      method,
      headers: {
        Accept: 'application/json, application/ld+json',
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...(token ? { Authorization: `Bearer ${token}` } : {}),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const answer = (await response.json()) as T & { error?: string }
    if (response.ok) return answer
    const message = `${method} ${path.replace(/bkt_[0-9a-f]+/, 'bkt_…')}: ${response.status} ${answer.error ?? ''}`
    throw response.status >= 500 ? new Error(message) : new DemoError(message)
  })
}

async function again<T>(attempt: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      if (error instanceof DemoError || Date.now() > deadline) {
        const cause = (error as Error).cause as { code?: string } | undefined
        throw cause?.code === 'ECONNREFUSED' ? new DemoError(`nothing listens at ${options.market}; is \`npm start\` running?`) : error
      }
      await delay(200)
    }
  }
}

function done(step: string) {
  const ms = Math.round(performance.now() - began)
  steps.push({ step, ms })
  if (!options.json) console.log(`${String(ms).padStart(6)} ms  ${step}`)
}
