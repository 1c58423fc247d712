import { expect, it } from 'vitest'
import { rateLimits } from './stack.ts'

it.each([
  ['nothing is said', {}, { RATE_LIMIT_ENABLED: 'false' }],
  ['it is left blank', { RATE_LIMIT_GLOBAL_LIMIT: ' ', HOME: '/' }, { RATE_LIMIT_ENABLED: 'false' }],
  ['a limit is given', { RATE_LIMIT_AUTH_LIMIT: '5' }, {}],
  ['they are asked for', { RATE_LIMIT_ENABLED: 'true' }, {}],
])('limits nobody unless the environment says anything about it: %s', (_, env, own) => {
  expect(rateLimits(env)).toEqual(own)
})
