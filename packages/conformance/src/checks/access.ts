import { type Check, must, objectOf } from '../check.ts'
import type { How, Subject } from '../subject.ts'

const KEYS = 'adapters.md 1'

/** Each route under another key: refused, nothing run, and the right key finds an untouched request. */
async function mustBeLockedOut(subject: Subject, serviceKey: string | null): Promise<void> {
  const { sku, unmappedSku } = subject.target
  const how: How = { serviceKey }
  const inventory = await subject.inventory(sku ?? unmappedSku, how)
  must(inventory.status === 401, 'HTTP 401 from inventory', inventory)
  const availability = await subject.availability(sku ?? unmappedSku, how)
  const absent = availability.status === 404 && (await subject.availability(sku ?? unmappedSku)).status === 404
  must(availability.status === 401 || absent, 'HTTP 401 from availability, or no such route', availability)
  const before = sku === undefined ? 0 : await subject.stock()
  const order = subject.newOrder()
  const fulfil = await subject.fulfil(order, how)
  must(fulfil.status === 401, 'HTTP 401 from fulfill', fulfil)
  if (sku !== undefined) {
    const after = await subject.stock()
    must(after === before, `an inventory of ${before} still, for nothing was to be run`, `${after}`)
    await subject.deliver(order)
    await subject.stockBecomes(before - 1, 'the right key delivered one unit')
  }
  const unread = await subject.fulfil('not JSON', how)
  must(unread.status === 401, 'HTTP 401 from fulfill before it looks at the body', unread)
}

export const accessChecks: Check[] = [
  {
    id: 'health',
    title: 'GET /health says {"ok":true} to anybody',
    section: KEYS,
    needs: [],
    units: 0,
    async run(subject) {
      const answer = await subject.ask({ method: 'GET', path: '/health' }, { serviceKey: null })
      must(answer.status === 200 && objectOf(answer.json).ok === true, 'HTTP 200 {"ok":true,…}', answer)
    },
  },
  {
    id: 'key-missing',
    title: 'Without the service key every route answers 401 and nothing runs',
    section: `${KEYS}, 12 A30; fulfilment.md F-31`,
    needs: [],
    units: 1,
    async run(subject) {
      await mustBeLockedOut(subject, null)
      const blank = await subject.inventory(subject.target.sku ?? subject.target.unmappedSku, { serviceKey: ' ' })
      must(blank.status === 401, 'HTTP 401 for a blank key', blank)
    },
  },
  {
    id: 'key-wrong',
    title: 'With a wrong key of the right length every route answers 401 and nothing runs',
    section: `${KEYS}; fulfilment.md F-31`,
    needs: [],
    units: 1,
    run: (subject) => mustBeLockedOut(subject, changed(subject.target.serviceKey)),
  },
  {
    id: 'key-length',
    title: 'A key too short, too long or with odd characters is 401; spaces around the right one do not matter',
    section: KEYS,
    needs: [],
    units: 0,
    async run(subject) {
      const key = subject.target.serviceKey
      const sku = subject.target.sku ?? subject.target.unmappedSku
      const middle = Math.ceil(key.length / 2)
      const wrong = [
        key.slice(0, -1) || 'x',
        `${key}x`,
        `${key}${key}`,
        `${key.slice(0, middle)} ${key.slice(middle)}`,
        `${key}\u00e9`,
        'x'.repeat(4000),
      ]
      for (const serviceKey of wrong) {
        const answer = await subject.inventory(sku, { serviceKey })
        must(answer.status === 401, `HTTP 401 for a key of ${serviceKey.length} characters`, answer)
      }
      const [plain, spaced] = [await subject.inventory(sku), await subject.inventory(sku, { serviceKey: `  ${key} ` })]
      must(spaced.status === plain.status, `HTTP ${plain.status}, as without the spaces`, spaced)
    },
  },
]

/** As long as it was, with the last character another one. */
function changed(key: string): string {
  return `${key.slice(0, -1)}${key.endsWith('x') ? 'y' : 'x'}`
}
