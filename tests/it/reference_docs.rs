//! Compares `docs/reference/` with the running program. A metric, reason, field, key, command, option, signal or exit
//! code that stands in only one of the two fails a test. The program is asked by its endpoints, its errors, its help
//! and its signal mask, so no name is written down a second time here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use weir_testkit::{
    tls::{Authority, TlsClient, pair},
    weir::binary,
    *,
};

type Names = BTreeSet<String>;

fn page(name: &str) -> String {
    let path = project().join("docs/reference").join(name);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// What stands under a heading, up to the next one that is no deeper.
fn under<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let body = &text[start + heading.len() + 2..];
    let depth = heading.chars().take_while(|c| *c == '#').count();
    let ends = (1..=depth).filter_map(|n| body.find(&format!("\n{} ", "#".repeat(n))));
    &body[..ends.min().unwrap_or(body.len())]
}

/// The cells of the rows of its tables, without the quotes of code in the first cell.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines = text.lines().filter(|line| line.starts_with("| `"));
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    let mut rows: Vec<Vec<String>> = lines.map(cells).collect();
    rows.iter_mut().for_each(|row| row[0] = row[0].trim_matches('`').to_owned());
    rows
}

/// The names in the first column of the tables under a heading whose header says `column`.
fn column(text: &str, column: &str) -> Names {
    let table = text.split("\n\n").find(|block| block.trim_start().starts_with(&format!("| {column} |")));
    let table = table.unwrap_or_else(|| panic!("no table of {column}"));
    let names = rows(table).into_iter().map(|row| row[0].clone());
    names.filter(|name| name != column.trim_matches('`')).collect()
}

fn same(what: &str, documented: &Names, program: &Names) {
    let only_in = |one: &Names, other: &Names| one.difference(other).cloned().collect::<Vec<_>>();
    assert!(
        documented == program,
        "{what}: only in the reference {:?}; only in the program {:?}",
        only_in(documented, program),
        only_in(program, documented)
    );
}

/// The values of a label over all samples of a metric.
fn values(metrics: &metrics::Metrics, metric: &str, label: &str) -> Names {
    let value = |sample: &str| sample.split(&format!("{label}=\"")).nth(1)?.split('"').next().map(str::to_owned);
    metrics.of(metric).filter_map(|(sample, _)| value(sample)).collect()
}

/// A weir with everything that has a metric, which has been used in every way that has a name.
pub(crate) struct Scene {
    pub(crate) weir: Weir,
    /// By listener: clients of every kind, TLS, one client at most, leafnodes.
    addresses: Vec<String>,
    pid: u64,
    authority: Authority,
    _server: NatsServer,
}

impl Scene {
    async fn set() -> Self {
        let users = "authorization { timeout: 10, users: [{user: a, password: a}, {user: slow, password: a}] }";
        let leafnodes = format!("{users}\nleafnodes {{ listen: \"127.0.0.1:{}\" }}", ports::free());
        let server = NatsServer::start(ServerOptions::default().jetstream().with(&leafnodes)).await;
        let authority = Authority::new("reference");
        let tls = pair(&authority.issue("weir", &["localhost"]));
        let dir = TempDir::with_prefix("weir-test-").expect("temporary folder");
        let ports = dir.path().join("ports.json");
        let toml = format!(
            "ports_file = {ports:?}\nlame_duck_grace_period = \"100ms\"\nlame_duck_duration = \"1m\"\n\
             [[listeners]]\nlisten = \"127.0.0.1:0\"\nmax_clients = 100\nadvertise = \"fleet\"\n\
             [[listeners]]\nlisten = \"127.0.0.1:0\"\nmax_clients = 100\n[listeners.tls]\n{tls}\
             [[listeners]]\nlisten = \"127.0.0.1:0\"\nmax_clients = 1\n\
             [[listeners]]\nlisten = \"127.0.0.1:0\"\nmax_clients = 9\nkind = \"leafnode\"\n\
             [monitor]\nlisten = \"127.0.0.1:0\"\n\
             [fleet]\nname = \"edge\"\nuser = \"a\"\npassword = \"a\"\n\
             [warnings]\nwebhook = \"http://127.0.0.1:9/\"\n\
             [cluster]\npoll_interval = \"200ms\"\n\
             [[cluster.servers]]\nname = \"n1\"\naddress = {:?}\nmonitor = \"http://{}\"\n\
             [admission]\nrate = 1000\nrefusal_spread = \"0s\"\n\
             [admission.per_source]\nmax_connections = 1\nwarn_only = true\n\
             [users.slow]\nrate = 1\nburst = 1\n[names.only]\nmax_connections = 1\n\
             [accounts.\"$G\"]\nmax_connections = 1000\nmax_leafnodes = 9\n",
            server.address, server.monitor
        );
        let weir = Weir::spawn(&toml, dir).await;
        let told: Value = serde_json::from_slice(&fs::read(&ports).expect("ports")).expect("JSON");
        let addresses = told["listeners"].as_array().expect("listeners").iter().map(|a| a.as_str().unwrap().to_owned());
        let (addresses, pid) = (addresses.collect(), told["pid"].as_u64().expect("pid"));
        Self { weir, addresses, pid, authority, _server: server }
    }

    /// A weir that shows every metric.
    pub(crate) async fn used() -> Self {
        let scene = Self::set().await;
        scene.play().await;
        scene
    }

    /// Ends connections in every way but by a drain.
    async fn play(&self) {
        let (plain, good) = (&self.addresses[0], Login::user("a", "a"));
        drop(RawClient::connect(plain, &good).await);
        RawClient::connect(plain, &good).await.abandon();
        let wrong = RawClient::attempt(plain, &Login::user("a", "wrong"), PATIENCE).await;
        assert_eq!(wrong.refusal(), Some("Authorization Violation"));
        for words in [Login::user("slow", "a").connect_line(), "NONSENSE\r\n".to_owned()] {
            let mut client = RawClient::connect(plain, &good).await;
            client.send(words.as_bytes()).await.expect("send");
            client.end(PATIENCE).await;
        }
        let stranger = Authority::new("another").client(None);
        assert!(TlsClient::connect(&self.addresses[1], "localhost", false, stranger).await.is_err());
        // The second login of this user waits for the token of its rate, and leaves meanwhile.
        let slow = Login::user("slow", "a");
        eventually(PATIENCE, "a client leaves that is held", async || {
            let mut waits = RawClient::greeted(plain).await.expect("INFO");
            waits.send(slow.connect_line().as_bytes()).await.expect("send");
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(waits);
            let held = self.weir.metrics().await.sum_where("weir_closed_total", "phase", "hold");
            if held > 0.0 { Ok(()) } else { Err(held) }
        })
        .await;
        let only = good.name("only");
        let _first = RawClient::connect(plain, &only).await;
        let second = RawClient::attempt(plain, &only, PATIENCE).await;
        assert_eq!(second.refusal(), Some("maximum account active connections exceeded"));
        let config = self.authority.client(None);
        drop(TlsClient::connect(&self.addresses[1], "localhost", false, config).await.expect("TLS"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_reasons_endpoints_and_signals() {
    let mut scene = Scene::set().await;
    scene.play().await;
    // Accounts are shown while they have a client. The second client is over the quota that only warns.
    let good = Login::user("a", "a");
    let _first = RawClient::connect(&scene.addresses[0], &good).await;
    let _second = RawClient::connect(&scene.addresses[0], &good).await;
    let mut leafnode = RawClient::greeted(&scene.addresses[3]).await.expect("INFO");
    let login = b"CONNECT {\"name\":\"edge\",\"user\":\"a\",\"pass\":\"a\",\"protocol\":1}\r\nLS+ a\r\n";
    leafnode.send(login).await.expect("send");
    let (weir, text) = (&scene.weir, page("metrics.md"));

    // Families, their kinds and their labels. How full things are is looked at once a second.
    let is_all = |metrics: &metrics::Metrics| {
        let all = ["weir_account_fullness_level", "weir_fleet_account_lease", "weir_account_max_leafnodes"];
        all.iter().all(|name| metrics.knows(name))
    };
    weir.until("all is watched", is_all).await;
    let (status, shown) = http::get(&weir.monitor, "/metrics").await.expect("GET /metrics");
    assert_eq!(status, 200);
    let metrics = metrics::Metrics::parse(&shown);
    let mut program = BTreeMap::new();
    for line in shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a kind");
        let sample = if kind == "histogram" { format!("{name}_sum") } else { name.to_owned() };
        let first = metrics.of(&sample).next().unwrap_or_else(|| panic!("{sample} has no sample")).0.to_owned();
        let labels = first.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
        let labels: Vec<_> = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0)).collect();
        let shown_before = program.insert(name.to_owned(), (kind.to_owned(), labels.join(",")));
        assert!(shown_before.is_none(), "{name} is shown twice");
    }
    let mut documented = BTreeMap::new();
    // What to alert on is a table of conditions.
    let text = text.split("## What to alert on").next().expect("the first part");
    for row in rows(text) {
        let (name, labels) = row[0].split_once('{').unwrap_or((&row[0], ""));
        let kind = row[1].split(',').next().expect("a kind");
        documented.insert(name.to_owned(), (kind.to_owned(), labels.trim_end_matches('}').to_owned()));
    }
    let names = |all: &BTreeMap<String, _>| all.keys().cloned().collect();
    same("metrics", &names(&documented), &names(&program));
    assert_eq!(documented, program, "kinds and labels of metrics");

    // Reasons of refusals and bad logins, the endpoints.
    let reasons = page("reasons.md");
    let refusals = column(under(&reasons, "## Refusals"), "`reason`");
    same("reasons of refusals", &refusals, &values(&metrics, "weir_refused_total", "reason"));
    let bad = column(under(&reasons, "## Bad logins"), "`reason`");
    assert!(values(&metrics, "weir_bad_logins_total", "reason").is_subset(&bad), "{bad:?}");
    let login_failures = column(under(&reasons, "## Login failures"), "`reason`");
    same("login failures", &login_failures, &values(&metrics, "weir_server_login_failures_total", "reason"));
    let kinds = page("events.md");
    let kinds = rows(under(&kinds, "## Kinds"))
        .into_iter()
        .flat_map(|row| row[0].split("`, `").map(str::to_owned).collect::<Vec<_>>());
    same("events", &kinds.collect(), &values(&metrics, "weir_events_total", "event"));
    for path in column(&page("endpoints.md"), "path") {
        assert_eq!(http::get(&weir.monitor, &path).await.expect("GET").0, 200, "{path}");
    }

    // What the process catches, by its mask of caught signals.
    let status = fs::read_to_string(format!("/proc/{}/status", scene.pid)).expect("/proc");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("SigCgt");
    let mask = u64::from_str_radix(mask.trim(), 16).expect("a mask");
    let known = [(1, "SIGHUP"), (2, "SIGINT"), (3, "SIGQUIT"), (10, "SIGUSR1"), (12, "SIGUSR2"), (15, "SIGTERM")];
    let caught = known.iter().filter(|(n, _)| mask >> (n - 1) & 1 == 1).map(|(_, name)| (*name).to_owned());
    same("signals", &column(&page("command-line.md"), "signal"), &caught.collect());

    // A storm, for its fields: one client is all that the third listener takes.
    let _only = RawClient::connect(&scene.addresses[2], &Login::user("a", "a")).await;
    let storm = eventually(PATIENCE, "a storm", async || {
        let address = scene.addresses[2].clone();
        at_once(20, |_| {
            let address = address.clone();
            async move { drop(RawClient::attempt(&address, &Login::user("a", "a"), PATIENCE).await) }
        })
        .await;
        let (_, body) = http::get(&weir.monitor, "/storms").await.expect("GET /storms");
        let report: Value = serde_json::from_str(&body).expect("JSON");
        report["running"].as_object().cloned().ok_or("none")
    })
    .await;
    same("fields of a storm", &column(&page("endpoints.md"), "field"), &storm.keys().cloned().collect());

    let storm_began = "weir_events_total{event=\"storm_began\"}";
    weir.until("a storm is an event", |metrics| metrics.get(storm_began) >= Some(1.0)).await;

    // The drain ends the first session at once and the next ones later: weir can still be asked.
    scene.weir.signal(rustix::process::Signal::TERM);
    let draining = |metrics: &metrics::Metrics| metrics.sum_where("weir_closed_total", "reason", "draining") >= 1.0;
    let metrics = scene.weir.until("a session ends in the drain", draining).await;
    for label in ["party", "phase", "reason"] {
        let mut rows = column(under(&reasons, "## Closes"), &format!("`{label}`"));
        if label == "reason" {
            assert!(rows.remove("account_quota"), "servers before 2.12 cause it: tests/it/accounts.rs");
            assert!(rows.remove("compression"), "a leafnode causes it: tests/it/leafnode_compression.rs");
            assert!(rows.remove("kicked"), "an operator causes it: tests/it/kick.rs");
            for moved in ["drain", "lame_duck", "rebalance", "age"] {
                assert!(rows.remove(moved), "clients that are moved cause it: tests/it/moves.rs, connection_age.rs");
            }
            assert!(rows.remove("ghost"), "a client that does not answer causes it: tests/it/ghosts.rs");
            assert!(rows.remove("idle"), "it takes a policy that would end the others too: tests/it/policies.rs");
        }
        same(&format!("closes, {label}"), &rows, &values(&metrics, "weir_closed_total", label));
    }
}

/// A table of the reference and the keys in it. Tables whose name an operator chooses stand for all of their kind.
fn table(header: &str) -> String {
    let path = header.trim_matches(['[', ']', ' ']);
    match path.split('.').next() {
        Some(kind @ ("accounts" | "users" | "names")) => kind.to_owned(),
        _ => path.to_owned(),
    }
}

fn documented_keys() -> BTreeMap<String, Names> {
    let (text, mut now, mut all) = (page("configuration.md"), String::new(), BTreeMap::<_, Names>::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            now = if heading == "Top level" { String::new() } else { table(heading.trim_matches('`')) };
        } else if let Some(key) = line.strip_prefix("- **`").and_then(|rest| rest.split('`').next()) {
            all.entry(now.clone()).or_default().insert(key.to_owned());
        }
    }
    all
}

#[test]
fn keys_of_the_configuration() {
    let documented = documented_keys();
    // config/reference.toml, what is commented out included.
    let text = fs::read_to_string(project().join("config/reference.toml")).expect("reference.toml");
    let (mut now, mut shipped) = (String::new(), BTreeMap::<String, Names>::new());
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if line.starts_with('[') {
            now = table(line.split('#').next().expect("a header"));
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            shipped.entry(now.clone()).or_default().insert(key.trim_matches('"').to_owned());
        }
    }
    for name in documented.keys().chain(shipped.keys()) {
        let of = |all: &BTreeMap<String, Names>| all.get(name).cloned().unwrap_or_default();
        same(&format!("keys of [{name}] beside config/reference.toml"), &of(&documented), &of(&shipped));
    }

    // What the program itself takes: it names all keys of a table in which one is wrong. In these tables an
    // operator chooses the keys: any language, any header.
    let chosen = ["admission.max_hold_by_lang", "listeners.websocket.headers", "policies.version.min_version_by_lang"];
    for (name, keys) in documented.iter().filter(|(name, _)| !chosen.contains(&name.as_str())) {
        let (header, kind) = match &**name {
            "" => (String::new(), ""),
            "listeners" | "listeners.tls.certificates" | "cluster.servers" => (format!("[[{name}]]\n"), ""),
            "listeners.websocket" | "listeners.passthrough" => {
                let kind = name.rsplit('.').next().expect("a kind");
                (format!("[{name}]\n"), kind)
            }
            "accounts" | "users" | "names" => (format!("[{name}.x]\n"), ""),
            _ => (format!("[{name}]\n"), ""),
        };
        let listener = match (name.starts_with("listeners."), kind) {
            (false, _) => String::new(),
            (true, "") => "[[listeners]]\nlisten = \"127.0.0.1:1\"\n".to_owned(),
            (true, kind) => format!("[[listeners]]\nlisten = \"127.0.0.1:1\"\nkind = \"{kind}\"\n"),
        };
        let tls = if name.ends_with("certificates") { "[listeners.tls]\n" } else { "" };
        let said = check(&format!("{listener}{tls}{header}nonsense = 1\n"));
        let line = said.lines().find(|line| line.contains("nonsense")).unwrap_or_else(|| panic!("[{name}]: {said}"));
        let mut listed: Names = line.split(", ").map(|one| one.rsplit([' ', ':']).next().unwrap().to_owned()).collect();
        let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
        let is_table = |key: &String| {
            let table = format!("{prefix}{key}");
            documented.keys().any(|other| *other == table || other.starts_with(&format!("{table}.")))
        };
        listed.retain(|key| !is_table(key) && *key != "max_hold_by_lang");
        same(&format!("keys of [{name}] beside the program's"), keys, &listed);
    }
}

/// What `weir check` says to a configuration that is wrong.
fn check(toml: &str) -> String {
    let (code, said) = check_any(toml);
    assert_eq!(code, 1, "{toml}");
    said
}

/// Exit code and output of `weir check`.
fn check_any(toml: &str) -> (i32, String) {
    let dir = TempDir::with_prefix("weir-test-").expect("temporary folder");
    let file = dir.path().join("weir.toml");
    fs::write(&file, toml).expect("write");
    weir(&["check", "-c", file.to_str().expect("a path")])
}

/// The files that an example names need not be there; everything else in it has to be right.
#[test]
fn configurations_in_documents_are_right() {
    let mut looked_at = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document");
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let servers = "[[cluster.servers]]\naddress = \"n1:4222\"\n";
            let servers = if block.contains("[[cluster.servers]]") { "" } else { servers };
            let (code, said) = check_any(&format!("{block}\n{servers}"));
            let is_right = code == 0 || said.lines().all(|line| line.contains("No such file"));
            assert!(is_right, "{}:\n{block}\n{said}", document.display());
            looked_at += 1;
        }
    }
    assert!(looked_at > 10, "looked at {looked_at} examples only");
}

/// Exit code and output of a weir that ends by itself.
fn weir(args: &[&str]) -> (i32, String) {
    let output = Command::new(binary()).args(args).output().expect("weir runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("a code"), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn commands_options_and_exit_codes() {
    let text = page("command-line.md");
    let (mut codes, help) = (Names::new(), weir(&["--help"]));
    codes.insert(help.0.to_string());
    let listed = help.1.split("Commands:\n").nth(1).expect("commands").split("\n\n").next().expect("a list");
    let commands = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Names = commands.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect();
    same("commands", &column(&text, "command"), &commands);

    let options = |text: &str| -> Names {
        let starts = text.match_indices("--").map(|(at, _)| &text[at + 2..]);
        let names = starts.map(|rest| rest.split(|c: char| c != '-' && !c.is_ascii_lowercase()).next().unwrap_or(""));
        names.filter(|name| !name.is_empty() && !["help", "version"].contains(name)).map(str::to_owned).collect()
    };
    for command in commands.iter().filter(|command| *command != "help") {
        let said = weir(&[command, "--help"]).1;
        let lines = said.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let program = options(&lines.map(|line| line.split("  ").next().unwrap_or("")).collect::<Vec<_>>().join("\n"));
        same(&format!("options of {command}"), &options(under(&text, &format!("### weir {command}"))), &program);
    }

    codes.insert(weir(&["run", "--nonsense"]).0.to_string());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dir = TempDir::with_prefix("weir-test-").expect("temporary folder");
    let file = dir.path().join("weir.toml");
    let address = taken.local_addr().expect("an address");
    fs::write(
        &file,
        format!("[[listeners]]\nlisten = \"{address}\"\n[[cluster.servers]]\naddress = \"127.0.0.1:1\"\n"),
    )
    .expect("write");
    codes.insert(weir(&["run", "-c", file.to_str().expect("a path")]).0.to_string());
    same("exit codes", &column(under(&text, "## Exit codes"), "code"), &codes);
}

/// All documents that the repository has, by their paths.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![project().join("docs"), project().join("benches")];
    found.extend(fs::read_dir(project()).expect("the project").map(|entry| entry.expect("an entry").path()));
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.retain(|path| path.extension().is_some_and(|ext| ext == "md"));
    found
}

/// The anchors of a page, as GitHub and mdBook make them of its headings.
pub(crate) fn anchors(text: &str) -> Names {
    let headings =
        text.lines().filter_map(|line| line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim()));
    let kept = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn links_lead_somewhere_and_every_page_is_listed() {
    let (mut wrong, mut looked_at) = (Vec::new(), 0);
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document");
        let folder = document.parent().expect("a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            looked_at += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { folder.join(file) };
            let has_anchor = |path: &Path| anchors(&fs::read_to_string(path).unwrap_or_default()).contains(anchor);
            if !target.exists() || !anchor.is_empty() && !has_anchor(&target) {
                wrong.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
    assert!(looked_at > 100, "looked at {looked_at} links only");
    let summary = fs::read_to_string(project().join("docs/SUMMARY.md")).expect("SUMMARY.md");
    let docs = project().join("docs");
    let pages = documents().into_iter().filter_map(|path| Some(path.strip_prefix(&docs).ok()?.display().to_string()));
    let missing: Vec<_> =
        pages.filter(|page| page != "SUMMARY.md" && !summary.contains(&format!("({page})"))).collect();
    assert!(missing.is_empty(), "not in docs/SUMMARY.md: {missing:?}");
}

/// Files and folders of the source are named as they are; in ARCHITECTURE.md also below `src`. A dated page keeps the
/// names of its day.
#[test]
fn paths_that_documents_name_exist() {
    let (mut wrong, mut looked_at) = (Vec::new(), 0);
    let is_dated = |path: &Path| ["measurements", "decisions", "CHANGELOG"].iter().any(|part| holds(path, part));
    for document in documents().into_iter().filter(|path| !is_dated(path)) {
        let text = fs::read_to_string(&document).expect("a document");
        for code in text.split('`').skip(1).step_by(2) {
            let of_source = ["src/", "tests/", "scripts/", "examples/", "fuzz/"].iter().any(|at| code.starts_with(at));
            let below_src = holds(&document, "ARCHITECTURE") && (code.ends_with(".rs") || code.ends_with('/'));
            let is_path = code.chars().all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
            if !is_path || !(of_source || below_src) {
                continue;
            }
            looked_at += 1;
            if ![project(), project().join("src")].iter().any(|root| root.join(code).exists()) {
                wrong.push(format!("{}: {code}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "paths that are not there:\n{}", wrong.join("\n"));
    assert!(looked_at > 30, "looked at {looked_at} paths only");
}

fn holds(path: &Path, part: &str) -> bool {
    path.strip_prefix(project()).is_ok_and(|inside| inside.to_string_lossy().contains(part))
}
