// nats.js through weir, with every way to log in: connect, publish, request, reconnect. Usage: node login.js CELLS.json
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect, credsAuthenticator, jwtAuthenticator, nkeyAuthenticator } from "@nats-io/transport-node";

setTimeout(() => process.exit(1), 150_000).unref();

function credentials(cell) {
  switch (cell.kind) {
    case "user":
      return { user: cell.user, pass: cell.password };
    case "token":
      return { token: cell.token };
    case "nkey":
      return { authenticator: nkeyAuthenticator(readFileSync(cell.seed_file).subarray(0, 58)) };
    case "creds":
      return { authenticator: credsAuthenticator(readFileSync(cell.creds_file)) };
    case "bearer":
      return { authenticator: jwtAuthenticator(cell.jwt) };
    default:
      return {};
  }
}

function security(cell) {
  return cell.ca_file ? { tls: { caFile: cell.ca_file, handshakeFirst: "first" in cell } } : {};
}

// A message and a request, each answered by the client itself.
async function use(client, name) {
  const subject = `login.js.${name}`;
  const subscription = client.subscribe(subject, { callback: (_, message) => message.respond(message.data) });
  client.publish(subject, "nobody asks");
  const reply = await client.request(subject, "who", { timeout: 20_000 });
  assert.equal(reply.string(), "who");
  subscription.unsubscribe();
}

const cells = JSON.parse(readFileSync(process.argv[2]));
let left = cells.length;
let go;
const gone = new Promise((resolve) => (go = resolve));
const ready = () => {
  if (--left === 0) {
    console.log("READY");
    go();
  }
};

async function run(cell) {
  let connected = false;
  try {
    const servers = cell.url.replace(/^\w+:\/\//, "");
    const client = await connect({ servers, maxReconnectAttempts: 60, ...credentials(cell), ...security(cell) });
    let again;
    const back = new Promise((resolve) => (again = resolve));
    (async () => {
      for await (const status of client.status()) if (status.type === "reconnect") again();
    })();
    await use(client, cell.name);
    connected = true;
    ready();
    await gone;
    await Promise.race([back, new Promise((_, no) => setTimeout(() => no(new Error("no reconnect")), 60_000))]);
    await use(client, cell.name);
    await client.close();
    console.log(`${cell.name}: OK`);
  } catch (error) {
    console.log(`${cell.name}: FAILED ${error.name} ${error.message} ${error.cause?.message ?? ""}`);
    if (!connected) ready();
  }
}

await Promise.all(cells.map(run));
process.exit(0);
