// A relay that the tests play: `sockets` are a client's connections, `sent` what it has sent on each.
import assert from "node:assert/strict";
import { afterEach } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { RelayClient } from "../../dist/index.js";

export const at = (offset, epoch = "e") => ({ epoch, offset });
export const PONG = { type: "pong", timestamp: "now" };
export const STATE = { state: true };
export const subscribed = (task_id, offset, more = {}) => ({ type: "subscribed", task_id, position: at(offset), state: false, ...more });
export const update = (task_id, offset, data, epoch) => ({ type: "task_update", task_id, data, position: at(offset, epoch) });

/** Those of the present test. A client that is not closed, or a list that is watched, keeps Node alive, also after a failure. */
const clients = [];
const stops = [];
afterEach(() => {
  stops.splice(0).forEach((stop) => stop());
  clients.splice(0).forEach((client) => client.close());
});

/** Watch a list until the test ends, or what is returned is called. */
export function watch(list) {
  const stop = list.subscribe(() => {});
  stops.push(stop);
  return stop;
}

/** A class of WebSockets that lead to the test. */
export function fakeSockets() {
  const sockets = [];
  class FakeSocket {
    sent = [];
    constructor(url) {
      this.url = url;
      sockets.push(this);
    }
    send(text) {
      this.sent.push(JSON.parse(text));
    }
    close(code) {
      this.closedWith = code ?? "nothing";
    }
    /** What the relay does. */
    open() {
      this.onopen({});
    }
    deliver(...messages) {
      for (const message of messages) this.onmessage({ data: JSON.stringify(message) });
    }
    end(code, reason = "") {
      this.onclose({ code, reason });
    }
  }
  return { sockets, FakeSocket };
}

/** A client and its relay; `updates` is what its listeners got. */
export function play(options = {}) {
  const { sockets, FakeSocket } = fakeSockets();
  const changes = [];
  const errors = [];
  const updates = [];
  const relay = new RelayClient("ws://relay/ws/tasks", {
    WebSocket: FakeSocket,
    events: false,
    random: () => 0,
    onConnection: (change) => changes.push(change),
    onError: (error) => errors.push(error),
    ...options,
  });
  clients.push(relay);
  const take = (got) => updates.push(got);
  return { relay, sockets, changes, errors, updates, take };
}

/** Open the first connection and answer the unsubscription from general updates. */
export function opened(played) {
  const [socket] = played.sockets;
  socket.open();
  assert.deepEqual(socket.sent.shift(), { type: "unsubscribe", channel: "general" });
  socket.deliver({ type: "unsubscribed", channel: "general" });
  return socket;
}

/** Timers of no length have fired, also those that they started: Node fires earlier and shorter ones first, however busy it is. */
export async function soon(milliseconds = 2) {
  for (let round = 0; round < 5; round += 1) await sleep(milliseconds);
}

/** A task is left when nobody has wanted it for 50 ms. */
export const untilLeft = () => soon(14);
