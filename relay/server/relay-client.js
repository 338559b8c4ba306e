// Built from clients/js by bundle.mjs: change it there.

// ---- subscriptions.js

// What a subscriber follows, where each channel stands, and what to send to the relay next. Decisions only: no socket, no timer.

const GENERAL = "general";
const TASK_PREFIX = "task:";

/**
 * Requests that may be unanswered at a time, once the relay has served one. Before that it is one. A relay ends a connection after
 * RELAY_MAX_CLIENT_ERRORS (16) errors: when it refuses more subscriptions, fewer than that are under way.
 */
const WINDOW = 12;

/** Bounds in milliseconds of the first and of the longest delay between two attempts while Redis is unavailable. */
const UNAVAILABLE_DELAYS = [500, 10_000];

/** An error after which the relay does not deliver a channel, or nothing at all. */
class RelayError extends Error {
  /**
   * @param {string} message
   * @param {string | number | null} code one of the relay's error codes, or a close code
   * @param {string | null} channel the channel that is not delivered; null if it is the whole connection
   */
  constructor(message, code, channel = null) {
    super(message);
    this.name = "RelayError";
    this.code = code;
    this.channel = channel;
  }
}

/** Full jitter: uniform between 0 and a bound that doubles with each attempt, up to the cap. */
const fullJitter = (attempt, base, cap, random) => random() * Math.min(cap, base * 2 ** Math.min(attempt, 32));

/** The relay sent what does not fit. The connection must be closed; the next one resumes. */
class ProtocolError extends Error {}

/** The position in a message, or null if there is none. Throws ProtocolError if it is malformed: it would be refused later. */
function checkedPosition(position) {
  if (position === undefined || position === null) return null;
  if (typeof position.epoch === "string" && Number.isSafeInteger(position.offset)) return position;
  throw new ProtocolError(`a malformed position: ${JSON.stringify(position)}`);
}

/**
 * One channel. Its phase on the present connection:
 *
 *   "unsubscribed"  --request sent-->  "requested"  --subscribed, nothing follows-->  "live"
 *                                                   --subscribed, state follows-->    "awaiting state"  --task_update-->  "live"
 *
 * An unrequested "subscribed" is a reset, and leads to "live" or "awaiting state" again. A lost connection leads back to
 * "unsubscribed"; from "awaiting state" it also discards the position, so that the next connection receives the state after all.
 */
class ChannelState {
  constructor(name, position, state) {
    this.name = name;
    this.phase = "unsubscribed";
    this.position = position; // of the last update, to resume from
    this.awaited = null; // in "awaiting state", the position of the state
    this.state = state;
    this.callbacks = new Set();
  }

  get requestFields() {
    return this.name === GENERAL ? { channel: GENERAL } : { task_id: this.name.slice(TASK_PREFIX.length) };
  }

  get isConfirmed() {
    return this.phase === "live" || this.phase === "awaiting state";
  }

  confirm(position, stateFollows, isRecovered) {
    this.phase = "live";
    if (isRecovered) return;
    this.state = {};
    if (stateFollows) [this.phase, this.awaited] = ["awaiting state", position];
    else [this.position, this.awaited] = [position, null];
  }

  disconnect() {
    if (this.phase === "awaiting state") this.position = this.awaited = null;
    this.phase = "unsubscribed";
  }
}

/**
 * The state of one subscriber. It outlives its connections. Towards the relay it is a queue of requests, answered in the order in
 * which they were sent.
 */
class Subscriptions {
  /**
   * @param {object} positions by channel, where to resume
   * @param {object} states by channel, the folded states there
   * @param {(channel: ChannelState, update: object) => void} onUpdate
   * @param {(error: RelayError) => void} onRefused called when a channel is not followed, though it was requested
   * @param {() => number} random
   */
  constructor(positions, states, onUpdate, onRefused, random) {
    this.positions = new Map(Object.entries(positions));
    this.states = new Map(Object.entries(states));
    this.onUpdate = onUpdate;
    this.onRefused = onRefused;
    this.random = random;
    this.channels = new Map();
    this.disconnected();
  }

  follow(name) {
    let channel = this.channels.get(name);
    if (channel === undefined) {
      const position = this.positions.get(name) ?? null;
      channel = new ChannelState(name, position, position === null ? {} : (this.states.get(name) ?? {}));
      this.positions.delete(name);
      this.states.delete(name);
      this.channels.set(name, channel);
      if (this.isConnected) this.pending.push({ type: "subscribe", channel });
    }
    return channel;
  }

  leave(channel) {
    if (this.channels.get(channel.name) !== channel) return;
    this.channels.delete(channel.name);
    if (!this.isConnected) return;
    const index = this.pending.findIndex((request) => request.type === "subscribe" && request.channel === channel);
    if (index >= 0) this.pending.splice(index, 1);
    else this.pending.push({ type: "unsubscribe", channel });
  }

  connected() {
    this.isConnected = true;
    // A relay sends general updates to every client that does not decline them.
    if (!this.channels.has(GENERAL)) this.pending.push({ type: "unsubscribe", channel: new ChannelState(GENERAL, null, {}) });
    for (const channel of this.channels.values()) this.pending.push({ type: "subscribe", channel });
  }

  disconnected() {
    this.isConnected = this.isPingDue = false;
    this.pending = [];
    this.unanswered = [];
    this.window = 1;
    this.limit = Infinity;
    this.retryAt = -Infinity;
    this.attempts = 0;
    this.isRedisAvailable = true; // as far as the relay has answered
    for (const channel of this.channels.values()) channel.disconnect();
  }

  /** The next message to send, or null. It counts as sent. */
  nextRequest(now) {
    if (this.isPingDue) {
      this.isPingDue = false;
      return this.#send({ type: "ping" });
    }
    while (this.pending.length > 0 && this.unanswered.length < this.window && now >= this.retryAt) {
      const request = this.pending.shift();
      if (request.type !== "subscribe" || this.#confirmed() < this.limit) return this.#send(request);
      this.#refuse(request.channel, "too_many_subscriptions");
    }
    return null;
  }

  /** When to call `nextRequest` again at the latest. */
  wakeAt(now) {
    return this.pending.length > 0 && this.retryAt > now ? this.retryAt : Infinity;
  }

  #send(request) {
    const { type, channel } = request;
    this.unanswered.push(request);
    if (type === "ping") return JSON.stringify({ type });
    if (type === "unsubscribe") return JSON.stringify({ type, ...channel.requestFields });
    request.since = channel.position;
    channel.phase = "requested";
    return JSON.stringify({ type, ...channel.requestFields, position: channel.position });
  }

  /** The channels that the relay has confirmed, and still counts. */
  #confirmed() {
    let count = 0;
    for (const channel of this.channels.values()) if (channel.isConfirmed) count += 1;
    return count;
  }

  /** Take a message of the relay. Throws ProtocolError if it does not fit. */
  receive(text, now) {
    let message = null;
    try {
      message = JSON.parse(text);
    } catch {
      // reported below
    }
    switch (message?.type) {
      case undefined:
        throw new ProtocolError(`this is no message of a relay: ${String(text).slice(0, 200)}`);
      case "task_update":
        return this.#onUpdate(TASK_PREFIX + message.task_id, message);
      case "general_update":
        return this.#onUpdate(GENERAL, message);
      case "subscribed":
        return this.#onSubscribed("task_id" in message ? TASK_PREFIX + message.task_id : message.channel, message);
      case "unsubscribed":
        return this.#answered("unsubscribe");
      case "pong":
        return this.#answered("ping");
      case "error":
        return this.#onError(message, now);
      default: // of a newer relay
    }
  }

  #answered(type) {
    if (this.unanswered[0]?.type !== type) throw new ProtocolError(`an answer to "${type}", which is not the oldest request`);
    this.unanswered.shift();
  }

  #onSubscribed(name, message) {
    const { state: stateFollows, recovered } = message;
    const position = checkedPosition(message.position);
    if (position === null || typeof stateFollows !== "boolean") {
      throw new ProtocolError("a subscription without its position, or without telling whether a state follows");
    }
    const oldest = this.unanswered[0];
    let channel = this.channels.get(name);
    let hadPosition = true;
    if (oldest?.type === "subscribe" && oldest.channel.name === name) {
      this.unanswered.shift();
      this.window = WINDOW;
      this.attempts = 0;
      this.isRedisAvailable = true;
      channel = oldest.channel;
      hadPosition = oldest.since !== null;
    } else if (!channel?.isConfirmed) {
      return; // a reset from before our newest request
    }
    channel.confirm(position, stateFollows, recovered === true);
    if (recovered !== true && hadPosition) this.#deliver(channel, "reset", {}, position, false);
  }

  #onError({ code, message }, now) {
    const channel = this.unanswered.shift()?.channel ?? null;
    const isWanted = channel !== null && this.channels.get(channel.name) === channel;
    if (code === "unavailable" && channel !== null) {
      this.window = 1;
      this.isRedisAvailable = false;
      channel.phase = "unsubscribed";
      if (isWanted) this.pending.push({ type: "subscribe", channel });
      if (now >= this.retryAt) this.retryAt = now + fullJitter(this.attempts++, ...UNAVAILABLE_DELAYS, this.random);
    } else {
      if (code === "too_many_subscriptions") this.limit = Math.min(this.limit, this.#confirmed());
      if (channel === null || isWanted) this.#refuse(channel, code, message);
    }
  }

  #refuse(channel, code, message = "") {
    if (channel !== null) this.channels.delete(channel.name);
    const what = channel?.name ?? "a message";
    const text =
      code === "too_many_subscriptions"
        ? `${what} is not followed: the relay lets one connection follow ${this.limit} channels (RELAY_MAX_SUBSCRIPTIONS); stop following others, or make another RelayClient`
        : `the relay refused ${what}: ${message} (${code})`;
    this.onRefused(new RelayError(text, code, channel?.name ?? null));
  }

  #onUpdate(name, message) {
    const { data } = message;
    const position = checkedPosition(message.position);
    const channel = this.channels.get(name);
    // No longer wanted; or a general update from before the answer to our request.
    if (!channel?.isConfirmed) return;
    // Of a general update it may be any JSON value: services publish some in old forms.
    const isValid = name === GENERAL ? data !== undefined : typeof data === "object" && data !== null;
    if (!isValid) throw new ProtocolError("an update without data");
    let isState = false;
    if (position !== null) {
      isState = channel.phase === "awaiting state";
      const reached = isState ? channel.awaited : channel.position;
      if (reached !== null) {
        if (position.epoch !== reached.epoch) throw new ProtocolError(`${name} has another epoch without a reset`);
        if (position.offset < reached.offset || (position.offset === reached.offset && !isState)) return; // received before
      }
      [channel.position, channel.awaited, channel.phase] = [position, null, "live"];
    }
    if (name !== GENERAL) channel.state = { ...channel.state, ...data };
    this.#deliver(channel, name === GENERAL ? "general_update" : "task_update", data, position, isState);
  }

  #deliver(channel, type, data, position, isState) {
    this.onUpdate(channel, { type, ...namesOf(channel), data, state: channel.state, position, isState });
  }
}

const namesOf = ({ name }) => ({
  channel: name,
  taskId: name === GENERAL ? null : name.slice(TASK_PREFIX.length),
});

// ---- relay-client.js

// Follow tasks and general updates of a relay from a browser or from Node, over /ws/tasks.
//
//   const relay = new RelayClient("wss://relay.example/ws/tasks");
//   const stop = relay.task("demo", (update) => console.log(update.state));
//
// After a broken connection or a restart of the relay it resumes: every update comes once and in order, or one of type "reset" comes,
// which says that some are missing. relay-client.d.ts has every type.
//
// Here are the WebSocket and the timers; what to send and to believe is decided in subscriptions.js.


export { RelayError };

/** After these close codes a client stays away: those that relay/core/closecodes.py marks as final, which a test compares. */
const FINAL_CLOSE_CODES = new Set([1002, 1003, 1007, 1008, 1009]);

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
