// Tokens, from where the page has them.

import type { TokenSource } from "../core/types.js";

/** The token of now. Rejects if the callback throws, returns no text, or takes longer than so many milliseconds. */
export async function tokenOf(source: TokenSource, timeout: number): Promise<string> {
  if (typeof source === "string") return source;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no token within ${timeout} ms`)), timeout);
  });
  try {
    const token = await Promise.race([Promise.resolve().then(source), late]);
    if (typeof token !== "string" || token === "") throw new TypeError("the token callback must return a text");
    return token;
  } finally {
    clearTimeout(timer);
  }
}
