// Messages over a WebSocket.

import { retryAfterIn } from "../core/retry_after.js";
import type { Transport, TransportEvents } from "./transport.js";

export class WebSocketTransport implements Transport {
  readonly kind = "websocket";
  readonly #socket: any;
  #isOver = false;
  #failed: ReturnType<typeof setTimeout> | undefined;

  /** Connect. Throws what the constructor of the WebSocket throws. */
  constructor(WebSocket: new (url: string) => any, url: string, events: TransportEvents) {
    let hasFailed = false;
    const socket = (this.#socket = new WebSocket(url));
    // A socket that was abandoned may still have events.
    const ifCurrent =
      (handle: (event: any) => void) =>
      (event: any): void => {
        if (!this.#isOver) handle(event);
      };
    const end = (detail: string, code: number | null, retryAfter = 0): void => {
      this.#isOver = true;
      clearTimeout(this.#failed);
      events.onClose(detail, code, retryAfter);
    };
    socket.onopen = ifCurrent(() => events.onOpen());
    socket.onmessage = ifCurrent(({ data }) => events.onMessage(data));
    // After an error the code is that of this end, about something garbled on the way: no decision of the relay.
    socket.onclose = ifCurrent(({ code, reason }) => {
      const detail = `closed: ${code} ${reason}`.trim();
      if (hasFailed) end(detail, null);
      else end(detail, code, retryAfterIn(String(reason ?? "")));
    });
    // A close event with more detail usually follows at once, but not from Node's own WebSocket when a handshake fails.
    socket.onerror = ifCurrent(() => {
      hasFailed = true;
      clearTimeout(this.#failed);
      this.#failed = setTimeout(() => {
        if (this.#isOver) return;
        socket.close();
        end("the connection failed", null);
      }, 0);
    });
  }

  send(text: string): void {
    this.#socket.send(text);
  }

  close(code?: number): void {
    this.#isOver = true;
    clearTimeout(this.#failed);
    this.#socket.close(code);
  }
}
