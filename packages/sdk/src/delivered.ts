import type { Order } from '@market/contracts/marketApi'

/** The codes that were delivered with an order, in the order they came. */
export const codesOf = ({ outbox }: Pick<Order, 'outbox'>): string[] =>
  outbox
    .flatMap(({ payload: { code, codes } }) => [code, ...(Array.isArray(codes) ? (codes as unknown[]) : [])])
    .filter((one) => typeof one === 'string')
