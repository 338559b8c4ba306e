// What a client does after each close code of the relay: docs/protocol.md has the table, relay/core/closecodes.py the registry.

/** After these a client stays away: those that the registry marks as final, which a test compares. */
const FINAL_CLOSE_CODES = new Set([1002, 1003, 1007, 1008, 1009, 4403]);

/** The token has expired or was revoked: come back with a new one. */
export const TOKEN_EXPIRED = 4401;

/** The token does not permit what was asked for. */
export const FORBIDDEN = 4403;

export const isFinal = (code: number | null): boolean => code !== null && FINAL_CLOSE_CODES.has(code);
