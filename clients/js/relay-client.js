// Follow tasks and general updates of a relay from a browser or from Node, over /ws/tasks.
//
//   const relay = new RelayClient("wss://relay.example/ws/tasks");
//   const stop = relay.task("demo", (update) => console.log(update.state));
//
// After a broken connection or a restart of the relay it resumes: every update comes once and in order, or one of type "reset" comes,
// which says that some are missing. relay-client.d.ts has every type.
//
// Here are the WebSocket and the timers; what to send and to believe is decided in subscriptions.js.

import { fullJitter, GENERAL, namesOf, ProtocolError, RelayError, Subscriptions, TASK_PREFIX } from "./subscriptions.js";

export { RelayError };

/** After these close codes a client stays away: those that relay/core/closecodes.py marks as final, which a test compares. */
const FINAL_CLOSE_CODES = new Set([1002, 1003, 1007, 1008, 1009, 4403]);

/** A connection that lasted this many milliseconds counts as a good one: the next delay is the shortest again. */
const GOOD_MS = 5_000;

/** A subscriber of one relay. It connects at once, and again whenever the connection is lost, until `close`. */
export class RelayClient {
  #url;
  #options;
  #subscriptions;
  #socket = null;
  #attempt = 0;
  #isClosed = false;
  #timers = { retry: undefined, heartbeat: undefined, connect: undefined, wake: undefined, failed: undefined };

  constructor(url, options = {}) {
    this.#options = {
      WebSocket: globalThis.WebSocket,
      connectTimeout: 10_000,
      heartbeat: 25_000,
      heartbeatTimeout: 10_000,
      retryBase: 1_000,
      retryCap: 20_000,
      onConnection: () => {},
      onError: throwLater,
      random: Math.random,
      ...options,
    };
    if (typeof this.#options.WebSocket !== "function") {
      throw new TypeError("this environment has no WebSocket: pass that of the package ws, new RelayClient(url, { WebSocket })");
    }
    for (const name of ["connectTimeout", "heartbeat", "heartbeatTimeout", "retryBase", "retryCap"]) {
      if (!(this.#options[name] > 0)) throw new RangeError(`${name} must be positive, in milliseconds`);
    }
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace(/^http/, "ws");
    if (this.#url.pathname === "/") this.#url.pathname = "/ws/tasks";
    if (!/^wss?:$/.test(this.#url.protocol)) throw new TypeError(`a relay's URL begins with ws:// or wss://, not ${url}`);
    this.#subscriptions = new Subscriptions(
      options.positions ?? {},
      options.states ?? {},
      (channel, update) => {
        for (const callback of [...channel.callbacks]) if (channel.callbacks.has(callback)) call(callback, update);
      },
      (error) => call(this.#options.onError, error),
      this.#options.random,
    );
    this.#connect();
  }

  /** Follow a task. Returns a function that stops it. */
  task(taskId, onUpdate) {
    const id = String(taskId);
    if (id.length < 1 || id.length > 255) throw new RangeError("a task id has 1 to 255 characters");
    return this.#follow(TASK_PREFIX + id, onUpdate);
  }

  /** Follow the general updates. Returns a function that stops it. */
  general(onUpdate) {
    return this.#follow(GENERAL, onUpdate);
  }

  #follow(name, callback) {
    if (typeof callback !== "function") throw new TypeError("onUpdate must be a function");
    if (this.#isClosed) throw new RelayError("this client is closed; make another RelayClient", null, name);
    const channel = this.#subscriptions.follow(name);
    let isNew = true;
    const take = (update) => {
      isNew = false;
      callback(update);
    };
    if (name !== GENERAL) {
      // If the channel is followed already, or a stored state was given, this callback begins with that state.
      queueMicrotask(() => {
        const { state, position } = channel;
        if (!isNew || !channel.callbacks.has(take) || Object.keys(state).length === 0) return;
        call(take, { type: "task_update", ...namesOf(channel), data: state, state, position, isState: true });
      });
    }
    channel.callbacks.add(take);
    this.#send();
    return () => this.#leave(channel, take);
  }

  #leave(channel, take) {
    channel.callbacks.delete(take);
    if (channel.callbacks.size === 0) {
      this.#subscriptions.leave(channel);
      this.#send();
    }
  }

  /** By channel, the position of the last update. Give it to the next client as `positions`, to resume from here. */
  get positions() {
    const all = [...this.#subscriptions.channels.values()].filter(({ position }) => position !== null);
    return Object.fromEntries(all.map(({ name, position }) => [name, position]));
  }

  /** By channel, the tasks' states at these positions: `states` of the next client. */
  get states() {
    const all = [...this.#subscriptions.channels.values()].filter(({ name, position }) => position !== null && name !== GENERAL);
    return Object.fromEntries(all.map(({ name, state }) => [name, state]));
  }

  /** Close the connection: no callback is called any more. */
  close() {
    this.#isClosed = true;
    for (const channel of this.#subscriptions.channels.values()) channel.callbacks.clear();
    this.#drop(1000);
  }

  #connect() {
    const { WebSocket, connectTimeout } = this.#options;
    const socket = new WebSocket(this.#url.href);
    let openedAt = null;
    let hasFailed = false;
    this.#socket = socket;
    this.#timers.connect = setTimeout(() => this.#lost("the connection was not opened in time", openedAt), connectTimeout);
    // A socket that was abandoned may still have events.
    const ifCurrent = (handle) => (event) => {
      if (this.#socket === socket) handle(event);
    };
    socket.onopen = ifCurrent(() => {
      clearTimeout(this.#timers.connect);
      openedAt = performance.now();
      this.#subscriptions.connected();
      this.#restartHeartbeat(openedAt);
      call(this.#options.onConnection, { isUp: true, isRedisAvailable: true, detail: `connected to ${this.#url.href}`, retryIn: null });
      this.#send();
    });
    socket.onmessage = ifCurrent(({ data }) => {
      this.#restartHeartbeat(openedAt);
      const wasAvailable = this.#subscriptions.isRedisAvailable;
      try {
        this.#subscriptions.receive(data, performance.now());
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        this.#lost(`the relay sent something unexpected: ${error.message}`, openedAt);
        return;
      }
      const { isRedisAvailable } = this.#subscriptions;
      if (isRedisAvailable !== wasAvailable) {
        const detail = isRedisAvailable ? "the relay can reach Redis again" : "the relay cannot reach Redis";
        call(this.#options.onConnection, { isUp: true, isRedisAvailable, detail, retryIn: null });
      }
      this.#send();
    });
    // After an error the code is that of this end, about something garbled on the way: no decision of the relay.
    socket.onclose = ifCurrent(({ code, reason }) => {
      this.#lost(`closed: ${code} ${reason}`.trim(), openedAt, hasFailed ? null : code);
    });
    // A close event with more detail usually follows at once, but not from Node's own WebSocket when a handshake fails.
    socket.onerror = ifCurrent(() => {
      hasFailed = true;
      clearTimeout(this.#timers.failed);
      this.#timers.failed = setTimeout(() => this.#lost("the connection failed", openedAt), 0);
    });
  }

  /** Something has arrived. After some silence send a ping, and if nothing comes then, give the connection up. */
  #restartHeartbeat(openedAt) {
    const { heartbeat, heartbeatTimeout } = this.#options;
    clearTimeout(this.#timers.heartbeat);
    this.#timers.heartbeat = setTimeout(() => {
      this.#timers.heartbeat = setTimeout(() => this.#lost("the relay is silent", openedAt), heartbeatTimeout);
      this.#subscriptions.isPingDue = true;
      this.#send();
    }, heartbeat);
  }

  #send() {
    if (!this.#subscriptions.isConnected) return;
    const now = performance.now();
    let request;
    while ((request = this.#subscriptions.nextRequest(now)) !== null) this.#socket.send(request);
    clearTimeout(this.#timers.wake);
    const wait = this.#subscriptions.wakeAt(now) - now;
    if (wait !== Infinity) this.#timers.wake = setTimeout(() => this.#send(), Math.ceil(wait));
  }

  /** The connection has ended, or is abandoned. */
  #lost(detail, openedAt, code = null) {
    const { onConnection, onError, retryBase, retryCap, random } = this.#options;
    this.#drop();
    if (FINAL_CLOSE_CODES.has(code)) {
      this.#isClosed = true;
      call(onConnection, { isUp: false, isRedisAvailable: true, detail, retryIn: null });
      call(onError, new RelayError(`the relay does not accept this client: ${detail}`, code));
      return;
    }
    if (openedAt !== null && performance.now() - openedAt >= GOOD_MS) this.#attempt = 0;
    const retryIn = fullJitter(this.#attempt++, retryBase, retryCap, random);
    this.#timers.retry = setTimeout(() => {
      try {
        this.#connect();
      } catch (error) {
        this.#lost(`cannot connect: ${error}`, null); // the address was right before
      }
    }, retryIn);
    call(onConnection, { isUp: false, isRedisAvailable: true, detail, retryIn });
  }

  #drop(code) {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    const socket = this.#socket;
    this.#socket = null;
    this.#subscriptions.disconnected();
    socket?.close(code);
  }
}

/** Call a callback. If it throws, the others are called all the same. */
function call(callback, argument) {
  try {
    callback(argument);
  } catch (error) {
    throwLater(error);
  }
}

/** Throw where nothing catches it: the console of a browser, the end of a Node process. */
function throwLater(error) {
  queueMicrotask(() => {
    throw error;
  });
}
