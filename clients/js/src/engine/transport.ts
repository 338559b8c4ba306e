// What carries messages to and from a relay: a WebSocket, or an event stream in its place.

/** The events of a transport. None follow `onClose`, or a `close` from here. */
export interface TransportEvents {
  onOpen(): void;
  onMessage(text: string): void;
  /** Something has arrived that is no message: the relay lives. */
  onSign(): void;
  /**
   * @param code the close code that the relay sent; null if it sent none
   * @param retryAfter milliseconds for which it asks to stay away
   */
  onClose(detail: string, code: number | null, retryAfter?: number): void;
}

export interface Transport {
  readonly kind: "websocket" | "events";
  send(text: string): void;
  close(code?: number): void;
}
