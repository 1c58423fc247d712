import { randomBytes } from 'node:crypto'
import { type Child, spawnTethered } from '@market/devstack/tether'
import { freePort } from '@market/devstack/ports'
import { until } from '@market/testkit/until'
import { SECRETS_KEY } from './codesDatabase.ts'

export { SECRETS_KEY } from './codesDatabase.ts'

export const SERVICE_KEY = 'the key of these tests, long enough'
export const SELLER = `0x${'ab'.repeat(20)}`

const MAIN = new URL('../dist/main.js', import.meta.url).pathname

export type Dispenser = { url: string; child: Child; lines: string[] }

/** The process as an operator starts it, whether or not it comes up. */
export async function launch(env: NodeJS.ProcessEnv): Promise<Dispenser> {
  const port = await freePort()
  const lines: string[] = []
  const child = await spawnTethered({
    command: process.execPath,
    args: [MAIN],
    env: {
      PATH: process.env.PATH,
      PORT: String(port),
      CIRCLES_SERVICE_KEY: SERVICE_KEY,
      ADAPTER_SECRETS_KEY: SECRETS_KEY,
      ...env,
    },
    stopSignal: 'SIGTERM',
    onLine: (line) => lines.push(line),
  })
  return { url: `http://127.0.0.1:${port}`, child, lines }
}

/** As `launch`, and waits until it takes requests. */
export async function startDispenser(connection: string, env: NodeJS.ProcessEnv = {}): Promise<Dispenser> {
  const dispenser = await launch({ POSTGRES_CONNECTION: connection, ...env })
  await ready(dispenser)
  return dispenser
}

export const ready = ({ url }: Dispenser) =>
  until('the dispenser is ready', async () => (await fetch(`${url}/health/ready`)).ok)

/** What an adapter answers, and with which status. */
export type Answer = { status: number; retryAfter: string | null; body: Record<string, any> }

export type Asked = {
  sku?: string
  quantity?: number | string
  /** Instead of one item of sku and quantity. */
  items?: unknown[]
  key?: string
  body?: object
  headers?: Record<string, string>
  signal?: AbortSignal
}

export const newKey = () => randomBytes(6).toString('hex')

/** Asks for a delivery with a key of its own, or with the one given. */
export async function fulfil(
  { url }: { url: string },
  { sku, quantity, items = [{ sku, quantity }], key = newKey(), body, headers, signal }: Asked,
): Promise<Answer> {
  const response = await fetch(`${url}/fulfill/100/${SELLER}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'X-Circles-Service-Key': SERVICE_KEY, ...headers },
    body: JSON.stringify({
      orderId: `ord_${key}`,
      paymentReference: `pay_${key}`,
      items,
      trigger: 'finalized',
      idempotencyKey: key,
      ...body,
    }),
    ...(signal ? { signal } : {}),
  })
  const answer = (await response.json()) as Answer['body']
  return { status: response.status, retryAfter: response.headers.get('retry-after'), body: answer }
}

/** The value of an inventory answer; anything but 200 fails. */
export async function stockOf({ url }: Dispenser, sku: string): Promise<number> {
  const response = await fetch(`${url}/inventory/100/${SELLER}/${encodeURIComponent(sku)}`, {
    headers: { 'X-Circles-Service-Key': SERVICE_KEY },
  })
  if (response.status !== 200) throw new Error(`HTTP ${response.status}`)
  return ((await response.json()) as { value: number }).value
}
