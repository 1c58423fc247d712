import { createHash } from 'node:crypto'
import type {
  AnswerObject,
  JsonSchema,
  MediaType,
  OpenApiDocument,
  OperationObject,
  Parameter,
  Reference,
} from './document.ts'
import { sampleOf } from './sample.ts'

/** HTML that was made here; every other text is escaped before it gets in. */
type Html = { html: string }

const escape = (text: string) =>
  text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;')

type Part = Html | string | number | undefined | Part[]

function toHtml(part: Part): string {
  if (part === undefined) return ''
  if (Array.isArray(part)) return part.map(toHtml).join('')
  return typeof part === 'object' ? part.html : escape(String(part))
}

const markup = (texts: TemplateStringsArray, ...parts: Part[]): Html => ({
  html: texts.map((text, i) => text + toHtml(parts[i])).join(''),
})

/** Descriptions are Markdown of which only paragraphs and `code` are used. */
const prose = (text: string | undefined): Html[] =>
  (text ?? '').split('\n\n').flatMap((paragraph) => (paragraph === '' ? [] : markup`<p>${inline(paragraph)}</p>`))

const inline = (text: string): Part[] =>
  text.split('`').map((piece, i) => (i % 2 === 1 ? markup`<code>${piece}</code>` : piece))

const STYLE = `
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #0b57d0; --get: #0a6b3d; --post: #0b57d0; --patch: #8a4b00 }
@media (prefers-color-scheme: dark) { :root { --link: #8ab4f8; --get: #6fcf97; --post: #8ab4f8; --patch: #f2b266 } }
* { box-sizing: border-box }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText }
a { color: var(--link) }
code, pre { font: 0.875em/1.45 ui-monospace, monospace }
code { overflow-wrap: anywhere }
pre { margin: 0.5rem 0; padding: 0.75rem; overflow: auto; max-height: 28rem; background: var(--soft); border-radius: 6px }
nav { padding: 1rem; border-bottom: 1px solid var(--line); max-height: 40vh; overflow: auto }
nav summary { font-weight: 600; cursor: pointer }
nav ul { list-style: none; margin: 0.25rem 0 0.75rem; padding: 0 }
nav li a { display: block; padding: 0.15rem 0; text-decoration: none; font-size: 0.9rem }
main { padding: 1rem; max-width: 60rem; margin: 0 auto; min-width: 0 }
h1 { margin: 0 0 0.5rem } h2 { margin: 3rem 0 0.5rem; padding-top: 1rem; border-top: 1px solid var(--line) }
h3 { margin: 2.5rem 0 0.25rem } h4 { margin: 1.25rem 0 0.25rem }
h3 a { color: inherit; text-decoration: none } h3 a:hover { text-decoration: underline }
p { margin: 0.5rem 0 }
.call { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
.get { color: var(--get) } .post { color: var(--post) } .patch { color: var(--patch) }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 0.75rem 0.35rem 0; border-bottom: 1px solid var(--line) }
td:first-child { white-space: nowrap }
details > summary { cursor: pointer }
.soft { opacity: 0.75; font-size: 0.875rem }
@media (min-width: 60rem) {
  body { display: grid; grid-template-columns: 18rem minmax(0, 1fr) }
  nav { position: sticky; top: 0; height: 100vh; max-height: none; border-bottom: 0; border-right: 1px solid var(--line) }
}
`

/** Nothing but the style in the page itself: no script of anybody runs where buyers' tokens are. */
export const PAGE_POLICY = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`

/** The document for people: one page of HTML without a script and without anything from elsewhere. */
export function referencePage(document: OpenApiDocument): string {
  const all = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  )
  const listed = all.filter(({ operation }) => operation['x-alias-of'] === undefined)
  const ofTag = (name: string) => listed.filter(({ operation }) => operation.tags.includes(name))
  const aliasesOf = (path: string) => all.filter(({ operation }) => operation['x-alias-of'] === path)
  const { info, tags, components } = document

  const page = markup`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${info.title} API</title>
<style>${{ html: STYLE }}</style>
</head>
<body>
<nav aria-label="Contents"><details open><summary>${info.title} API</summary>
${tags.map(
  ({ name }) => markup`<p><a href="#${anchor(name)}">${name}</a></p>
<ul>${ofTag(name).map(({ operation }) => markup`<li><a href="#${operation.operationId}">${operation.summary}</a></li>`)}</ul>`,
)}
<p><a href="#shapes">Shapes</a></p>
</details></nav>
<main>
<h1>${info.title} API</h1>
<p class="soft">Version ${info.version} · OpenAPI ${document.openapi}: <a href="openapi.json">openapi.json</a></p>
${prose(info.description)}
${tags.map(
  ({ name, description }) => markup`<h2 id="${anchor(name)}">${name}</h2>
${prose(description)}
${ofTag(name).map(({ path, method, operation }) =>
  section(document, { path, method, operation, aliases: aliasesOf(path).map((alias) => alias.path) }),
)}`,
)}
<h2 id="shapes">Shapes</h2>
${Object.entries(components.schemas).map(
  ([name, schema]) => markup`<h3 id="shape-${name}"><a href="#shape-${name}">${name}</a></h3>
${prose(schema.description)}
${shapeTable(schema)}`,
)}
</main>
</body>
</html>
`
  return page.html
}

const anchor = (name: string) => `tag-${name.replaceAll(' ', '-')}`

type Section = { path: string; method: string; operation: OperationObject; aliases: string[] }

function section(document: OpenApiDocument, one: Section): Html {
  const { path, method, operation, aliases } = one
  const { operationId, summary, description, security, requestBody, responses } = operation
  const parameters = (operation.parameters ?? []).map((parameter) => parameterOf(document, parameter))
  const answers = Object.entries(responses).map(([status, answer]) => ({
    status,
    answer: answerOf(document, answer),
  }))
  const plain = answers.filter(({ answer }) => codesOf(answer).length === 0)
  const refusals = answers.filter(({ answer }) => codesOf(answer).length > 0)
  return markup`<section>
<h3 id="${operationId}"><a href="#${operationId}">${summary}</a></h3>
<p class="call"><b class="${method}">${method.toUpperCase()}</b> ${path}</p>
${aliases.length === 0 ? undefined : markup`<p class="soft">Also at ${aliases.map((alias, i) => [i === 0 ? '' : ', ', markup`<code>${alias}</code>`])}.</p>`}
${security === undefined ? undefined : markup`<p class="soft">Bearer token: ${security.length > 1 ? 'looked at when there is one' : 'needed'}.</p>`}
${prose(description)}
${parameters.length === 0 ? undefined : table(['Parameter', 'In', 'Type', 'Meaning'], parameters.map(parameterRow))}
${requestBody === undefined ? undefined : bodyOf(requestBody)}
<h4>Example</h4>
<pre>${curl(document, one, parameters)}</pre>
${plain.map(({ status, answer }) => plainAnswer(document, status, answer))}
<h4>Refusals</h4>
${table(
  ['Status', 'Code', 'Meaning'],
  refusals.flatMap(({ status, answer }) => errorRows(status, answer)),
)}
</section>
`
}

function parameterOf({ components }: OpenApiDocument, parameter: Parameter | Reference): Parameter {
  return '$ref' in parameter ? components.parameters[nameIn(parameter.$ref)]! : parameter
}

function answerOf({ components }: OpenApiDocument, answer: AnswerObject | Reference): AnswerObject {
  return '$ref' in answer ? components.responses[nameIn(answer.$ref)]! : answer
}

const nameIn = (reference: string) => reference.slice(reference.lastIndexOf('/') + 1)

const table = (head: string[], rows: Html[]): Html => markup`<div class="wide"><table>
<thead><tr>${head.map((name) => markup`<th scope="col">${name}</th>`)}</tr></thead>
<tbody>${rows}</tbody>
</table></div>`

const parameterRow = ({ name, in: place, required, description, schema }: Parameter): Html =>
  markup`<tr><td><code>${name}</code></td><td>${place}${required ? ', needed' : ''}</td><td>${typeOf(schema)}</td><td>${inline(description ?? '')}</td></tr>
`

function bodyOf({ required, content }: NonNullable<OperationObject['requestBody']>): Html {
  const types = Object.keys(content)
  const { schema } = Object.values(content)[0]!
  return markup`<h4>Body</h4>
<p class="soft">${types.map((type, i) => [i === 0 ? '' : ' or ', markup`<code>${type}</code>`])}${required ? '' : '; may be left out'}</p>
${shapeTable(schema)}`
}

function plainAnswer({ components: { schemas } }: OpenApiDocument, status: string, answer: AnswerObject): Html {
  const { description, headers = {}, content = {} } = answer
  const [type, media] = Object.entries(content)[0] ?? []
  return markup`<h4>${status}</h4>
<p>${inline(description)} ${media && typeOf(media.schema)} ${Object.keys(content).map((name) => markup`<code>${name}</code> `)}</p>
<p class="soft">Headers: ${Object.keys(headers).join(', ')}</p>
${media && exampleOf(media, type!, schemas)}`
}

function exampleOf(
  media: MediaType,
  type: string,
  schemas: OpenApiDocument['components']['schemas'],
): Html | undefined {
  const events = Object.entries(media['x-events'] ?? {})
  if (events.length > 0) {
    const frames = events.map(
      ([name, schema]) => `id: 1842\nevent: ${name}\ndata: ${JSON.stringify(sampleOf(schema, schemas))}\n`,
    )
    return markup`<p>Data: ${events.map(([, schema]) => typeOf(schema))}</p>
<pre>${frames.join('\n')}</pre>`
  }
  if (!type.endsWith('json') || (media.schema.type === 'object' && !media.schema.properties)) return undefined
  const sample = sampleOf(media.schema, schemas)
  return markup`<details><summary>Example</summary><pre>${JSON.stringify(sample, null, 2)}</pre></details>`
}

/** What the enum of `code` names, each with its sentence. */
function errorRows(status: string, answer: AnswerObject): Html[] {
  const sentences = new Map(
    answer.description.split('\n\n').map((line) => {
      const [, code = '', sentence = ''] = /^`(.*?)`: (.*)$/.exec(line) ?? []
      return [code, sentence] as const
    }),
  )
  return codesOf(answer).map(
    (
      code,
    ) => markup`<tr><td>${status}</td><td><code>${code}</code></td><td>${inline(sentences.get(code) ?? '')}</td></tr>
`,
  )
}

function codesOf({ content = {} }: AnswerObject): string[] {
  const [media] = Object.values(content)
  const code = media?.schema.properties?.code as JsonSchema | undefined
  return media?.schema.$ref === undefined ? [] : ((code?.enum ?? []) as string[])
}

/** The members of an object, those of objects in it under dotted names. */
function shapeTable(schema: JsonSchema): Html | undefined {
  const rows = membersOf(schema, '')
  if (rows.length > 0) return table(['Member', 'Type', 'Meaning'], rows)
  const type = typeOf(schema)
  return toHtml(type) === '' ? undefined : markup`<p>${type}</p>`
}

function membersOf(schema: JsonSchema, prefix: string): Html[] {
  const { properties = {}, required = [] } = schema
  return Object.entries(properties).flatMap(([name, member]) => {
    const shape = member as JsonSchema
    const path = `${prefix}${name}`
    const { inner, suffix } = objectIn(shape)
    const optional = required.includes(name) ? '' : ', optional'
    return [
      markup`<tr><td><code>${path}</code></td><td>${typeOf(shape)}${optional}</td><td>${inline(shape.description ?? '')}</td></tr>
`,
      ...(inner ? membersOf(inner, `${path}${suffix}.`) : []),
    ]
  })
}

/** The object that a member is, may be, or is a list of, unless it has a name of its own. */
function objectIn(schema: JsonSchema): { inner: JsonSchema | undefined; suffix: string } {
  if (schema.properties) return { inner: schema, suffix: '' }
  for (const option of (schema.anyOf ?? []) as JsonSchema[]) {
    const found = objectIn(option)
    if (found.inner) return found
  }
  const items = schema.items as JsonSchema | undefined
  const found = items && objectIn(items)
  return found?.inner ? { inner: found.inner, suffix: `[]${found.suffix}` } : { inner: undefined, suffix: '' }
}

function typeOf(schema: JsonSchema): Part {
  if (schema.$ref !== undefined) {
    const name = nameIn(schema.$ref)
    return markup`<a href="#shape-${name}">${name}</a>`
  }
  if (schema.anyOf) return (schema.anyOf as JsonSchema[]).map((option, i) => [i === 0 ? '' : ' or ', typeOf(option)])
  if ('const' in schema) return markup`<code>${JSON.stringify(schema.const)}</code>`
  if (schema.enum)
    return schema.enum.map((value, i) => [i === 0 ? '' : ' or ', markup`<code>${JSON.stringify(value)}</code>`])
  if (schema.type === 'array') return ['list of ', typeOf(schema.items as JsonSchema)]
  const types = [schema.type ?? []].flat().join(' or ')
  return [types, schema.format === undefined ? '' : ` (${schema.format})`, bounds(schema)]
}

function bounds({ minimum, maximum, default: fallback }: JsonSchema): string {
  const range = minimum !== undefined && maximum !== undefined ? `, ${minimum} to ${maximum}` : ''
  return fallback === undefined ? range : `${range}, ${String(fallback)} without it`
}

/** A command that does it, with example values. */
function curl(document: OpenApiDocument, { path, method, operation }: Section, parameters: Parameter[]): string {
  const { servers, components } = document
  const valueOf = ({ schema }: Parameter) => String([sampleOf(schema, components.schemas)].flat()[0])
  const filled = parameters
    .filter((parameter) => parameter.in === 'path')
    .reduce((url, parameter) => url.replace(`{${parameter.name}}`, encodeURIComponent(valueOf(parameter))), path)
  const query = parameters
    .filter((parameter) => parameter.in === 'query' && parameter.required)
    .map((parameter) => `${parameter.name}=${encodeURIComponent(valueOf(parameter))}`)
  const base = servers[0]!.url.replace(/\/$/, '')
  const url = `${base}${filled}${query.length === 0 ? '' : `?${query.join('&')}`}`
  const streams = Object.values(operation.responses).some(
    (answer) => 'content' in answer && 'text/event-stream' in (answer.content ?? {}),
  )
  const [type, media] = Object.entries(operation.requestBody?.content ?? {})[0] ?? []
  const token = operation.security?.some((scheme) => 'bearer' in scheme) && operation.security.length === 1
  const parts = [
    `curl ${streams ? '-N ' : ''}${method === 'get' ? '' : `-X ${method.toUpperCase()} `}${quoted(url)}`,
    ...(token ? ['-H "Authorization: Bearer $TOKEN"'] : []),
    ...(media?.example === undefined
      ? []
      : [`-H ${quoted(`Content-Type: ${type}`)}`, `-d ${quoted(JSON.stringify(media.example))}`]),
    ...(type !== undefined && media?.example === undefined
      ? [`-H ${quoted('Content-Type: image/png')}`, '--data-binary @picture.png']
      : []),
  ]
  return parts.join(' \\\n  ')
}

/** For a shell. */
const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`
