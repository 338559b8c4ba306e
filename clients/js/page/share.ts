// A link to one task: where the relay asks for tokens, one that carries a token for this task only.

import type { RelayClient } from "../src/element/index.js";
import { isShared, storedToken } from "./token.js";

export interface Link {
  readonly url: string;
  /** What to say of it. */
  readonly note: string;
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** The relay has said that it asks nobody for a token: the address alone is enough. */
let isOpen = false;

/**
 * A link to a task.
 *
 * @param address of the task on this page
 */
export async function linkTo(relay: RelayClient, task: string, address: string): Promise<Link> {
  const url = new URL(address, location.href).href;
  const plain = { url, note: "The link was copied." };
  if (isOpen) return plain;
  if (isShared()) return { url: `${url}#share=${storedToken()}`, note: "The link was copied: the one that you have, which shows this task only." };
  try {
    const path = `tasks/${encodeURIComponent(task)}/share`;
    const response = await relay.fetch(path, { method: "POST", signal: AbortSignal.timeout(5_000) });
    const answer = await response.json();
    if (response.ok) {
      const until = typeof answer.expires_at === "number" ? ` until ${clock.format(answer.expires_at * 1000)}` : "";
      return { url: url + answer.fragment, note: `The link was copied. Anyone who has it can watch this task${until}, and nothing else.` };
    }
    if (answer.code === "sharing_unneeded") isOpen = true;
    else if (answer.code === "sharing_off") return { url, note: "The link was copied. Who opens it needs a token, as this relay makes no share links." };
    else return { url, note: `The link was copied. Who opens it needs a token: ${answer.message ?? `status ${response.status}`}.` };
  } catch {
    return { url, note: "The link was copied, without a token: the relay did not answer." };
  }
  return plain;
}

/** Put the text of a link on the clipboard. Rejects where there is none, as without HTTPS. */
export async function copy(link: Promise<Link>): Promise<void> {
  // Safari permits it only at once, with a text that comes later.
  if (typeof ClipboardItem === "function") {
    const blob = link.then(({ url }) => new Blob([url], { type: "text/plain" }));
    await navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]);
  } else {
    await navigator.clipboard.writeText((await link).url);
  }
}
