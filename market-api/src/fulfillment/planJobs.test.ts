import { expect, it } from 'vitest'
import { planJobs } from './planJobs.ts'

it('fulfilment:F-15 makes one job a seller and offer type, each with its own lines', () => {
  const line = (lineIndex: number, seller: string, offerType: string | null) => ({ lineIndex, seller, offerType })
  expect(
    planJobs([line(0, 'S1', 'odoo'), line(1, 'S1', 'codedispenser'), line(2, 'S2', 'odoo'), line(3, 'S1', 'odoo')]),
  ).toEqual([
    { seller: 'S1', offerType: 'odoo', lineIndexes: [0, 3], routed: true },
    { seller: 'S1', offerType: 'codedispenser', lineIndexes: [1], routed: true },
    { seller: 'S2', offerType: 'odoo', lineIndexes: [2], routed: true },
  ])
})

it('gives lines without a route a job of their own, so that no paid line vanishes', () => {
  expect(planJobs([{ lineIndex: 0, seller: 'S1', offerType: null }])).toEqual([
    { seller: 'S1', offerType: 'unrouted', lineIndexes: [0], routed: false },
  ])
})
