//! A task of weir that panics is told of and started again, and weir goes on: each task that lives as long as weir or
//! as one of its servers.

use std::collections::BTreeSet;

use weir_testkit::{admin::AdminSocket, *};

use crate::{
    fleet_quota::with_quota,
    fleet_servers::three_servers,
    log::{all_goes_on, config},
    source_tree::files,
};

/// The tasks of a weir that has everything but a fleet.
const OF_ONE_WEIR: [&str; 27] = [
    "accept",
    "account look-ups",
    "accounts",
    "admin",
    "admin socket",
    "certificates",
    "closed connections",
    "configuration file",
    "discovery",
    "discovery by servers",
    "events to NATS",
    "every second",
    "ghosts",
    "heartbeat",
    "lame ducks",
    "late keepalive",
    "mover",
    "report sampler",
    "server watch",
    "service manager",
    "signals",
    "storm sampler",
    "system login",
    "system requests",
    "turns",
    "upstream pool",
    "webhook",
];

/// Those of a weir of a fleet.
const OF_A_FLEET: [&str; 5] = ["fleet addresses", "fleet beats", "fleet counts", "fleet leases", "fleet messages"];

/// The one of a server that drains.
const OF_A_DRAIN: &str = "server drain";

/// Waits until each of these tasks has panicked once and has been started again.
async fn all_are_started_again(weir: &Weir, tasks: &[&str]) {
    for task in tasks {
        let told = format!("task=\"{task}\"");
        let log = || weir.log().lines().any(|line| line.contains("it is started again") && line.contains(&told));
        eventually(PATIENCE, task, async || log().then_some(()).ok_or("not told")).await;
    }
    // A task that each worker or each server has panics once for the process.
    weir.until("panics are counted", |metrics| metrics.sum("weir_panics_total") == tasks.len() as f64).await;
}

#[test]
fn each_task_of_the_sources_has_a_test() {
    let mut named = BTreeSet::new();
    for file in files("src") {
        // The tests of a file, which stand at its end, start tasks of their own.
        let code = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        named.extend(code.split(".spawn(\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    let tested = [&OF_ONE_WEIR[..], &OF_A_FLEET, &[OF_A_DRAIN]].concat();
    assert_eq!(named, tested.into_iter().map(str::to_owned).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tasks_of_one_weir() {
    let accounts = "accounts { SYS { users: [{ user: admin, password: s3cr3t }] }, A { users: [{ user: a, password: a }] } }\n\
                    system_account: SYS\nno_auth_user: a";
    let cluster = Cluster::start(2, |server| server.with(accounts)).await;
    let system = "[cluster.system]\nuser = \"admin\"\npassword = \"s3cr3t\"\nanswer_requests = true";
    let discover = format!("discover = \"{}\"\ndiscover_connect_urls = true\n", cluster.servers[0].address);
    let warnings = "[warnings]\nwebhook = \"http://127.0.0.1:9/\"\nsubject = \"weir.events\"";
    let admin = AdminSocket::default();
    let weir = config(&cluster)
        .await
        .table(warnings)
        .table(&admin.toml())
        .cluster(&format!("{discover}{system}"))
        .environment("WEIR_TEST_PANIC", &OF_ONE_WEIR.join(","))
        .start()
        .await;
    all_are_started_again(&weir, &OF_ONE_WEIR).await;
    weir.sees(2).await;
    admin.does(&["status"]).await;
    all_goes_on(weir, cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tasks_of_a_fleet() {
    let cluster = three_servers(|server| server).await;
    let of_all = with_quota(WeirConfig::of(&cluster)).environment("WEIR_TEST_PANIC", &OF_A_FLEET.join(","));
    let fleet = Fleet::start_at_once((1..=2).map(|n| fleet::config(&of_all, n))).await;
    for weir in &fleet.weirs {
        all_are_started_again(weir, &OF_A_FLEET).await;
    }
    fleet.has_leases().await;
}

/// The clients of the server leave within the time of the drain, as if nothing had been.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_task_of_a_drain() {
    let cluster = Cluster::start(2, |server| server).await;
    let admin = AdminSocket::default();
    let top = "workers = 2\nlame_duck_grace_period = \"1s\"\nlame_duck_duration = \"3s\"";
    let config = WeirConfig::of(&cluster).top(top).table(&admin.toml()).environment("WEIR_TEST_PANIC", OF_A_DRAIN);
    let weir = config.start().await;
    let mut clients = Vec::new();
    while weir.gauge("weir_sessions_active{server=\"n1\"}").await < 3.0 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    admin.does(&["drain", "n1"]).await;
    all_are_started_again(&weir, &[OF_A_DRAIN]).await;
    cluster.servers[0].settles_at(0).await;
    weir.until("all of its sessions are gone", |metrics| {
        metrics.get("weir_sessions_active{server=\"n1\"}") == Some(0.0)
    })
    .await;
}
