import type { Check } from './check.ts'
import { accessChecks } from './checks/access.ts'
import { crashChecks } from './checks/crash.ts'
import { deliveryChecks } from './checks/delivery.ts'
import { harmChecks } from './checks/harm.ts'
import { repeatChecks } from './checks/repeats.ts'
import { requestChecks } from './checks/requests.ts'
import { stockChecks } from './checks/stock.ts'

/** In the order in which they run: those that look first, the one that kills last. */
export const CHECKS: readonly Check[] = [
  ...accessChecks,
  ...stockChecks,
  ...requestChecks,
  ...deliveryChecks,
  ...repeatChecks,
  ...harmChecks,
  ...crashChecks,
]
