// A standard EventSource, which reconnects by itself and says which event it had last.
import { EventSource } from "eventsource";

export function follow(port, task, onUpdate) {
  const source = new EventSource(`http://127.0.0.1:${port}/.well-known/mercure?topic=${task}`);
  source.onmessage = (event) => onUpdate(event.data);
  return { ready: new Promise((resolve) => source.addEventListener("open", resolve, { once: true })) };
}
