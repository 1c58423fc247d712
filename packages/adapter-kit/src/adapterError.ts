import type { ErrorBody } from '@market/kit/http'

/** Callers of the older adapters read `error`; `code` and `requestId` come beside it (adapters.md 1). */
export const adapterError: ErrorBody = (error, requestId) => ({
  contentType: 'application/json; charset=utf-8',
  body: { error: error.message, code: error.code, ...error.details, requestId },
})
