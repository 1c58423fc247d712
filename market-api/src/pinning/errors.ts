import { AppError, InvalidError, UpstreamError } from '@market/kit/errors'
import { IpfsMismatchError, IpfsTooLargeError, IpfsUnavailableError } from '../catalog/ipfs/ipfs.ts'

/** The message of each is the title of its problem document (market-api.md 1.6, 1.7). */
export class UnsupportedShapeError extends InvalidError {
  constructor(code: 'unsupported_shape' | 'unsafe_to_sign', details: Record<string, unknown>) {
    super(code, 'Unsupported JSON-LD shape', details)
  }
}

export class InvalidRequestError extends InvalidError {
  constructor(code: string, detail: string) {
    super(code, 'Invalid request', { detail })
  }
}

export class QuotaExceededError extends AppError {
  constructor(retryAfterSeconds: number) {
    const detail = 'The quota of this UTC day does not leave room for this object'
    super(429, 'pin_quota_exceeded', 'Quota exceeded', { detail, retryAfterSeconds })
  }
}

/** What went wrong in IPFS, as somebody else's fault: 502, or 504 when it took too long. Any other error stays itself. */
export function upstreamError(error: unknown): unknown {
  if (error instanceof IpfsTooLargeError) {
    return new UpstreamError('object_too_large', 'The object is larger than any object may be', { cause: error })
  }
  if (error instanceof IpfsMismatchError) {
    return new UpstreamError('ipfs_mismatch', 'IPFS gave other bytes than the CID names', { cause: error })
  }
  if (!(error instanceof IpfsUnavailableError)) return error
  return error.reason === 'timeout'
    ? new UpstreamError('ipfs_timeout', 'IPFS did not answer in time', { cause: error, timeout: true })
    : new UpstreamError('ipfs_unavailable', 'IPFS does not answer', { cause: error })
}
