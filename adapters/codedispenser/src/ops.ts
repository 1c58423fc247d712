/** What `scripts/ops.ts` and the demo may do with a dispenser's database. */
export { resealAdapterSecrets, SecretsError } from '@market/adapter-kit/secrets'
export { type CodeKeys, openCodeKeys } from './codeKeys.ts'
export type { CodesDatabase } from './database.ts'
export { type CodeMapping, listMappings, type StoredMapping, upsertCodeMapping } from './mappings.ts'
export { listPools, type Pool, setLowStockThreshold, voidCode } from './pools.ts'
export { readCodeFile } from './readCodeFile.ts'
export { countToReseal, resealCodes } from './resealCodes.ts'
export { CodeError, seedPool, type SeedResult } from './seedPool.ts'
