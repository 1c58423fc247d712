import { describe, expect, it } from 'vitest'
import { offerTypeOf, planJobs } from './planJobs.ts'

describe('planJobs', () => {
  it('fulfilment:F-15 makes one job a seller and offer type, each with its own lines', () => {
    const line = (lineIndex: number, seller: string, offerType: string | null) => ({ lineIndex, seller, offerType })
    expect(
      planJobs([line(0, 'S1', 'odoo'), line(1, 'S1', 'codedispenser'), line(2, 'S2', 'odoo'), line(3, 'S1', 'odoo')]),
    ).toEqual([
      { seller: 'S1', offerType: 'odoo', lineIndexes: [0, 3], waitsFor: null },
      { seller: 'S1', offerType: 'codedispenser', lineIndexes: [1], waitsFor: null },
      { seller: 'S2', offerType: 'odoo', lineIndexes: [2], waitsFor: null },
    ])
  })

  it('gives lines without a route a job of their own, so that no paid line vanishes', () => {
    expect(planJobs([{ lineIndex: 0, seller: 'S1', offerType: null }])).toEqual([
      { seller: 'S1', offerType: 'unrouted', lineIndexes: [0], waitsFor: 'route_not_found' },
    ])
  })

  it('market-api:W-08 makes one-offs a job that their seller closes', () => {
    expect(planJobs([{ lineIndex: 2, seller: 'S1', offerType: 'manual' }])).toEqual([
      { seller: 'S1', offerType: 'manual', lineIndexes: [2], waitsFor: 'manual' },
    ])
  })
})

describe('offerTypeOf', () => {
  const oneOff = { offerType: null, isOneOff: true, fulfillmentUrl: undefined }
  const adapter = { offerType: 'odoo', isOneOff: false, fulfillmentUrl: 'http://adapter/fulfill' }

  it.each([
    ['a one-off', oneOff, true, 'manual'],
    ['a one-off that names an offer type without a way to deliver', { ...oneOff, offerType: 'odoo' }, true, 'manual'],
    ['a one-off that an adapter delivers', { ...adapter, isOneOff: true }, true, 'odoo'],
    ['a one-off whose route was switched off after it was bought', undefined, true, 'manual'],
    ['a one-off that got an adapter after it was bought', adapter, true, 'odoo'],
    ['an adapter', adapter, false, 'odoo'],
    [
      'an adapter that has lost its address, to be tried again',
      { ...adapter, fulfillmentUrl: undefined },
      true,
      'odoo',
    ],
    ['nobody', undefined, false, null],
  ] as const)('%s', (_, route, isOneOff, expected) => {
    expect(offerTypeOf(route, isOneOff)).toBe(expected)
  })
})
