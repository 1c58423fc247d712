import type { Log } from '@market/kit/log'
import { createMetrics } from '@market/kit/metrics'
import { until } from '@market/testkit/until'
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest'
import { createCodesDatabase, type TestCodes } from '../test/codesDatabase.ts'
import { setLowStockThreshold, voidCode } from './pools.ts'
import { watchStock } from './watchStock.ts'

let home: TestCodes
beforeAll(async () => {
  home = await createCodesDatabase()
})
afterAll(() => home.remove())

it('says once that a pool is low, of two replicas one, and once that it is restocked', async () => {
  const said: [string, string, object][] = []
  const log = {
    debug() {},
    info: (fields: object, message: string) => said.push(['info', message, fields]),
    warn: (fields: object, message: string) => said.push(['warn', message, fields]),
    error: (fields: object, message: string) => said.push(['error', message, fields]),
    child: () => log,
  } as unknown as Log
  const metrics = [createMetrics('one'), createMetrics('two')] as const
  const loops = metrics.map((each) => watchStock(home.db, log, each, 20))
  onTestFinished(() => Promise.all(loops.map((loop) => loop.stop())).then(() => {}))
  const shows = (stock: number, isLow: number) =>
    until(`${stock} and ${isLow} are shown`, async () => {
      const texts = await Promise.all(metrics.map(({ registry }) => registry.metrics()))
      return texts.every(
        (text) =>
          new RegExp(`^adapter_codedispenser_pool_available\\{pool="tea",.*\\} ${stock}$`, 'm').test(text) &&
          new RegExp(`^adapter_codedispenser_pool_low_stock\\{pool="tea",.*\\} ${isLow}$`, 'm').test(text),
      )
    })

  await home.seed('tea', ['1', '2', '3'])
  await shows(3, 0)
  expect(await setLowStockThreshold(home.db, 'tea', 2)).toBe(true)
  expect(await setLowStockThreshold(home.db, 'coffee', 2)).toBe(false)
  await voidCode(home.db, home.keys, 'tea', '1')
  await shows(2, 1)
  await voidCode(home.db, home.keys, 'tea', '2')
  await shows(1, 1)
  await home.seed('tea', ['4', '5'])
  await shows(3, 0)
  await setLowStockThreshold(home.db, 'tea', null)
  await until('all is told', () => said.length >= 2)
  expect(said).toEqual([
    ['warn', 'pool is low on codes', { pool: 'tea', available: 2, threshold: 2 }],
    ['info', 'pool is restocked', { pool: 'tea', available: 3, threshold: 2 }],
  ])
})
