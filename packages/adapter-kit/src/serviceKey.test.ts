import { AppError } from '@market/kit/errors'
import { Hono } from 'hono'
import { expect, it } from 'vitest'
import { requireServiceKey } from './serviceKey.ts'

const NEW = 'the key of today, long enough'
const OLD = 'the key of yesterday, long enough'

function guarded(...keys: [string, string?]) {
  const app = new Hono().get('/', requireServiceKey(...keys), (c) => c.text('in'))
  app.onError((error, c) => {
    const { status, details } = error as AppError
    return c.text(String(details?.reason), status as 401)
  })
  return async (sent?: string) => {
    const response = await app.request('/', { headers: sent === undefined ? {} : { 'X-Circles-Service-Key': sent } })
    return [response.status, await response.text()]
  }
}

it('lets in with the new key and with the one before while keys change', async () => {
  const ask = guarded(NEW, OLD)
  for (const key of [NEW, OLD, `  ${NEW} `, ` ${OLD}`]) expect(await ask(key)).toEqual([200, 'in'])
  for (const key of [NEW + OLD, NEW.slice(1), OLD.toUpperCase(), 'undefined']) {
    expect(await ask(key)).toEqual([401, 'invalid api key'])
  }
  for (const key of [undefined, '', '  ']) expect(await ask(key)).toEqual([401, 'missing api key'])
})

it('lets nobody in with the key before once it is gone', async () => {
  const ask = guarded(NEW)
  expect(await ask(NEW)).toEqual([200, 'in'])
  expect(await ask(OLD)).toEqual([401, 'invalid api key'])
  expect(await ask('')).toEqual([401, 'missing api key'])
})
