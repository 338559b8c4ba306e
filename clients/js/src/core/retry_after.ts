// For how long a busy server asks its clients to wait.

/** Longest time that a server may ask for, in milliseconds. */
const MAX_RETRY_AFTER = 60_000;

const BUSY = new Set([429, 503]);

/** In the reason of a close frame, with which a relay that shuts down spreads its clients' return. */
const HINT = /; retry after (\d{1,6}(?:\.\d{1,6})?) s$/;

/** Milliseconds that are waited when a server asks for so many. */
export const bounded = (milliseconds: number): number => (milliseconds > 0 ? Math.min(milliseconds, MAX_RETRY_AFTER) : 0);

/** Milliseconds for which the reason of a close frame asks to stay away; 0 if it does not. */
export const retryAfterIn = (reason: string): number => bounded(1000 * Number(HINT.exec(reason)?.[1] ?? 0));

/**
 * Milliseconds for which an answer asks to wait before the next request, 60,000 at most; 0 if it does not ask. That is the header
 * Retry-After of an answer with status 429 or 503: seconds, or a date (RFC 9110, section 10.2.3).
 */
export function retryAfter(answer: Pick<Response, "status" | "headers">): number {
  const text = BUSY.has(answer.status) ? answer.headers.get("retry-after")?.trim() : null;
  if (text == null || text === "") return 0;
  return bounded(/^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now());
}
