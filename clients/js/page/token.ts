// The token of the viewer, where the relay asks for one.

const KEY = "relay-token";

/** Take the token of the address, `#token=…`, out of it: it must not be shared with the address. It lives as long as the tab. */
export function takeToken(): void {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get("token");
  if (token === null) return;
  sessionStorage.setItem(KEY, token);
  history.replaceState(history.state, "", location.pathname + location.search);
}

export const storedToken = (): string | null => sessionStorage.getItem(KEY);

export function storeToken(token: string): void {
  sessionStorage.setItem(KEY, token);
}
