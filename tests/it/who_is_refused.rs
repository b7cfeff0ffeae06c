//! At level info the log says who does not get in, and why: refused clients in one line a second, failed logins in a
//! few lines of their own, and a cluster of which no server can be used when that begins and ends.

use futures::future::join_all;
use serde_json::Value;
use weir_testkit::*;

const FULL: &str = "maximum connections exceeded";
const QUOTA: &str = "maximum account active connections exceeded";
const ACCOUNTS: &str = "accounts {
    ORDERS { users: [{user: app, password: s3cr3t-app}, {user: batch, password: s3cr3t-batch}] }
    OTHERS { users: [{user: other, password: p}] }
}";

fn app() -> Login {
    Login::user("app", "s3cr3t-app").name("orders app")
}

/// The value of a field of a line of the log as text.
fn field(line: &str, name: &str) -> Option<String> {
    let (_, rest) = line.split_once(&format!(" {name}="))?;
    if !rest.starts_with('"') {
        return rest.split(' ').next().map(str::to_owned);
    }
    serde_json::Deserializer::from_str(rest).into_iter::<Value>().next()?.ok()?.as_str().map(str::to_owned)
}

/// The lines with this message.
fn lines(weir: &Weir, message: &str) -> Vec<String> {
    let message = format!(" {message} ");
    weir.log().lines().filter(|line| line.contains(&message)).map(str::to_owned).collect()
}

/// Waits for a line with this message that `is_it`.
async fn told(weir: &Weir, message: &str, is_it: impl Fn(&str) -> bool) -> String {
    eventually(PATIENCE, message, async || {
        lines(weir, message).into_iter().find(|line| is_it(line)).ok_or_else(|| weir.log())
    })
    .await
}

fn has(line: &str, name: &str, part: &str) -> bool {
    field(line, name).is_some_and(|value| value.contains(part))
}

/// No field without a value, and no line that a client has made up.
fn is_well_formed(weir: &Weir) {
    let log = weir.log();
    let written = log.rfind('\n').map_or(0, |end| end + 1); // another line may be half there
    for line in log[..written].lines() {
        // `name=` and then a blank, `""` or nothing; a message may say `max_clients = 100`.
        let fields = line.match_indices('=').filter(|(at, _)| !line[..*at].ends_with(' '));
        let is_empty = |rest: &str| rest.is_empty() || rest.starts_with(' ') || rest.starts_with("\"\"");
        assert!(!fields.map(|(at, _)| &line[at + 1..]).any(is_empty), "an empty field: {line}");
        assert!(!line.contains(char::is_control), "a control character: {line:?}");
        let level = ["ERROR", "WARN", "INFO", "DEBUG"].iter().any(|level| line.contains(&format!(" {level} ")));
        assert!(level, "not a line of weir's: {line}");
    }
}

async fn behind(config: &str) -> (NatsServer, WeirConfig) {
    let server = NatsServer::start(ServerOptions::default().with(config)).await;
    let config = WeirConfig::of_servers(&[&server]).default_settings().log_level("info");
    (server, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_told_with_account_user_name_and_source() {
    let (_server, config) = behind(ACCOUNTS).await;
    let quota = "users = [\"app\", \"batch\"]\nmax_connections = 2";
    let weir = config.account("ORDERS", quota).start().await;
    let _inside = [RawClient::connect(&weir.address, &app()).await, RawClient::connect(&weir.address, &app()).await];
    let login = app();
    let attempts = join_all((0..4).map(|_| RawClient::attempt(&weir.address, &login, PATIENCE))).await;
    for attempt in attempts {
        assert_eq!(attempt.refusal(), Some(QUOTA));
    }
    let line = told(&weir, "refusing", |line| has(line, "reasons", "account_quota")).await;
    assert!(line.contains(" INFO "), "{line}");
    for (name, part) in [
        ("accounts", "ORDERS "),
        ("users", "app "),
        ("names", "orders app "),
        ("sources", "127.0.0.1 "),
        ("advice", "limit"),
    ] {
        assert!(has(&line, name, part), "{name}: {line}");
    }
    is_well_formed(&weir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_is_not_a_full_one_and_its_beginning_and_end_are_told() {
    let (mut server, config) = behind("max_connections: 3").await;
    let weir = config.cluster("reserve = 0").start().await;
    let nobody = Login::nobody();
    let inside = join_all((0..3).map(|_| RawClient::connect(&weir.address, &nobody))).await;
    assert_eq!(RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await.refusal(), Some(FULL));
    told(&weir, "refusing", |line| has(line, "reasons", "server_capacity")).await;
    assert!(!weir.log().contains("no_server"), "{}", weir.log());
    drop(inside);

    server.kill9();
    // What nats-server would say, word for word. They come before weir has seen that it is an outage.
    let attempts = join_all((0..3).map(|_| RawClient::attempt(&weir.address, &nobody, PATIENCE))).await;
    assert!(attempts.iter().all(|attempt| attempt.refusal() == Some(FULL)), "{attempts:?}");
    let began = told(&weir, "no server can be used: all clients are refused until one answers", |_| true).await;
    assert!(began.contains(" ERROR ") && field(&began, "servers").as_deref() == Some("1"), "{began}");
    let line = told(&weir, "refusing", |line| has(line, "reasons", "no_server")).await;
    assert!(has(&line, "advice", "no server"), "{line}");
    let refused = |reason: &str| format!("weir_refused_total{{reason=\"{reason}\"}}");
    for (reason, n) in [("no_server", 3.0), ("server_capacity", 1.0)] {
        weir.until(reason, |metrics| metrics.get(&refused(reason)) == Some(n)).await;
    }

    server.restart().await;
    let ended = told(&weir, "a server can be used again", |_| true).await;
    assert!(ended.contains(" INFO ") && field(&ended, "refused").as_deref() == Some("3"), "{ended}");
    assert!(field(&ended, "lasted").is_some(), "{ended}");
    let log = weir.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
    // On a slow machine the server is full for so long that this is an error of its own.
    let (no_server, full): (Vec<&str>, Vec<&str>) =
        errors.iter().partition(|line| line.contains("no server can be used"));
    assert_eq!(no_server.len(), 1, "{log}");
    assert!(full.len() <= 1 && full.iter().all(|line| line.contains("no server has room")), "{log}");
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
    is_well_formed(&weir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_of_a_cluster_that_is_down_is_refused_for_that() {
    let (mut server, config) = behind("").await;
    let weir = config.start().await;
    server.kill9();
    told(&weir, "no server can be used: all clients are refused until one answers", |_| true).await;
    let nobody = Login::nobody();
    for _ in 0..5 {
        let attempts = join_all((0..20).map(|_| RawClient::attempt(&weir.address, &nobody, PATIENCE))).await;
        assert!(attempts.iter().all(|attempt| attempt.refusal() == Some(FULL)), "{attempts:?}");
    }
    let metrics = weir.metrics().await;
    let other = metrics.sum("weir_refused_total") - metrics.sum_where("weir_refused_total", "reason", "no_server");
    assert_eq!(other, 0.0, "{}", metrics.excerpt(&["weir_refused_total"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_login_is_told_with_the_servers_words_and_never_its_secret() {
    let (_server, config) = behind(ACCOUNTS).await;
    let weir = config.account("ORDERS", "users = [\"app\"]").start().await;
    let wrong = Login::user("app", "wr0ng-s3cr3t").name("orders app");
    let unknown = Login::user("nobody", "wr0ng-s3cr3t");
    let token = Login::token("t0k3n-s3cr3t").name("with a token");
    for login in [&wrong, &unknown, &token] {
        let attempt = RawClient::attempt(&weir.address, login, PATIENCE).await;
        assert_eq!(attempt.refusal(), Some("Authorization Violation"), "{attempt:?}");
    }
    let line = told(&weir, "login failed", |line| has(line, "user", "app")).await;
    assert!(line.contains(" INFO "), "{line}");
    for (name, value) in [
        ("words", "Authorization Violation"),
        ("reason", "violation"),
        ("account", "ORDERS"),
        ("user", "app"),
        ("name", "orders app"),
        ("source", "127.0.0.1"),
        ("server", "n1"),
    ] {
        assert_eq!(field(&line, name).as_deref(), Some(value), "{name}: {line}");
    }
    told(&weir, "login failed", |line| has(line, "user", "nobody")).await;
    let line = told(&weir, "login failed", |line| has(line, "name", "with a token")).await;
    assert_eq!(field(&line, "user"), None, "{line}");

    // A guesser fills no log.
    join_all((0..60).map(|_| RawClient::attempt(&weir.address, &wrong, PATIENCE))).await;
    let all = "weir_bad_logins_total";
    weir.until("all are counted", |metrics| metrics.sum(all) == 63.0).await;
    let more = "more logins have failed than have a line of their own";
    let (one_by_one, left_out) = eventually(PATIENCE, "each is in the log", async || {
        let one_by_one = lines(&weir, "login failed").len();
        let left_out: usize =
            lines(&weir, more).iter().filter_map(|line| field(line, "left_out")?.parse::<usize>().ok()).sum();
        if one_by_one + left_out == 63 { Ok((one_by_one, left_out)) } else { Err((one_by_one, left_out)) }
    })
    .await;
    assert!(left_out >= 20, "{one_by_one} lines, {left_out} left out");
    let line = told(&weir, more, |_| true).await;
    assert!(has(&line, "reasons", "violation ") && has(&line, "users", "app ") && has(&line, "accounts", "ORDERS "));
    assert!(!weir.log().contains("s3cr3t"), "{}", weir.log());
    is_well_formed(&weir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_say_of_themselves_makes_no_line_and_no_entry_of_its_own() {
    let (_server, config) = behind(ACCOUNTS).await;
    let weir = config.log_level("debug").account("ORDERS", "users = [\"*\"]\nmax_connections = 1").start().await;
    let _inside = RawClient::connect(&weir.address, &app()).await;
    let forged = "x\n2026-11-26T00:00:00Z ERROR forged\r\u{1b}[31m, OTHERS 999\u{202e}";
    let name = format!("{forged}{}", "long".repeat(500));
    for login in [app().name(&name), Login::user(forged, "p").name(&name)] {
        RawClient::attempt(&weir.address, &login, PATIENCE).await.refusal().expect("an error");
    }
    let line = told(&weir, "refusing", |line| has(line, "names", "x")).await;
    assert!(!has(&line, "names", ", OTHERS 999") && line.len() < 1500, "{line}");
    is_well_formed(&weir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_silent_connections_have_reasons_of_their_own() {
    let (_server, config) = behind(ACCOUNTS).await;
    let weir = config.listener("handshake_timeout = \"500ms\"").start().await;
    let mut http = RawClient::greeted(&weir.address).await.unwrap();
    http.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut silent = RawClient::greeted(&weir.address).await.unwrap();
    silent.send(b"CONN").await.unwrap();
    let line = told(&weir, "refusing", |line| has(line, "reasons", "protocol")).await;
    assert!(has(&line, "sources", "127.0.0.1"), "{line}");
    told(&weir, "refusing", |line| has(line, "reasons", "handshake_timeout")).await;
    is_well_formed(&weir);
}
