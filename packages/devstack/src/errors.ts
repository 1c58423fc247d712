/** Why something could not be started, in one line that names the thing and the fix. Print it and exit 1. */
export class DevstackError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message.replace(/\s+/g, ' ').trim(), options)
    this.name = 'DevstackError'
  }
}

/** The `code` of a Node or Postgres error, else its text: what a one-line message can afford to say about a cause. */
export function causeOf(error: unknown): string {
  const { code, message } = error as { code?: string; message?: string }
  return code ?? message ?? String(error)
}
