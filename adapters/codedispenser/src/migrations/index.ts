import * as codePools from './0002_code_pools.ts'
import * as sealedCodes from './0003_sealed_codes.ts'

/** In order; the kit's own migrations come before these. */
export const migrations = { '0002_code_pools': codePools, '0003_sealed_codes': sealedCodes }
