import { randomInt } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { parseEip155Id } from '@market/contracts/address'
import { weiFromJsonNumber } from '@market/contracts/money'
import { OrderStatus } from '@market/contracts/statuses'
import { payInCrc } from '@market/dev-chain/payInCrc'
import { Market, MarketError } from '@market/sdk/market'
import { Command, InvalidArgumentError } from 'commander'
import { privateKeyToAccount } from 'viem/accounts'
import { CHAIN_ID, DEMO_CODE_SKU, demoKey, demoOperator } from '@market/dev-chain/demo'

type Options = {
  market: string
  rpc: string
  operator: string
  sku: string
  seed?: number
  timeout: number
  json?: boolean
}

const wholeNumber = (text: string) => {
  if (!/^[0-9]{1,9}$/.test(text)) throw new InvalidArgumentError('must be a whole number')
  return Number(text)
}

const command = new Command('npm run demo --')
  .description('Buys one code from the running market as a buyer would: through HTTP and the chain only.')
  .option(
    '--market <url>',
    'the market',
    process.env.MARKET_URL ?? `http://127.0.0.1:${process.env.MARKET_API_PORT ?? 65001}`,
  )
  .option(
    '--rpc <url>',
    'JSON-RPC of the dev chain',
    process.env.RPC ?? `http://127.0.0.1:${process.env.DEV_CHAIN_PORT ?? 65020}`,
  )
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
  if (options.json)
    console.log(JSON.stringify({ ok: true, ...result, steps, ms: Math.round(performance.now() - began) }))
  else console.log(`\nThe code is ${result.codes.join(', ')}  (${((performance.now() - began) / 1000).toFixed(1)} s)`)
} catch (error) {
  const message = error instanceof Error ? error.message.split('\n')[0] : String(error)
  if (options.json) console.log(JSON.stringify({ ok: false, error: message, steps }))
  else console.error(`\ndemo: ${message}`)
  process.exitCode = 1
}

async function buy({ market: url, rpc, operator, sku, seed = randomInt(1_000_000_000) }: Options) {
  const account = privateKeyToAccount(demoKey(`buyer/${seed}`))
  const buyer = account.address.toLowerCase()
  const market = new Market(url)

  const wallet = { address: account.address, signMessage: (message: string) => account.signMessage({ message }) }
  await again(() => market.signIn(wallet, CHAIN_ID))
  done(`signed in as ${buyer} (seed ${seed})`)

  const sellers = await again(() => market.sellers())
  if (sellers.length === 0) throw new DemoError('the market has no seller yet')
  const { products } = await again(() =>
    market.catalog(
      operator,
      sellers.map(({ seller }) => seller),
    ),
  )
  const item = products.find(({ product }) => product.sku === sku)
  const offer = item?.product.offers[0]
  if (!item || !offer) throw new DemoError(`the catalog has no ${sku}`)
  done(`found ${item.product.name} for ${offer.price} ${offer.priceCurrency} among ${products.length} products`)

  const basketId = await again(() => market.createBasket({ buyer, operator, chainId: CHAIN_ID }))
  await again(() => market.setItems(basketId, [{ seller: item.seller, sku, quantity: 1 }]))
  done('put one into a basket')

  const { valid, missing } = await again(() => market.validate(basketId))
  if (!valid) throw new DemoError(`the basket still needs ${missing.map(({ slot }) => slot).join(', ')}`)
  done('the basket is valid')

  const { orderId, paymentReference } = await again(() => market.checkout(basketId))
  done(`checked out: ${orderId}`)

  const payTo = parseEip155Id(offer.potentialAction.recipient?.['@id'] ?? '')
  if (!payTo) throw new DemoError('the offer does not say whom to pay')
  const amount = weiFromJsonNumber(offer.price)
  const txHash = await payInCrc(rpc, account, { gateway: payTo.address, amount, reference: paymentReference })
  done(`paid ${offer.price} CRC with reference ${paymentReference}`)

  const codes = await follow(market, orderId)
  return { buyer, seed, orderId, paymentReference, txHash, codes }
}

/** Watches the order until the code is in it, telling each new status. */
async function follow(market: Market, orderId: string): Promise<string[]> {
  let told = 0
  for (;;) {
    const events = await again(() => market.statusHistory(orderId))
    for (const { newStatus } of events.slice(told)) done(`order is ${lastPart(newStatus)}`)
    told = events.length
    const order = await again(() => market.order(orderId))
    const codes = order.outbox.flatMap(({ payload }) => payload.codes ?? [])
    if (codes.length > 0 && order.orderStatus === OrderStatus.paymentComplete) {
      done('the code is in the order')
      return codes
    }
    if (Date.now() > deadline) {
      const jobs = await again(() => market.fulfillments(orderId))
      const state = jobs.map((job) => `${job.state}${job.reason ? ` (${job.reason})` : ''}`).join(', ') || 'not begun'
      const status = lastPart(order.orderStatus)
      throw new DemoError(`no code after ${options.timeout} s; order ${orderId} is ${status}, delivery ${state}`)
    }
    await delay(100)
  }
}

function lastPart(iri: string): string {
  return iri.split('/').at(-1) ?? iri
}

/** A market that is down or restarting is waited for, as a patient front end would; what it refuses is final. */
async function again<T>(attempt: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      const refused = error instanceof DemoError || (error instanceof MarketError && error.status < 500)
      if (refused || Date.now() > deadline) {
        const cause = (error as Error).cause as { code?: string } | undefined
        throw cause?.code === 'ECONNREFUSED'
          ? new DemoError(`nothing listens at ${options.market}; is \`npm start\` running?`)
          : error
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
