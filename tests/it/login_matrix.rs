//! Every way to log in × every official client × a new and an old nats-server. Each client connects through weir,
//! publishes and requests, and does so again after its server was killed. The test prints a table, which also shows
//! what cannot run here.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nkeys::KeyPair;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use weir_testkit::{
    callout::Callout,
    operator::Operator,
    tls::{Authority, Issued},
    *,
};

const KINDS: [&str; 11] =
    ["none", "user", "token", "nkey", "creds", "bearer", "callout", "tls", "tls-first", "auto", "auto-first"];
const LANGUAGES: [(&str, &str); 4] = [("py", "nats-py"), ("js", "nats.js"), ("go", "nats.go"), ("java", "jnats")];
const PASSWORD: &str = "pa55word-of-the-matrix";
const TOKEN: &str = "t0ken-of-the-matrix";

/// Generous, so that weir refuses nobody here.
const PATIENT: &str = "rate = 1000\nmax_hold = \"19s\"\n[admission.max_hold_by_lang]\nrust = \"19s\"";

/// Servers of one configuration, weir in front of them, and the clients that log in there.
struct Setup {
    servers: Vec<NatsServer>,
    /// The index of the server that the clients are on first, and of the server that they find after that one was
    /// killed.
    first: usize,
    then: usize,
    weir: Weir,
    _service: Option<callout::Running>,
    cells: Vec<Map<String, Value>>,
}

impl Setup {
    async fn start(
        version: &str,
        binary: &Path,
        (config, listener): (&str, &str),
        cells: Vec<Value>,
        callout: Option<&Callout>,
    ) -> Self {
        let options = |one: ServerOptions| ServerOptions { binary: Some(binary.to_owned()), ..one.with(config) };
        let n = if callout.is_some() { 3 } else { 1 };
        let Cluster { mut servers } = Cluster::start(n, options).await;
        let service = match callout {
            Some(callout) => Some(callout.run(&servers[1].address, Duration::ZERO).await),
            None => None,
        };
        // The callout service is connected to a server that is not killed, so that it answers when the clients come
        // back.
        let (first, then) = (0, n - 1);
        if then != first {
            servers[then].kill9();
        }
        let seen = [&servers[first], &servers[then]];
        let config = WeirConfig::of_servers(if n == 1 { &seen[..1] } else { &seen });
        let weir = config.listener(listener).admission(PATIENT).start_before(1).await;
        let cells = cells.into_iter().map(|cell| {
            let Value::Object(mut cell) = cell else { panic!("a cell is an object") };
            let name = format!("{version}-{}", cell["kind"].as_str().unwrap());
            cell.insert("name".into(), name.into());
            let url = match cell.get("ca_file") {
                Some(_) => format!("tls://localhost:{}", weir.port()),
                None => weir.url(),
            };
            cell.insert("url".into(), url.into());
            cell
        });
        Self { cells: cells.collect(), servers, first, then, weir, _service: service }
    }

    /// Kills the clients' server, and starts it again or another one in its place.
    async fn kill(&mut self) {
        if self.then != self.first {
            self.servers[self.then].restart().await;
        }
        self.servers[self.first].kill9();
        if self.then == self.first {
            self.servers[self.first].restart().await;
        }
    }
}

/// Invalid certificates, presented by weir and by a nats-server. Each client must report the same error for both.
struct BadCertificates {
    _weirs: Vec<Weir>,
    _servers: Vec<NatsServer>,
    cells: Vec<Map<String, Value>>,
}

impl BadCertificates {
    const WHY: [&str; 3] = ["expired", "other-host", "unknown-authority"];

    async fn start(authority: &Authority, stranger: &Authority) -> Self {
        let expired = |one: &mut rcgen::CertificateParams| one.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let shown = [
            authority.issue_with("expired", &["localhost"], expired),
            authority.issue("other-host", &["elsewhere.example.com"]),
            stranger.issue("unknown-authority", &["localhost"]),
        ];
        let mut servers = vec![NatsServer::start(ServerOptions::default()).await];
        let (mut weirs, mut cells) = (Vec::new(), Vec::new());
        for (why, own) in Self::WHY.into_iter().zip(shown) {
            let weir = WeirConfig::of_servers(&[&servers[0]]).listener(&secure(&own, "false")).start().await;
            let tls = format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 30 }}", own.cert, own.key);
            let server = NatsServer::start(ServerOptions::default().with(&tls)).await;
            let direct = server.address.rsplit(':').next().unwrap().to_owned();
            for (of, port) in [("weir", weir.port()), ("server", &direct)] {
                let url = format!("tls://localhost:{port}");
                let cell = json!({ "kind": "none", "name": format!("{why}-{of}"), "url": url, "ca_file": authority.ca(), "bad": "true" });
                cells.extend(cell.as_object().cloned());
            }
            weirs.push(weir);
            servers.push(server);
        }
        Self { _weirs: weirs, _servers: servers, cells }
    }

    /// Prints each client's error; returns the cases in which the errors differ.
    fn compare(&self, table: &BTreeMap<&str, Outcome>) -> Vec<String> {
        let mut failed = Vec::new();
        for (client, outcome) in table {
            for why in Self::WHY {
                let said = |of: &str| outcome.get(&format!("{why}-{of}")).map(|said| without_numbers(said));
                match (said("weir"), said("server")) {
                    (None, None) if outcome.get(*client).is_some_and(|what| what.starts_with("MISSING")) => {
                        say(&format!("{client:<11}{why:<18} missing"));
                    }
                    (Some(weir), Some(server)) if weir == server && weir.starts_with("FAILED") => {
                        say(&format!("{client:<11}{why:<18} {}", weir.trim_start_matches("FAILED ").trim_end()));
                    }
                    both => failed.push(format!("{client} {why}: through weir and of a server it said {both:?}")),
                }
            }
        }
        failed
    }
}

/// Removes the digits, since ports and times differ.
fn without_numbers(said: &str) -> String {
    said.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// Secrets, and the files that hold them. None of them may appear in any output.
struct Secrets {
    dir: tempfile::TempDir,
    texts: Vec<String>,
}

impl Secrets {
    fn file(&mut self, name: &str, text: &str, secrets: &[String]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        self.texts.extend_from_slice(secrets);
        path.display().to_string()
    }
}

/// The `[listeners.tls]` table with this certificate.
fn secure(own: &Issued, handshake_first: &str) -> String {
    format!("[listeners.tls]\n{}handshake_first = {handshake_first}\n", tls::pair(own))
}

async fn setups(
    version: &'static str,
    binary: PathBuf,
    has_callout: bool,
    secrets: &mut Secrets,
    authority: &Authority,
) -> Vec<Setup> {
    let nkey = KeyPair::new_user();
    let operator = Operator::with_accounts([-1]);
    let (creds, bearer) = (operator.account(0).user(), operator.account(0).bearer());
    let seed = nkey.seed().unwrap();
    let seed_file = secrets.file(&format!("{version}.nk"), &seed, std::slice::from_ref(&seed));
    let hidden = [creds.jwt.clone(), creds.key.seed().unwrap(), bearer.jwt.clone()];
    let creds_file = secrets.file(&format!("{version}.creds"), &creds.creds(), &hidden);
    let users =
        format!("accounts {{ A {{ users: [{{user: joe, password: {PASSWORD}}}, {{nkey: {}}}] }} }}", nkey.public_key());
    let callout = Callout::new();
    let user = |kind: &str| json!({ "kind": kind, "user": "joe", "password": PASSWORD });
    let own = authority.issue("weir", &["localhost"]);
    let over = |kind: &str| json!({ "kind": kind, "ca_file": authority.ca() });
    let over_first = |kind: &str| json!({ "kind": kind, "ca_file": authority.ca(), "first": "true" });
    let both = vec![over("auto"), over_first("auto-first")];
    let secured = [("false", vec![over("tls")]), ("true", vec![over_first("tls-first")]), ("\"900ms\"", both)];
    let plan = [
        (String::new(), vec![json!({ "kind": "none" })], None),
        (users, vec![user("user"), json!({ "kind": "nkey", "seed_file": seed_file })], None),
        (format!("authorization {{ token: \"{TOKEN}\" }}"), vec![json!({ "kind": "token", "token": TOKEN })], None),
        (
            operator.server_config(),
            vec![json!({ "kind": "creds", "creds_file": creds_file }), json!({ "kind": "bearer", "jwt": bearer.jwt })],
            None,
        ),
        (callout.server_config(), vec![user("callout")], Some(&callout)),
    ];
    let wanted = plan.into_iter().filter(|(_, _, callout)| has_callout || callout.is_none());
    let plain = wanted.map(|(config, cells, callout)| (config, String::new(), cells, callout));
    let secured = secured.into_iter().map(|(first, cells)| (String::new(), secure(&own, first), cells, None));
    let start = plain.chain(secured).map(|(config, listener, cells, callout)| {
        let binary = binary.clone();
        async move { Setup::start(version, &binary, (&config, &listener), cells, callout).await }
    });
    futures::future::join_all(start).await
}

/// The result of each cell by the cell's name.
type Outcome = HashMap<String, String>;

/// A client in another language, as a process of its own.
struct Client {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    said: Vec<String>,
}

impl Client {
    fn start(language: &str, cells: &Path) -> Self {
        let mut command = Command::from(script("client-matrix"));
        let mut child = command
            .args(["--login", language])
            .arg(cells)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("run scripts/client-matrix");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, lines, said: Vec::new() }
    }

    /// Reads until all its cells have connected or failed, or the process has ended.
    async fn ready(&mut self) {
        while let Ok(Some(line)) = self.lines.next_line().await {
            if line == "READY" {
                return;
            }
            self.said.push(line);
        }
    }

    async fn end(mut self) -> Vec<String> {
        while let Ok(Some(line)) = self.lines.next_line().await {
            self.said.push(line);
        }
        let _ = self.child.wait().await;
        self.said
    }
}

/// Runs one cell with async-nats, in this process.
async fn rust(cell: Map<String, Value>, ready: Arc<tokio::sync::Barrier>) -> Result<(), String> {
    let text = |key: &str| cell.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut options = async_nats::ConnectOptions::new().connection_timeout(PATIENCE);
    if cell.contains_key("ca_file") {
        options = options.require_tls(true).add_root_certificates(text("ca_file").into());
    }
    if cell.contains_key("first") {
        options = options.tls_first();
    }
    let options = match cell["kind"].as_str().unwrap() {
        "none" => options,
        "token" => options.token(text("token")),
        "nkey" => options.nkey(std::fs::read_to_string(text("seed_file")).unwrap()),
        "creds" => options.credentials_file(text("creds_file")).await.unwrap(),
        "bearer" => options.jwt(text("jwt"), |_| async { Ok(Vec::new()) }),
        _ => options.user_and_password(text("user"), text("password")),
    };
    let lost = Arc::new(Notify::new());
    let told = Arc::clone(&lost);
    let options = options.event_callback(move |event| {
        let told = Arc::clone(&told);
        async move {
            if matches!(event, async_nats::Event::Disconnected) {
                told.notify_one();
            }
        }
    });
    let subject = format!("login.rust.{}", text("name"));
    let connected = async {
        let client = options.connect(text("url")).await.map_err(|err| causes(&err))?;
        exchange(&client, &subject).await.map(|()| client)
    };
    let connected = connected.await;
    ready.wait().await;
    let client = connected?;
    tokio::time::timeout(PATIENCE, lost.notified()).await.map_err(|_| "no disconnect".to_owned())?;
    let back = async {
        while exchange(&client, &subject).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.map_err(|_| "no reconnect".to_owned())
}

/// An error with its sources.
fn causes(err: &dyn std::error::Error) -> String {
    let behind = err.source().map(|source| format!(" <- {}", causes(source)));
    err.to_string() + &behind.unwrap_or_default()
}

async fn exchange(client: &async_nats::Client, subject: &str) -> Result<(), String> {
    use futures::StreamExt;
    let asked = async {
        let mut requests = client.subscribe(subject.to_owned()).await.map_err(|err| err.to_string())?;
        let answer = client.clone();
        let answering = tokio::spawn(async move {
            while let Some(message) = requests.next().await {
                if let Some(reply) = message.reply {
                    let _ = answer.publish(reply, message.payload).await;
                }
            }
        });
        client.publish(subject.to_owned(), "nobody asks".into()).await.map_err(|err| err.to_string())?;
        let reply = client.request(subject.to_owned(), "who".into()).await.map_err(|err| err.to_string());
        answering.abort();
        if reply?.payload == "who" { Ok(()) } else { Err("another reply".to_owned()) }
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await.map_err(|_| "no reply in time".to_owned())?
}

fn outcome(said: &[String]) -> Outcome {
    let split = said.iter().filter_map(|line| line.split_once(": "));
    split.map(|(cell, what)| (cell.to_owned(), what.to_owned())).collect()
}

/// One line for each cell, for the Java client.
fn as_lines(cells: &[Map<String, Value>]) -> String {
    let line = |cell: &Map<String, Value>| {
        let fields = cell.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap()));
        fields.collect::<Vec<_>>().join("\t") + "\n"
    };
    cells.iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_logs_in_every_way_and_comes_back() {
    let (authority, stranger) = (Authority::new("weir tests"), Authority::new("somebody else"));
    let texts = [PASSWORD, TOKEN].map(str::to_owned).to_vec();
    let mut secrets = Secrets { dir: tempfile::tempdir().unwrap(), texts };
    let mut versions = vec![("new", nats::binary(), nats::is_at_least(2, 10))];
    match nats::debian().await {
        Ok(old) => versions.push(("2.9", old, false)),
        Err(why) => skip_part("nats-server 2.9", &why),
    }
    let _alone = installs::one_at_a_time().await;
    let mut all = Vec::new();
    for (version, binary, has_callout) in &versions {
        all.extend(setups(version, binary.clone(), *has_callout, &mut secrets, &authority).await);
    }
    let bad = BadCertificates::start(&authority, &stranger).await;
    let mut cells: Vec<_> = all.iter().flat_map(|setup| setup.cells.clone()).collect();
    cells.extend(bad.cells.clone());
    let [as_json, as_text] = ["cells.json", "cells.tsv"].map(|name| secrets.dir.path().join(name));
    std::fs::write(&as_json, serde_json::to_string(&cells).unwrap()).unwrap();
    std::fs::write(&as_text, as_lines(&cells)).unwrap();

    // All clients are installed and connected before a server is killed.
    let mut clients: Vec<_> = LANGUAGES
        .map(|(language, _)| Client::start(language, if language == "java" { &as_text } else { &as_json }))
        .into();
    let connected = futures::future::join_all(clients.iter_mut().map(Client::ready));
    tokio::time::timeout(45 * PATIENCE, connected).await.expect("the clients are installed and connect");
    let ready = Arc::new(tokio::sync::Barrier::new(cells.len() + 1));
    let rust: Vec<_> = cells.iter().map(|cell| tokio::spawn(rust(cell.clone(), Arc::clone(&ready)))).collect();
    ready.wait().await;
    futures::future::join_all(all.iter_mut().map(Setup::kill)).await;

    let mut table: BTreeMap<&str, Outcome> = BTreeMap::new();
    let mut output = String::new();
    for (client, (_, name)) in clients.into_iter().zip(LANGUAGES) {
        let said = tokio::time::timeout(4 * PATIENCE, client.end()).await.expect("the client ends");
        output += &said.join("\n");
        table.insert(name, outcome(&said));
    }
    let mut of_rust = Outcome::new();
    for (cell, task) in cells.iter().zip(rust) {
        let what = task.await.unwrap().map_or_else(|err| format!("FAILED {err}"), |()| "OK".to_owned());
        of_rust.insert(cell["name"].as_str().unwrap().to_owned(), what);
    }
    table.insert("async-nats", of_rust);
    for (client, outcome) in &table {
        if let Some(why) = outcome.get(*client).and_then(|what| what.strip_prefix("MISSING ")) {
            skip_part(client, why.trim_matches(['(', ')']));
        }
    }
    let mut failed = print(&table, &versions.iter().map(|(version, ..)| *version).collect::<Vec<_>>());

    failed.extend(bad.compare(&table));

    // No output of clients, weir or its endpoints may contain a secret.
    for setup in &all {
        output += &setup.weir.log();
        for path in ["/metrics", "/healthz", "/varz", "/connz", "/accountz", "/storms", "/"] {
            output += &http::get(&setup.weir.monitor, path).await.map(|(_, body)| body).unwrap_or_default();
        }
        setup.weir.assert_no_panic();
    }
    for secret in &secrets.texts {
        assert!(!output.contains(secret.as_str()), "a secret has leaked: {secret}");
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Prints the table; returns the cells that failed.
fn print(table: &BTreeMap<&str, Outcome>, versions: &[&str]) -> Vec<String> {
    let mut failed = Vec::new();
    let mut text = format!("{:<16}", "");
    KINDS.iter().for_each(|kind| write!(text, "{kind:<10}").unwrap());
    for (client, outcome) in table {
        for version in versions {
            write!(text, "\n{client:<11}{version:<5}").unwrap();
            for kind in KINDS {
                let cell = format!("{version}-{kind}");
                let what = match outcome.get(&cell).map(String::as_str) {
                    Some("OK") => "ok",
                    Some(why) => {
                        failed.push(format!("{client} {cell}: {why}"));
                        "FAILED"
                    }
                    None if outcome.get(*client).is_some_and(|what| what.starts_with("MISSING")) => "missing",
                    None if kind == "callout" && *version == "2.9" => "server",
                    None => {
                        failed.push(format!("{client} {cell}: it said nothing; {outcome:?}"));
                        "FAILED"
                    }
                };
                write!(text, "{what:<10}").unwrap();
            }
        }
    }
    text += "\nserver: it has no such feature · missing: this client's toolchain or packages are not here";
    say(&text);
    failed
}
