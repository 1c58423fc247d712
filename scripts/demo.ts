import { randomInt } from 'node:crypto'
import { profileCidOfDigest } from '@market/contracts/cid'
import { CHAIN_ID, DEMO_CODE_SKU, demoKey, demoOperator } from '@market/dev-chain/demo'
import { devContracts } from '@market/dev-chain/deployment'
import { RpcError } from '@market/dev-chain/node'
import { type CatalogItem, Market, NetworkError } from '@market/sdk/market'
import { verifyBasket, verifyItem, verifyOrder } from '@market/sdk/verify'
import { verifyListed, verifySeller } from '@market/sdk/verifySeller'
import { Command, CommanderError, InvalidArgumentError } from 'commander'
import { privateKeyToAccount } from 'viem/accounts'
import { connectRegistry } from './catalogRegistry.ts'
import { payAtOnce, type Purchase, scenarios } from './demoScenarios.ts'

type Options = {
  market: string
  rpc: string
  operator: string
  sku: string
  scenario?: string
  seed?: number
  timeout: number
  json?: boolean
}

const wholeNumber = (text: string) => {
  if (!/^[0-9]{1,9}$/.test(text)) throw new InvalidArgumentError('must be a whole number')
  return Number(text)
}

const scenarioName = (text: string) => {
  if (!Object.hasOwn(scenarios, text)) {
    throw new InvalidArgumentError(`there are ${Object.keys(scenarios).join(', ')}`)
  }
  return text
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
  .option('--scenario <name>', 'what becomes of the payment, on the dev chain; see below', scenarioName)
  .option('--seed <n>', 'the same buyer every time', wholeNumber)
  .option('--timeout <seconds>', 'give up after', wholeNumber, 60)
  .option('--json', 'one JSON object at the end instead of a line for each step')
  .addHelpText(
    'after',
    `
Scenarios:
${Object.entries(scenarios)
  .map(([name, { about }]) => `  ${name.padEnd(10)} ${about}`)
  .join('\n')}

Examples:
  npm run demo
  npm run demo -- --scenario reorg
  npm run demo -- --seed 7 --json

Exit codes: 0 done, 1 failed, 2 wrong usage.`,
  )
  .exitOverride()

try {
  command.parse()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  process.exit(error.exitCode === 0 ? 0 : 2)
}
const options = command.opts<Options>()
const deadline = AbortSignal.timeout(options.timeout * 1000)
const began = performance.now()
const steps: { step: string; ms: number }[] = []

const { scenario } = options
const named = scenario === undefined ? {} : { scenario }
try {
  const { transactions, codes, ...bought } = await buy(options)
  const result = { ...bought, txHash: transactions.at(-1), ...(scenario !== undefined && { transactions }), codes }
  const ms = Math.round(performance.now() - began)
  const news = codes.length > 0 ? `The code is ${codes.join(', ')}` : 'There is no code'
  if (options.json) console.log(JSON.stringify({ ok: true, ...named, ...result, steps, ms }))
  else console.log(`\n${news}  (${(ms / 1000).toFixed(1)} s)`)
} catch (error) {
  const message = messageOf(error)
  if (options.json) console.log(JSON.stringify({ ok: false, ...named, error: message, steps }))
  else console.error(`\ndemo: ${message}`)
  process.exitCode = 1
}

async function buy({ market: url, rpc, operator, sku, seed = randomInt(1_000_000_000), timeout }: Options) {
  const account = privateKeyToAccount(demoKey(`buyer/${seed}`))
  const wallet = { address: account.address, signMessage: (message: string) => account.signMessage({ message }) }
  // A market that is down or restarting is waited for, as a patient front end would; what it refuses is final.
  const market = new Market(url, { retryForMs: timeout * 1000, renew: (self) => self.signIn(wallet) })
  const read = (cid: string) => market.raw(cid)

  const { address: buyer } = await market.signIn(wallet)
  done(`signed in as ${buyer} (seed ${seed})`)

  const sellers = (await market.sellers()).map(({ seller }) => seller)
  if (sellers.length === 0) throw new Error('the market has no seller yet')
  const items: CatalogItem[] = []
  for await (const item of market.catalogItems(operator, sellers)) items.push(item)
  const item = items.find(({ product }) => product.sku === sku)
  const offer = item?.product.offers[0]
  if (!item || !offer) throw new Error(`the catalog has no ${sku}`)
  done(`found ${item.product.name} for ${offer.price} ${offer.priceCurrency} among ${items.length} products`)

  const { seller } = item
  const product = await verifyItem(item, read)
  const registry = connectRegistry({ rpcUrl: rpc, address: devContracts.nameRegistry, chainId: CHAIN_ID })
  const profileCid = profileCidOfDigest(await registry.readDigest(seller)) ?? ''
  verifyListed(product, await verifySeller({ seller, operator, chainId: CHAIN_ID, profileCid, read, skus: [sku] }))
  done('it is what its seller has signed')

  const basket = await market.createBasket({ buyer, operator })
  const wanted = [{ seller, sku, quantity: 1 }]
  const agreed = await basket.setItems(wanted)
  verifyBasket(agreed, wanted, [product])
  done('put one into a basket')

  const { valid, missing } = await basket.validate()
  if (!valid) throw new Error(`the basket still needs ${missing.map(({ slot }) => slot).join(', ')}`)
  done('the basket is valid')

  const checkout = await basket.checkout()
  const { orderId, paymentReference } = checkout
  done(`checked out: ${orderId}`)

  const payment = verifyOrder(await market.order(orderId), { basket: agreed, products: [product], checkout })
  const timeoutMs = timeout * 1000
  const purchase: Purchase = { market, orderId, payment, account, rpc, timeoutMs, deadline, done }
  const outcome = await (scenario === undefined ? payAtOnce : scenarios[scenario]!.play)(purchase)
  return { buyer, seed, orderId, paymentReference, ...outcome }
}

function messageOf(error: unknown): string | undefined {
  if (error instanceof NetworkError && error.reason === 'unreachable') {
    return `nothing listens at ${options.market}; is \`npm start\` running?`
  }
  if (error instanceof RpcError && error.code === -32601) {
    return `${options.rpc} is not the dev chain of \`npm start\`, where scenarios play`
  }
  return error instanceof Error ? error.message.split('\n')[0] : String(error)
}

function done(step: string) {
  const ms = Math.round(performance.now() - began)
  steps.push({ step, ms })
  if (!options.json) console.log(`${String(ms).padStart(6)} ms  ${step}`)
}
