import { Agent, type IncomingHttpHeaders, request } from 'node:http'
import { connect } from 'node:net'
import fc from 'fast-check'
import type { Operation } from '../src/openapi/operation.ts'

/**
 * Requests of every kind of wrong, as plain data that fast-check can make smaller. What only a running market has (ids, tokens,
 * cursors) stands in them as `known`: the number of one.
 */
export type Plan = {
  method: string
  /** By name of the path parameter. */
  params: Record<string, Slot>
  query: [name: string, value: Slot][]
  caller: number
  basketToken: 'none' | 'right' | 'wrong'
  headers: [name: string, value: string][]
  body: BodyPlan | undefined
  isChunked: boolean
}

/** `raw` stands in a target as it is, percent signs and all; `known` may have a character of it changed. */
export type Slot = { known: number; bent?: { at: number; by: string } } | { raw: string }
type BodyPlan = {
  base: { seed: number } | { text: string } | { bytes: number[] }
  changes: Change[]
  harm: (typeof HARM)[number] | undefined
}
type Change = { at: number; how: string; text: string; name: string }

/** Most of what is sent has to get past the first checks. */
const mostly = <T>(usual: fc.Arbitrary<T>, odd: fc.Arbitrary<T>, weight = 4): fc.Arbitrary<T> =>
  fc.oneof({ weight, arbitrary: usual }, { weight: 1, arbitrary: odd })

const percent = (text: string) =>
  [...Buffer.from(text)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
const packed = (text: string) => Buffer.from(text).toString('base64url')
const ADDRESS = `0x${'c4'.repeat(20)}`
const IDS = {
  basket: `bkt_${'0'.repeat(32)}`,
  order: `ord_${'0'.repeat(32)}`,
  job: '2f1c1f6e-9a51-4f0e-8d0b-5f8a4b0c7d3e',
}

/** What stands between blanks. */
const words = (text: TemplateStringsArray, ...values: string[]) =>
  String.raw(text, ...values)
    .trim()
    .split(/\s+/)

/** Of the catalog and of orders, and given out to nobody. */
const CURSORS = [
  ...words`{"start":0} {"start":9007199254740991} {"start":-1} {"start":null} [] null`,
  ...words`99999999999999999 0 00000000000000000`.map((micros) => `${micros}.${IDS.order}`),
].map(packed)

/** In a path or a query, as sent. */
const RAW_TEXTS = [
  '',
  ...words`0 -1 1 1.5 1e3 +1 %2B1 0x10 NaN Infinity null undefined true [] {} 2147483648 9007199254740993 9223372036854775808
    999999999999999 -999999999999999 ${'9'.repeat(40)} ${'9'.repeat(400)}
    %00 a%00b ${IDS.order}%00 ${IDS.basket}%00 %zz % %e0%a4 %ff%fe %ED%A0%80 %C0%80 %2500 %20 %09 %0d%0aX-Evil:%201
    . .. %2e%2e ..%2f..%2fetc%2fpasswd a%2fb %5c ; ;a=b * : :orderId {id} '%20or%20'1'='1 %22 %27;drop%20table%20orders;--
    $1 $(id) __proto__ constructor toString by-buyer events batch sales as-seller ${'x'.repeat(3000)} ${'%41'.repeat(1000)}
    ${ADDRESS} ${ADDRESS.toUpperCase()} ${ADDRESS}0 0X${'c4'.repeat(20)} %20${ADDRESS} 0x${'%00'.repeat(20)}
    ${IDS.basket} ${IDS.basket.toUpperCase()} ${IDS.order} ${IDS.order.toLowerCase()} ${IDS.job} ${IDS.job.toUpperCase()}
    QmPGULpvvyrXxZVzaub4v3TaMQoKg4LsuXeCdYtXQFqD7u bafkqaaa bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy
    QmPGULpvvyrXxZVzaub4v3TaMQoKg4LsuXeCdYtXQFqD7U bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi z`,
  ...['\u{1f4a9}', '\u202eabc', '\ufdfa'.repeat(50)].map(percent),
  ...CURSORS,
]

const rawText = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(...RAW_TEXTS) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 12 }).map(percent) },
  { weight: 1, arbitrary: fc.webPath().map((path) => path.slice(1)) },
)

/** In a text of JSON, between the quotes. */
const JSON_TEXTS = [
  '',
  ' ',
  ' '.repeat(3000),
  "' or 1=1 --",
  ` ${ADDRESS} `,
  ...words`a 0 -0 1e3 null 0x \u0000 a\u0000b \ud800 \udc00\ud800 \ufeff \u2028 \u0130 \u212a \n \\ \" \x \ __proto__ constructor
    %00 ../.. javascript:alert(1) https://x/\u0000 ipfs:// 9999-12-31 0000-00-00 2026-13-45 ${ADDRESS} ${ADDRESS.toUpperCase()}
    ${ADDRESS}\u0000 eip155:100:${ADDRESS} ${IDS.basket} ${IDS.order} ${IDS.job}`,
  '\u202e',
  '\u{1f4a9}',
  '\ufdfa',
  'x'.repeat(65),
  'x'.repeat(2001),
  'x'.repeat(20_000),
  '\\ud83d\\ude00'.repeat(300),
]
const JSON_LITERALS = [
  ...words`null true false 0 -0 -1 1 1.5 100 1e3 1e400 -1e400 1e-400 5e-324 0.1e1 1e21 2147483647 2147483648 1000000 1000001 604800
    9007199254740991 9007199254740993 -9007199254740993 9223372036854775808 ${'9'.repeat(400)} 00 .5 +1 0x1 1_000 'a' /**/1
    NaN Infinity undefined [] {} [[]] [null] [{}] [1,] [,] {"a":1,} {"":{}} {"a":1,"a":2} {"length":1e9} {"then":1}
    {"__proto__":{"polluted":true}} {"__proto__":null} {"constructor":{"prototype":{"polluted":true}}}
    {"toString":1,"valueOf":1,"toJSON":1} [${'0,'.repeat(3000)}0]`,
  `{${Array.from({ length: 600 }, (_, i) => `"k${i}":${i}`).join()}}`,
  ...[63, 64, 65, 6000].flatMap((depth) => [
    '['.repeat(depth) + ']'.repeat(depth),
    `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`,
  ]),
  '['.repeat(50_000),
]
const jsonText = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...JSON_LITERALS) },
  { weight: 3, arbitrary: fc.constantFrom(...JSON_TEXTS).map((text) => `"${text}"`) },
  { weight: 1, arbitrary: fc.string({ unit: 'binary', maxLength: 20 }).map((text) => JSON.stringify(text)) },
  { weight: 1, arbitrary: fc.json({ maxDepth: 3 }) },
)
const memberName = fc
  .constantFrom(...words`@type @context length toString signature items buyer price sku`, ...JSON_TEXTS)
  .map((name) => `"${name}"`)

const change = fc.record({
  at: fc.nat({ max: 999 }),
  how: fc.constantFrom('replace', 'replace', 'replace', 'remove', 'add', 'double', 'wrap', 'repeat', 'append'),
  text: jsonText,
  name: memberName,
})
const HARM = ['BOM', 'cut', 'UTF-16', 'bad byte', 'more after it', 'NUL after it', 'blanks around it'] as const
const bodyPlan: fc.Arbitrary<BodyPlan> = fc.record({
  base: fc.oneof(
    { weight: 8, arbitrary: fc.record({ seed: fc.nat({ max: 99 }) }) },
    { weight: 1, arbitrary: fc.record({ text: jsonText }) },
    { weight: 1, arbitrary: fc.record({ bytes: fc.array(fc.nat({ max: 255 }), { maxLength: 64 }) }) },
  ),
  changes: fc.array(change, { maxLength: 3 }),
  harm: mostly(fc.constant(undefined), fc.constantFrom(...HARM), 8),
})

/** Node's client sends no control characters; `rawRequests` do. */
const headerText = fc.oneof(
  fc.constantFrom(
    '',
    ' ',
    'a\tb',
    "'; select 1",
    '\u00ff\u00e9',
    'x'.repeat(300),
    'x'.repeat(6000),
    '"'.repeat(3000),
    'a,'.repeat(2000),
    ...words`, ,,, " "" "0" "1" W/"1" * 0 1 -1 ${'9'.repeat(30)} 9007199254740993 ; = null %00 ../ __proto__ $
      bytes=0- bytes=-1 bytes=5-2 bytes=0-0,2-3 bytes=99999- bytes=-0 bytes=0-0`,
  ),
  fc.string({ maxLength: 20 }),
)
const HEADERS: Record<string, fc.Arbitrary<string>> = {
  ...Object.fromEntries(
    words`If-Match If-None-Match Idempotency-Key Last-Event-ID Range If-Range X-Request-Id X-Circles-Proxy-Hop Accept Cookie
      Accept-Encoding Access-Control-Request-Headers Access-Control-Request-Method`.map((name) => [name, headerText]),
  ),
  'X-Forwarded-For': fc.oneof(
    headerText,
    fc.ipV6(),
    fc.ipV4(),
    fc.constantFrom(...words`:: [::1]:99999 1.2.3.4:x ::ffff:1.2.3 % [ ::ffff:999.1.1.1`),
  ),
  Origin: fc.oneof(
    headerText,
    fc.constantFrom(
      ...words`null https://[ https://a.example file:// https://a@b data:,x https://\u00e9 https://x:99999`,
    ),
  ),
  'Content-Encoding': fc.constantFrom('gzip', 'br', 'identity', 'x'),
}
const TYPES = [
  ...words`application/json application/ld+json application/merge-patch+json image/png application/octet-stream text/plain
    multipart/form-data application/x-www-form-urlencoded application/jsonx application/+json APPLICATION/JSON */* ;`,
  'application/json; charset=utf-16',
  'application/json, text/html',
  '\u00ff',
  '',
]

const number = fc.nat({ max: 99 })
const bent = fc.record({ at: number, by: fc.constantFrom('', '0', 'z', '.', '%00', '%c3%a9', 'aaaaaaaa') })
const slot: fc.Arbitrary<Slot> = fc.oneof(
  { weight: 12, arbitrary: fc.record({ known: number }) },
  { weight: 4, arbitrary: fc.record({ raw: rawText }) },
  { weight: 1, arbitrary: fc.record({ known: number, bent }) },
)
const none: fc.Arbitrary<never[]> = fc.constant([])
const header = (names: string[]): fc.Arbitrary<[string, string]> =>
  fc.constantFrom(...names).chain((name) => fc.tuple(fc.constant(name), HEADERS[name]!))

/** Requests to an operation: most have one or two things wrong, some none. */
export function planOf(operation: Operation, path: string): fc.Arbitrary<Plan> {
  const { method, headers: own = [], body, auth } = operation
  const params = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => [name!, slot] as const)
  const declared = Object.keys(operation.query?.shape ?? {})
  const odd = words`x __proto__ avatars[] avatars chainId a%00 %zz cursor buyer page`
  const name = mostly(fc.constantFrom(...declared, 'x'), fc.constantFrom('', ...odd))
  const query = fc.array(fc.tuple(name, slot), { minLength: 1, maxLength: 4 })
  const ownHeaders = own.filter((one) => one in HEADERS)
  const types = [body?.type ?? 'application/json'].flat().map((type) => type.replace('*', 'png'))
  const type = mostly(fc.constantFrom(...types), fc.constantFrom(...TYPES), 6)
  return fc.record({
    method: mostly(
      fc.constant(method.toUpperCase()),
      fc.constantFrom(...words`HEAD OPTIONS PUT DELETE POST GET PATCH TRACE PROPFIND`),
      20,
    ),
    params: fc.record(Object.fromEntries(params)),
    query: declared.length > 0 ? mostly(query, none) : mostly(none, query),
    caller: fc.oneof(
      { weight: auth === 'required' ? 4 : 2, arbitrary: fc.constant(0) },
      { weight: auth === 'required' ? 3 : 1, arbitrary: fc.constant(1) },
      { weight: 2, arbitrary: number },
    ),
    basketToken: fc.constantFrom('none', 'none', 'none', 'none', 'none', 'none', 'right', 'wrong'),
    headers: fc
      .tuple(
        ownHeaders.length > 0 ? mostly(none, fc.array(header(ownHeaders), { maxLength: 2 }), 2) : none,
        mostly(none, fc.array(header(Object.keys(HEADERS)), { maxLength: 3 })),
        method === 'get' ? none : type.map((value): [string, string][] => [['Content-Type', value]]),
      )
      .map((lists) => lists.flat()),
    body: body ? mostly(bodyPlan, fc.constant(undefined), 12) : mostly(fc.constant(undefined), bodyPlan, 6),
    isChunked: mostly(fc.constant(false), fc.constant(true)),
  })
}

const WORST = words`%00 a%00 %ED%A0%80 %zz %2f -1 0 ${'9'.repeat(400)} ${'9'.repeat(18)} 1e3 __proto__ ${'x'.repeat(3000)}`
const WORST_HEADERS = ['', '"', '*', '-1', '9'.repeat(30), '\u00ff', 'x'.repeat(6000)]
const WORST_JSON = words`null [] 1e400 -1 "\u0000" "\ud800" "${'x'.repeat(5000)}" [[{}]]`
const WORST_IN_CURSOR = words`null -1 2147483648 -2147483649 9007199254740991 -9007199254740991 "\u0000" "0.0.999999999999999.w"
  "0.999999999999999.0.i" "999999999999999999.0.999999999999999.w" "999999999999999999.0.999999999999999.i"`

/** A cursor with each of its parts made something else. */
function forged(cursor: string): string[] {
  const text = Buffer.from(cursor, 'base64url').toString()
  if (!text.startsWith('{')) return CURSORS
  const places = placesIn({ node: treeOf(JSON.parse(text)), set: () => {} })
  return places.flatMap((_, at) =>
    WORST_IN_CURSOR.map((value) =>
      packed(textOf(changed(treeOf(JSON.parse(text)), { at, how: 'replace', text: value, name: '' }))),
    ),
  )
}

/**
 * Requests to an operation with one thing wrong at a time: each parameter, each header that it looks at, each value in each of
 * the bodies that it takes. The first one is right.
 */
export function sweepOf(operation: Operation, seeds: unknown[], caller: number, cursors: string[] = []): Plan[] {
  const { method, path, headers = [], body, query } = operation
  const params = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name!)
  const declared = Object.entries(query?.shape ?? {})
  const needed = declared.filter(([, schema]) => !schema.safeParse(undefined).success).map(([name]) => name)
  const right: Plan = {
    method: method.toUpperCase(),
    params: Object.fromEntries(params.map((name) => [name, { known: 0 }])),
    query: needed.map((name) => [name, { known: 0 }]),
    caller,
    basketToken: 'none',
    headers: body ? [['Content-Type', [body.type].flat()[0]!.replace('*', 'png')]] : [],
    body: body && { base: { seed: 0 }, changes: [], harm: undefined },
    isChunked: false,
  }
  const bodies = (body ? seeds : []).flatMap((seed, which): BodyPlan[] => {
    if (seed instanceof Uint8Array) return []
    const places = placesIn({ node: treeOf(seed), set: () => {} })
    const name = '"__proto__"'
    const changes = places.flatMap((_, at): Change[] => [
      { at, how: 'remove', text: '1', name },
      { at, how: 'add', text: '1', name },
      ...WORST_JSON.map((text) => ({ at, how: 'replace', text, name })),
    ])
    return changes.map((one) => ({ base: { seed: which }, changes: [one], harm: undefined }))
  })
  return [
    right,
    ...params.flatMap((name) => WORST.map((raw) => ({ ...right, params: { ...right.params, [name]: { raw } } }))),
    ...declared.flatMap(([name]) =>
      [...WORST, ...(name === 'cursor' ? cursors.flatMap(forged) : [])].map((raw): Plan => ({
        ...right,
        query: [...right.query, [name, { raw }]],
      })),
    ),
    ...headers.flatMap((name) =>
      WORST_HEADERS.map((value): Plan => ({ ...right, headers: [...right.headers, [name, value]] })),
    ),
    ...bodies.map((one) => ({ ...right, body: one })),
  ]
}

/** JSON as text, so that it can be what no JavaScript value is. Names are in quotes. */
type Tree = string | Tree[] | { members: [name: string, value: Tree][] }

const treeOf = (value: unknown): Tree => {
  if (Array.isArray(value)) return value.map(treeOf)
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  return { members: Object.entries(value).map(([name, member]) => [JSON.stringify(name), treeOf(member)]) }
}
const textOf = (tree: Tree): string => {
  if (typeof tree === 'string') return tree
  if (Array.isArray(tree)) return `[${tree.map(textOf).join()}]`
  return `{${tree.members.map(([name, value]) => `${name}:${textOf(value)}`).join()}}`
}

type Place = { node: Tree; set(tree: Tree): void; around?: unknown[]; index?: number }

function placesIn(place: Place): Place[] {
  const { node } = place
  if (typeof node === 'string') return [place]
  const inside = Array.isArray(node)
    ? node.map((item, index): Place => ({ node: item, set: (tree) => (node[index] = tree), around: node, index }))
    : node.members.map((member, index): Place => ({
        node: member[1],
        set: (tree) => (member[1] = tree),
        around: node.members,
        index,
      }))
  return [place, ...inside.flatMap(placesIn)]
}

function changed(root: Tree, { at, how, text, name }: Change): Tree {
  let tree = root
  const places = placesIn({ node: root, set: (other) => (tree = other) })
  const { node, set, around, index } = places[at % places.length]!
  const here = around?.[index!]
  switch (how) {
    case 'remove':
      around?.splice(index!, 1)
      break
    case 'double':
      around?.splice(index!, 0, here)
      break
    case 'repeat':
      if (Array.isArray(node)) node.push(...Array.from({ length: 600 }, () => node[0] ?? text))
      else around?.push(...Array.from({ length: 3 }, () => here))
      break
    case 'add':
      if (typeof node === 'string') set(text)
      else if (Array.isArray(node)) node.push(text)
      else node.members.push([name, text])
      break
    case 'wrap':
      set(at % 2 === 0 ? [node] : { members: [[name, node]] })
      break
    case 'append':
      set(
        typeof node === 'string' && node.endsWith('"') && text.startsWith('"')
          ? node.slice(0, -1) + text.slice(1)
          : text,
      )
      break
    default:
      set(text)
  }
  return tree
}

/** The bytes of a body; `seeds` are what its route takes. */
export function bodyOf({ base, changes, harm }: BodyPlan, seeds: unknown[]): Buffer {
  if ('bytes' in base) return Buffer.from(base.bytes)
  const seed = 'seed' in base ? seeds[base.seed % seeds.length] : undefined
  if (seed instanceof Uint8Array) return changes.reduce(changedBytes, Buffer.from(seed))
  const text = 'text' in base ? base.text : textOf(changes.reduce(changed, treeOf(seed)))
  const bytes = Buffer.from(text)
  const middle = bytes.length >> 1
  switch (harm) {
    case undefined:
      return bytes
    case 'BOM':
      return Buffer.from(`\ufeff${text}`)
    case 'cut':
      return bytes.subarray(0, middle)
    case 'UTF-16':
      return Buffer.from(text, 'utf16le')
    case 'bad byte':
      return Buffer.concat([bytes.subarray(0, middle), Buffer.of(0xff), bytes.subarray(middle)])
    case 'more after it':
      return Buffer.from(`${text}{}`)
    case 'NUL after it':
      return Buffer.from(`${text}\0`)
    case 'blanks around it':
      return Buffer.from(`\n\r\t ${text}\n`)
  }
}

function changedBytes(bytes: Buffer, { at, how, text }: Change): Buffer {
  const place = (at * 7) % (bytes.length + 1)
  const [before, after] = [bytes.subarray(0, place), bytes.subarray(place)]
  if (how === 'remove') return before
  if (how === 'add') return Buffer.concat([before, Buffer.from(text), after])
  if (how === 'double') return Buffer.concat([bytes, bytes])
  return Buffer.concat([before, Buffer.of(at & 255), after.subarray(1)])
}

export type Answer = { status: number; headers: IncomingHttpHeaders; text: string }
export type Asked = {
  method: string
  target: string
  headers: [string, string][]
  body: Buffer | undefined
  isChunked: boolean
}

/** How long an answer may take, in ms. */
const PATIENCE_MS = 5000
/** How long a stream of events is listened to. */
const STREAM_MS = 15

export function createClient(url: string) {
  const agent = new Agent({ keepAlive: true, maxSockets: 4 })
  const { hostname, port } = new URL(url)
  return {
    close: () => agent.destroy(),
    /** Sends what `fetch` would put right or refuse. Rejects when no answer comes, or none that ends. */
    ask({ method, target, headers, body, isChunked }: Asked): Promise<Answer> {
      return new Promise((resolve, reject) => {
        const framing =
          body === undefined
            ? []
            : isChunked
              ? ['Transfer-Encoding', 'chunked']
              : ['Content-Length', String(body.length)]
        const flat = ['Host', `${hostname}:${port}`, ...headers.flat(), ...framing]
        const sent = request({ agent, hostname, port, method, path: target, headers: flat as never })
        const giveUp = setTimeout(() => sent.destroy(new Error(`no answer in ${PATIENCE_MS} ms`)), PATIENCE_MS)
        const done = (answer: Answer) => {
          clearTimeout(giveUp)
          resolve(answer)
        }
        sent.on('error', (error) => {
          clearTimeout(giveUp)
          reject(error)
        })
        sent.on('response', (response) => {
          const chunks: Buffer[] = []
          const answer = () => ({
            status: response.statusCode!,
            headers: response.headers,
            text: Buffer.concat(chunks).toString(),
          })
          response.on('data', (chunk: Buffer) => chunks.push(chunk))
          response.on('end', () => done(answer()))
          response.on('error', reject)
          if (response.headers['content-type'] !== 'text/event-stream') return
          setTimeout(() => {
            done(answer())
            sent.destroy()
          }, STREAM_MS)
        })
        if (body !== undefined && isChunked)
          for (let at = 0; at < body.length; at += 5000) sent.write(body.subarray(at, at + 5000))
        sent.end(isChunked ? undefined : body)
      })
    },
  }
}

/** Bytes that no client library sends; each ends somewhere in the middle, or in the next request. */
const rawRequest: fc.Arbitrary<string> = (() => {
  const targets = words`/health * // //health http://elsewhere.example/health http:// https://[::1 javascript:x a:1 ?x #x /a\b /%
    /api/operator/x/catalog?avatars=%ff&%= /api/cart/v1/baskets /api/cart/v1/baskets/x /api/cart/v1/orders/events /api/pin
    /api/auth/verify /${'x'.repeat(70_000)} /raw/${'%41'.repeat(5000)}`
  const line = fc.oneof(
    {
      weight: 3,
      arbitrary: fc
        .tuple(
          fc.constantFrom(...words`GET GET POST POST PATCH OPTIONS CONNECT TRACE PRI get`),
          fc.constantFrom(...targets, '/a b', '/\u00ff\u00fe', '/\u0001', '/a\0b', ''),
          mostly(
            fc.constant('HTTP/1.1'),
            fc.constantFrom(...words`HTTP/1.0 HTTP/0.9 HTTP/2.0 HTTP/1.10 http/1.1 HTTPS/1.1`),
          ),
        )
        .map((parts) => parts.join(' ')),
    },
    {
      weight: 1,
      arbitrary: fc.constantFrom(
        '',
        'GET /health',
        'GET\t/health HTTP/1.1',
        '\x16\x03\x01\x02',
        'GET /health HTTP/1.1 ',
        ' GET / HTTP/1.1',
      ),
    },
  )
  const one = fc.constantFrom(
    ...['5', '0', '-1', '1e3', '9'.repeat(20), '5, 5', '+5', '', '9000000'].map(
      (length) => `Content-Length: ${length}`,
    ),
    ...['chunked', 'chunked, identity', 'gzip', 'xchunked', 'chunked\r\nTransfer-Encoding: chunked'].map(
      (coding) => `Transfer-Encoding: ${coding}`,
    ),
    ...['b', 'a b', '[', '', 'a/b', 'a:b', '\u00ff'].map((host) => `Host: ${host}`),
    'Connection: close',
    'Connection: upgrade',
    'Upgrade: websocket',
    'Upgrade: h2c',
    'Keep-Alive: timeout=9999',
    'TE: trailers',
    'Expect: 100-continue',
    'Expect: nonsense',
    'Trailer: X',
    'Content-Length : 5',
    'Content-Type: application/json',
    'X: a\r\n folded',
    ' X: begins with a blank',
    'X',
    ': y',
    'X Y: z',
    'X: \0',
    'X: \u0001',
    'X:\n',
    'Authorization: Bearer \u00ff',
    `X: ${'x'.repeat(66_000)}`,
    Array.from({ length: 2100 }, (_, i) => `X${i}: y`).join('\r\n'),
  )
  const body = fc.oneof(
    fc.constantFrom(
      '',
      '{}',
      '{"a":',
      'hello',
      '\0\0\0\0',
      '5\r\nhello\r\n0\r\n\r\n',
      '2\r\n{}\r\n0\r\n\r\n',
      '2\n{}\n0\n\n',
      '5\r\nhel',
      'zz\r\n',
      '-1\r\n',
      'fffffffff\r\n{}',
      '0\r\nX: y\r\n\r\n',
      '0\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n',
      `1;${'x'.repeat(20_000)}\r\n{\r\n`,
    ),
    fc.string({ unit: 'binary', maxLength: 30 }),
  )
  const whole = fc
    .tuple(
      line,
      mostly(fc.constant('Host: a'), fc.constant('X: no host')),
      fc.array(one, { maxLength: 3 }),
      mostly(fc.constant('\r\n'), fc.constantFrom('\n', '\r', '\r\r\n'), 9),
      body,
    )
    .map(([first, host, more, end, content]) => [first, host, ...more, '', content].join(end))
  const cut = fc
    .tuple(whole, number)
    .map(([text, percents]) => text.slice(0, Math.floor((text.length * percents) / 100)))
  const several = fc.array(whole, { minLength: 2, maxLength: 4 }).map((all) => all.join(''))
  return fc.oneof(whole, cut, several)
})()

/** Several at a time: most of what such a connection takes is waiting. */
export const rawRequests = fc.array(rawRequest, { minLength: 1, maxLength: 12 })

/** A path of no route, or of one by chance. */
export const rawPath = fc
  .tuple(
    fc.constantFrom('', '', '/api', '/api/cart/v1', '/api/cart/v1/orders', '/docs', '/raw'),
    fc.array(rawText, { maxLength: 4 }),
  )
  .map(([start, parts]) => `${start}/${parts.join('/')}`)

/** After so long a silence, in ms, nothing more is expected: the half of the connection that sends is closed. */
const SILENCE_MS = 40

/** What comes back for these bytes until the connection ends. Rejects when it does not. */
export function sendRaw(url: string, bytes: string): Promise<string> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname)
    let received = ''
    const silence = setTimeout(() => socket.end(), SILENCE_MS)
    const giveUp = setTimeout(() => {
      socket.destroy()
      reject(new Error(`the connection was still open after ${PATIENCE_MS} ms, having got: ${received.slice(-300)}`))
    }, PATIENCE_MS)
    socket.on('data', (chunk) => {
      received += chunk.toString('latin1')
      silence.refresh()
    })
    // A server that refuses may cut the connection while there is more to read.
    socket.on('error', () => {})
    socket.on('close', () => {
      clearTimeout(silence)
      clearTimeout(giveUp)
      resolve(received)
    })
    socket.write(Buffer.from(bytes, 'latin1'))
  })
}

/** The answers in what a connection brought; `rest` is what is none. */
export function answersIn(received: string): { answers: Answer[]; rest: string } {
  const answers: Answer[] = []
  let rest = received
  for (;;) {
    const [head, status, lines] = /^HTTP\/1\.1 ([0-9]{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n/.exec(rest) ?? []
    if (head === undefined) return { answers, rest }
    const headers = Object.fromEntries(
      lines!
        .split('\r\n')
        .filter((line) => line !== '')
        .map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
    )
    rest = rest.slice(head.length)
    let text = ''
    if (headers['transfer-encoding'] === 'chunked') {
      for (let size = -1; size !== 0;) {
        const [sizeLine, hex] = /^([0-9a-f]+)\r\n/i.exec(rest) ?? []
        if (sizeLine === undefined) return { answers, rest }
        size = Number.parseInt(hex!, 16)
        text += rest.slice(sizeLine.length, sizeLine.length + size)
        rest = rest.slice(sizeLine.length + size + 2)
      }
    } else if (headers['content-length'] !== undefined) {
      text = rest.slice(0, Number(headers['content-length']))
      rest = rest.slice(text.length)
    }
    if (status !== '100')
      answers.push({ status: Number(status), headers, text: Buffer.from(text, 'latin1').toString() })
  }
}
