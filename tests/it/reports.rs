//! `/reportz` and `weir report`: who is refused, what leaks, who reconnects, where the sessions are, how long the room
//! lasts, with real clients in front of real servers.

use std::{process::Command, time::Duration};

use serde_json::Value;
use weir_testkit::{weir::binary, *};

const ACCOUNTS: &str = "accounts {
    ORDERS { users: [{user: app, password: p}] }
    OTHERS { users: [{user: other, password: p}] }
}";

fn app(name: &str) -> Login {
    Login::user("app", "p").name(name)
}

async fn reportz(weir: &Weir, query: &str) -> Value {
    let (status, body) = http::get(&weir.monitor, &format!("/reportz?{query}")).await.expect("GET /reportz");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The rows of a list in which all these members are so.
fn rows<'a>(list: &'a Value, members: &[(&str, &str)]) -> Vec<&'a Value> {
    let all = list.as_array().expect("a list").iter();
    all.filter(|row| members.iter().all(|(key, value)| row[key] == *value)).collect()
}

/// Exit code and output of `weir report`.
fn weir_report(args: &[&str]) -> (i32, String) {
    let output = Command::new(binary()).arg("report").args(args).output().expect("weir runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("a code"), text(&output.stdout) + &text(&output.stderr))
}

/// The tables that weir prints, which fit.
fn tables(weir: &Weir, args: &[&str]) -> String {
    let url = format!("http://{}", weir.monitor);
    let (code, said) = weir_report(&[&["--monitor", &url], args].concat());
    assert_eq!(code, 0, "{said}");
    let widest = said.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{widest:?} columns:\n{said}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_client_is_found_by_name_with_reason_account_user_and_source() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let config = WeirConfig::of_servers(&[&server]).default_settings();
    let weir = config.account("ORDERS", "users = [\"app\"]\nmax_connections = 1").start().await;
    let _inside = RawClient::connect(&weir.address, &app("orders-web")).await;
    for login in [app("orders-worker"), app("orders-worker"), app("\u{1b}[31mred\nforged")] {
        let attempt = RawClient::attempt(&weir.address, &login, PATIENCE).await;
        assert_eq!(attempt.refusal(), Some("maximum account active connections exceeded"), "{attempt:?}");
    }
    let wrong = Login::user("other", "s3cr3t-wrong").name("guesser");
    assert_eq!(RawClient::attempt(&weir.address, &wrong, PATIENCE).await.refusal(), Some("Authorization Violation"));
    let report = eventually(PATIENCE, "all four are reported", async || {
        let report = reportz(&weir, "report=refusals").await["refusals"].clone();
        if report["total"] == 4 { Ok(report) } else { Err(report) }
    })
    .await;
    let worker = [("reason", "account_quota"), ("account", "ORDERS"), ("user", "app"), ("source", "127.0.0.1")];
    let named = [&worker[..], &[("name", "orders-worker")]].concat();
    let [row] = rows(&report["clients"], &named)[..] else { panic!("{report}") };
    assert_eq!((&row["count"], &row["minutes_ago"]), (&2.into(), &0.into()), "{report}");
    let [first] = rows(&report["reasons"], &[("reason", "account_quota")])[..] else { panic!("{report}") };
    assert!(first["count"] == 3 && first["advice"].as_str().is_some_and(|advice| advice.contains("limit")), "{report}");
    assert_eq!(rows(&report["names"], &[("name", "guesser")]).len(), 1, "{report}");

    let found = reportz(&weir, "report=refusals&name=GUESSER&limit=5").await;
    let clients = found["refusals"]["clients"].as_array().expect("a list");
    assert_eq!((clients.len(), &clients[0]["reason"]), (1, &"violation".into()), "{found}");
    assert!(found.get("leaks").is_none(), "{found}");

    let said = tables(&weir, &["refusals"]);
    assert!(said.starts_with("REFUSALS  4 in the last"), "{said}");
    let row = said.lines().find(|line| line.contains("orders-worker")).unwrap_or_else(|| panic!("{said}"));
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells, ["account_quota", "ORDERS", "app", "orders-worker", "127.0.0.1", "2", "now"]);
    assert!(!said.contains('\u{1b}') && said.contains("\\u{1b}[31mred\\nforged"), "{said}");
    let only = tables(&weir, &["refusals", "--name", "guesser"]);
    assert!(only.contains("violation") && !only.contains("orders-worker"), "{only}");
    let json = weir_report(&["--monitor", &weir.monitor, "--json", "refusals"]).1;
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON")["refusals"]["total"], 4);
    assert!(![&said, &json].iter().any(|text| text.contains("s3cr3t")), "{json}");
}

/// One connection a second from one name, beside clients that stay and others that come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leak_is_reported_by_name_and_how_long_the_room_lasts() {
    let limited = |options: ServerOptions| options.with(&format!("{ACCOUNTS}\nmax_connections: 1000"));
    let cluster = Cluster::start(2, limited).await;
    let config = WeirConfig::of(&cluster).default_settings().cluster("warn_at = \"5%\"");
    let weir = config.account("ORDERS", "users = [\"app\"]\nmax_connections = 400").start().await;
    let mut stay = Vec::new();
    for n in 0..10 {
        stay.push(RawClient::connect(&weir.address, &app(&format!("service {}", n % 2))).await);
        stay.push(RawClient::connect(&weir.address, &Login::user("other", "p").name("")).await);
    }
    let mut leaked = Vec::new();
    let report = loop {
        leaked.push(RawClient::connect(&weir.address, &app("the leak")).await);
        // It comes and goes, and is no leak.
        drop(RawClient::connect(&weir.address, &app("flaps")).await);
        let report = reportz(&weir, "report=leaks").await["leaks"].clone();
        if !rows(&report["growing"], &[("by", "name")]).is_empty() {
            break report;
        }
        assert!(leaked.len() < 200, "200 connections, and it is not told: {report}");
        // The pace of the leak, which is what is told.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    say(&format!("told at {} connections", leaked.len()));
    let named = [("by", "name"), ("account", "ORDERS"), ("group", "the leak")];
    let [leak] = rows(&report["growing"], &named)[..] else { panic!("{report}") };
    let number = |key: &str| leak[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
    assert!(number("grown") >= 10.0 && number("connections") >= number("grown"), "{leak}");
    assert!(number("per_minute") > 5.0 && number("over_seconds") >= 40.0, "{leak}");
    assert_eq!(rows(&report["growing"], &[("by", "name")]).len(), 1, "{report}");
    assert_eq!(rows(&report["growing"], &[("by", "user"), ("group", "app")]).len(), 1, "{report}");
    let overview = http::get(&weir.monitor, "/overviewz").await.expect("GET /overviewz").1;
    let overview: Value = serde_json::from_str(&overview).expect("JSON");
    assert_eq!(rows(&overview["leaks"]["growing"], &named).len(), 1, "{overview}");
    assert_eq!((&report["unnamed_sessions"], &report["idle_sessions"]), (&10.into(), &0.into()), "{report}");
    let unnamed = [("account", "OTHERS"), ("user", "other"), ("source", "127.0.0.1")];
    assert_eq!(rows(&report["unnamed"], &unnamed)[0]["connections"], 10, "{report}");

    // The account fills with the leak, and says when it is full: everywhere the same. Whoever asks between two
    // looks of weir's gets two answers.
    let headroom = eventually(PATIENCE, "all tell the same of the account", async || {
        let headroom = reportz(&weir, "report=headroom").await["headroom"].clone();
        let overview = http::get(&weir.monitor, "/overviewz").await.expect("GET /overviewz").1;
        let overview: Value = serde_json::from_str(&overview).expect("JSON");
        let scrape = weir.metrics().await;
        let of_orders = |list: &Value| {
            let row = list.as_array().and_then(|all| all.iter().find(|row| row["name"] == "ORDERS")).cloned();
            let row = row.unwrap_or_default();
            (row["growth"].clone(), row["full"].clone())
        };
        let answers = [&headroom["accounts"], &overview["accounts"], &overview["warnings"]].map(of_orders);
        let seconds = answers[0].1["seconds"].as_f64();
        let full_in = scrape.get("weir_account_full_in_seconds{account=\"ORDERS\"}").expect("the account is told");
        // A growth that may be chance is no alert.
        let is_told = seconds.is_some_and(|seconds| full_in.is_infinite() || (full_in - seconds).abs() < 1.0);
        let is_same = answers[0].0.is_object() && answers.iter().all(|one| *one == answers[0]);
        if is_same && is_told { Ok(headroom) } else { Err((answers, full_in)) }
    })
    .await;
    let [orders] = rows(&headroom["accounts"], &[("name", "ORDERS")])[..] else { panic!("{headroom}") };
    assert_eq!((&orders["limit"], &orders["usable"]), (&400.into(), &400.into()), "{headroom}");
    assert!(orders["growth"]["per_minute"].as_f64() > Some(5.0), "{headroom}");
    let times = ["at_80_percent", "full"].map(|key| orders[key]["seconds"].as_u64().expect("a time"));
    assert!(0 < times[0] && times[0] < times[1], "{headroom}");
    for row in rows(&headroom["servers"], &[]) {
        assert_eq!((&row["limit"], &row["usable"]), (&1000.into(), &980.into()), "{headroom}");
    }

    // Who reconnects.
    let clients = leaked.len() as u64;
    eventually(PATIENCE, "who comes and goes is counted", async || {
        let churn = reportz(&weir, "report=churn&name=flaps").await["churn"].clone();
        let [flaps] = rows(&churn["clients"], &[("name", "flaps"), ("user", "app")])[..] else { return Err(churn) };
        let ended = flaps["ended_soon"].as_u64().is_some_and(|n| n + 2 >= clients);
        if flaps["began"] == clients && ended { Ok(()) } else { Err(churn) }
    })
    .await;

    // Where the sessions are: what the servers count themselves.
    let distribution = eventually(PATIENCE, "weir's distribution is the servers'", async || {
        let report = reportz(&weir, "report=distribution").await["distribution"].clone();
        let mut theirs = Vec::new();
        for server in &cluster.servers {
            theirs.push(server.connections().await);
        }
        let of = |name: &str| rows(&report["servers"], &[("server", name)])[0]["sessions"].as_u64();
        let ours: Vec<_> = cluster.servers.iter().filter_map(|server| of(&server.name)).collect();
        if ours == theirs { Ok(report) } else { Err((ours, theirs)) }
    })
    .await;
    let [others] = rows(&distribution["accounts"], &[("account", "OTHERS")])[..] else { panic!("{distribution}") };
    assert_eq!((&others["sessions"], &others["mean"]), (&10.into(), &5.0.into()), "{distribution}");
    let spread: u64 = rows(&others["servers"], &[]).iter().filter_map(|one| one["sessions"].as_u64()).sum();
    assert_eq!(spread, 10, "{distribution}");

    let all = tables(&weir, &[]);
    say(&all);
    for part in ["REFUSALS  none", "LEAKS", "CHURN", "DISTRIBUTION", "HEADROOM", "the leak", "OTHERS", "flaps"] {
        assert!(all.contains(part), "{part} is missing:\n{all}");
    }
}

/// Without a monitor port the admin socket answers; weir's own configuration names either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_and_top_come_over_the_admin_socket() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let folder = tempfile::TempDir::with_prefix("weir-test-").expect("temporary folder");
    let path = folder.path().join("weir.sock");
    let socket = path.to_str().expect("a path");
    let weir = WeirConfig::of_servers(&[&server]).table(&format!("[admin]\nsocket = {socket:?}\n")).start().await;
    let _client = RawClient::connect(&weir.address, &Login::nobody().name("worker")).await;
    let report = weir_report(&["--socket", socket, "distribution"]);
    assert!(report.0 == 0 && report.1.contains("DISTRIBUTION"), "{report:?}");
    let wrong = weir_report(&["--socket", socket, "--json", "--limit", "1", "headroom"]);
    assert!(wrong.0 == 0 && wrong.1.contains("\"headroom\""), "{wrong:?}");
    // As weir's own configuration would be without `[monitor]`: nothing but the socket counts of it.
    let file = folder.path().join("weir.toml");
    let text = format!("[admin]\nsocket = {socket:?}\n[[cluster.servers]]\naddress = \"n1:4222\"\n");
    std::fs::write(&file, text).expect("write");
    let config = file.to_str().expect("a path");
    let report = weir_report(&["-c", config, "headroom"]);
    assert!(report.0 == 0 && report.1.contains("HEADROOM"), "{report:?}");
    let top = |args: &[&str]| {
        let output = Command::new(binary()).args(["top", "--once"]).args(args).output().expect("weir runs");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code().expect("a code"), said)
    };
    for args in [["--socket", socket], ["-c", config]] {
        let (code, said) = top(&args);
        assert!(code == 0 && said.contains("sessions") && said.contains(socket), "{args:?}: {said}");
    }
    let nobody = top(&["--socket", "/nonexistent/weir.sock"]);
    assert!(nobody.0 == 1 && nobody.1.contains("/nonexistent/weir.sock"), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_wrongly_is_told() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let (status, body) = http::get(&weir.monitor, "/reportz?report=leak").await.expect("GET");
    assert!(status == 400 && body.contains("there are refusals, leaks, churn, distribution, headroom"), "{body}");
    // A filter that fits nobody, whoever comes, would read as good news.
    let url = format!("http://{}", weir.monitor);
    for (key, value, words) in [
        ("reason", "foo", "there is no reason \"foo\": there are server_capacity, "),
        ("source", "nonsense", "source: \"nonsense\" is no address"),
        ("source", "10.0.0.0/8", "of IPv6 a /64"),
    ] {
        let (status, body) = http::get(&weir.monitor, &format!("/reportz?{key}={value}")).await.expect("GET");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert!(status == 400 && body["error"].as_str().is_some_and(|why| why.contains(words)), "{status}: {body}");
        let (code, said) = weir_report(&["--monitor", &url, &format!("--{key}"), value]);
        assert!(code == 64 && said.contains(words) && !said.contains("{"), "{code}: {said}");
    }
    for right in ["reason=HOLD_EXPIRED", "reason=violation", "reason=server_error", "source=::1", "source=10.0.0.1"] {
        reportz(&weir, right).await;
    }
    let (status, body) = http::get(&weir.monitor, "/connz?state=closed&reason=foo").await.expect("GET");
    assert!(status == 400 && body.contains("there is no reason \"foo\""), "{status}: {body}");
    let report = reportz(&weir, "").await;
    assert_eq!(report.as_object().expect("an object").len(), 5, "{report}");
    let all = tables(&weir, &[]);
    assert!(all.contains("REFUSALS  none") && all.contains("none"), "{all}");

    let nobody = weir_report(&["--monitor", "http://127.0.0.1:1"]);
    assert!(nobody.0 == 1 && nobody.1.contains("127.0.0.1:1"), "{nobody:?}");
    let server = weir_report(&["--monitor", &format!("http://{}", server.monitor)]);
    assert!(server.0 == 1 && server.1.contains("is it a weir"), "{server:?}");
    let wrong = weir_report(&["--monitor", "https://127.0.0.1:1"]);
    assert!(wrong.0 == 64 && wrong.1.contains("http://HOST:PORT"), "{wrong:?}");
    let dir = tempfile::TempDir::with_prefix("weir-test-").expect("temporary folder");
    let file = dir.path().join("weir.toml");
    let path = file.to_str().expect("a path");
    std::fs::write(&file, "[[cluster.servers]]\naddress = \"n1:4222\"\n").expect("write");
    let without = weir_report(&["-c", path]);
    assert!(without.0 == 64 && without.1.contains("has no [monitor] and no [admin]"), "{without:?}");
    let monitor = format!("[monitor]\nlisten = \"{}\"\n[[cluster.servers]]\naddress = \"n1:4222\"\n", weir.monitor);
    std::fs::write(&file, monitor).expect("write");
    let with = weir_report(&["-c", path, "headroom"]);
    assert!(with.0 == 0 && with.1.contains("HEADROOM"), "{with:?}");
}
