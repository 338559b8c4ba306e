// The script of the shared worker: one connection for all tabs of an origin.

import { Host, type Tab } from "./host.js";
import type { ToHost } from "./messages.js";

const host = new Host();

(globalThis as any).onconnect = ({ ports: [port] }: MessageEvent): void => {
  const tab: Tab = { post: (message) => port!.postMessage(message) };
  port!.onmessage = ({ data }: MessageEvent<ToHost>): void => {
    host.receive(tab, data);
    if (data.type === "hello") void navigator.locks.request(data.lock, () => host.remove(tab));
  };
};

export {};
