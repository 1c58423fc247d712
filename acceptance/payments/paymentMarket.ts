import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { basketId, orderId as newOrderId, paymentReference as newReference } from '@market/contracts/ids'
import { OrderStatus } from '@market/contracts/statuses'
import { DEMO_CODE_SKU, demoOperator, demoSeller } from '@market/dev-chain/demo'
import { devContracts, devCurrencyAvatar, gatewayFactoryAbi, hubAbi } from '@market/dev-chain/deployment'
import { askNode } from '@market/dev-chain/node'
import { clearFaults, directUrl, mine, type Mined, mineTogether, resumeMining } from '@market/dev-chain/scenarios'
import { freePort } from '@market/devstack/ports'
import { type Child, spawnTethered } from '@market/devstack/tether'
import { payTo } from '@market/sdk/verify'
import '@market/testkit/providedContext'
import type { RunningMarket } from '@market/testkit/runningMarket'
import { until } from '@market/testkit/until'
import postgres from 'postgres'
import { createPublicClient, encodeFunctionData, type Hex, hexToString, http, stringToHex } from 'viem'
import { generatePrivateKey, privateKeyToAccount } from 'viem/accounts'
import { expect, inject } from 'vitest'
import { signedInBuyer } from '../buyer.ts'
import { openGateway } from '../buyersApi/devChain.ts'
import { startDemoMarket } from '../demoMarket.ts'

const OPS = new URL('../../scripts/dist/ops.js', import.meta.url).pathname

export const SOURCES = ['circles', 'evm'] as const
export type Source = (typeof SOURCES)[number]
/** One source, for the time it takes; PAYMENT_SOURCES=all for both. */
export const usually = (source: Source): readonly Source[] =>
  process.env.PAYMENT_SOURCES === 'all' ? SOURCES : [source]

/** What a source asks when it looks for payments. */
export const METHOD_OF = { circles: 'circles_query', evm: 'eth_getLogs' } as const

/** Of a demo code, wei. */
export const PRICE = 5n * 10n ** 18n
/** Blocks on top of a payment until it is final, and a few more. */
export const FINAL = 14

export type Placed = { orderId: string; reference: string }
/** To the seller's gateway, in money that it trusts, the price; what differs is named. */
export type Transfer = { reference: string; amount?: bigint; gateway?: string; worthless?: boolean }

/** A `PaymentReceived` log: as the chain has it, and as it should be on record. */
export type ChainTransfer = {
  txHash: string
  logIndex: number
  blockNumber: number
  transactionIndex: number
  reference: string
  gateway: string
  amount: bigint
  avatar: string
}

export type LogLine = { level: string; msg: string; loop?: string; err?: { message: string } } & Record<string, unknown>
export type PaymentMarket = Awaited<ReturnType<typeof startPaymentMarket>>
export type Replica = ReturnType<typeof createReplica>

const CODES = 3000
const GRACE_MS = 12_000

/**
 * The demo market as real processes, with as many replicas of market-api as are started, and a buyer whose orders and payments come
 * by the dozen. No replica runs yet: whoever starts one says where it reads payments.
 */
export async function startPaymentMarket(options: { replicas?: number; env?: NodeJS.ProcessEnv } = {}) {
  const market = await whileTaken(() => startDemoMarket(databasesOfItsOwn()))
  const sql = postgres(market.connections.market, { max: 4 })
  const codes = postgres(market.connections.codedisp, { max: 1 })
  const replicas: Replica[] = []
  const remove = async () => {
    await Promise.all(replicas.map((replica) => replica.stop()))
    await Promise.all([sql.end(), codes.end()])
    await market.remove()
  }
  try {
    const { env } = market.services['market-api']
    await market.services['market-api'].stop()
    for (let i = 0; i < (options.replicas ?? 1); i += 1) {
      replicas.push(createReplica({ ...env, ...options.env }))
    }
    for (const { pool_id } of await codes<{ pool_id: string }[]>`select pool_id from code_pools`) {
      await seedMore(market, pool_id)
    }
    return { ...marketOf(market.rpcUrl, sql, codes, replicas), remove }
  } catch (error) {
    await remove()
    throw error
  }
}

async function seedMore({ connections, secrets }: RunningMarket, poolId: string) {
  const child = execFile(process.execPath, [OPS, '--json', 'seed-pool', poolId, '-'], {
    env: {
      PATH: process.env.PATH,
      OPS_CODEDISP_URL: connections.codedisp,
      OPS_MARKET_URL: connections.market,
      ADAPTER_SECRETS_KEY: secrets.adapterSecretsKey,
    },
  })
  child.stdin!.end(Array.from({ length: CODES }, (_, i) => `MORE-${i + 1}`).join('\n'))
  const [code] = (await once(child, 'exit')) as [number]
  if (code !== 0) throw new Error(`seed-pool ended with ${code}`)
}

/** On the run's Postgres: one more server for each suite would cost more than most of its tests. */
function databasesOfItsOwn() {
  const { hostname: host, port, username: user, password } = new URL(inject('postgresUrl'))
  const name = randomBytes(6).toString('hex')
  const names = { DB_MARKET_API: `market_${name}`, DB_CODEDISP: `codes_${name}` }
  return {
    postgres: { host, port: Number(port), user, password },
    env: {
      ...names,
      DB_MARKET_API_USER: names.DB_MARKET_API,
      DB_CODEDISP_USER: names.DB_CODEDISP,
      // Of the connections that one server has, several suites want some.
      POSTGRES_POOL_SIZE: '10',
    },
  }
}

/** Another run on this machine may have been quicker to use a port that both found free. */
async function whileTaken<T>(start: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await start()
    } catch (error) {
      if (tries === 5 || !String(error).includes('is in use')) throw error
    }
  }
}

/** One market-api, that nobody starts again when it dies; all that any of its processes logged is kept. */
function createReplica(env: NodeJS.ProcessEnv) {
  const lines: LogLine[] = []
  let url = ''
  let child: Child | undefined
  let source: Source = 'circles'
  const running = () => {
    if (!child) throw new Error('the replica is not running')
    return child
  }
  const signal = (name: 'SIGSTOP' | 'SIGCONT') => process.kill(running().pid, name)

  const launch = async (failpoint: string | undefined) => {
    const port = await freePort()
    url = `http://127.0.0.1:${port}`
    const started = await spawnTethered({
      command: process.execPath,
      args: [new URL('../../market-api/dist/main.js', import.meta.url).pathname],
      env: { ...env, PORT: String(port), PAYMENTS_SOURCE: source, ...(failpoint && { FAILPOINT: failpoint }) },
      stopSignal: 'SIGTERM',
      onLine: (line) => lines.push(...(line.startsWith('{') ? [JSON.parse(line) as LogLine] : [])),
    })
    child = started
    void started.exited.then(() => (child = undefined))
    const isUp = await until(
      'market-api is ready',
      async () => (child ? (await fetch(`${url}/health/ready`)).ok && 'ready' : 'dead'),
      30,
    )
    if (isUp === 'dead' && !failpoint) throw new Error(`market-api does not start: ${lines.at(-1)?.msg}`)
  }

  return {
    url: () => url,
    isUp: () => child !== undefined,
    /** Until it is ready, or has died at the failpoint. From where payments are read stays what it was last time. */
    async start(from: Source = source, failpoint?: string) {
      source = from
      if (!child) await whileTaken(() => launch(failpoint))
    },
    async stop() {
      await child?.stop(GRACE_MS)
    },
    async kill() {
      const dying = running()
      dying.kill()
      await dying.exited
    },
    pause: () => signal('SIGSTOP'),
    resume: () => signal('SIGCONT'),
    /** What it has logged since then, an index into all that it has logged. */
    logged: (since = 0) => lines.slice(since),
    /** `Healthy`, or what is not. */
    readiness: async () => (await fetch(`${url}/health/ready`)).text(),
    async metric(name: string): Promise<number> {
      const text = await (await fetch(`${url}/metrics`)).text()
      return Number(new RegExp(`^${name}{[^}]*} (\\S+)$`, 'm').exec(text)?.[1])
    },
  }
}

function marketOf(rpcUrl: string, sql: postgres.Sql, codes: postgres.Sql, replicas: Replica[]) {
  const chain = createPublicClient({ transport: http(directUrl(rpcUrl)), cacheTime: 0 })
  let gateway = ''

  /** Signed by a wallet of their own: what it takes from the faucet, then the transfers in their order. */
  const sign = async (transfers: readonly Transfer[]): Promise<Hex[]> => {
    const wallet = privateKeyToAccount(generatePrivateKey())
    const calls: Hex[] = []
    for (const [avatar, of] of [
      [devCurrencyAvatar as Hex, transfers.filter(({ worthless }) => !worthless)],
      [wallet.address, transfers.filter(({ worthless }) => worthless)],
    ] as const) {
      if (of.length === 0) continue
      const total = of.reduce((sum, { amount = PRICE }) => sum + amount, 0n)
      calls.push(encodeFunctionData({ abi: hubAbi, functionName: 'faucet', args: [avatar, total] }))
    }
    for (const transfer of transfers) {
      const { reference, amount = PRICE } = transfer
      const token = BigInt(transfer.worthless ? wallet.address : devCurrencyAvatar)
      const args = [
        wallet.address,
        (transfer.gateway ?? gateway) as Hex,
        token,
        amount,
        stringToHex(reference),
      ] as const
      calls.push(encodeFunctionData({ abi: hubAbi, functionName: 'safeTransferFrom', args }))
    }
    const free = { type: 'legacy', chainId: 100, to: devContracts.hub, gas: 200_000n, gasPrice: 0n } as const
    return Promise.all(calls.map((data, nonce) => wallet.signTransaction({ ...free, nonce, data })))
  }

  /** All in one block. */
  const pay = async (...transfers: Transfer[]): Promise<Mined[]> => {
    const mined = await mineTogether(rpcUrl, { raws: await sign(transfers) })
    expect(mined.filter(({ succeeded }) => !succeeded)).toEqual([])
    return mined.slice(-transfers.length)
  }

  /** Every payment on the chain, whoever got it. */
  const onChain = async (): Promise<ChainTransfer[]> => {
    const logs = await chain.getContractEvents({
      address: devContracts.gatewayFactory,
      abi: gatewayFactoryAbi,
      eventName: 'PaymentReceived',
      fromBlock: 0n,
      strict: true,
    })
    return logs.map(({ args, ...log }) => ({
      txHash: log.transactionHash,
      logIndex: log.logIndex,
      blockNumber: Number(log.blockNumber),
      transactionIndex: log.transactionIndex,
      reference: hexToString(args.data),
      gateway: args.gateway.toLowerCase(),
      amount: args.amount,
      avatar: `0x${args.tokenId.toString(16).padStart(40, '0')}`,
    }))
  }

  /** Every payment that the market takes to be on the chain. */
  const onRecord = async (): Promise<ChainTransfer[]> => {
    const rows = await sql<(Omit<ChainTransfer, 'amount'> & { amount: string })[]>`
      select tx_hash as "txHash", log_index as "logIndex", block_number::int as "blockNumber",
             transaction_index as "transactionIndex", payment_reference as reference, gateway_address as gateway,
             amount_wei::text as amount, token_avatar as avatar
        from payment_transfers where orphaned_at is null order by block_number, transaction_index, log_index`
    return rows.map((row) => ({ ...row, amount: BigInt(row.amount) }))
  }

  const ordersOf = async (orders: readonly Placed[]) =>
    sql<
      {
        orderId: string
        status: string
        paidWei: string
        isConfirmed: boolean
        isReverted: boolean
        dueBy: Date
        paidAt: Date | null
      }[]
    >`
      select order_id as "orderId", status, paid_amount_wei::text as "paidWei", confirmed_at is not null as "isConfirmed",
             payment_reverted_at is not null as "isReverted", payment_due_by as "dueBy", paid_at as "paidAt"
        from orders where order_id = any(${idsOf(orders)})
       order by array_position(${idsOf(orders)}, order_id)`

  const statusesOf = async ({ orderId }: Placed): Promise<string[]> => {
    const rows = await sql<{ status: string }[]>`
      select new_status as status from orders_status_history where order_id = ${orderId} order by id`
    return rows.map(({ status }) => status)
  }

  const world = {
    rpcUrl,
    sql,
    replicas,
    pay,
    sign,
    onChain,
    ordersOf,
    statusesOf,
    gateway: () => gateway,
    head: async () => Number(await chain.getBlockNumber()),
    mine: (blocks: number) => mine(rpcUrl, blocks),
    /** The chain without its newest blocks, and nothing in their place. */
    loseBlocks: (blocks: number) => askNode(directUrl(rpcUrl), 'anvil_rollback', [blocks]),

    /** All replicas, reading payments from there. */
    async start(source: Source) {
      await Promise.all([clearFaults(rpcUrl), resumeMining(rpcUrl)])
      await Promise.all(replicas.map((replica) => replica.start(source)))
    },

    async stop() {
      await Promise.all(replicas.map((replica) => replica.stop()))
    },

    /** A gateway of another seller, as good as ours. */
    strangersGateway: () => openGateway(directUrl(rpcUrl), privateKeyToAccount(generatePrivateKey())),

    /** Somebody with a wallet and orders of their own. One is checked out as every buyer does; the others are its copies. */
    async buyer() {
      const buyer = await signedInBuyer(replicas[0]!.url())
      let first: Placed | undefined
      const checkOut = async (): Promise<Placed> => {
        const { orderId } = await buyer.checkOut(demoOperator, demoSeller, DEMO_CODE_SKU)
        const { address, reference, amountWei } = payTo(await buyer.market.order(orderId))
        expect(amountWei).toBe(PRICE)
        gateway = address
        return { orderId, reference }
      }
      return {
        ...buyer,
        checkOut,
        async place(count: number): Promise<Placed[]> {
          first ??= await checkOut()
          return copyOrder(sql, first, count)
        },
      }
    },

    /** The one replica that reads payments. */
    async leader(): Promise<Replica> {
      return until('one replica reads payments', async () => {
        const leads = await Promise.all(replicas.map((replica) => replica.metric('marketplace_payments_leader')))
        return leads.filter((is) => is === 1).length === 1 && replicas[leads.indexOf(1)]
      })
    },

    /** Waits until all is read, and there is a checkpoint: by that a reorg is noticed. */
    async readUpTo(block: number) {
      await until(`block ${block} is read`, async () => {
        const [row] = await sql`select max(block_number)::int as head from payments_checkpoints`
        return row!.head === block
      })
    },

    /** Waits until all of them have this status. */
    async untilAll(orders: readonly Placed[], status: string, seconds?: number) {
      await until(
        `${orders.length} orders are ${status.split('/').at(-1)}`,
        async () => {
          const rows = await sql<{ status: string; n: number }[]>`
            select status, count(*)::int as n from orders where order_id = any(${idsOf(orders)}) group by status`
          expect([...rows]).toEqual([{ status, n: orders.length }])
          return true
        },
        seconds,
      )
    },

    jobsOf: async (orders: readonly Placed[]) => [
      ...(await sql`select * from fulfillment_jobs where order_id = any(${idsOf(orders)})`),
    ],

    /**
     * Waits until each has what it was paid for, and fails if anything happened to one of them more than once. Their histories are
     * to be `statuses`; 'any' of them.
     */
    async expectDeliveredOnce(orders: readonly Placed[], statuses: readonly string[] | 'any' = COMPLETED) {
      await world.untilAll(orders, OrderStatus.paymentComplete, 30)
      const ids = idsOf(orders)
      await until('all of it is delivered', async () => {
        const [left] = await sql`
          select count(*)::int as n from fulfillment_jobs where order_id = any(${ids}) and status <> 'done'`
        return left!.n === 0
      })
      const history = await sql<{ orderId: string; statuses: string[] }[]>`
        select order_id as "orderId", array_agg(new_status order by id) as statuses
          from orders_status_history where order_id = any(${ids}) group by order_id`
      expect(history.filter((order) => statuses !== 'any' && String(order.statuses) !== String(statuses))).toEqual([])
      const wrong = await sql`
        select * from (
          select order_id, (select count(*)::int from order_lines where order_id = o.order_id) as lines,
                 (select count(*)::int from fulfillment_jobs where order_id = o.order_id) as jobs,
                 (select count(*)::int from order_outbox where order_id = o.order_id) as delivered,
                 (select count(*)::int from orders_status_history where order_id = o.order_id) as changes,
                 (select count(*)::int from order_events where order_id = o.order_id) as told
            from orders o where order_id = any(${ids})
        ) as found where (lines, jobs, delivered, told) <> (1, 1, 1, changes - 1)`
      expect([...wrong]).toEqual([])
      const given = await codes`
        select split_part(run_key, ':', 1) as order_id, count(*)::int as n
          from code_pool_codes where split_part(run_key, ':', 1) = any(${ids}) group by 1`
      expect(given.filter(({ n }) => n !== 1)).toEqual([])
      expect(given).toHaveLength(orders.length)
    },

    /** Waits until the payments on record are those on the chain, each where it stands there. */
    async expectBooksOfTheChain(seconds?: number) {
      await until(
        'the books equal the chain',
        async () => {
          const [there, here] = await Promise.all([onChain(), onRecord()])
          expect(here).toEqual(there)
          const [doubted] = await sql`
            select count(*)::int as n from payment_transfers where doubted_at is not null and orphaned_at is null`
          expect(doubted!.n).toBe(0)
          return true
        },
        seconds,
      )
    },
  }
  return world
}

export const COMPLETED = [OrderStatus.paymentDue, OrderStatus.paymentProcessing, OrderStatus.paymentComplete] as const

const idsOf = (orders: readonly Placed[]) => orders.map(({ orderId }) => orderId)

/** What so many checkouts would have written. They would take longer than what comes after them. */
async function copyOrder(sql: postgres.Sql, of: Placed, count: number): Promise<Placed[]> {
  const copies = Array.from({ length: count }, () => ({
    orderId: newOrderId(randomBytes(16)),
    reference: newReference(randomBytes(16)),
    basket: basketId(randomBytes(16)),
  }))
  await sql.begin(async (tx) => {
    const copy = tx`
      jsonb_to_recordset(${tx.json(copies)}) as c ("orderId" text, reference text, basket text)`
    await tx`
      insert into orders select made.* from orders o, ${copy}, lateral jsonb_populate_record(o, jsonb_build_object(
        'order_id', c."orderId", 'payment_reference', c.reference, 'basket_id', c.basket, 'created_at', now(),
        'order_json', replace(replace(o.order_json::text, o.order_id, c."orderId"), o.payment_reference, c.reference)::jsonb
      )) as made where o.order_id = ${of.orderId}`
    for (const table of ['order_lines', 'order_sellers']) {
      await tx`
        insert into ${tx(table)} select made.* from ${tx(table)} o, ${copy}, lateral jsonb_populate_record(o,
          jsonb_build_object('order_id', c."orderId")) as made where o.order_id = ${of.orderId}`
    }
  })
  return copies.map(({ orderId, reference }) => ({ orderId, reference }))
}
