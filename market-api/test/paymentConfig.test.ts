import { readConfig } from '@market/kit/config'
import { describe, expect, it } from 'vitest'
import { Config } from '../src/config.ts'

const FACTORY = `0x${'Fa'.repeat(20)}`
const REQUIRED = {
  POSTGRES_CONNECTION: 'postgres://nobody@127.0.0.1:1/none',
  PUBLIC_BASE_URL: 'http://127.0.0.1:1',
  MARKET_AUTH_ALLOWED_DOMAINS: '*',
  MARKET_JWT_PRIVATE_KEY: '{}',
  CIRCLES_SERVICE_KEY: 'key',
  RPC: 'http://127.0.0.1:2',
}
const read = (env: Record<string, string>) => readConfig(Config, { ...REQUIRED, ...env })

describe('configuration of payments', () => {
  it('payments:P31 does not start enforced without a factory', () => {
    expect(() => read({ PAYMENT_GATEWAY_FACTORY_ENFORCED: 'true' })).toThrow(
      /PAYMENT_GATEWAY_FACTORY_ENFORCED.*PAYMENT_GATEWAY_FACTORY names no factory/,
    )
    expect(() => read({ PAYMENT_GATEWAY_FACTORY_ENFORCED: '1', PAYMENT_GATEWAYS: FACTORY })).toThrow('names no factory')
    expect(read({ PAYMENT_GATEWAY_FACTORY_ENFORCED: 'false' }).PAYMENT_GATEWAY_FACTORY).toBeUndefined()
  })

  it.each(['0x123', 'factory', `${FACTORY},0x12`, `${FACTORY}00`, FACTORY.slice(2), ','])(
    'payments:P32 does not start with a factory like %s, and says which',
    (value) => {
      const wrong = value === ',' ? 'nothing' : value.split(',').at(-1)!.toLowerCase()
      expect(() => read({ PAYMENT_GATEWAY_FACTORY: value })).toThrow(
        new RegExp(`PAYMENT_GATEWAY_FACTORY .*${wrong}`, 's'),
      )
    },
  )

  it('reads factories and gateways in any case, with blanks between', () => {
    const other = `0x${'B0'.repeat(20)}`
    const config = read({ PAYMENT_GATEWAY_FACTORY: ` ${FACTORY} , ${other}`, PAYMENT_GATEWAYS: other })
    expect(config.PAYMENT_GATEWAY_FACTORY).toEqual([FACTORY.toLowerCase(), other.toLowerCase()])
    expect(config.PAYMENT_GATEWAYS).toEqual([other.toLowerCase()])
    expect(() => read({ PAYMENT_GATEWAYS: '0x9' })).toThrow(/PAYMENT_GATEWAYS .*0x9/s)
  })

  it.each<[lease: string | undefined, poll: string, seconds: number]>([
    ['2', '5', 6],
    [undefined, '5', 30],
    ['abc', '10', 60],
    ['45', '5', 45],
    ['6', '5', 6],
    ['0', '5', 6],
    ['-1', '5', 30],
    ['', '5', 30],
    [undefined, '4', 30],
    [undefined, '60', 360],
  ])('payments:P33 a lease of %s with a poll every %s s is %d s', (lease, poll, seconds) => {
    const config = read({ POLL_SECONDS: poll, ...(lease === undefined ? {} : { PAYMENTS_LEASE_SECONDS: lease }) })
    expect(config.PAYMENTS_LEASE_SECONDS).toBe(seconds)
  })

  it('payments:W14 enforces a factory that is set, unless told not to', () => {
    expect(read({}).PAYMENT_GATEWAY_FACTORY_ENFORCED).toBe(false)
    expect(read({ PAYMENT_GATEWAY_FACTORY: FACTORY }).PAYMENT_GATEWAY_FACTORY_ENFORCED).toBe(true)
    for (const no of ['false', '0']) {
      const config = read({ PAYMENT_GATEWAY_FACTORY: FACTORY, PAYMENT_GATEWAY_FACTORY_ENFORCED: no })
      expect(config.PAYMENT_GATEWAY_FACTORY_ENFORCED).toBe(false)
    }
    expect(() => read({ PAYMENT_GATEWAY_FACTORY: FACTORY, PAYMENT_GATEWAY_FACTORY_ENFORCED: 'maybe' })).toThrow(
      'must be true or false',
    )
  })

  it('payments:W14 does not start in production where anybody could report a payment', () => {
    const production = (env: Record<string, string>) => () => read({ NODE_ENV: 'production', ...env })
    expect(production({})).toThrow(/PAYMENT_GATEWAYS is required in production/)
    expect(production({ PAYMENT_GATEWAY_FACTORY: FACTORY })).not.toThrow()
    expect(production({ PAYMENT_GATEWAYS: FACTORY })).not.toThrow()
  })

  it('reads a node alone only with factories to ask for', () => {
    expect(() => read({ PAYMENTS_SOURCE: 'evm' })).toThrow(/PAYMENT_GATEWAY_FACTORY .*PAYMENTS_SOURCE=evm/s)
    expect(read({ PAYMENTS_SOURCE: 'evm', PAYMENT_GATEWAY_FACTORY: FACTORY }).PAYMENTS_SOURCE).toBe('evm')
    expect(() => read({ PAYMENTS_SOURCE: 'Circles' })).toThrow('must be circles or evm')
    expect(read({}).PAYMENTS_SOURCE).toBe('circles')
  })

  it('names everything that is wrong at once', () => {
    expect(() =>
      read({ PAYMENT_GATEWAY_FACTORY: '0x1', PAYMENT_GATEWAYS: '0x2', PAGE_SIZE: '0', CONFIRM_CONFIRMATIONS: '-1' }),
    ).toThrow(/(?=.*0x1)(?=.*0x2)(?=.*PAGE_SIZE)(?=.*CONFIRM_CONFIRMATIONS)/s)
  })
})
