// nats.js through weir, while its session is moved from server to server: subscribes, works for a queue, asks,
// publishes to JetStream and reads from it, until it is told to end. Prints READY, and at the end what it has had,
// as JSON. Usage: node stay.js nats://HOST:PORT
import { readFileSync } from "node:fs";
import { connect } from "@nats-io/transport-node";
import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";

setTimeout(() => {
  console.error("nats.js: no end within 170 s");
  process.exit(1);
}, 170_000).unref();

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const { version } = JSON.parse(readFileSync(new URL("node_modules/@nats-io/transport-node/package.json", import.meta.url)));
const report = { client: `nats.js ${version}`, disconnects: 0, all: [], jobs: [], asked: 0, unanswered: 0, published: 0, unconfirmed: 0 };
const readNumbers = new Set();
let ended = false;
const client = await connect({ servers: process.argv[2].replace("nats://", ""), name: "stay-js", timeout: 20_000 });
(async () => {
  for await (const status of client.status()) if (status.type === "disconnect" && !ended) report.disconnects++;
})();

client.subscribe("moves.all", {
  callback: (_, message) => {
    if (message.string() === "end") ended = true;
    else report.all.push(Number(message.string()));
  },
});
client.subscribe("moves.jobs", { queue: "workers", callback: (_, message) => report.jobs.push(Number(message.string())) });
await client.flush();

const ask = async () => {
  while (!ended) {
    report.asked++;
    try {
      const answer = await client.request("moves.echo", "js", { timeout: 10_000 });
      if (answer.string() !== "js") throw new Error(`another answer: ${answer.string()}`);
    } catch {
      report.unanswered++;
    }
    await sleep(20);
  }
};
const js = jetstream(client, { timeout: 5_000 });
const publish = async () => {
  while (!ended) {
    try {
      // JetStream drops what comes twice under one id, where an acknowledgement was lost.
      await js.publish("moves.js.js", String(report.published), { msgID: `js${report.published}` });
      report.published++;
    } catch {
      await sleep(100);
    }
    await sleep(20);
  }
};
const read = async () => {
  const manager = await jetstreamManager(client, { timeout: 10_000 });
  const config = { durable_name: "js", filter_subject: "moves.js.js", ack_policy: AckPolicy.Explicit };
  await manager.consumers.add("MOVES", config);
  const consumer = await js.consumers.get("MOVES", "js");
  while (!(ended && readNumbers.size >= report.published)) {
    try {
      const batch = await consumer.fetch({ max_messages: 10, expires: 1_000 });
      for await (const message of batch) {
        readNumbers.add(Number(message.string()));
        // A consumer's leader may be killed between what it stores and what it answers.
        if (!(await message.ackAck({ timeout: 5_000 }).catch(() => false))) report.unconfirmed++;
      }
    } catch {
      await sleep(50);
    }
  }
};
const loops = [ask(), publish(), read()];
console.log("READY");
while (!ended) await sleep(20);
// The last jobs are on their way.
await sleep(1000);
await Promise.race([Promise.all(loops), sleep(60_000)]);
report.read = [...readNumbers].sort((one, other) => one - other);
await new Promise((written) => process.stdout.write(`${JSON.stringify(report)}\n`, written));
await client.close();
process.exit(0);
