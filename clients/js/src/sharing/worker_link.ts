// The way to a host in a shared worker.

import type { HostLink, OpenLink } from "./shared_feed.js";

/** Whether this environment has shared workers, and can tell a worker that a tab is gone. */
export const canShareWorker = (): boolean => typeof SharedWorker === "function" && globalThis.navigator?.locks !== undefined;

/**
 * @param script the address of this package's shared worker, of the page's own origin
 * @param key names the connection that is shared
 * @param onFailure called when the worker cannot be loaded, or does not answer
 */
export const workerLink =
  (script: string | URL, key: string, onFailure: () => void): OpenLink =>
  (onMessage, onHost) => {
    const worker = new SharedWorker(script, { type: "module", name: `trio-relay:${key}` });
    let isOver = false;
    const link: HostLink = {
      post: (message) => worker.port.postMessage(message),
      onSilence: () => {
        if (!isOver) onFailure();
      },
      close: () => {
        isOver = true;
        worker.port.close();
      },
    };
    worker.onerror = () => link.onSilence();
    worker.port.onmessage = ({ data }) => {
      if (!isOver) onMessage(data);
    };
    queueMicrotask(onHost);
    return link;
  };
