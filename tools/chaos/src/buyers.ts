import { createPrivateKey, randomUUID, sign } from 'node:crypto'
import { CHAIN_ID } from '@market/dev-chain/demo'
import type { World } from './world.ts'

/** Of an outbox entry, what a buyer is given. */
export type Delivered = { lines: { lineIndex: number; codes: string[] }[]; codes: string[] }
export type SeenOrder = { orderId: string; status: string; outbox: { payload: Delivered }[] }

const PAGE = 100

/** What this buyer sees of these orders, asked for over HTTP with a token of the market's own. */
export async function readOrders(world: World, url: string, buyer: string, orderIds: string[]): Promise<SeenOrder[]> {
  const token = tokenFor(buyer, world.secrets.jwtPrivateKey)
  const seen: SeenOrder[] = []
  for (let from = 0; from < orderIds.length; from += PAGE) {
    const response = await fetch(`${url}/api/cart/v1/orders/batch`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ orderIds: orderIds.slice(from, from + PAGE) }),
    })
    if (!response.ok) throw new Error(`orders of ${buyer} not read: HTTP ${response.status} ${await response.text()}`)
    seen.push(...((await response.json()) as { items: SeenOrder[] }).items)
  }
  return seen
}

/** As the market makes them at a sign-in (market-api.md 3.2): buyers here have no wallets. */
function tokenFor(address: string, jwk: string): string {
  const key = createPrivateKey({ key: JSON.parse(jwk) as never, format: 'jwk' })
  const now = Math.floor(Date.now() / 1000)
  const claims = {
    addr: address,
    chainId: String(CHAIN_ID),
    domain: 'chaos.test',
    iss: 'Circles.Market',
    aud: 'market-api',
    sub: `${address}@${CHAIN_ID}`,
    iat: now,
    exp: now + 900,
    jti: randomUUID(),
  }
  const text = [{ alg: 'EdDSA', typ: 'JWT' }, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .join('.')
  return `${text}.${sign(null, Buffer.from(text), key).toString('base64url')}`
}
