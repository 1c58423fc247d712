import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { freePort } from '@market/devstack/ports'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { upsertCodeMapping } from '../src/mappings.ts'
import { createCodesDatabase, type TestCodes } from './codesDatabase.ts'
import { type Dispenser, fulfil, SELLER, startDispenser, stockOf } from './runningDispenser.ts'

const ADMIN = `0x${'ef'.repeat(20)}`

let home: TestCodes
let dispenser: Dispenser
let auth: Server
let adminUrl: string
let token: string

beforeAll(async () => {
  home = await createCodesDatabase()
  const { publicKey, privateKey } = await generateKeyPair('EdDSA')
  const keys = [{ ...(await exportJWK(publicKey)), kid: 'k', alg: 'EdDSA' }]
  auth = createServer((_, response) => response.end(JSON.stringify({ keys })))
  await new Promise<void>((resolve) => auth.listen(0, '127.0.0.1', resolve))
  const port = await freePort()
  adminUrl = `http://127.0.0.1:${port}`
  dispenser = await startDispenser(home.url, {
    AUTH_SERVICE_URL: `http://127.0.0.1:${(auth.address() as AddressInfo).port}`,
    CODEDISP_ADMIN_PORT: String(port),
    ADMIN_ADDRESSES: `${ADMIN.toUpperCase().replace('0X', '0x')}, 0x${'11'.repeat(20)}`,
  })
  token = await new SignJWT({ addr: ADMIN, iss: 'circles-auth', aud: 'market-admin-api' })
    .setProtectedHeader({ alg: 'EdDSA', kid: 'k' })
    .setExpirationTime('10m')
    .sign(privateKey)
})
afterAll(async () => {
  await dispenser?.child.stop(5000)
  auth?.close()
  await home.remove()
})

async function ask(method: string, path: string, body?: unknown) {
  const response = await fetch(`${adminUrl}/admin${path}`, {
    method,
    headers: { Authorization: `Bearer ${token}` },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  return { status: response.status, body: (await response.json()) as any }
}

it('makes, fills and shows pools, with the counts as they are', async () => {
  expect(await ask('POST', '/code-pools', { poolId: ' p ' })).toEqual({ status: 200, body: { poolId: 'p' } })
  expect(await ask('POST', '/code-pools', { poolId: 'p' })).toMatchObject({ status: 200 })
  expect(await ask('POST', '/code-pools/p/seed', { codes: ['a', 'b', 'a', ' '] })).toEqual({
    status: 200,
    body: { poolId: 'p', submitted: 3, added: 2, duplicate: 1, alreadyDispensed: 0, void: 0 },
  })
  await upsertCodeMapping(home.db, { chainId: 100, seller: SELLER, sku: 'v', poolId: 'p', downloadUrlTemplate: null })
  await fulfil(dispenser, { sku: 'v', quantity: 1 })
  expect(await ask('POST', '/code-pools/p/seed', { codes: ['a', 'c'] })).toMatchObject({
    body: { added: 1, alreadyDispensed: 1, duplicate: 0 },
  })
  expect((await ask('GET', '/code-pools')).body).toMatchObject([
    { poolId: 'p', remaining: 2, available: 2, assigned: 1, void: 0 },
  ])
})

it('sets, shows and revokes mappings, and serves by them at once', async () => {
  const mapping = { chainId: 100, seller: SELLER.toUpperCase().replace('0X', '0x'), sku: ' W ', poolId: 'q' }
  const stored = { chainId: 100, seller: SELLER, sku: 'w', poolId: 'q', downloadUrlTemplate: null, enabled: true }
  expect(await ask('PUT', '/mappings', mapping)).toEqual({ status: 200, body: { ...stored, revokedAt: null } })
  expect(await stockOf(dispenser, 'w')).toBe(0)
  expect(await ask('PUT', '/mappings', { ...mapping, enabled: false })).toMatchObject({
    body: { enabled: false, revokedAt: expect.any(String) },
  })
  await expect(stockOf(dispenser, 'w')).rejects.toThrow('404')
  const template = 'https://x/{code}'
  expect(await ask('PUT', '/mappings', { ...mapping, downloadUrlTemplate: template })).toMatchObject({
    body: { ...stored, downloadUrlTemplate: template, revokedAt: null },
  })
  expect(await ask('DELETE', `/mappings/100/${SELLER}/W`)).toEqual({ status: 200, body: { ok: true } })
  await expect(stockOf(dispenser, 'w')).rejects.toThrow('404')
  expect((await ask('GET', '/mappings')).body).toContainEqual(expect.objectContaining({ sku: 'w', enabled: false }))
})

it.each<[string, string, unknown, number, string]>([
  ['POST', '/code-pools', {}, 400, 'poolId is required'],
  ['POST', '/code-pools', 'no json', 400, 'Invalid JSON body'],
  ['POST', '/code-pools/p/seed', { codes: [] }, 400, 'codes must be non-empty'],
  ['POST', '/code-pools/p/seed', { codes: [' '] }, 400, 'codes must be non-empty'],
  ['POST', '/code-pools/p/seed', { codes: ['a\0b'] }, 400, 'code 1 holds a NUL or half a surrogate pair'],
  ['PUT', '/mappings', { chainId: 0, seller: SELLER, sku: 'w', poolId: 'q' }, 400, 'chainId must be > 0'],
  ['PUT', '/mappings', { chainId: 100, seller: SELLER, poolId: 'q' }, 400, 'seller, sku, poolId are required'],
  ['PUT', '/mappings', { chainId: 100, seller: '0x12', sku: 'w', poolId: 'q' }, 400, 'Invalid seller address'],
  ['DELETE', `/mappings/100/${SELLER}/never`, undefined, 404, 'mapping not found'],
  ['DELETE', `/mappings/x/${SELLER}/w`, undefined, 400, 'chainId must be > 0'],
  ['DELETE', '/mappings/100/0xZZ/w', undefined, 400, 'Invalid seller address'],
])('refuses %s %s with %j', async (method, path, body, status, error) => {
  expect(await ask(method, path, body)).toMatchObject({ status, body: { error } })
})

it('is not on the public port, nor open without a token', async () => {
  expect((await fetch(`${dispenser.url}/admin/code-pools`)).status).toBe(404)
  expect((await fetch(`${adminUrl}/admin/code-pools`)).status).toBe(401)
  expect((await fetch(`${adminUrl}/fulfill/100/${SELLER}`, { method: 'POST' })).status).toBe(404)
  expect(await ask('GET', '/health')).toEqual({ status: 200, body: { ok: true } })
})
