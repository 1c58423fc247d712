import {
  CatalogItem,
  CatalogPage,
  PinAnswer,
  Sellers,
  StockAvailability,
  StockQuantity,
} from '@market/contracts/marketApi/catalog'
import { chainId, cid, currency, sku, text } from '@market/contracts/marketApi/values'
import * as z from 'zod'
import { anyAddress, type Answer, type Errors, JSON_LD, JSON_TYPE, type Operation } from './operation.ts'

const operator = anyAddress.describe('Whose namespace; sellers publish for an operator.')
const flag = (description: string) => z.enum(['1', 'true']).optional().describe(description)
const amount = (description: string) => text('19.5', description).optional()
const compat = z.enum(['0']).optional().describe('`0`: products exactly as signed.')
const unchanged: Answer = { description: 'What the client has is still right.', headers: ['ETag', 'Cache-Control'] }

const stockParams = z.object({ chainId, seller: anyAddress, sku })
const stockErrors: Errors = {
  400: ['invalid_chain', 'invalid_address'],
  502: [
    'upstream_error',
    'upstream_invalid',
    'upstream_invalid_url',
    'upstream_redirects',
    'upstream_blocked',
    'upstream_too_large',
    'upstream_unreachable',
  ],
  504: ['upstream_timeout'],
  508: ['loop_detected'],
}

const pinErrors: Errors = {
  401: ['unauthorized'],
  413: ['body_too_large'],
  415: ['unsupported_media_type'],
  429: ['pin_quota_exceeded'],
  502: ['ipfs_unavailable', 'ipfs_mismatch', 'object_too_large'],
  503: ['busy'],
  504: ['ipfs_timeout'],
}
const QUOTA = 'Counts against the quota of who is signed in, else of the client; the market may ask for a token.'

const object = (type: string | string[], description: string): Record<number, Answer> => ({
  200: { description, type, headers: ['ETag', 'Cache-Control'] },
  206: { description: 'The part that `Range` names.', type, headers: ['ETag', 'Cache-Control', 'Content-Range'] },
  304: unchanged,
})
const objectErrors: Errors = {
  400: ['invalid_cid'],
  404: ['not_available'],
  416: ['range_not_satisfiable'],
  502: ['ipfs_unavailable', 'ipfs_mismatch', 'object_too_large'],
  503: ['busy'],
  504: ['ipfs_timeout'],
}

export const catalogOperations: Operation[] = [
  {
    id: 'listSellers',
    method: 'get',
    path: '/api/sellers',
    tag: 'Catalog',
    summary: 'List who sells here',
    headers: ['If-None-Match'],
    answers: {
      200: {
        description: 'By chain and address.',
        type: JSON_TYPE,
        schema: Sellers,
        headers: ['ETag', 'Cache-Control'],
      },
      304: unchanged,
    },
    errors: {},
  },
  {
    id: 'listCatalog',
    method: 'get',
    path: '/api/operator/{operator}/catalog',
    tag: 'Catalog',
    summary: 'List what avatars sell',
    description:
      'Newest first. A cursor shows the catalog as it was on the first page for at least five minutes. What cannot be read is told in `errors`; an avatar nobody has asked for before is read within the request, ten seconds at most.',
    headers: ['If-None-Match'],
    params: z.object({ operator }),
    query: z.object({
      avatars: z.array(anyAddress).min(1).describe('Whose products: once for each.'),
      chainId: chainId.optional().describe('If it is there, the chain of this market.'),
      pageSize: z.int().min(1).max(100).default(20).describe('Cut to this range.'),
      cursor: text('eyJzdGFydCI6MjB9', '`nextCursor` of the page before.').optional(),
      offset: z.int().min(0).default(0).describe('For clients that count; not with `cursor`.'),
      start: z.int().min(0).default(0).describe('Only what was signed from then on, unix seconds.'),
      end: z.int().optional().describe('Only what was signed until then, unix seconds; now at the latest.'),
      q: text('tee', 'Words, each the beginning of one in name, sku, brand, category or description.').optional(),
      category: text('T-shirts').optional(),
      minPrice: amount('Of the first offer, inclusive.'),
      maxPrice: amount('Of the first offer, inclusive.'),
      priceCurrency: currency.optional(),
      inStock: flag("Only what can be had now; asks the sellers' systems."),
      diagnostics: flag('Tells normal states in `errors` too, and which links were left out.'),
      compat,
    }),
    answers: {
      200: {
        description: 'A page.',
        type: JSON_LD,
        schema: CatalogPage,
        headers: ['ETag', 'Cache-Control', 'Link', 'X-Next-Cursor', 'X-Snapshot-Changed'],
      },
      304: { ...unchanged, headers: ['ETag', 'Cache-Control', 'Link', 'X-Next-Cursor', 'X-Snapshot-Changed'] },
    },
    errors: { 400: ['invalid_query', 'invalid_address'], 416: ['past_the_end'], 503: ['busy'] },
  },
  {
    id: 'getProduct',
    method: 'get',
    path: '/api/operator/{operator}/catalog/{seller}/{sku}',
    tag: 'Catalog',
    summary: 'Read one product',
    headers: ['If-None-Match'],
    params: z.object({ operator, seller: anyAddress, sku }),
    query: z.object({ chainId: chainId.optional().describe('If it is there, the chain of this market.'), compat }),
    answers: {
      200: {
        description: 'As in the catalog.',
        type: JSON_LD,
        schema: CatalogItem,
        headers: ['ETag', 'Cache-Control'],
      },
      304: unchanged,
    },
    errors: { 400: ['invalid_query', 'invalid_address'], 404: ['product_not_found'] },
  },
  {
    id: 'getAvailability',
    method: 'get',
    path: '/inventory/availability/{chainId}/{seller}/{sku}',
    tag: 'Stock',
    summary: 'Ask whether there is any',
    params: stockParams,
    answers: { 200: { description: 'In stock or not.', type: JSON_TYPE, schema: StockAvailability } },
    errors: { ...stockErrors, 404: ['not_configured', 'availability_not_configured'] },
    problems: true,
  },
  {
    id: 'getInventory',
    method: 'get',
    path: '/inventory/inventory/{chainId}/{seller}/{sku}',
    tag: 'Stock',
    summary: 'Ask how many there are',
    params: stockParams,
    answers: { 200: { description: 'What can be ordered.', type: JSON_TYPE, schema: StockQuantity } },
    errors: { ...stockErrors, 404: ['not_configured', 'inventory_not_supported'] },
    problems: true,
  },
  {
    id: 'pinDocument',
    method: 'post',
    path: '/api/pin',
    aliases: ['/pin'],
    tag: 'Documents',
    summary: 'Pin a JSON-LD document',
    description: `A document of a shape that the catalog takes, at most 8 MiB, kept byte by byte as it came. ${QUOTA}`,
    auth: 'optional',
    body: {
      type: [JSON_TYPE, JSON_LD],
      example: {
        '@context': ['https://schema.org/', 'https://aboutcircles.com/contexts/circles-market/'],
        '@type': 'Product',
        name: 'Black tee',
        sku: 'tee-black',
        offers: [{ '@type': 'Offer', price: 19.5, priceCurrency: 'CRC' }],
      },
    },
    answers: { 200: { description: 'Its CID.', type: JSON_TYPE, schema: PinAnswer } },
    errors: { ...pinErrors, 400: ['unsupported_shape', 'document_too_dense', 'incomplete_body'] },
    problems: true,
  },
  {
    id: 'pinMedia',
    method: 'post',
    path: '/api/pin-media',
    aliases: ['/pin-media'],
    tag: 'Documents',
    summary: 'Pin an image',
    description: `PNG, JPEG, GIF, WebP or AVIF, told by its bytes, at most 8 MiB. ${QUOTA}`,
    auth: 'optional',
    query: z.object({ strip: z.enum(['exif']).optional().describe('Takes the metadata out first.') }),
    body: { type: ['image/*', 'application/octet-stream'] },
    answers: { 200: { description: 'Its CID.', type: JSON_TYPE, schema: PinAnswer } },
    errors: {
      ...pinErrors,
      400: ['invalid_query', 'empty_media', 'unsupported_media', 'damaged_media', 'incomplete_body'],
    },
    problems: true,
  },
  {
    id: 'canonicalize',
    method: 'post',
    path: '/api/canonicalize',
    tag: 'Documents',
    summary: 'Get the text that is signed',
    description:
      'Any JSON object by RFC 8785, without its top-level `signature`. A link is checked first, so that what comes back can be signed, pinned and listed.',
    query: z.object({
      safe: anyAddress.optional().describe('The Safe that will sign: answers `X-Safe-Hash`.'),
      chainId: chainId.optional().describe("Its chain; otherwise the link's, or that of this market."),
    }),
    body: { type: [JSON_TYPE, JSON_LD], example: { b: 1, a: 2, signature: '0x' } },
    answers: {
      200: { description: 'The text.', type: JSON_TYPE, headers: ['X-Link-Keccak', 'X-Safe-Hash'] },
    },
    errors: {
      400: [
        'invalid_json',
        'unsupported_shape',
        'unsafe_to_sign',
        'document_too_dense',
        'invalid_chain',
        'invalid_address',
        'incomplete_body',
      ],
      413: ['body_too_large'],
      415: ['unsupported_media_type'],
      503: ['busy'],
    },
    problems: true,
  },
  {
    id: 'getObject',
    method: 'get',
    path: '/raw/{cid}',
    tag: 'Documents',
    summary: 'Read an object by its CID',
    description: 'Checked against the CID. It never changes, and may be kept for ever.',
    headers: ['If-None-Match', 'Range'],
    params: z.object({ cid: cid.describe('CIDv0, or CIDv1 in base32.') }),
    answers: object([JSON_TYPE, 'image/*', 'application/octet-stream'], 'The bytes; the type is what they show.'),
    errors: objectErrors,
    problems: true,
  },
  {
    id: 'getImage',
    method: 'get',
    path: '/ipfs/{cid}',
    tag: 'Documents',
    summary: 'Read an image by its CID',
    headers: ['If-None-Match', 'Range'],
    params: z.object({ cid: cid.describe('CIDv0, or CIDv1 in base32.') }),
    answers: object('image/*', 'The image.'),
    errors: { ...objectErrors, 404: ['not_available', 'not_an_image'] },
    problems: true,
  },
]
