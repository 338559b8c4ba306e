// One client on the published `centrifuge` package. It says on standard output, a JSON line for each, what happens to it.
// Its arguments are the transports, the emulation endpoint, the tokens that it gets one after the other, and a channel.
import { Centrifuge } from "centrifuge";
import { EventSource } from "eventsource";
import WebSocket from "ws";

const [transports, emulationEndpoint, tokens, channel] = process.argv.slice(2).map((argument) => JSON.parse(argument));
const say = (what, more = {}) => console.log(JSON.stringify({ what, ...more }));

const client = new Centrifuge(transports, {
  websocket: WebSocket,
  eventsource: EventSource,
  fetch,
  readableStream: ReadableStream,
  emulationEndpoint,
  maxReconnectDelay: 1000,
  getToken: async () => {
    say("token");
    return tokens.shift();
  },
});
client.on("connected", ({ transport }) => say("connected", { transport }));
client.on("connecting", ({ code }) => say("connecting", { code }));
client.on("disconnected", ({ code }) => say("disconnected", { code }));
client.on("error", ({ error }) => say("error", { error }));
client.on("publication", ({ channel, data }) => say("given", { channel, data }));

const subscription = client.newSubscription(channel, { joinLeave: true });
subscription.on("subscribed", ({ recovered, wasRecovering }) => say("subscribed", { recovered, wasRecovering }));
subscription.on("publication", ({ data, offset }) => say("publication", { data, offset }));
subscription.on("join", ({ info }) => say("join", { user: info.user }));
subscription.on("leave", ({ info }) => say("leave", { user: info.user }));
subscription.on("error", ({ error }) => say("error", { error }));
subscription.subscribe();
client.connect();

const does = {
  cut: async () => client._transport.close(),
  presence: async () => say("presence", { users: Object.values((await subscription.presence()).clients).map(({ user }) => user) }),
  history: async () => say("history", { offsets: (await subscription.history({ limit: 10, reverse: true })).publications.map(({ offset }) => offset) }),
  rpc: async () => client.rpc("x", {}).catch(({ code }) => say("rpc", { code })),
  publish: async () => subscription.publish({ from: "js" }).then(() => say("published"), ({ code }) => say("refused", { code })),
  leave: async () => client.disconnect(),
};
process.stdin.setEncoding("utf8").on("data", (lines) => lines.trim().split("\n").forEach((name) => does[name]())).on("end", () => process.exit());
