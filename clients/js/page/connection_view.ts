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

/** Show the connection of a client in an element, and why, as its title. */
export function showConnection(relay: RelayClient, list: { readonly state: TaskListState }, pill: HTMLElement, banner: HTMLElement): void {
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
    const { error } = list.state;
    const isBad = state.status !== "live" && state.status !== "connecting";
    banner.hidden = !isBad && error === null;
    setText(banner, isBad ? "What you see is the last that was known. Missed updates arrive when the connection is back." : (error?.message ?? ""));
  };
  relay.connection.subscribe(show);
  setInterval(show, 500);
}
