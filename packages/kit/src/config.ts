import * as z from 'zod'
import { StartupError } from './errors.ts'

/** A value that prints as `[redacted]` wherever it leaks to: logs, JSON, string concatenation. */
export class Secret {
  readonly #value: string
  constructor(value: string) {
    this.#value = value
  }
  reveal(): string {
    return this.#value
  }
  toString() {
    return '[redacted]'
  }
  toJSON() {
    return '[redacted]'
  }
  [Symbol.for('nodejs.util.inspect.custom')]() {
    return '[redacted]'
  }
}

const notPlaceholder = (text: string) => !text.startsWith(';;;;')
const PLACEHOLDER = 'still holds the placeholder of a template; set a real value'

/** Field types of a service's config schema. Each parses one environment variable. */
export const env = {
  text: (missing = 'is required') => z.string({ error: missing }).refine(notPlaceholder, PLACEHOLDER),
  secret: (missing = 'is required', minLength = 1) =>
    z
      .string({ error: missing })
      .refine(notPlaceholder, PLACEHOLDER)
      .refine((text) => text.length >= minLength, `must be at least ${minLength} characters long`)
      .transform((text) => new Secret(text)),
  url: (missing = 'is required') =>
    z
      .string({ error: missing })
      .refine((text) => /^https?:\/\//.test(text) && URL.canParse(text), 'must be an http or https URL')
      .transform((text) => text.replace(/\/+$/, '')),
  int: (min: number, max: number, fallback: number) =>
    z
      .string()
      .regex(/^-?[0-9]+$/, `must be a whole number from ${min} to ${max}`)
      .transform(Number)
      .refine((n) => n >= min && n <= max, `must be a whole number from ${min} to ${max}`)
      .default(fallback),
  flag: (fallback: boolean) =>
    z
      .enum(['true', 'false', '1', '0'], { error: 'must be true or false' })
      .transform((text) => text === 'true' || text === '1')
      .default(fallback),
  list: () =>
    z.string().transform((text) =>
      text
        .split(',')
        .map((part) => part.trim())
        .filter((part) => part !== ''),
    ),
}

/**
 * Parses the environment by the service's schema; a blank variable counts as unset (market-api.md W-55).
 * Throws `StartupError` naming every variable that is wrong, at once.
 */
export function readConfig<S extends z.ZodType>(schema: S, environment: NodeJS.ProcessEnv): z.infer<S> {
  const set = Object.fromEntries(
    Object.entries(environment)
      .map(([name, value]) => [name, value?.trim()])
      .filter(([, value]) => value !== undefined && value !== ''),
  )
  const parsed = schema.safeParse(set)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map((issue) => `${issue.path.join('.')} ${issue.message}`)
  throw new StartupError(`configuration: ${problems.join('; ')}. See .env.example`)
}
