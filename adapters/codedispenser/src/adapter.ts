import { defineAdapter } from '@market/adapter-kit/adapter'
import type { LineResult } from '@market/contracts/fulfillment'
import type { CodesDatabase } from './database.ts'
import { migrations } from './migrations/index.ts'
import { countAvailable, listAssigned, takeCodes } from './pools.ts'

type Mapping = { poolId: string; downloadUrlTemplate: string | null }

export const codedispenser = defineAdapter<CodesDatabase, Mapping>({
  offerType: 'codedispenser',
  resultType: 'circles:CodeDispenserResult',
  defaultPort: 5680,
  maxQuantity: 100,
  migrations,

  async findMappings(db, chainId, seller, skus) {
    const rows = await db
      .selectFrom('code_mappings')
      .select(['sku', 'pool_id', 'download_url_template'])
      .where('chain_id', '=', chainId)
      .where('seller_address', '=', seller)
      .where('sku', 'in', skus)
      .where('enabled', '=', true)
      .where('revoked_at', 'is', null)
      .execute()
    return new Map(
      rows.map((row) => [row.sku, { poolId: row.pool_id, downloadUrlTemplate: row.download_url_template }]),
    )
  },

  inventory: (db, mapping) => countAvailable(db, mapping.poolId),

  /** Each line gets all of its codes or none of them; a line that has them from an earlier run keeps them. */
  async fulfill(tx, run, lines) {
    const delivered = new Map<number, string[]>()
    const results: LineResult[] = []
    // Pools in one order for everybody: two runs that wait for each other's pools would deadlock.
    for (const line of [...lines].sort((a, b) => (a.mapping.poolId < b.mapping.poolId ? -1 : 1))) {
      const { lineIndex, sku, quantity } = line
      let codes: string[] | undefined = await listAssigned(tx, run.key, lineIndex)
      if (codes.length === 0) codes = await takeCodes(tx, line.mapping.poolId, quantity, { runKey: run.key, lineIndex })
      if (codes) delivered.set(lineIndex, codes)
      results.push({
        lineIndex,
        sku,
        quantity,
        status: codes ? 'ok' : 'depleted',
        message: codes ? null : `The pool has fewer than ${quantity} codes`,
      })
    }
    const inLineOrder = lines
      .flatMap((line) => (delivered.get(line.lineIndex) ?? []).map((code) => ({ code, template: line.mapping.downloadUrlTemplate })))
    const downloadUrls = inLineOrder.flatMap(({ code, template }) =>
      template ? [template.replaceAll('{code}', encodeURIComponent(code))] : [],
    )
    return {
      lines: results,
      body: {
        codes: inLineOrder.map(({ code }) => code),
        downloadUrl: downloadUrls[0] ?? null,
        downloadUrls,
        issuedAt: new Date().toISOString(),
      },
    }
  },
})
