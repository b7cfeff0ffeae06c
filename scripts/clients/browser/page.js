// nats.js in a page: connects through weir with credentials in cookies, publishes, requests, reconnects after its
// server was killed, and shows what a refusal looks like. It reports each step to run.js in one line.
import { wsconnect } from "@nats-io/nats-core";

const parameters = new URLSearchParams(location.search);
const url = parameters.get("url");
const report = (step, detail) => fetch("/report", { method: "POST", body: `${step}: ${detail}` });

// The same with a bare WebSocket: what weir sends, and with which code it closes.
function bare() {
  return new Promise((done) => {
    const socket = new WebSocket(url);
    let said = "";
    socket.binaryType = "arraybuffer";
    socket.onmessage = (message) => {
      const text = new TextDecoder().decode(message.data);
      if (text.startsWith("INFO ")) socket.send('CONNECT {"verbose":false,"lang":"nats.ws","protocol":1}\r\nPING\r\n');
      else said += text;
    };
    socket.onclose = (event) => done(`${said.trim()} ${event.code} ${event.reason}`);
  });
}

async function exchange(connection) {
  const large = "x".repeat(500_000);
  connection.subscribe("page.echo", { callback: (_, message) => message.respond(message.data) });
  for (const text of ["hello", large]) {
    const reply = await connection.request("page.echo", text, { timeout: 10_000 });
    if (reply.string() !== text) throw new Error("not the same");
  }
}

async function main() {
  if (parameters.has("framed")) {
    const closed = await bare();
    return report("page of another origin", closed.trim().startsWith("1006") ? "refused" : closed);
  }
  document.cookie = "nats_user=page; path=/";
  document.cookie = "nats_pass=s3cret; path=/";
  const options = { servers: url, name: "page", reconnectTimeWait: 100, maxReconnectAttempts: 600 };
  const connection = await wsconnect(options);
  const cameBack = (async () => {
    for await (const status of connection.status()) if (status.type === "reconnect") return;
  })();
  await exchange(connection);
  // After an answer, INFO is the server's own; before that it may be weir's.
  await report("connected", connection.info.server_name);
  await report("exchanged", "a message and its answer, 5 bytes and 500000");
  await cameBack;
  await exchange(connection);
  await report("reconnected", connection.info.server_name);
  await report("exchanged again", "the same");

  await report("refused", await bare());
  try {
    await wsconnect({ ...options, reconnect: false, timeout: 3000 });
    await report("nats.js says", "nothing: it is in");
  } catch (error) {
    await report("nats.js says", `${error.name} ${error.message}`.trim());
  }
  const frame = document.createElement("iframe");
  const framed = new Promise((done) => addEventListener("message", done, { once: true }));
  frame.src = `${location.href.replace("127.0.0.1", "localhost")}&framed`;
  document.body.append(frame);
  await framed;
  await connection.drain();
  await report("done", "");
}

main()
  .catch((error) => report("failed", `${error.stack ?? error}`))
  .finally(() => parameters.has("framed") && parent.postMessage("done", "*"));
