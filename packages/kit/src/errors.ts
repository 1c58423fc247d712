/**
 * The one error hierarchy. Verbs throw these; each app renders them once at its edge (http.ts).
 * `code` is stable and snake_case; `details` may name the field by JSON pointer (`path`); causes go to the log only.
 */
export class AppError extends Error {
  readonly status: number
  readonly code: string
  readonly details: Record<string, unknown> | undefined
  /** For a subclass to set: what clients read beside `error` and `details` in the body, where they read those (http.ts). */
  extra: Record<string, unknown> | undefined

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

/** Who it is is known, and it isn't theirs to do. */
export class ForbiddenError extends AppError {
  constructor(code: string, message: string) {
    super(403, code, message)
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

/** The caller's `If-Match` names a version that isn't there any more. */
export class PreconditionFailedError extends AppError {
  constructor(code: string, message: string, details?: Record<string, unknown>) {
    super(412, code, message, details)
  }
}

/** Too much at once; answered with `Retry-After`. */
export class LimitError extends AppError {
  constructor(code: string, message: string, retryAfterSeconds: number) {
    super(429, code, message, { retryAfterSeconds })
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
