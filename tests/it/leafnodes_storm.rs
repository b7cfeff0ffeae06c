//! A storm of leafnodes, each a remote of one of several nats-servers: onto hubs whose logins cost CPU time, back
//! through a weir that was away, and back once more when a hub dies.

use std::time::{Duration, Instant};

use weir_testkit::*;

use crate::leafnodes::{Hub, before, connected, never_saw};

const PASSWORD: &str = "storm-of-many-leafnodes";
/// That password in bcrypt at cost 9 and 11: a login takes some 0.03 or 0.13 s of a core.
const COST_9: &str = "$2a$09$Boqpzjn08pVCPmPvSRt7yunzD3hhYGVF3jsrGQjloM19cwMmT/QQC";
const COST_11: &str = "$2a$11$Jew/xiAKMYAtxo89w3e1Cun8xv28pZP/BXNDPZz7jxGOZYaaznfZG";

/// `scripts/leafnodes` asks for more.
fn asked(name: &str, or: usize) -> usize {
    std::env::var(name).map_or(or, |text| text.parse().expect("a number"))
}

/// Waits until these hubs together have so many; returns what each has, and how long that took since `began`.
async fn all_are_in(hubs: &[Hub], n: usize, began: Instant) -> (Vec<u64>, Duration) {
    let counts = eventually(4 * PATIENCE, "all are in", async || {
        let counts = futures::future::join_all(hubs.iter().map(Hub::count)).await;
        if counts.iter().sum::<u64>() == n as u64 { Ok(counts) } else { Err(counts) }
    })
    .await;
    (counts, began.elapsed())
}

fn told(what: &str, (counts, took): &(Vec<u64>, Duration)) {
    eprintln!("| {what} | {counts:?} | {:.2} | {:.1} s |", unevenness(counts), took.as_secs_f64());
    assert!(unevenness(counts) <= 1.1, "{what}: {counts:?}");
}

async fn storms(servers: usize, remotes: usize, cost: &str) {
    let users = format!("authorization {{ users: [ {{ user: edge, password: {cost:?} }} ] }}");
    let mut hubs = Vec::new();
    for n in 1..=3 {
        hubs.push(Hub::start(&format!("n{n}"), &users, "").await);
    }
    let all: Vec<&Hub> = hubs.iter().collect();
    let websocket =
        "[[listeners]]\nlisten = \"127.0.0.1:0\"\nkind = \"websocket\"\n[listeners.websocket]\nleafnodes = true";
    // With weir's own settings for what happens in time.
    let config = before(&all).default_settings().listener("kind = \"leafnode\"").table(websocket);
    let mut weir = config.start().await;
    // Each in an account of its own: a hub keeps one connection for an account of a server. Every second one is over
    // WebSocket.
    let start = async |n: usize| {
        let (scheme, address) = match n % 2 {
            0 => ("nats-leaf", &weir.address),
            _ => ("ws", &weir.other_listeners[0]),
        };
        let accounts: String = (0..remotes).map(|n| format!("A{n} {{}}\n")).collect();
        let remote = |n| format!("{{ url: \"{scheme}://edge:{PASSWORD}@{address}\", account: A{n} }}");
        let remotes: Vec<String> = (0..remotes).map(remote).collect();
        let own = format!(
            "debug: true\ntrace: true\naccounts {{ {accounts} }}\nleafnodes {{ remotes: [ {} ] }}",
            remotes.join("\n")
        );
        NatsServer::start(ServerOptions::named(&format!("edge{n}")).with(&own)).await
    };
    let began = Instant::now();
    let edges = futures::future::join_all((0..servers).map(start)).await;
    told("the first time", &all_are_in(&hubs, servers * remotes, began).await);
    let began = Instant::now();
    weir.kill9();
    eventually(PATIENCE, "weir has ended", async || if weir.exited().is_some() { Ok(()) } else { Err(()) }).await;
    weir.start_again(&config).await;
    // Counts of the hubs that are from before are not those of the storm.
    weir.until("all come", |now| now.sum("weir_sessions_active") == (servers * remotes) as f64).await;
    told("weir was killed", &all_are_in(&hubs, servers * remotes, began).await);
    let began = Instant::now();
    hubs[0].server.kill9();
    told("a hub was killed", &all_are_in(&hubs[1..], servers * remotes, began).await);
    for edge in &edges {
        let leafs = connected(edge, remotes).await;
        let ports = [weir.port(), weir.other_listeners[0].rsplit_once(':').expect("a port").1];
        for leaf in leafs {
            assert!(ports.contains(&&*leaf["port"].to_string()), "another port than weir's: {leaf}");
        }
        never_saw(edge, &hubs.iter().collect::<Vec<_>>());
    }
    let refused = weir.metrics().await;
    eprintln!("{}", refused.excerpt(&["weir_refused_total", "weir_hold_seconds_count"]));
    drop(edges);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_come_back_evenly_whatever_breaks() {
    let (servers, remotes) = (asked("WEIR_STORM_LEAF_SERVERS", 6), asked("WEIR_STORM_LEAF_REMOTES", 20));
    let cost = if asked("WEIR_STORM_LEAF_COST", 9) == 11 { COST_11 } else { COST_9 };
    eprintln!("{servers} servers with {remotes} remotes each");
    storms(servers, remotes, cost).await;
}
