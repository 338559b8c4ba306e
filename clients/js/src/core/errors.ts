// The errors of this package.

/** An error after which the relay does not deliver a channel, or nothing at all. */
export class RelayError extends Error {
  override readonly name = "RelayError";
  /** One of the relay's error codes, a close code, or an HTTP status. "too_many_subscriptions": beyond RELAY_MAX_SUBSCRIPTIONS. */
  readonly code: string | number | null;
  /** The channel that is not delivered; null if it is the whole connection. */
  readonly channel: string | null;
  /** Milliseconds for which the relay asks to wait before the next request; 0 if it does not. */
  readonly retryAfter: number;

  constructor(message: string, code: string | number | null, channel: string | null = null, retryAfter = 0) {
    super(message);
    this.code = code;
    this.channel = channel;
    this.retryAfter = retryAfter;
  }
}

/** The relay sent what does not fit. The connection must be closed; the next one resumes. */
export class ProtocolError extends Error {}
