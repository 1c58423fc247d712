import { expect, it } from 'vitest'
import { expandTemplate, TemplateError } from './template.ts'

it('fulfilment:F-1 fills names in any case and encodes values', () => {
  const template = 'http://h:{MARKET_ODOO_ADAPTER_PORT}/x/{CHAIN_ID}/{Seller}/{sku}'
  const values = { MARKET_ODOO_ADAPTER_PORT: '5678', chain_id: '100', seller: '0xab', sku: 'a/b' }
  expect(expandTemplate(template, values)).toBe('http://h:5678/x/100/0xab/a%2Fb')
})

it('puts an origin in as it is', () => {
  expect(expandTemplate('{X_ORIGIN}/y', { X_ORIGIN: 'http://h:1' })).toBe('http://h:1/y')
})

it('fulfilment:F-2 refuses names nobody defined, and nothing', () => {
  expect(() => expandTemplate('http://h/{foo}', {})).toThrow(new TemplateError('Unknown template variable: foo'))
  expect(() => expandTemplate(' ', {})).toThrow(new TemplateError('Template is empty'))
})
