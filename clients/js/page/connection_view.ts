// The connection, told honestly.

import type { ConnectionState, RelayClient, TaskListState } from "../src/element/index.js";
import { setText } from "./dom.js";

/** What to say of a connection, and with which colour. */
export function words(state: ConnectionState, now: number): readonly [text: string, tone: string] {
  switch (state.status) {
    case "live":
      if (!state.isRedisAvailable) return ["Behind: the relay cannot reach Redis", "stalled"];
      return state.transport === "events" ? ["Live, without WebSockets", "success"] : ["Live", "success"];
    case "connecting":
      return ["Connecting", "waiting"];
    case "closed":
      return ["Disconnected", "danger"];
    case "offline":
    case "reconnecting": {
      const what = state.status === "offline" ? "Offline" : "Connection lost";
      const seconds = state.retryAt === null ? null : Math.max(0, Math.ceil((state.retryAt - now) / 1000));
      return [seconds === null ? what : seconds === 0 ? `${what}, reconnecting` : `${what}, reconnecting in ${seconds} s`, "danger"];
    }
  }
}

/** What to say above the tasks: why they may be old. Nothing where all is well, or where the page asks for a token instead. */
function warning({ status }: ConnectionState, { error }: TaskListState, isAnythingShown: boolean): string {
  if (status === "closed") return "";
  if (status !== "live" && status !== "connecting") {
    return isAnythingShown
      ? "What you see is the last that was known. Missed updates arrive when the connection is back."
      : "Tasks appear here when the connection is back.";
  }
  return error === null ? "" : `${error.message[0]!.toUpperCase()}${error.message.slice(1)}. It is read again soon.`;
}

/**
 * Show the connection of a client in an element, and why, as its title.
 *
 * @param isAnythingShown whether the page shows tasks
 */
export function showConnection(
  relay: RelayClient,
  list: { readonly state: TaskListState },
  isAnythingShown: () => boolean,
  pill: HTMLElement,
  banner: HTMLElement,
): void {
  let said = "";
  const show = (): void => {
    const state = relay.connection.state;
    const [text, tone] = words(state, Date.now());
    // A screen reader announces changes, not every second.
    setText(pill.querySelector("[aria-hidden]")!, text);
    const spoken = text.replace(/ in \d+ s$/, "");
    if (spoken !== said) setText(pill.querySelector(".visually-hidden")!, (said = spoken));
    pill.dataset["tone"] = tone;
    pill.title = state.detail;
    document.body.dataset["connection"] = state.status;
    setText(banner, warning(state, list.state, isAnythingShown()));
    banner.hidden = banner.textContent === "";
  };
  relay.connection.subscribe(show);
  setInterval(show, 500);
}
