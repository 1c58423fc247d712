import * as z from 'zod'

export const Health = z
  .object({ ok: z.boolean(), checks: z.object({ postgres: z.enum(['ok', 'failed']) }) })
  .meta({ id: 'Health' })
export type Health = z.infer<typeof Health>
