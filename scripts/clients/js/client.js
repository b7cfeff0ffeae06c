// nats.js through weir: connect, publish, subscribe, request, JetStream. Usage: node client.js nats://HOST:PORT (or
// ws://HOST:PORT)
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect as tcp, wsconnect } from "@nats-io/transport-node";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";

setTimeout(() => {
  console.error("nats.js: no end within 120 s");
  process.exit(1);
}, 120_000).unref();

const servers = process.argv[2].replace("nats://", "");
const connect = servers.startsWith("ws") ? wsconnect : tcp;
const ours = await connect({ servers, name: "matrix-js-a" });
const theirs = await connect({ servers, name: "matrix-js-b" });
assert.deepEqual(ours.info.connect_urls ?? [], [], "weir must not lead past itself");

const numbers = ours.subscribe("matrix.js.numbers", { max: 100 });
ours.subscribe("matrix.js.upper", { callback: (_, message) => message.respond(message.string().toUpperCase()) });
await ours.flush();

// Once the other client's request is answered, all servers know both subscriptions.
let reply;
for (let tries = 0; !reply; tries++) {
  try {
    reply = await theirs.request("matrix.js.upper", "request", { timeout: 5000 });
  } catch (error) {
    if (tries >= 100) throw error;
    await new Promise((done) => setTimeout(done, 100));
  }
}
assert.equal(reply.string(), "REQUEST");

for (let i = 0; i < 100; i++) theirs.publish("matrix.js.numbers", String(i).repeat(1 + i * 50));
let seen = 0;
for await (const message of numbers) {
  assert.equal(message.string(), String(seen).repeat(1 + seen * 50), `message ${seen}`);
  seen++;
}
assert.equal(seen, 100);

const manager = await jetstreamManager(ours, { timeout: 30_000 });
await manager.streams.add({ name: "MATRIX_JS", subjects: ["matrix.js.js.*"] });
const js = jetstream(ours, { timeout: 30_000 });
for (let i = 0; i < 50; i++) assert.equal((await js.publish(`matrix.js.js.${i}`, String(i))).seq, i + 1);
await manager.consumers.add("MATRIX_JS", { durable_name: "reader", ack_policy: AckPolicy.Explicit });
const consumer = await jetstream(theirs, { timeout: 30_000 }).consumers.get("MATRIX_JS", "reader");
seen = 0;
while (seen < 50) {
  for await (const message of await consumer.fetch({ max_messages: 50 - seen, expires: 5000 })) {
    assert.equal(message.string(), String(seen), `stream message ${seen}`);
    message.ack();
    seen++;
  }
}
assert.equal(await manager.streams.delete("MATRIX_JS"), true);

await theirs.drain();
await ours.drain();
const { version } = JSON.parse(readFileSync(new URL("node_modules/@nats-io/transport-node/package.json", import.meta.url)));
console.log(`nats.js ${version}: OK`);
