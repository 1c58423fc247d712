import { defineAdapter } from '@market/adapter-kit/adapter'
import type { LineResult } from '@market/contracts/fulfillment'
import type { CodesDatabase } from './database.ts'
import { migrations } from './migrations/index.ts'
import { countAvailable, takeCodes } from './pools.ts'

type Mapping = { poolId: string; downloadUrlTemplate: string | null }

type CodeLine = LineResult & { codes: string[]; downloadUrls: string[] }

/** Delivers digital codes from pools (adapters.md 2, 11). */
export const codedispenser = defineAdapter<CodesDatabase, Mapping, CodeLine>({
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

  /** Each line gets all of its codes or none of them. */
  async fulfill(tx, run, lines) {
    const wants = lines.map(({ lineIndex, quantity, mapping }) => ({ lineIndex, quantity, poolId: mapping.poolId }))
    const taken = await takeCodes(tx, run.key, wants)
    return lines.map(({ lineIndex, sku, quantity, mapping }) => {
      const codes = taken.get(lineIndex)
      return {
        lineIndex,
        sku,
        quantity,
        status: codes ? 'ok' : 'depleted',
        message: codes ? null : `The pool has fewer than ${quantity} codes`,
        codes: codes ?? [],
        downloadUrls: (codes ?? []).flatMap((code) => downloadUrl(mapping.downloadUrlTemplate, code) ?? []),
      }
    })
  },

  /** `codes` and `downloadUrls` in line order; `downloadUrl`, the first, is what older readers look for. */
  summarize(lines) {
    const downloadUrls = lines.flatMap((line) => line.downloadUrls)
    return {
      requestedQuantity: lines.reduce((sum, line) => sum + line.quantity, 0),
      codes: lines.flatMap((line) => line.codes),
      downloadUrl: downloadUrls[0] ?? null,
      downloadUrls,
      issuedAt: new Date().toISOString(),
    }
  },
})

function downloadUrl(template: string | null, code: string): string | undefined {
  return template?.replaceAll('{code}', encodeURIComponent(code))
}
