// The package centrifuge, with the options that its documentation has by default.
import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

export function follow(port, task, onUpdate) {
  const centrifuge = new Centrifuge(`ws://127.0.0.1:${port}/connection/websocket`, { websocket: WebSocket });
  const subscription = centrifuge.newSubscription(task);
  subscription.on("publication", (publication) => onUpdate(publication.data));
  const ready = new Promise((resolve) => subscription.once("subscribed", resolve));
  subscription.subscribe();
  centrifuge.connect();
  return { ready };
}
