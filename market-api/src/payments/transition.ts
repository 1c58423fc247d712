import type { Settlement } from './settle.ts'

/** Where an order stands, as far as payment can move it. */
export type Standing = {
  paid: boolean
  confirmed: boolean
  complete: boolean
  cancelled: boolean
  /** The chain took back what paid it after its delivery had begun. */
  reverted: boolean
}

/**
 * What settlement does to an order. `takeBack`: what had paid it is gone from the chain; it is unpaid again, unless its delivery has
 * begun, which nobody can take back. `restore`: it has come in again. Pure; of an order that is where it belongs, nothing.
 */
export type Step = 'pay' | 'confirm' | 'complete' | 'takeBack' | 'restore'

export function stepsOf(order: Standing, { paidBy, confirmed, complete }: Settlement): Step[] {
  // What came in after the end is on record with its transfers; its goods are others' again.
  if (order.cancelled) return []
  if (!paidBy) return order.paid && !order.reverted ? ['takeBack'] : []
  const steps: Step[] = []
  if (order.reverted) steps.push('restore')
  if (!order.paid) steps.push('pay')
  if (confirmed && !order.confirmed) steps.push('confirm')
  if (complete && !order.complete) steps.push('complete')
  return steps
}
