//! `weir storm` against real servers, `weir plan`, and a comparison of the two.

use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;
use weir_testkit::{
    tls::{Authority, pair},
    *,
};

async fn weir(args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(args).kill_on_drop(true).output().await.expect("weir starts")
}

/// Runs `weir storm`; returns its exit code and its report.
async fn storm(args: &[&str]) -> (Option<i32>, Value) {
    let output = weir(&[&["storm", "--json"], args].concat()).await;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text);
    (
        output.status.code(),
        report.unwrap_or_else(|err| panic!("{err}: {text}{}", String::from_utf8_lossy(&output.stderr))),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_library_gets_in_is_dropped_and_comes_back() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let url = format!("nats://{}", server.address);
    let (code, report) = storm(&["--clients", "140", "--like", "mix", "--url", &url, "--drop-after", "100ms"]).await;
    assert_eq!(code, Some(0), "{report}");
    assert_eq!((report["connected"].as_u64(), report["given_up"].as_u64()), (Some(140), Some(0)));
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2);
    assert_eq!(phases[0]["came_in"], 140);
    assert_eq!(phases[1]["came_in"], 140);
    // Go and C clients sleep 2 s before they first reconnect.
    assert!(phases[1]["seconds_to_100"].as_f64().unwrap() >= 2.0, "{report}");
    assert!(server.total_connections().await >= 280);
}

/// The output for people: progress while the storm runs, and a report at its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_told_how_things_stand() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let url = format!("nats://{}", server.address);
    let output = weir(&["storm", "--clients", "50", "--like", "rust", "--url", &url, "--drop-after", "2s"]).await;
    assert_eq!(output.status.code(), Some(0));
    let [report, progress] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap());
    for words in ["50 Rust clients on 127.0.0.1:", "connect: 50 % in ", "reconnect: 50 % in ", "this process took "] {
        assert!(report.contains(words), "{words}: {report}");
    }
    assert!(report.contains("\nat the end: connected 50, given up for good 0"), "{report}");
    assert!(progress.contains("connected 50 of 50 (100 %), tries "), "{progress}");
    assert!(progress.contains("dropped, connected 50 of 50"), "{progress}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_authorization_errors_end_go_and_three_do_not_end_rust() {
    let server = NatsServer::start(ServerOptions::default().with("authorization { user: me, password: right }")).await;
    let wrong = format!("nats://me:wrong@{}", server.address);
    let (code, report) = storm(&["--clients", "20", "--url", &wrong]).await;
    assert_eq!(
        (code, &report["given_up"], &report["phases"][0]["tries"]),
        (Some(1), &20.into(), &40.into()),
        "{report}"
    );
    assert_eq!(report["phases"][0]["refused"]["Authorization Violation"], 40, "{report}");

    let (code, report) = storm(&["--clients", "5", "--like", "rust", "--url", &wrong, "--for", "5s"]).await;
    assert_eq!((code, &report["given_up"]), (Some(1), &0.into()), "{report}");
    assert!(report["phases"][0]["tries"].as_u64().unwrap() > 15, "{report}");

    let right = format!("nats://me:right@{}", server.address);
    assert_eq!(storm(&["--clients", "20", "--url", &right]).await.0, Some(0));
}

/// The same storm for real and in virtual time. The pace does not depend on the speed of the machine, so the real storm
/// cannot be much faster than the plan. On a busy machine it may be slower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plan_and_storm_agree() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let pace = "rate = 100\nburst = 10\nmax_hold = \"1500ms\"\nrefusal_spread = \"1500ms\"";
    let weir_ = WeirConfig::of_servers(&[&server]).admission(pace).start().await;
    let (code, real) = storm(&["--clients", "300", "--url", &weir_.url()]).await;
    assert_eq!(code, Some(0), "{real}");

    let args = ["--clients", "300", "--servers", "1", "--handshakes", "3000", "--rate", "100", "--at-once", "--json"];
    let output = weir(&[&["plan"], &args[..]].concat()).await;
    let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let plan = &plan["cases"][2];
    assert_eq!((&plan["back"], &plan["lost"]), (&300.into(), &0.into()), "{plan}");

    let real = &real["phases"][0];
    for percent in ["seconds_to_50", "seconds_to_90", "seconds_to_100"] {
        let (real, planned) = (real[percent].as_f64().unwrap(), plan[percent].as_f64().unwrap());
        assert!(real > 0.7 * planned && real < planned + 20.0, "{percent}: {real} s, planned {planned} s");
    }
}

/// `pass` in bcrypt at cost 7: each login takes about 7 ms of a core.
const PASS: &str = "$2a$07$abcdefghijklmnopqrstuuLHSwAcxUtH7eLuzlkUNR3Gcy.oqAVeO";

/// Nobody tells weir what a login costs. weir gives the server no more logins than it can finish, and the clients that
/// it could not admit come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_in_where_logins_cost_something() {
    let login = format!("authorization {{ timeout: 10, users: [ {{ user: me, password: \"{PASS}\" }} ] }}");
    let server = NatsServer::start(ServerOptions::default().with(&login)).await;
    let weir_ = WeirConfig::of_servers(&[&server]).start().await;
    let url = weir_.url().replace("nats://", "nats://me:pass@");
    let (code, report) = storm(&["--clients", "100", "--url", &url, "--for", "120s"]).await;
    assert_eq!((code, &report["connected"], &report["given_up"]), (Some(0), &100.into(), &0.into()), "{report}");
    let refused = report["phases"][0]["refused"].as_object().unwrap();
    assert!(refused.keys().all(|text| text.to_lowercase().contains("maximum connections exceeded")), "{report}");
    assert!(!server.log().to_lowercase().contains("authentication timeout"), "{}", server.log());
    let metrics = weir_
        .until("all slots are given back", |metrics| {
            metrics.sum("weir_sessions_active") + metrics.sum("weir_held") == 0.0
                && metrics.sum("weir_server_connections") == 0.0
        })
        .await;
    assert!(metrics.knows("weir_sessions_active") && metrics.knows("weir_held"), "{}", metrics.excerpt(&["weir_"]));
}

/// Storms at a server's own TLS, at weir's TLS after INFO, and at weir's TLS before INFO.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_and_resumed_by_the_libraries_that_do_so() {
    let authority = Authority::new("storms");
    let own = authority.issue("own", &["127.0.0.1"]);
    let tls = format!("tls {{ {} }}", pair(&own));
    let secure = NatsServer::start(ServerOptions::default().with(&tls)).await;
    let plain = NatsServer::start(ServerOptions::default()).await;
    let listener = |more: &str| format!("[listeners.tls]\n{}{more}\n", pair(&own));
    let upgrades = WeirConfig::of_servers(&[&plain]).listener(&listener("")).start().await;
    let first = WeirConfig::of_servers(&[&plain]).listener(&listener("handshake_first = true")).start().await;
    let ca = authority.ca();
    let ca = ca.to_str().unwrap();
    for (url, how) in
        [(format!("nats://{}", secure.address), "--tls"), (upgrades.url(), "--tls"), (first.url(), "--tls-first")]
    {
        let args = ["--clients", "70", "--like", "mix", "--url", &url, "--drop-after", "200ms", how, "--ca", ca];
        let (code, report) = storm(&args).await;
        assert_eq!(code, Some(0), "{report}");
        let tls = &report["tls"];
        let count = |what: &str| tls[what].as_u64().unwrap();
        assert!(count("full") + count("resumed") >= 140, "{report}");
        // Java and .NET resume their TLS sessions when they come back: ten clients each.
        let tries = |phase: &Value| phase["most_tries"].as_u64().unwrap_or(1);
        let most = report["phases"].as_array().unwrap().iter().map(tries).max().unwrap();
        assert!((1..=20 * most).contains(&count("resumed")), "{report}");
        assert!(tls["cpu_seconds"].as_f64().unwrap() > 0.0);
    }

    let stranger = Authority::new("stranger");
    let stranger = stranger.ca();
    let stranger = stranger.to_str().unwrap();
    let not_tls = format!("nats://{}", plain.address);
    for (url, more, why) in [
        (upgrades.url(), &["--ca", stranger][..], "invalid peer certificate"),
        (upgrades.url(), &[], "the server demands TLS: --tls"),
        (not_tls, &["--ca", ca], "the server offers no TLS"),
    ] {
        let args = ["--clients", "3", "--like", "rust", "--url", &url, "--for", "2s"];
        let (code, report) = storm(&[&args, more].concat()).await;
        assert_eq!((code, &report["connected"]), (Some(1), &0.into()), "{report}");
        let errors = report["phases"][0]["errors"].as_object().unwrap();
        assert!(!errors.is_empty() && errors.keys().all(|what| what.starts_with(why)), "{report}");
    }
}

#[tokio::test]
async fn nobody_there() {
    let nobody = format!("nats://127.0.0.1:{}", weir_testkit::ports::free());
    let (code, report) = storm(&["--clients", "3", "--like", "rust", "--url", &nobody, "--for", "3s"]).await;
    assert_eq!((code, &report["connected"]), (Some(1), &0.into()));
    let errors = report["phases"][0]["errors"].as_object().unwrap();
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["connection refused: dial"]);
}

#[test]
fn more_clients_than_files_are_refused_before_any_connects() {
    let script =
        format!("ulimit -n 200; exec {} storm --clients 1000 --url nats://127.0.0.1:1", env!("CARGO_BIN_EXE_weir"));
    let output = Command::new("sh").arg("-c").arg(script).output().expect("sh starts");
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("the limit of 200 open files carries 136 clients, not 1000"), "{said}");
}

/// Direct clients know several servers, and try the next one at once: nobody is back sooner than is possible.
#[tokio::test]
async fn nobody_is_back_before_the_least_possible_time() {
    let output = weir(&["plan", "--clients", "300", "--handshakes", "900"]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let times = |line: &str| line.split_once(" times the least possible")?.0.rsplit_once('(')?.1.parse::<f64>().ok();
    let times: Vec<_> = said.lines().filter_map(times).collect();
    assert!(times.len() == 3 && times.iter().all(|times| *times >= 0.99), "{said}");
}

#[tokio::test]
async fn a_plan_is_the_same_every_time_and_draws_its_chart() {
    let directory = tempfile::tempdir().unwrap();
    let svg = directory.path().join("plan.svg");
    let args = ["plan", "--clients", "2000", "--like", "nats.js", "--handshakes", "200", "--seed", "7"];
    let first = weir(&[&args[..], &["--svg", svg.to_str().unwrap()]].concat()).await;
    let again = weir(&args).await;
    assert_eq!((first.status.code(), &first.stdout), (Some(0), &again.stdout));
    let said = String::from_utf8(first.stdout).unwrap();
    assert!(said.starts_with("2,000 JavaScript clients lose their connections at once; 3 servers of 65,536"), "{said}");
    assert!(said.contains("\nweir, adaptive "), "{said}");
    assert!(std::fs::read_to_string(svg).unwrap().contains("2,000 JavaScript clients"));

    for wrong in [vec!["plan", "--clients", "10"], vec!["plan", "--clients", "10", "--handshakes", "0"], vec!["storm"]]
    {
        assert_eq!(weir(&wrong).await.status.code(), Some(64), "{wrong:?}");
    }
}

/// What becomes of each account, with the weight that a configuration gives it.
#[tokio::test]
async fn a_plan_tells_accounts_apart() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("weir.toml");
    let server = "[[cluster.servers]]\naddress = \"127.0.0.1:14222\"\n";
    let args = ["plan", "--account", "STORM=1500", "--account", "A=400", "--account", "B=400", "--handshakes", "200"];
    let all_back = async |limits: &str| {
        std::fs::write(&config, format!("{server}{limits}")).unwrap();
        let output = weir(&[&args[..], &["--json", "--config", config.to_str().unwrap()]].concat()).await;
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let accounts = plan["cases"][2]["accounts"].as_array().expect("accounts").clone();
        assert_eq!(accounts.iter().map(|one| &one["account"]).collect::<Vec<_>>(), ["STORM", "A", "B"]);
        accounts.iter().map(|one| one["seconds_to_90"].as_f64().expect("back")).collect::<Vec<_>>()
    };
    let equal = all_back("").await;
    let weighed = all_back("[accounts.B]\nweight = 4\n").await;
    assert!(equal[0] > 1.5 * equal[1].max(equal[2]), "{equal:?}");
    assert!(weighed[2] < 0.8 * weighed[1] && weighed[2] < 0.8 * equal[2], "{weighed:?}, {equal:?}");

    let said = String::from_utf8(weir(&args).await.stdout).unwrap();
    assert!(said.starts_with("2,300 Go clients of 3 accounts lose"), "{said}");
    let rows: Vec<_> = said.lines().filter(|line| line.starts_with("weir, adaptive ")).collect();
    assert_eq!(rows.len(), 5, "a verdict, a row, and one of each account: {said}");

    let twice = ["plan", "--account", "A=1", "--account", "A=2", "--handshakes", "10"];
    for (wrong, why) in [
        (&twice[..], "stands twice"),
        (&["plan", "--account", "A=1", "--clients", "2", "--handshakes", "10"], "cannot be used with"),
        (&["plan", "--account", "A=9999999", "--account", "B=9", "--handshakes", "10"], "the most are 10000000"),
        (&["plan", "--account", "A", "--handshakes", "10"], "NAME=CLIENTS"),
    ] {
        let output = weir(wrong).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(64) && said.contains(why), "{wrong:?}: {said}");
    }
}

/// More Go clients at once than the pace admits within their timeout: weir records the storm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flight_recorder_tells_of_a_storm() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let pace = "rate = 100\nburst = 10\nmax_hold = \"1500ms\"\nrefusal_spread = \"1500ms\"";
    let weir_ = WeirConfig::of_servers(&[&server]).admission(pace).log_level("info").start().await;
    assert_eq!(storms_of(&weir_).await["storms"], serde_json::json!([]));
    let (code, real) = storm(&["--clients", "300", "--url", &weir_.url()]).await;
    assert_eq!(code, Some(0), "{real}");
    let told = eventually(PATIENCE, "the storm is over", async || {
        let told = storms_of(&weir_).await;
        if told["running"].is_null() && !told["storms"][0].is_null() { Ok(told) } else { Err(told.to_string()) }
    })
    .await;
    let told = &told["storms"][0];
    assert_eq!(told["goes_on"], false, "{told}");
    let sum = |groups: &str, count: &str| {
        told[groups].as_array().unwrap().iter().map(|one| one[count].as_u64().unwrap()).sum::<u64>()
    };
    let refused = told["refused"].as_array().unwrap().iter().map(|one| one["count"].as_u64().unwrap()).sum::<u64>();
    for groups in ["accounts", "languages"] {
        let sums = ["admitted", "left"].map(|count| sum(groups, count));
        assert_eq!(sums, ["admitted_after_wait", "left"].map(|field| told[field].as_u64().unwrap()), "{told}");
        assert_eq!(sum(groups, "refused"), refused, "{told}");
    }
    let count = |of: &Value, field: &str| of[field].as_u64().unwrap_or_else(|| panic!("{field}: {of}"));
    let tries = count(&real["phases"][0], "tries");
    // Seconds in which hardly anybody waits are not part of the storm. That leaves out at least the burst, if a second
    // ends right after it.
    let (arrived, admitted) = (count(told, "arrived"), count(told, "admitted"));
    assert!((200..=300).contains(&admitted) && (admitted..=tries).contains(&arrived), "{tries} tries: {told}");
    assert!(count(told, "sessions_before") <= 300 - admitted, "{told}");
    // A client that is too slow to send CONNECT has no language.
    let for_want_of_room = |one: &&Value| one["reason"] == "hold_expired" || one["reason"] == "server_capacity";
    let refused: u64 =
        told["refused"].as_array().unwrap().iter().filter(for_want_of_room).map(|one| count(one, "count")).sum();
    assert!((1..=tries - admitted).contains(&refused), "{tries} tries: {told}");
    let go = &told["languages"][0];
    assert_eq!((&go["name"], count(go, "refused")), (&"go".into(), refused), "{told}");
    // The server names the account at the first login. Clients refused before that count for no account.
    let accounts = told["accounts"].as_array().unwrap();
    assert!(accounts.iter().any(|one| one["name"] == "$G" && count(one, "refused") > 0), "{told}");
    // The burst got in without waiting, and so did clients that came back when there was room.
    assert!((50..=admitted).contains(&count(go, "admitted")), "{told}");
    // The series goes on until weir knows that the storm is over.
    let in_points = |field: &str| -> u64 {
        told["series"]["points"].as_array().unwrap().iter().map(|point| count(point, field)).sum()
    };
    assert!(in_points("admitted") >= admitted && in_points("refused") >= refused, "{told}");
    weir_.says("a storm is over").await;
    let log = weir_.log();
    assert_eq!(log.matches("a storm has begun").count(), log.matches("a storm is over").count(), "{log}");
    let line = log.lines().find(|line| line.contains("a storm is over")).expect("its line");
    for words in ["seconds=", "peak_arrivals=", "pace=", "held=", "reasons=", "hold_expired ", "$G ", "languages=\"go "]
    {
        assert!(line.contains(words), "{words}: {line}");
    }
}

/// weir is stopped during a storm and still logs what it has recorded so far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flight_recorder_tells_of_a_storm_that_weir_does_not_see_the_end_of() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let top = "lame_duck_grace_period = \"0s\"\nlame_duck_duration = \"1s\"";
    let weir_ = WeirConfig::of_servers(&[&server]).top(top).admission("rate = 10\nburst = 10").log_level("info");
    let mut weir_ = weir_.start().await;
    let url = weir_.url();
    let clients = tokio::spawn(async move { storm(&["--clients", "300", "--url", &url, "--for", "30s"]).await });
    eventually(PATIENCE, "a storm", async || {
        let told = storms_of(&weir_).await;
        if told["running"].is_null() { Err(told.to_string()) } else { Ok(()) }
    })
    .await;
    weir_.signal(Signal::TERM);
    assert!(weir_.wait(PATIENCE).await.success());
    clients.abort();
    let log = weir_.log();
    // On a slow machine the storm is over before weir has stopped.
    let told = log.matches("a storm is over").count() + log.matches("weir stops in a storm").count();
    assert_eq!((log.matches("a storm has begun").count(), told), (1, 1), "{log}");
}

async fn storms_of(weir: &Weir) -> Value {
    let (status, text) = http::get(&weir.monitor, "/storms").await.expect("GET /storms");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}
