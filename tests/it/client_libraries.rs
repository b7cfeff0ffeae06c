//! nats-py, nats.js and nats.go, installed as their users install them, through weir to a JetStream cluster, over TCP
//! and over WebSocket.

use std::process::Stdio;

use weir_testkit::*;

/// Generous, so that weir refuses nobody here.
const PATIENT: &str = "rate = 1000\nmax_hold = \"19s\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn official_clients_of_other_languages() {
    let _alone = installs::one_at_a_time().await;
    let websocket = "kind = \"websocket\"\n[listeners.websocket]\ncompression = true";
    let report = all_of_them("nats", "").await + &all_of_them("ws", websocket).await;
    let missing: Vec<_> = report.lines().filter_map(|line| line.split_once(": MISSING ")).collect();
    if missing.len() == report.lines().count() {
        return skip(&report);
    }
    for (client, why) in missing {
        skip_part(client, why.trim_matches(['(', ')']));
    }
}

/// Runs every client against one listener; returns one line for each client.
async fn all_of_them(scheme: &str, listener: &str) -> String {
    let cluster = Cluster::start(3, ServerOptions::jetstream).await;
    let weir = WeirConfig::of(&cluster).listener(listener).admission(PATIENT).start().await;

    let mut matrix = tokio::process::Command::from(script("client-matrix"));
    matrix.arg(format!("{scheme}://{}", weir.address));
    let output = matrix.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(35 * PATIENCE, output).await.expect("the clients end").expect("run scripts/client-matrix");
    let report = String::from_utf8_lossy(&output.stdout);
    say(report.trim_end());
    assert!(!report.is_empty(), "no client was tried");
    assert!(output.status.success(), "{}", output.status);

    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    cluster.settles_at(0).await;
    weir.assert_nothing_leaked().await;
    report.lines().map(|line| format!("{scheme}: {line}\n")).collect()
}
