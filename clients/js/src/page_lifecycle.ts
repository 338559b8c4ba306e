// What happens to a page: it is frozen, kept for the back button, shown again, its network goes and comes.

import type { Feed } from "./sharing/feed.js";

type Listener = [target: EventTarget, type: string, handle: (event: any) => void];

/** Have a feed follow the life of its page. Returns a function that ends it. Elsewhere, as in Node, nothing is done. */
export function followPage(feed: () => Feed): () => void {
  const { document, window } = globalThis as any;
  if (document === undefined || window === undefined) return () => {};
  const listeners: Listener[] = [
    [document, "freeze", () => feed().pause("the browser has frozen this page")],
    [document, "resume", () => feed().resume()],
    // A page that holds a connection is not kept for the back button.
    [window, "pagehide", () => feed().pause("this page is not shown")],
    [window, "pageshow", ({ persisted }) => persisted && feed().resume()],
    [window, "online", () => feed().probe()],
    [document, "visibilitychange", () => document.visibilityState === "visible" && feed().probe()],
  ];
  for (const [target, type, handle] of listeners) target.addEventListener(type, handle);
  return () => {
    for (const [target, type, handle] of listeners) target.removeEventListener(type, handle);
  };
}
