// Serves page.js (bundled) on a port of loopback, opens it in a headless browser and prints what it reports.
// Usage: node run.js BROWSER ws[s]://HOST:PORT PORT [CERTIFICATE_FILE KEY_FILE]
import { spawn } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { buildSync } from "esbuild";

const [browser, url, port, ...files] = process.argv.slice(2);
const [cert, key] = files.map((file) => readFileSync(file));
const bundle = buildSync({ entryPoints: ["page.js"], bundle: true, format: "esm", write: false });
const script = bundle.outputFiles[0].contents;
const profile = mkdtempSync(join(tmpdir(), "weir-browser-"));
let child;

// The browser does not know the test's authority, so it is told which key to trust.
function trusted() {
  if (!cert) return [];
  const spki = new X509Certificate(cert).publicKey.export({ type: "spki", format: "der" });
  return [`--ignore-certificate-errors-spki-list=${createHash("sha256").update(spki).digest("base64")}`];
}

function end(code) {
  child?.once("exit", async () => {
    // The browser's child processes may still write there for a moment; `maxRetries` would not delete what they write.
    for (let tries = 1; ; tries++) {
      try {
        rmSync(profile, { recursive: true, force: true });
        break;
      } catch (error) {
        if (tries === 100) {
          console.error(`${profile} is left behind: ${error.message}`);
          break;
        }
        await sleep(50);
      }
    }
    process.exit(code);
  });
  child?.kill("SIGKILL");
}

function serve(request, response) {
  if (request.method === "POST") {
    let line = "";
    request.setEncoding("utf8").on("data", (text) => (line += text));
    request.on("end", () => {
      console.log(line.trim());
      response.end();
      if (line.startsWith("done")) end(0);
      if (line.startsWith("failed")) end(1);
    });
  } else if (request.url === "/page.js") {
    response.setHeader("Content-Type", "text/javascript");
    response.end(script);
  } else if (request.url.startsWith("/?")) {
    response.setHeader("Content-Type", "text/html");
    response.end('<!doctype html><title>weir</title><body><script type="module" src="/page.js"></script>');
  } else {
    response.statusCode = 404;
    response.end();
  }
}

const server = cert ? createSecureServer({ cert, key }, serve) : createServer(serve);
server.listen(Number(port), "127.0.0.1", () => {
  // prettier-ignore
  child = spawn(browser, [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", `--user-data-dir=${profile}`, ...trusted(),
    `http${cert ? "s" : ""}://127.0.0.1:${port}/?url=${encodeURIComponent(url)}`,
  ], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.setEncoding("utf8").on("data", (text) => (log = (log + text).slice(-4000)));
  setTimeout(() => {
    console.error(`no end within 150 s\n${log}`);
    end(1);
  }, 150_000).unref();
});
