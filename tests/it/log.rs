//! A log that cannot be written costs nobody anything: standard error is a full disk, closed, a pipe without a reader,
//! a pipe whose reader goes away, and a pipe that nobody reads. A session that panics ends alone. And a start in good
//! order complains of nothing.

use std::{
    fs::OpenOptions,
    io::{PipeReader, Read, pipe},
};

use rustix::process::Signal;
use weir_testkit::{
    client::End,
    tls::{Authority, pair},
    *,
};

async fn connects(weir: &Weir, n: usize) {
    for _ in 0..n {
        RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
    }
}

/// Everything that weir does goes on: clients get in, a server that dies and comes back is used again, the endpoints
/// answer, and SIGTERM ends weir in order.
pub(crate) async fn all_goes_on(mut weir: Weir, mut cluster: Cluster) {
    connects(&weir, 20).await;
    cluster.servers[0].kill9();
    weir.sees(1).await;
    connects(&weir, 20).await;
    cluster.servers[0].restart().await;
    weir.sees(2).await;
    connects(&weir, 20).await;
    for signal in [Signal::HUP, Signal::USR1] {
        weir.signal(signal);
    }
    assert_eq!(weir.health().await, 200);
    let mut session = RawClient::connect(&weir.address, &Login::nobody()).await;
    weir.signal(Signal::TERM);
    assert_eq!(session.end(PATIENCE).await, End::Eof, "the drain ends a session in order");
    let status = weir.wait(PATIENCE).await;
    assert!(status.success(), "{status}");
}

pub(crate) async fn config(cluster: &Cluster) -> WeirConfig {
    WeirConfig::of(cluster).top("workers = 2\nlame_duck_grace_period = \"1s\"\nlame_duck_duration = \"30s\"")
}

async fn lost_lines(weir: &Weir, reason: &str) {
    let lost = |metrics: &metrics::Metrics| metrics.sum_where("weir_log_lines_dropped_total", "reason", reason) > 0.0;
    weir.until("lines that are lost are counted", lost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk() {
    let cluster = Cluster::start(2, |server| server).await;
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let weir = config(&cluster).await.standard_error(full).start().await;
    lost_lines(&weir, "write_failed").await;
    all_goes_on(weir, cluster).await;
}

/// The next file that weir opens would have descriptor 2, and a client would read the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_descriptor() {
    let cluster = Cluster::start(2, |server| server).await;
    let weir = config(&cluster).await.closed_standard_error().start().await;
    let mut clients = at_once(20, |_| {
        let address = weir.address.clone();
        async move { RawClient::connect(&address, &Login::nobody()).await }
    })
    .await;
    connects(&weir, 20).await;
    for client in &mut clients {
        client.round_trip().await.unwrap();
    }
    assert_eq!(weir.log(), "");
    drop(clients);
    all_goes_on(weir, cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_without_a_reader() {
    let cluster = Cluster::start(2, |server| server).await;
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let weir = config(&cluster).await.standard_error(writer).start().await;
    lost_lines(&weir, "write_failed").await;
    all_goes_on(weir, cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_whose_reader_goes_away() {
    let cluster = Cluster::start(2, |server| server).await;
    let (mut reader, writer): (PipeReader, _) = pipe().unwrap();
    let weir = config(&cluster).await.standard_error(writer).start().await;
    let mut some = [0; 20];
    reader.read_exact(&mut some).unwrap();
    connects(&weir, 1).await;
    drop(reader);
    all_goes_on(weir, cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_that_nobody_reads() {
    let cluster = Cluster::start(2, |server| server).await;
    let (_reader, writer) = pipe().unwrap();
    let weir = config(&cluster).await.standard_error(writer).start().await;
    // More lines than the pipe and the queue take: one for each session.
    eventually(10 * PATIENCE, "the pipe and the queue are full", async || {
        at_once(200, |_| {
            let address = weir.address.clone();
            async move { drop(RawClient::connect(&address, &Login::nobody()).await) }
        })
        .await;
        let lost = weir.metrics().await.sum_where("weir_log_lines_dropped_total", "reason", "queue_full");
        if lost > 0.0 { Ok(()) } else { Err("no line is lost") }
    })
    .await;
    all_goes_on(weir, cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_panics_ends_alone_and_gives_back_what_it_holds() {
    let cluster = Cluster::start(2, |server| server).await;
    let config = config(&cluster).await.account("default", "max_connections = 2");
    let weir = config.environment("WEIR_TEST_PANIC", "session").start().await;
    // Either of them panics, on a slow machine before its login is over.
    let mut attempts = Vec::new();
    for name in ["one", "another"] {
        attempts.push(RawClient::attempt(&weir.address, &Login::nobody().name(name), PATIENCE).await);
    }
    weir.says("panic: a test wants session to panic").await;
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| weir.assert_no_panic()));
    assert!(seen.is_err(), "every test that ends with assert_nothing_leaked would see it");
    let mut go_on = Vec::new();
    for attempt in attempts {
        if let Attempt::In(mut client) = attempt
            && client.round_trip().await.is_ok()
        {
            go_on.push(client);
        }
    }
    assert_eq!(go_on.len(), 1, "the other session of the process goes on");
    let given_back = |metrics: &metrics::Metrics| {
        let held = ["weir_sessions_active", "weir_account_connections"];
        metrics.sum("weir_panics_total") == 1.0 && held.iter().all(|name| metrics.sum(name) == 1.0)
    };
    weir.until("its places are given back", given_back).await;
    // The quota and the servers have room for one more, and not for two.
    let mut comes = RawClient::connect(&weir.address, &Login::nobody().name("comes")).await;
    comes.round_trip().await.expect("it is in");
    let third = RawClient::attempt(&weir.address, &Login::nobody().name("third"), PATIENCE).await;
    assert_eq!(third.refusal(), Some("maximum account active connections exceeded"));
    drop((go_on, comes));
    let held = ["weir_sessions_active", "weir_account_connections", "weir_held"];
    weir.until("all is given back", |metrics| held.iter().all(|name| metrics.sum(name) == 0.0)).await;
    assert_eq!(weir.health().await, 200);
}

const SYSTEM: &str = "accounts { SYS { users: [{ user: admin, password: s3cr3t }] } }\nsystem_account: SYS";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_in_good_order_says_what_runs_and_warns_of_nothing() {
    let cluster = Cluster::start(2, |server| server.with(SYSTEM)).await;
    let authority = Authority::new("ca");
    let tls = format!("[listeners.tls]\n{}", pair(&authority.issue("weir", &["localhost"])));
    let config = || WeirConfig::of(&cluster).default_settings().log_level("info");
    let login = "[cluster.system]\nuser = \"admin\"\npassword = \"s3cr3t\"";
    for (what, config) in [
        ("monitors", config().replacing("name = \"n1\"\n", "").replacing("name = \"n2\"\n", "")),
        ("no readings", config().without_monitors()),
        ("the system account", config().without_monitors().cluster(login)),
        ("both", config().cluster(login)),
        ("TLS", config().listener(&tls)),
    ] {
        let weir = config.start().await;
        for server in ["server=\"n1\"", "server=\"n2\""] {
            weir.says(server).await;
        }
        let log = weir.log();
        let complaint = log.lines().find(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        assert_eq!(complaint, None, "{what}:\n{log}");
        let first = log.lines().next().expect("a line");
        for part in [" INFO ", "weir starts", &format!("version={:?}", env!("CARGO_PKG_VERSION")), "weir.toml\""] {
            assert!(first.contains(part), "{what}, {part}: {first}");
        }
        // From the first line on a server has the name that it has in metrics.
        assert!(log.contains("server=\"n1\"") && !log.contains("server=\"127."), "{what}:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_open_files_is_a_warning_only_to_whoever_asked_for_more_clients() {
    let cluster = Cluster::start(1, |server| server).await;
    for (asked, level) in [("", "INFO"), ("max_clients = 65536", "WARN")] {
        let config = WeirConfig::of(&cluster).default_settings().log_level("info").listener(asked).file_limit(1024);
        let weir = config.start().await;
        weir.says("server found").await; // the limit has been told by then
        let log = weir.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("open files")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        for part in [&format!(" {level} "), "clients=4", "LimitNOFILE=13"] {
            assert!(lines[0].contains(part), "{part}: {log}");
        }
        assert!(!lines[0].contains("65536"), "one number of clients: {log}");
        let warnings = log.matches(" WARN ").count();
        assert_eq!(warnings, usize::from(level == "WARN"), "so few clients have ports enough: {log}");
    }
}
