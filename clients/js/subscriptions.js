// What a subscriber follows, where it stands, and what it says to the relay next. Decisions only: no socket, no clock, no timer.

export const GENERAL = "general";
export const TASK_PREFIX = "task:";

/** Requests without an answer: one until the relay has shown that it can serve us, then so many. */
const WINDOW = 64;

/** The first and the longest delay, in milliseconds, before asking again while Redis is away. */
const UNAVAILABLE_DELAYS = [500, 10_000];

/** What went wrong for good. `code`: one of the relay's, or a close code; `channel`: whose it is, where it is only one's. */
export class RelayError extends Error {
  constructor(message, code, channel = null) {
    super(message);
    this.name = "RelayError";
    this.code = code;
    this.channel = channel;
  }
}

/** Full jitter: at random between nothing and a step that doubles with each attempt, up to the cap. */
export const fullJitter = (attempt, base, cap, random) => random() * Math.min(cap, base * 2 ** Math.min(attempt, 32));

/** The relay said what does not fit: give the connection up, and resume on another. */
export class Confused extends Error {}

class Followed {
  constructor(name, position, state) {
    this.name = name;
    this.position = position; // of the last update, to resume from
    this.top = null; // where the relay says that the channel stands, as long as its state may still come
    this.state = state;
    this.isFollowed = false; // the relay has confirmed it, on this connection
    this.callbacks = new Set();
  }

  get words() {
    return this.name === GENERAL ? { channel: GENERAL } : { task_id: this.name.slice(TASK_PREFIX.length) };
  }
}

/**
 * What is followed, where it stands, and what to say to the relay next. It outlives its connections.
 *
 * Requests are answered in their order. With "subscribed" the relay tells where a channel stands; a new follower's state, if there
 * is one, comes before any later answer. Until either has come the position is not ours: if the connection breaks before, the next
 * one begins anew and gets the state after all.
 */
export class Subscriptions {
  constructor(positions, states, deliver, refuse, random) {
    this.positions = new Map(Object.entries(positions));
    this.states = new Map(Object.entries(states));
    this.deliver = deliver;
    this.refuse = refuse;
    this.random = random;
    this.channels = new Map();
    this.disconnected();
  }

  follow(name) {
    let channel = this.channels.get(name);
    if (channel === undefined) {
      const position = this.positions.get(name) ?? null;
      channel = new Followed(name, position, position === null ? {} : (this.states.get(name) ?? {}));
      this.positions.delete(name);
      this.states.delete(name);
      this.channels.set(name, channel);
      if (this.isConnected) this.queue.push({ type: "subscribe", channel });
    }
    return channel;
  }

  leave(channel) {
    if (this.channels.get(channel.name) !== channel) return;
    this.channels.delete(channel.name);
    if (!this.isConnected) return;
    const queued = this.queue.findIndex((request) => request.type === "subscribe" && request.channel === channel);
    if (queued >= 0) this.queue.splice(queued, 1); // not even asked for yet
    else this.queue.push({ type: "unsubscribe", channel });
  }

  connected() {
    this.isConnected = true;
    // Whoever connects gets general updates unasked.
    if (!this.channels.has(GENERAL)) this.queue.push({ type: "unsubscribe", channel: new Followed(GENERAL, null, {}) });
    for (const channel of this.channels.values()) this.queue.push({ type: "subscribe", channel });
  }

  disconnected() {
    this.isConnected = this.pingIsDue = false;
    this.queue = [];
    this.asked = [];
    this.uncertain = [];
    this.window = 1;
    this.retryAt = -Infinity;
    this.tries = this.unavailable = 0;
    for (const channel of this.channels.values()) {
      channel.isFollowed = false;
      if (channel.top !== null) channel.position = channel.top = null; // its state is still to come
    }
  }

  /** What to send now, or null. It counts as sent. */
  nextRequest(now) {
    if (this.pingIsDue) {
      this.pingIsDue = false;
      return this.#ask({ type: "ping" });
    }
    if (this.queue.length === 0 || this.asked.length >= this.window || now < this.retryAt) return null;
    const request = this.queue.shift();
    // The answer to a ping shows, where the last channel has no state, that none will come.
    if (request.type === "subscribe" && this.queue.length === 0) this.pingIsDue = true;
    return this.#ask(request);
  }

  /** When to ask for the next request again, if nothing comes before. */
  wakeAt(now) {
    return this.queue.length > 0 && this.retryAt > now ? this.retryAt : Infinity;
  }

  #ask(request) {
    const { type, channel } = request;
    this.asked.push(request);
    if (type === "ping") return JSON.stringify({ type });
    if (type === "unsubscribe") return JSON.stringify({ type, ...channel.words });
    request.since = channel.position;
    return JSON.stringify({ type, ...channel.words, position: channel.position });
  }

  /** A message of the relay. Throws Confused when it does not fit. */
  receive(text, now) {
    let message = null;
    try {
      message = JSON.parse(text);
    } catch {
      // told below
    }
    switch (message?.type) {
      case undefined:
        throw new Confused(`not a relay's message: ${String(text).slice(0, 200)}`);
      case "task_update":
        return this.#update(TASK_PREFIX + message.task_id, message);
      case "general_update":
        return this.#update(GENERAL, message);
      case "subscribed":
        return this.#subscribed("task_id" in message ? TASK_PREFIX + message.task_id : message.channel, message);
      case "unsubscribed":
        return void this.#answered("unsubscribe");
      case "pong":
        return void this.#answered("ping");
      case "error":
        return this.#error(message, now);
      default: // of a newer relay
    }
  }

  #answered(type) {
    if (this.asked[0]?.type !== type) throw new Confused(`an answer to "${type}", which is not the oldest request`);
    this.#certain();
    return this.asked.shift();
  }

  /** An answer came: a state that belonged to an earlier one would have come before it. */
  #certain() {
    for (const channel of this.uncertain) {
      if (channel.top !== null) [channel.position, channel.top] = [channel.top, null];
    }
    this.uncertain = [];
  }

  #subscribed(name, message) {
    if (!message.position) throw new Confused("a subscription without a position");
    const head = this.asked[0];
    let channel = this.channels.get(name);
    let hadPosition = true;
    if (head?.type === "subscribe" && head.channel.name === name) {
      this.#answered("subscribe");
      this.window = WINDOW;
      this.tries = 0;
      channel = head.channel;
      channel.isFollowed = true;
      if (message.recovered === true) return;
      hadPosition = head.since !== null;
    } else {
      this.#certain(); // the channel's line broke
      if (!channel?.isFollowed) return;
    }
    channel.state = {};
    channel.top = message.position;
    this.uncertain.push(channel);
    if (name === GENERAL) this.#certain(); // it has no state
    if (hadPosition) this.#deliver(channel, "reset", {}, message.position, false);
  }

  #error({ code, message }, now) {
    this.#certain();
    const channel = this.asked.shift()?.channel ?? null;
    if (code !== "unavailable" || channel === null) {
      if (channel !== null && this.channels.get(channel.name) === channel) this.channels.delete(channel.name);
      const what = channel?.name ?? "a message";
      return this.refuse(new RelayError(`the relay refused ${what}: ${message} (${code})`, code, channel?.name ?? null));
    }
    this.unavailable += 1;
    this.window = 1;
    if (this.channels.get(channel.name) === channel) this.queue.push({ type: "subscribe", channel });
    if (now >= this.retryAt) this.retryAt = now + fullJitter(this.tries++, ...UNAVAILABLE_DELAYS, this.random);
  }

  #update(name, { data, position = null }) {
    const channel = this.channels.get(name);
    // Not wanted any more; or a general update that came before we asked for positions.
    if (!channel?.isFollowed) return;
    if (typeof data !== "object" || data === null) throw new Confused("an update without data");
    let isState = false;
    if (position !== null) {
      const stands = channel.top ?? channel.position;
      if (stands !== null) {
        if (position.epoch !== stands.epoch) throw new Confused(`${name} has another epoch, and nobody told`);
        isState = channel.top !== null && position.offset === stands.offset;
        if (position.offset <= stands.offset && !isState) return; // we have it
      }
      channel.position = position;
      channel.top = null;
    }
    if (name !== GENERAL) channel.state = { ...channel.state, ...data };
    this.#deliver(channel, name === GENERAL ? "general_update" : "task_update", data, position, isState);
  }

  #deliver(channel, type, data, position, isState) {
    this.deliver(channel, { type, ...namesOf(channel), data, state: channel.state, position, isState });
  }
}

export const namesOf = ({ name }) => ({
  channel: name,
  taskId: name === GENERAL ? null : name.slice(TASK_PREFIX.length),
});
