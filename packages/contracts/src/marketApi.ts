/**
 * What the market's public port answers: the OpenAPI document and the types of its clients are made from these, and a test
 * holds the real answers to them. Members may be added; clients ignore what they don't know.
 */
export * from './marketApi/baskets.ts'
export * from './marketApi/catalog.ts'
export * from './marketApi/errors.ts'
export * from './marketApi/health.ts'
export * from './marketApi/orders.ts'
export * from './marketApi/signIn.ts'
