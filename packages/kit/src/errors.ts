/**
 * The one error hierarchy. Verbs throw these; each app renders them once at its edge (http.ts).
 * `code` is stable and snake_case; `details` may name the field by JSON pointer (`path`); causes go to the log only.
 */
export class AppError extends Error {
  readonly status: number
  readonly code: string
  readonly details: Record<string, unknown> | undefined

  constructor(
    status: number,
    code: string,
    message: string,
    details?: Record<string, unknown>,
    options?: ErrorOptions,
  ) {
    super(message, options)
    this.name = new.target.name
    this.status = status
    this.code = code
    this.details = details
  }
}

export class InvalidError extends AppError {
  constructor(code: string, message: string, details?: Record<string, unknown>, status: 400 | 413 | 415 | 422 = 400) {
    super(status, code, message, details)
  }
}

export class UnauthorizedError extends AppError {
  constructor(code: string, message: string) {
    super(401, code, message)
  }
}

export class NotFoundError extends AppError {
  constructor(code: string, message: string) {
    super(404, code, message)
  }
}

export class ConflictError extends AppError {
  constructor(code: string, message: string, details?: Record<string, unknown>) {
    super(409, code, message, details)
  }
}

export class GoneError extends AppError {
  constructor(code: string, message: string) {
    super(410, code, message)
  }
}

/** Somebody else's fault: 502, or 504 when they were too slow. */
export class UpstreamError extends AppError {
  constructor(code: string, message: string, options?: ErrorOptions & { timeout?: boolean }) {
    super(options?.timeout ? 504 : 502, code, message, undefined, options)
  }
}

/** Ends the process: one line that names the thing and the fix. */
export class StartupError extends Error {}

/** The first line of whatever was thrown, for a log line or a terminal. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message || error.name : String(error)
  return text.split('\n', 1)[0] ?? ''
}
