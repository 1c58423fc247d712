import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { createContext, runInContext } from 'node:vm'
import { build, type Rollup } from 'vite'
import { beforeAll, expect, it } from 'vitest'
import { startServer } from '../test/httpServer.ts'
import type { Market } from './market.ts'

const folder = fileURLToPath(new URL('.', import.meta.url))

/** One script with all of `entries` in it, as a page's build makes it; of what it can't hold, the names. */
async function bundle(entries: string[]): Promise<{ code: string; outside: string[] }> {
  const virtual = `${folder}everything`
  const source = entries.map((name) => `export * from ${JSON.stringify(folder + name)}`).join('\n')
  const outputs = (await build({
    configFile: false,
    logLevel: 'silent',
    resolve: { conditions: ['@market/source'] },
    build: {
      write: false,
      lib: { entry: virtual, formats: ['iife'], name: 'sdk' },
      rollupOptions: { external: /^node:/ },
    },
    plugins: [
      {
        name: 'everything',
        enforce: 'pre',
        resolveId: (id) => (id === virtual ? id : undefined),
        load: (id) => (id === virtual ? source : undefined),
      },
    ],
  })) as Rollup.RollupOutput[]
  const [chunk] = outputs[0]!.output
  return { code: chunk.code, outside: chunk.imports }
}

/** What every browser has, and nothing of Node. */
const page = () => {
  const web = { fetch, URL, URLSearchParams, Headers, AbortController, AbortSignal, TextEncoder, TextDecoder }
  return createContext({ ...web, ReadableStream, crypto, performance, setTimeout, clearTimeout, structuredClone })
}

let everything: Awaited<ReturnType<typeof bundle>>
beforeAll(async () => {
  everything = await bundle(readdirSync(folder).filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts')))
})

it('is one script, which needs nothing that a page does not have', async () => {
  expect(everything.outside).toEqual([])
  const { url, calls } = await startServer(() => [{ chainId: 100, seller: '0x1' }])
  const context = page()
  runInContext(`${everything.code}; globalThis.sdk = sdk`, context)
  expect(runInContext('[typeof process, typeof Buffer, typeof require]', context)).toEqual(Array(3).fill('undefined'))
  const { sdk } = context as unknown as { sdk: { Market: typeof Market } }
  expect(await new sdk.Market(url).sellers()).toEqual([{ chainId: 100, seller: '0x1' }])
  await new sdk.Market(url).basket('bkt_1').checkout()
  expect(calls[1]!.headers['idempotency-key']).toMatch(/^[0-9a-f]{32}$/)
})

it('costs a page that only buys and watches little: 14 kB, without schemas and curves', async () => {
  expect((await bundle(['market.ts'])).code.length).toBeLessThan(20_000)
})
