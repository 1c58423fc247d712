import * as codePools from './0002_code_pools.ts'

/** In order; the kit's own migrations come before these. */
export const migrations = { '0002_code_pools': codePools }
