// Whose connection it is: tabs share one only if their tokens permit the same to the same user.

/** The claims of a token that say what it permits, and to whom. Tokens of another form are compared as a whole. */
function claims(token: string): string {
  const [, payload, signature] = token.split(".");
  if (payload === undefined || signature === undefined) return token;
  try {
    const bytes = Uint8Array.from(atob(payload.replaceAll("-", "+").replaceAll("_", "/")), (each) => each.charCodeAt(0));
    const { iss = null, sub = null, relay = null } = JSON.parse(new TextDecoder().decode(bytes));
    // A token with neither says nothing of what it permits.
    return sub === null && relay === null ? token : JSON.stringify([iss, sub, relay]);
  } catch {
    return token;
  }
}

/** A name of what a token permits, from which the token cannot be found out. Rejects without a secure context. */
export async function identityOf(token: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(claims(token)));
  return Array.from(new Uint8Array(digest, 0, 16), (each) => each.toString(16).padStart(2, "0")).join("");
}
