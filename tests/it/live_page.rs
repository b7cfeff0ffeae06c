//! The live page and its numbers: `/` for browsers, `/overviewz` for the page and `weir top`.

use std::{collections::BTreeSet, process::Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use weir_testkit::*;

const OF_A_BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

async fn overview(weir: &Weir, query: &str) -> Value {
    let (status, body) = http::get(&weir.monitor, &format!("/overviewz{query}")).await.expect("GET /overviewz");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Asks until the overview is `so`.
async fn until(weir: &Weir, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    eventually(PATIENCE, what, async || {
        let now = overview(weir, "").await;
        if so(&now) { Ok(now) } else { Err(now) }
    })
    .await
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().expect("a list").iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_numbers_are_those_of_the_servers() {
    let users =
        "accounts { ORDERS: { users: [{ user: orders, password: p }] }, B: { users: [{ user: b, password: p }] } }";
    let mut cluster = Cluster::start(2, |options| options.with(users).max_connections(40)).await;
    let weir = WeirConfig::of(&cluster)
        .cluster("slow_start = \"0s\"")
        .account("ORDERS", "users = [\"orders\"]\nmax_connections = 3")
        .account("B", "users = [\"b\"]")
        .start()
        .await;
    let (orders, b) = (Login::user("orders", "p"), Login::user("b", "p"));
    let mut clients = Vec::new();
    for login in [&orders, &orders, &orders, &b, &b] {
        clients.push(RawClient::connect(&weir.address, login).await);
    }
    // One past weir.
    let direct = RawClient::connect(&cluster.servers[0].address, &b).await;
    for _ in 0..4 {
        let refused = RawClient::attempt(&weir.address, &orders, PATIENCE).await;
        assert_eq!(refused.refusal(), Some("maximum account active connections exceeded"));
    }
    let wrong = RawClient::attempt(&weir.address, &Login::user("b", "wrong"), PATIENCE).await;
    assert_eq!(wrong.refusal(), Some("Authorization Violation"));
    let seen = until(&weir, "everything is counted", |now| {
        let last = now["history"]["sessions"].as_array().and_then(|all| all.last()).cloned();
        let others: u64 = now["servers"].as_array().unwrap().iter().map(|one| one["others"].as_u64().unwrap()).sum();
        last == Some(json!(5))
            && others == 1
            && now["refusals"][0]["last_minute"] == 4
            && now["clients"]["sessions"] == 5
            && now["bad_logins"].as_array().is_some_and(|all| all.iter().any(|one| one["total"] == 1))
            && now["sources"] != json!([])
    })
    .await;

    assert_eq!((&seen["form"], &seen["health"]), (&json!(1), &json!({ "status": "ok", "error": null })));
    let clients_now = &seen["clients"];
    assert_eq!(
        (&clients_now["admitted"], &clients_now["refused"], &clients_now["waiting"]),
        (&json!(5), &json!(4), &json!(0))
    );
    let (mut sessions, mut headroom) = (0, 0);
    for server in &cluster.servers {
        let shown = named(&seen["servers"], &server.name);
        assert_eq!(
            (&shown["state"], &shown["why"], &shown["max_connections"]),
            (&json!("up"), &json!(null), &json!(40))
        );
        assert_eq!(shown["connections"], server.connections().await, "{shown}");
        assert_eq!(
            shown["reserve"].as_u64().unwrap() + shown["headroom"].as_u64().unwrap(),
            40 - shown["connections"].as_u64().unwrap()
        );
        sessions += shown["sessions"].as_u64().unwrap();
        headroom += shown["headroom"].as_u64().unwrap();
    }
    assert_eq!((sessions, clients_now["headroom"].as_u64()), (5, Some(headroom)));
    let account = named(&seen["accounts"], "ORDERS");
    let figures = ["connections", "max_connections", "refused", "growth"].map(|figure| &account[figure]);
    assert_eq!(figures, [&json!(3), &json!(3), &json!(4), &json!(null)], "{account}");
    assert_eq!((&named(&seen["accounts"], "B")["connections"], &seen["accounts_in_use"]), (&json!(2), &json!(2)));
    let refusal = &seen["refusals"][0];
    assert_eq!(
        (&refusal["reason"], &refusal["total"], &refusal["last_ten_minutes"]),
        (&json!("account_quota"), &json!(4), &json!(4))
    );
    assert_eq!(named(&seen["bad_logins"], "violation")["total"], 1);
    assert_eq!(seen["sources"], json!([{ "source": "127.0.0.1", "bad_logins": 1 }]));

    let refused = &seen["refused_clients"][0];
    let said = ["reason", "account", "source", "count"].map(|part| &refused[part]);
    assert_eq!(said, [&json!("account_quota"), &json!("ORDERS"), &json!("127.0.0.1"), &json!(4)], "{refused}");
    let counted = until(&weir, "the sessions are counted", |now| now["leaks"]["sessions"] == 5).await;
    assert_eq!(counted["largest_sources"], json!([{ "source": "127.0.0.1", "sessions": 5 }]));

    let warned = until(&weir, "it is warned of the account that is full", |now| now["warnings"] != json!([])).await;
    let warning = &warned["warnings"][0];
    assert_eq!(
        (&warning["of"], &warning["name"], &warning["level"]),
        (&json!("account"), &json!("ORDERS"), &json!("full"))
    );

    // Who polls gets what it does not have.
    let history = &seen["history"];
    let sum = |column: &Value| column.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum(&history["admitted"]), sum(&history["refused"])), (5, 4));
    let second = history["second"].as_u64().unwrap();
    let next = eventually(PATIENCE, "a second passes", async || {
        let next = overview(&weir, &format!("?since={second}")).await;
        if next["history"]["second"].as_u64() > Some(second) { Ok(next) } else { Err(()) }
    })
    .await;
    let later = next["history"]["second"].as_u64().unwrap() - second;
    for (name, column) in next["history"].as_object().unwrap().iter().filter(|(_, column)| column.is_array()) {
        assert_eq!(column.as_array().unwrap().len() as u64, later, "{name}");
    }
    for wrong in ["?since=", "?since=x", "?since=-1"] {
        assert_eq!(http::get(&weir.monitor, &format!("/overviewz{wrong}")).await.unwrap().0, 400, "{wrong}");
    }

    // A server that is gone says why it gets nobody.
    let dead = cluster.servers[1].name.clone();
    cluster.servers[1].kill9();
    drop(RawClient::connect(&weir.address, &b).await);
    let state = |now: &Value| named(&now["servers"], &dead)["state"].clone();
    let now = eventually(PATIENCE, "it is down", async || {
        // Somebody has to find out.
        drop(RawClient::connect(&weir.address, &b).await);
        let now = overview(&weir, "").await;
        if state(&now) == "ejected" { Ok(now) } else { Err(state(&now)) }
    })
    .await;
    let why = named(&now["servers"], &dead)["why"].as_str().expect("a reason").to_owned();
    assert!(why.starts_with("it does not answer") || why.starts_with("others go first"), "{why}");
    drop((clients, direct));
    weir.assert_nothing_leaked().await;
}

/// The values of an answer by their paths, `[]` for what is in a list. Empty lists show nothing.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    // What a growth has is not told by path: most things have none.
    if at.ends_with("].growth") || at.ends_with("].full") {
        found.insert(at.to_owned());
        return;
    }
    match value {
        Value::Object(fields) => {
            let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
            fields.iter().for_each(|(name, value)| paths(value, &below(name), found));
        }
        // What a storm has is not told by path.
        _ if [
            "storms.over",
            "storms.running",
            "leaks.growing",
            "refused_clients",
            "moves.rebalance",
            "moves.emptied",
            "moves.totals",
        ]
        .contains(&at) => {}
        Value::Array(list) => list.iter().for_each(|value| paths(value, &format!("{at}[]"), found)),
        _ => {
            found.insert(at.to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_value_is_in_the_reference_and_the_other_way_round() {
    let scene = crate::reference_docs::Scene::used().await;
    let _client = RawClient::connect(&scene.weir.address, &Login::user("a", "a")).await;
    // The third listener takes one client, and so is full.
    let _only = RawClient::connect(&scene.weir.other_listeners[1], &Login::user("a", "a")).await;
    let seen = until(&scene.weir, "a second has passed", |now| {
        let is_full =
            ["warnings", "largest_sources"].iter().all(|list| now[*list].as_array().is_some_and(|all| !all.is_empty()));
        now["history"]["second"].as_u64() > Some(0) && now["accounts_in_use"].as_u64() > Some(0) && is_full
    })
    .await;
    // Lists that have rows only after something has gone wrong.
    let lists = [
        "storms.running",
        "storms.over[]",
        "leaks.growing[]",
        "refused_clients[]",
        "moves.rebalance",
        "moves.emptied[]",
        "moves.totals[]",
    ];
    let mut program = BTreeSet::from(lists.map(str::to_owned));
    paths(&seen, "", &mut program);
    let text = std::fs::read_to_string(project().join("docs/reference/overview.md")).unwrap();
    let rows = text.split("## States").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<_> = rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned())).collect();
    assert_eq!(documented, program);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_get_the_page_at_any_path_and_programs_a_list() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let config = WeirConfig::of_servers(&[&server]);
    let dir = tempfile::TempDir::with_prefix("weir-test-").unwrap();
    let ports = dir.path().join("ports.json").display().to_string();
    let toml = config.toml(&ports).replace("[monitor]\n", "[monitor]\nhttp_base_path = \"ops/weir\"\n");
    let weir = Weir::spawn(&toml, dir).await;
    let get = async |path: &str, accept| http::get_accepting(&weir.monitor, path, accept).await.unwrap();
    let (status, kind, body) = get("/ops/weir/", Some(OF_A_BROWSER)).await;
    assert_eq!((status, &*kind), (200, "text/html; charset=utf-8"));
    assert!(body.starts_with("<!DOCTYPE html>") && body.contains("overviewz") && !body.contains("src="));
    // Without the slash its numbers would be beside its folder.
    assert_eq!(get("/ops/weir", Some(OF_A_BROWSER)).await.0, 308);
    assert_eq!(get("/ops/weir/overviewz", None).await.0, 200);
    assert_eq!(get("/", Some(OF_A_BROWSER)).await.0, 404);
    for path in ["/ops/weir/", "/ops/weir"] {
        let (status, _, list) = get(path, Some("*/*")).await;
        assert!(status == 200 && list.contains("/overviewz") && !list.contains("<!DOCTYPE"), "{path}: {list}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_prints_a_frame_where_there_is_no_terminal() {
    let server = NatsServer::start(ServerOptions::default().max_connections(100)).await;
    let weir = WeirConfig::of_servers(&[&server]).cluster("slow_start = \"0s\"").start().await;
    let login = Login::nobody();
    let _clients = futures::future::join_all([(); 3].map(|()| RawClient::connect(&weir.address, &login))).await;
    until(&weir, "three are in", |now| now["servers"][0]["connections"] == 3).await;
    let top = async |monitor: &str| {
        let mut command = Command::new(weir_testkit::weir::binary());
        let output = command.args(["top", "--monitor", monitor]).output().await.expect("weir runs");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, frame, _) = top(&format!("http://{}", weir.monitor)).await;
    let line = |word: &str| frame.lines().find(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {frame}"));
    assert_eq!(code, Some(0), "{frame}");
    assert!(line("sessions ").contains(" 3 ") && line("n1 ").contains("3 of 100"), "{frame}");
    assert!(line("$G").contains(" 3 ") && line(" weir ").contains("serving"), "{frame}");
    let gone = ports::free();
    let (code, _, why) = top(&format!("http://127.0.0.1:{gone}")).await;
    assert!(code == Some(1) && why.contains("refused"), "{code:?} {why}");
    // A server's monitoring port is another thing.
    let (code, _, why) = top(&server.monitor).await;
    assert!(code == Some(1) && why.contains("it is no weir"), "{code:?} {why}");
    let (code, _, why) = top("https://127.0.0.1:1").await;
    assert!(code == Some(64) && why.contains("plain HTTP"), "{code:?} {why}");
}

/// A browser that is spoken to over its debugging pipe: JSON with a zero byte behind each message.
struct Browser {
    _process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    number: u64,
    session: Option<String>,
    _folder: tempfile::TempDir,
}

impl Browser {
    /// `None` where there is no Chromium.
    async fn start() -> Option<Self> {
        let named = std::env::var_os("CHROMIUM").map(std::path::PathBuf::from);
        let names = named.into_iter().chain(["chromium".into(), "chromium-browser".into(), "google-chrome".into()]);
        let is_there = |name: &std::path::PathBuf| std::process::Command::new(name).arg("--version").output().is_ok();
        let chromium = names.into_iter().find(is_there)?;
        let folder = tempfile::TempDir::with_prefix("weir-test-").unwrap();
        // It reads from descriptor 3 and writes to 4.
        let mut process = Command::new("sh")
            .arg("-c")
            .arg("exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1")
            .arg(chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("sh runs");
        let (to, from) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        let from = BufReader::new(from);
        let mut browser = Self { _process: process, to, from, number: 0, session: None, _folder: folder };
        let page = eventually(PATIENCE, "the browser has a page", async || {
            let targets = browser.call("Target.getTargets", json!({})).await;
            let pages = targets["targetInfos"].as_array().unwrap().iter().find(|one| one["type"] == "page");
            pages.map(|one| one["targetId"].clone()).ok_or(targets.clone())
        })
        .await;
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": page, "flatten": true })).await;
        browser.session = Some(attached["sessionId"].as_str().expect("a session").to_owned());
        Some(browser)
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).await.expect("it reads");
        loop {
            let mut answer = Vec::new();
            tokio::time::timeout(PATIENCE, self.from.read_until(0, &mut answer))
                .await
                .expect("in time")
                .expect("it runs");
            assert_eq!(answer.pop(), Some(0), "the browser has ended");
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// What an expression is on the page.
    async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is `value`.
    async fn until(&mut self, expression: &str, value: impl Into<Value>) {
        let value = value.into();
        eventually(PATIENCE, expression, async || {
            let now = self.eval(expression).await;
            if now == value { Ok(()) } else { Err(now) }
        })
        .await;
    }
}

/// Counts what the page may not do, from before its first script on.
const WATCH: &str = "window.wrong = []; addEventListener('error', (event) => wrong.push(event.message)); \
    addEventListener('unhandledrejection', (event) => wrong.push(String(event.reason))); \
    addEventListener('securitypolicyviolation', (event) => wrong.push(event.violatedDirective + ' ' + event.blockedURI));";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_live_numbers_and_runs_nothing_that_others_have_written() {
    let Some(mut browser) = Browser::start().await else {
        return skip("needs a browser: no chromium on PATH, and CHROMIUM names none");
    };
    let users = "accounts { \"<q>A</q>\": { users: [{ user: a, password: p }] } }";
    let server = NatsServer::start(ServerOptions::default().with(users).max_connections(100)).await;
    let mut weir = WeirConfig::of_servers(&[&server])
        .replacing("name = \"n1\"", "name = \"<u>n1</u>\"")
        .account("\"<q>A</q>\"", "users = [\"a\"]\nmax_connections = 2")
        .start()
        .await;
    browser.call("Page.enable", json!({})).await;
    browser.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": WATCH })).await;
    browser.call("Page.navigate", json!({ "url": format!("http://{}/", weir.monitor) })).await;
    let figure = |tile: &str| format!("document.querySelector('#tiles .{tile} .figure')?.textContent");
    browser.until(&figure("sessions"), "0").await;
    let login = Login::user("a", "p").name("<u>name</u>");
    let clients = [RawClient::connect(&weir.address, &login).await, RawClient::connect(&weir.address, &login).await];
    browser.until(&figure("sessions"), "2").await;
    browser.until("document.querySelector('#health').textContent", "serving").await;
    browser.until("document.querySelector('#servers .badge').textContent", "up").await;
    let refused = RawClient::attempt(&weir.address, &login, PATIENCE).await;
    assert_eq!(refused.refusal(), Some("maximum account active connections exceeded"));
    browser.until("document.querySelector('#refusals code')?.textContent", "account_quota").await;
    // Names are text.
    browser.until("document.querySelector('#servers b').textContent", "<u>n1</u>").await;
    browser.until("document.querySelector('#accounts .who').textContent", "<q>A</q>").await;
    assert_eq!(browser.eval("document.querySelectorAll('u, q').length").await, 0);
    // Rows of one key are as many as their items, however often they are shown.
    let rows = "(() => { const list = document.createElement('ul'); const row = () => document.createElement('li'); \
        const show = (items) => { dom.list(list, items, (one) => one[0], row, (child, one) => dom.text(child, one)); \
        return [...list.children].map((child) => child.textContent).join(); }; \
        return [show(['ab', 'ac', 'b']), show(['ab', 'ac', 'b']), show(['ab', 'ac', 'b']), show(['b', 'ac'])]; })()";
    assert_eq!(browser.eval(rows).await, json!(["ab,ac,b", "ab,ac,b", "ab,ac,b", "b,ac"]));
    // The page's own policy keeps out what would get in in spite of that.
    let kept_out =
        "(() => { try { document.body.innerHTML = '<u>x</u>'; return 'taken'; } catch (e) { return e.name; } })()";
    assert_eq!(browser.eval(kept_out).await, "TypeError");
    browser.eval("document.body.append(Object.assign(document.createElement('style'), {textContent: 'u{}'}))").await;
    browser.until("wrong.some((what) => what.startsWith('style-src'))", true).await;
    browser.eval("wrong = wrong.filter((what) => !/^(style-src|require-trusted)/.test(what))").await;
    assert_eq!(browser.eval("wrong").await, json!([]));

    // Without weir the page says so, and goes on asking.
    assert_eq!(browser.eval("document.querySelector('#gone').hidden").await, true);
    drop(clients);
    weir.signal(Signal::KILL);
    browser.until("document.querySelector('#gone').hidden", false).await;
    let said = browser.eval("document.querySelector('#gone').textContent").await;
    assert!(said.as_str().is_some_and(|said| said.contains("not to be reached") && said.contains(" s old")), "{said}");
    assert_eq!(browser.eval("wrong").await, json!([]));
}
