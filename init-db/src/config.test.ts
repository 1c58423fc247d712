import { expect, it } from 'vitest'
import { ConfigError, readConfig, SERVICES } from './config.ts'

const complete = { DB_MARKET_API_PASSWORD: 'm', DB_CODEDISP_PASSWORD: 'c' }

function problemsOf(environment: NodeJS.ProcessEnv, services = SERVICES): readonly string[] {
  try {
    readConfig(environment, services)
    return []
  } catch (error) {
    return (error as ConfigError).problems
  }
}

it('has a default for everything but passwords', () => {
  const { server, waitSeconds, databases, skipped } = readConfig({ ...complete, POSTGRES_PORT: ' ', DB_MARKET_API: '' })
  expect(server).toEqual({ host: 'postgres', port: 5432, user: 'postgres', password: '' })
  expect(waitSeconds).toBe(120)
  expect(databases.map(({ database, user }) => [database, user])).toEqual([
    ['circles_market_api', 'market_api'],
    ['circles_codedisp', 'codedisp'],
  ])
  expect(skipped.map(({ service }) => service)).toEqual(['odoo', 'unlock', 'woocommerce', 'ordertrace'])
})

it('takes in a service as soon as it has a password', () => {
  const { databases } = readConfig({ ...complete, DB_ODOO_PASSWORD: 'o', DB_ODOO: 'erp', DB_ODOO_USER: 'erp_user' })
  expect(databases[2]).toEqual({
    service: 'odoo',
    database: 'erp',
    user: 'erp_user',
    password: 'o',
    passwordVariable: 'DB_ODOO_PASSWORD',
  })
})

it('names every missing password of a required service', () => {
  expect(problemsOf({ DB_CODEDISP_PASSWORD: '  ', DB_CODEDISP_USER: 'codes' })).toEqual([
    `No password provided for user 'market_api' (set DB_MARKET_API_PASSWORD)`,
    `No password provided for user 'codes' (set DB_CODEDISP_PASSWORD)`,
  ])
})

it('adapters:A-50 demands the password of any service that is marked as required', () => {
  const withOdoo = SERVICES.map((one) => (one.service === 'odoo' ? { ...one, required: true } : one))
  expect(problemsOf(complete, withOdoo)).toEqual([`No password provided for user 'odoo' (set DB_ODOO_PASSWORD)`])
})

it('lists everything that is wrong at once', () => {
  expect(
    problemsOf({
      POSTGRES_PORT: '70000',
      POSTGRES_PASSWORD: ';;;; choose one',
      INIT_DB_WAIT_SECONDS: 'long',
      DB_MARKET_API: 'template1',
      DB_MARKET_API_USER: 'postgres',
      DB_MARKET_API_PASSWORD: 'm',
      DB_CODEDISP: 'x'.repeat(64),
      DB_CODEDISP_PASSWORD: ';;;; choose another',
      DB_ODOO: 'template1',
      DB_ODOO_USER: 'é'.repeat(32),
      DB_ODOO_PASSWORD: 'o',
    }),
  ).toEqual([
    'POSTGRES_PORT must be a whole number from 1 to 65535',
    'POSTGRES_PASSWORD still holds the placeholder of a template; set a real value',
    'INIT_DB_WAIT_SECONDS must be a whole number from 0 to 86400',
    `DB_MARKET_API must not be 'template1', a database of the server itself`,
    `DB_MARKET_API_USER must not be 'postgres', the superuser (POSTGRES_USER)`,
    'DB_CODEDISP_PASSWORD still holds the placeholder of a template; set a real value',
    'DB_CODEDISP is longer than 63 bytes',
    'DB_ODOO_USER is longer than 63 bytes',
    `DB_ODOO must not be 'template1', a database of the server itself`,
    `market and odoo must not share the database 'template1'`,
  ])
})

it('keeps services apart', () => {
  expect(problemsOf({ ...complete, DB_CODEDISP_USER: 'market_api', DB_CODEDISP: 'circles_market_api' })).toEqual([
    `market and codedispenser must not share the database 'circles_market_api'`,
    `market and codedispenser must not share the user 'market_api'`,
  ])
})
