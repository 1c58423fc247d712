import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { type OpenApiDocument, openApiDocument } from './document.ts'
import { PAGE_POLICY, referencePage } from './referencePage.ts'

const document = openApiDocument('https://market.example.com')
const page = referencePage(document)
const all = (form: RegExp, text = page) => [...text.matchAll(form)].map(([, found]) => found!)
const unescape = (text: string) =>
  text
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&#39;', "'")
    .replaceAll('&amp;', '&')

describe('the reference page', () => {
  it('has every operation, its aliases and its refusals', () => {
    for (const [path, methods] of Object.entries(document.paths)) {
      for (const operation of Object.values(methods)) {
        if (operation['x-alias-of'] === undefined) expect(page).toContain(`<h3 id="${operation.operationId}">`)
        else expect(page).toContain(`<code>${path}</code>`)
      }
    }
    for (const name of Object.keys(document.components.schemas)) expect(page).toContain(`<h3 id="shape-${name}">`)
    const checkout = page.slice(page.indexOf('<h3 id="checkoutBasket">'))
    expect(checkout).toMatch(/<td>409<\/td><td><code>product_changed<\/code><\/td><td>A seller published/)
  })

  it('leads only to places it has', () => {
    const places = all(/ id="([^"]+)"/g)
    expect(new Set(places).size).toBe(places.length)
    expect(all(/href="#([^"]+)"/g).filter((place) => !places.includes(place))).toEqual([])
    expect(all(/href="([^#"][^"]*)"/g)).toEqual(['openapi.json'])
  })

  it('closes every element it opens', () => {
    const open: string[] = []
    for (const [, closing, name] of page.matchAll(/<(\/?)([a-z0-9]+)[^>]*>/g)) {
      if (closing) expect(open.pop()).toBe(name)
      else if (name !== 'meta') open.push(name!)
    }
    expect(open).toEqual([])
  })

  it('runs nothing and loads nothing; its policy allows its own style', () => {
    expect(page).not.toMatch(/<(script|img|link|iframe|object|form)|\s(on\w+|src|style)=|@import|url\(/)
    const [style] = all(/<style>([^]*?)<\/style>/g)
    expect(PAGE_POLICY).toContain(`'sha256-${createHash('sha256').update(style!).digest('base64')}'`)
  })

  it('shows texts as texts, whatever stands in them', () => {
    const hostile = `<b x="y'&lt;`
    const change = (value: unknown): unknown => {
      if (Array.isArray(value)) return value.map(change)
      if (typeof value !== 'object' || value === null) return value
      return Object.fromEntries(
        Object.entries(value).map(([name, member]) => {
          const isText = typeof member === 'string' && !['$ref', 'operationId', 'in', 'x-alias-of'].includes(name)
          return [name, isText ? `${member}${hostile}` : change(member)]
        }),
      )
    }
    const shown = referencePage(change({ ...document, tags: [...document.tags] }) as OpenApiDocument)
    expect(shown).not.toContain('<b x=')
    expect(shown.split('&lt;b x=&quot;y&#39;&amp;lt;').length).toBeGreaterThan(100)
  })

  it('shows commands that a shell takes as they are', () => {
    const commands = all(/<pre>(curl [^<]*)<\/pre>/g).map(unescape)
    expect(commands).toHaveLength(
      Object.values(document.paths)
        .flatMap((methods) => Object.values(methods))
        .filter((operation) => operation['x-alias-of'] === undefined).length,
    )
    const script = ['curl() { printf "%s\\0" "$@" END; }', 'TOKEN=t', ...commands].join('\n')
    const said = execFileSync('bash', ['-euc', script], { encoding: 'utf8' })
    const calls = said
      .split('END\0')
      .slice(0, -1)
      .map((call) => call.split('\0').slice(0, -1))
    expect(calls).toHaveLength(commands.length)
    for (const call of calls) {
      expect(call.filter((argument) => URL.canParse(argument) && argument.startsWith('https://market.'))).toHaveLength(
        1,
      )
      const body = call[call.indexOf('-d') + 1]
      if (call.includes('-d')) expect(JSON.parse(body!)).toBeTypeOf('object')
    }
  })
})
