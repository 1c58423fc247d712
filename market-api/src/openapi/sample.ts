import type { JsonSchema, OpenApiDocument } from './document.ts'

type Schemas = OpenApiDocument['components']['schemas']

/** A value that a schema of the document describes, made of its examples. */
export function sampleOf(schema: JsonSchema, schemas: Schemas): unknown {
  if (schema.$ref !== undefined) return sampleOf(target(schema.$ref, schemas), schemas)
  if (Array.isArray(schema.examples)) return schema.examples[0]
  if ('const' in schema) return schema.const
  if (schema.enum) return schema.enum[0]
  const [first] = schema.anyOf ?? []
  if (first !== undefined) return sampleOf(first as JsonSchema, schemas)
  switch ([schema.type].flat()[0]) {
    case 'object':
      return Object.fromEntries(
        Object.entries(schema.properties ?? {}).map(([name, member]) => [
          name,
          sampleOf(member as JsonSchema, schemas),
        ]),
      )
    case 'array':
      return schema.maxItems === 0 ? [] : [sampleOf(schema.items as JsonSchema, schemas)]
    case 'string':
      return FORMATS[schema.format ?? ''] ?? '…'
    case 'integer':
    case 'number':
      return schema.default ?? Math.max(1, schema.minimum ?? 1)
    case 'boolean':
      return true
    default:
      return null
  }
}

const FORMATS: Record<string, string> = {
  'date-time': '2026-12-31T12:00:00.000Z',
  uuid: '2f1c1f6e-9a51-4f0e-8d0b-5f8a4b0c7d3e',
}

/** The schema that a reference of the document names. */
function target(reference: string, schemas: Schemas): JsonSchema {
  return schemas[reference.slice(reference.lastIndexOf('/') + 1)]!
}
