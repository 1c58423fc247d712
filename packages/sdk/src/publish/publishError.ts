/** Why a catalog could not be published. Nothing was written to the registry. */
export type PublishErrorCode =
  /** A document that is published already can't be had just now. */
  | 'unavailable'
  /** A document that is published already is not what it should be. */
  | 'unreadable'
  /** The storage named other bytes than it was given. */
  | 'storage'
  /** The signer gave a link that no catalog would count. */
  | 'signer'
  /** A link would have to carry a date in the future. */
  | 'clock'
  /** A document would be larger than any object may be. */
  | 'too_large'
  /** Somebody else wrote to the registry each time. */
  | 'registry_moved'

export class PublishError extends Error {
  readonly code: PublishErrorCode

  constructor(code: PublishErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'PublishError'
    this.code = code
  }
}
