import { defineAdapter, type Line, type Run } from '@market/adapter-kit/adapter'
import type { LineResult } from '@market/contracts/fulfillment'
import { env } from '@market/kit/config'
import type { Transaction } from 'kysely'
import { adminRoutes } from './admin.ts'
import type { CodeKeys } from './codeKeys.ts'
import type { CodesDatabase } from './database.ts'
import { type CodeSource, findMappings } from './mappings.ts'
import { migrations } from './migrations/index.ts'
import { countAvailable, takeCodes, type Want } from './pools.ts'
import { sealPlainCodes } from './sealPlainCodes.ts'
import { seedFolder } from './seedFolder.ts'
import { watchStock } from './watchStock.ts'

export type CodeLine = LineResult & { codes: string[]; downloadUrls: string[] }

const variables = {
  /** A folder whose `*.txt` are pools. */
  CODE_POOLS_DIR: env.text().optional(),
}

/** Delivers digital codes from pools (adapters.md 2, 11). */
export const codedispenser = defineAdapter<CodesDatabase, CodeSource, CodeLine, typeof variables>({
  offerType: 'codedispenser',
  resultType: 'circles:CodeDispenserResult',
  defaultPort: 5680,
  adminPort: { variable: 'CODEDISP_ADMIN_PORT', default: 5690 },
  maxQuantity: 100,
  variables,
  migrations,

  async open({ db, secrets, fingerprint, log, metrics, config }) {
    const keys = { secrets, fingerprint }
    const sealed = await sealPlainCodes(db, keys, (done) => log.info({ done }, 'sealing codes of an older release'))
    if (sealed > 0) log.info({ sealed }, 'codes sealed; vacuum full code_pool_codes removes their readable copies')
    if (config.CODE_POOLS_DIR !== undefined) await seedFolder(db, keys, config.CODE_POOLS_DIR, log)

    return {
      findMappings,
      inventory: (reader, source) => countAvailable(reader, source.poolId),
      admin: adminRoutes(db, keys),
      loops: [watchStock(db, log, metrics)],

      fulfill: async (tx, run, lines) => (await fulfillAll(tx, keys, [{ run, lines }]))[0]!,
      fulfillTogether: (tx, runs) => fulfillAll(tx, keys, runs),

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
    }
  },
})

/** Each line gets all of its codes or none of them. */
async function fulfillAll(
  tx: Transaction<CodesDatabase>,
  keys: CodeKeys,
  runs: readonly { run: Run; lines: Line<CodeSource>[] }[],
): Promise<CodeLine[][]> {
  const wants = runs.flatMap(({ run, lines }) =>
    lines.map(({ lineIndex, quantity, mapping }): Want => ({
      runKey: run.key,
      lineIndex,
      quantity,
      poolId: mapping.poolId,
    })),
  )
  const taken = (await takeCodes(tx, keys, wants)).values()
  return runs.map(({ lines }) => lines.map((line) => lineResult(line, taken.next().value)))
}

function lineResult({ lineIndex, sku, quantity, mapping }: Line<CodeSource>, codes: string[] | undefined): CodeLine {
  return {
    lineIndex,
    sku,
    quantity,
    status: codes ? 'ok' : 'depleted',
    message: codes ? null : `The pool has fewer than ${quantity} codes`,
    codes: codes ?? [],
    downloadUrls: (codes ?? []).flatMap((code) => downloadUrl(mapping.downloadUrlTemplate, code) ?? []),
  }
}

function downloadUrl(template: string | null, code: string): string | undefined {
  return template?.replaceAll('{code}', encodeURIComponent(code))
}
