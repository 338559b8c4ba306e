// The token of the viewer, where the relay asks for one: pasted, or brought by a link.

const KEY = "relay-token";

/** Set while the token is that of a share link, which shows one task. */
const SHARED_KEY = "relay-token-is-shared";

/**
 * Take the token of the address, `#token=…` or `#share=…`, out of it: it must not be shared with the address. It lives as long as
 * the tab. Returns whether there was one.
 */
export function takeToken(): boolean {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const shared = fragment.get("share");
  const token = shared ?? fragment.get("token");
  if (token === null) return false;
  storeToken(token);
  if (shared !== null) sessionStorage.setItem(SHARED_KEY, "1");
  history.replaceState(history.state, "", location.pathname + location.search);
  return true;
}

export const storedToken = (): string | null => sessionStorage.getItem(KEY);

/** Whether the token is that of a share link. */
export const isShared = (): boolean => sessionStorage.getItem(SHARED_KEY) !== null;

export function storeToken(token: string): void {
  sessionStorage.setItem(KEY, token);
  sessionStorage.removeItem(SHARED_KEY);
}
