export class TemplateError extends Error {}

/**
 * Expands `{name}` in a URL template; names are matched without case, values are percent-encoded except whole origins
 * (fulfilment.md 2). Throws `TemplateError` for a blank template or an unknown name.
 */
export function expandTemplate(template: string, variables: Readonly<Record<string, string>>): string {
  if (template.trim() === '') throw new TemplateError('Template is empty')
  const byName = new Map(Object.entries(variables).map(([name, value]) => [name.toLowerCase(), value]))
  return template.replaceAll(/\{([A-Za-z0-9_]+)\}/g, (_, name: string) => {
    const value = byName.get(name.toLowerCase())
    if (value === undefined) throw new TemplateError(`Unknown template variable: ${name}`)
    return /_origin$/i.test(name) ? value : encodeURIComponent(value)
  })
}
