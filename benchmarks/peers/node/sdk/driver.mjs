// Clients that are made with a server's own client library, behind networks that fail: what reaches them?
//
//   node driver.mjs '{"library": "relay", "ports": [8080], "tasks": ["t1", "t2"], "clients": 200, "networks": 200}'
//
// Each client follows one task. Commands come as lines of JSON on the standard input, answers go out in the same form:
//
//   {"fail": SECONDS, "every": SECONDS, "milliseconds": 2000, "seed": 1}   each network fails about so often, for SECONDS
//   {"use": PORTS}                                                        new connections go to these servers
//   {"collect": COUNT, "timeout": SECONDS}                                wait until every client has as many updates
//
// An update says in its payload which one of its task it is, and when it was published, on the clock of hrtime.
import { createInterface } from "node:readline";

import { Network } from "./network.mjs";

const SEQUENCE = /"sequence":"(\d{8})"/;
const PUBLISHED_AT = /"at":"(\d{19})"/;
const options = JSON.parse(process.argv[2]);
const { follow } = await import(`./${options.library}.mjs`);

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
const now = () => process.hrtime.bigint();
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, Math.max(0, milliseconds)));

/** What one client has received. */
class Received {
  sequences = new Set();
  doubled = 0;
  reordered = 0;
  /** Milliseconds from the end of each failure until something was received that was published after it. */
  recoveries = [];
  lastAt = 0n;
  #highest = -1;
  #failedUntil = [];

  /** Take an update, as text or as an object. */
  take = (payload) => {
    const text = typeof payload === "string" ? payload : JSON.stringify(payload);
    const [sequenceText, publishedAtText] = [SEQUENCE, PUBLISHED_AT].map((pattern) => pattern.exec(text)?.[1]);
    if (sequenceText === undefined || publishedAtText === undefined) return;
    const sequence = Number(sequenceText);
    if (this.sequences.has(sequence)) {
      this.doubled++;
      return;
    }
    this.sequences.add(sequence);
    if (sequence < this.#highest) this.reordered++;
    this.#highest = Math.max(sequence, this.#highest);
    this.lastAt = now();
    const publishedAt = BigInt(publishedAtText);
    while (this.#failedUntil.length > 0 && publishedAt >= this.#failedUntil[0]) {
      this.recoveries.push(Number(now() - this.#failedUntil.shift()) / 1e6);
    }
  };

  failed() {
    this.#failedUntil.push(now());
  }

  get unrecovered() {
    return this.#failedUntil.length;
  }
}

/** Pseudo-random numbers that the seed determines (mulberry32). */
function randomness(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const networks = [];
for (let i = 0; i < options.networks; i++) {
  const network = new Network(options.ports);
  networks.push({ network, port: await network.listen(), received: [] });
}

const began = now();
const clients = [];
for (let i = 0; i < options.clients; i++) {
  const received = new Received();
  const { port, received: shared } = networks[i % networks.length];
  shared.push(received);
  clients.push({ received, ...follow(port, options.tasks[i % options.tasks.length], received.take) });
  if (i % 50 === 49) await Promise.all(clients.slice(-50).map((client) => client.ready));
}
await Promise.all(clients.map((client) => client.ready));
say({ ready: Number(now() - began) / 1e9 });

let failures = 0;

/** The most WebSockets that one server opened in any second. */
function connectsInASecond() {
  let most = 0;
  for (const port of options.ports) {
    const opened = networks.flatMap(({ network }) => network.opened.get(port) ?? []).sort((a, b) => a - b);
    let first = 0;
    opened.forEach((at, last) => {
      while (at - opened[first] >= 1000) first++;
      most = Math.max(most, last - first + 1);
    });
  }
  return most;
}

async function fail({ fail: seconds, every, milliseconds, seed }) {
  const random = randomness(seed);
  const ends = now() + BigInt(Math.round(seconds * 1e9));
  await Promise.all(networks.map(async ({ network, received }) => {
    for (;;) {
      await sleep(every * 1e3 * (0.5 + random()));
      if (now() > ends) return;
      failures++;
      await network.fail(random() < 0.5, milliseconds);
      received.forEach((one) => one.failed());
    }
  }));
}

async function collect({ collect: count, timeout }) {
  const deadline = now() + BigInt(Math.round(timeout * 1e9));
  const isDone = () => clients.every(({ received }) => received.sequences.size >= count && received.unrecovered === 0);
  while (!isDone() && now() < deadline) await sleep(20);
  const all = clients.map((client) => client.received);
  const sum = (part) => all.reduce((total, one) => total + part(one), 0);
  const recoveries = all.flatMap((one) => one.recoveries).sort((a, b) => a - b);
  const cpu = process.cpuUsage();
  say({
    expected: count * clients.length,
    delivered: sum((one) => one.sequences.size),
    doubled: sum((one) => one.doubled),
    reordered: sum((one) => one.reordered),
    complete: all.filter((one) => one.sequences.size >= count).length,
    failures,
    unrecovered: sum((one) => one.unrecovered),
    recoveries,
    connects: connectsInASecond(),
    refused: networks.reduce((total, { network }) => total + network.refused, 0),
    last: all.reduce((last, one) => (one.lastAt > last ? one.lastAt : last), 0n).toString(),
    cpu: (cpu.user + cpu.system) / 1e6,
  });
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if ("fail" in command) fail(command).then(() => say({ failed: failures }));
  else if ("use" in command) networks.forEach(({ network }) => network.use(command.use));
  else await collect(command);
}
process.exit(0);
