//! Ghosts: sessions whose client's machine or path has vanished without a FIN. A client like theirs that lacks a place
//! gets theirs, and no client that is there loses its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use weir_testkit::network::{self, Link};
use weir_testkit::websocket::WsClient;
use weir_testkit::*;

const ACCOUNTS: &str = "accounts { ORDERS { users: [{user: app, password: p}] } }";
const QUOTA: &str = "maximum account active connections exceeded";

/// What weir logs when it asks a session's client.
const ASKS: &str = "asking for a sign of life";

/// Longer than a client must be silent before it is asked, and longer than it may take for its answer.
const LONG: Duration = Duration::from_secs(4);

fn app(name: &str) -> Login {
    Login::user("app", "p").name(name)
}

fn for_one(servers: &[&NatsServer]) -> WeirConfig {
    WeirConfig::of_servers(servers).account("ORDERS", "users = [\"app\"]\nmax_connections = 1")
}

/// A server, and weir with room for one client of its account.
async fn room_for_one() -> (NatsServer, Weir) {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let weir = for_one(&[&server]).start().await;
    (server, weir)
}

/// Comes back until it is in.
async fn gets_in(weir: &Weir, login: &Login) -> RawClient {
    eventually(PATIENCE, "the client is in", async || {
        RawClient::attempt(&weir.address, login, PATIENCE).await.into_client().ok_or("refused")
    })
    .await
}

async fn is_refused(weir: &Weir, login: &Login) {
    let told = RawClient::attempt(&weir.address, login, PATIENCE).await;
    assert_eq!(told.refusal(), Some(QUOTA), "{told:?}");
}

/// Comes back, and is refused each time, until weir has asked `n` clients.
async fn is_refused_until_asked(weir: &Weir, login: &Login, n: usize) {
    eventually(PATIENCE, "it is asked", async || {
        is_refused(weir, login).await;
        match weir.log().matches(ASKS).count() {
            asked if asked >= n => Ok(()),
            asked => Err(asked),
        }
    })
    .await;
}

fn ghosts(metrics: &metrics::Metrics) -> f64 {
    metrics.sum_where("weir_closed_total", "reason", "ghost")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_the_place_of_its_ghost() {
    let (server, weir) = room_for_one().await;
    // It stays open, and nobody reads it.
    let silent = RawClient::connect(&weir.address, &app("orders")).await;
    let mut back = gets_in(&weir, &app("orders")).await;
    back.round_trip().await.expect("it is in");
    weir.until("the ghost is counted", |metrics| ghosts(metrics) == 1.0).await;
    weir.says("reason=\"ghost\"").await;
    server.settles_at(1).await;
    drop((silent, back));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_answers_keeps_its_place() {
    let (server, weir) = room_for_one().await;
    let mut inside = RawClient::connect(&weir.address, &app("orders")).await;
    tokio::select! {
        end = inside.stay() => panic!("{end:?}"),
        () = async {
            is_refused_until_asked(&weir, &app("orders"), 1).await;
            sleep(LONG).await;
            is_refused(&weir, &app("orders")).await;
        } => {}
    }
    assert_eq!(weir.metrics().await.sum("weir_closed_total"), 0.0);
    inside.round_trip().await.expect("it is in");
    server.settles_at(1).await;
    drop(inside);
    weir.assert_nothing_leaked().await;
}

/// Another name, or no more than the name of the user: nobody is asked for that. Then the client itself comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_asked_for_a_client_that_is_another() {
    let (_server, weir) = room_for_one().await;
    let silent = RawClient::connect(&weir.address, &app("orders")).await;
    sleep(LONG).await;
    for login in [app("billing"), Login::user("app", "a guess").name("orders")] {
        is_refused(&weir, &login).await;
    }
    sleep(LONG).await;
    assert!(!weir.log().contains(ASKS), "{}", weir.log());
    let back = gets_in(&weir, &app("orders")).await;
    assert_eq!(weir.log().matches(ASKS).count(), 1);
    drop((silent, back));
    weir.assert_nothing_leaked().await;
}

/// A full server, where clients are told that only after a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_the_slot_of_its_ghost() {
    let server = NatsServer::start(ServerOptions::default().max_connections(3)).await;
    let weir = WeirConfig::of_servers(&[&server]).cluster("reserve = 0").start().await;
    let named = |name: &str| Login::nobody().name(name);
    let silent = RawClient::connect(&weir.address, &named("orders")).await;
    let mut others = [
        RawClient::connect(&weir.address, &named("billing")).await,
        RawClient::connect(&weir.address, &named("stock")).await,
    ];
    let mut back = gets_in(&weir, &named("orders")).await;
    weir.until("the ghost is counted", |metrics| ghosts(metrics) == 1.0).await;
    for client in &mut others {
        client.round_trip().await.expect("it has another name, and stays");
    }
    back.round_trip().await.expect("it is in");
    drop((silent, back, others));
    weir.assert_nothing_leaked().await;
}

/// The PING is a frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_over_websocket_are_asked_as_others() {
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS)).await;
    let weir = for_one(&[&server]).listener("kind = \"websocket\"\nhandshake_timeout = \"30s\"").start().await;
    let attempt = async || {
        let (mut client, _) = WsClient::greeted(&weir.address, "").await;
        client.say(format!("{}PING\r\n", app("orders").connect_line()).as_bytes()).await;
        match client.line().await {
            line if line == "PONG" => Ok(client),
            line => Err(line),
        }
    };
    let silent = attempt().await.unwrap_or_else(|line| panic!("{line}"));
    let mut back = eventually(PATIENCE, "it is in", attempt).await;
    weir.until("the ghost is counted", |metrics| ghosts(metrics) == 1.0).await;
    let answers = async {
        loop {
            back.message().await;
            if back.bytes.windows(6).any(|six| six == b"PING\r\n") {
                back.bytes.clear();
                back.say(b"PONG\r\n").await;
            }
        }
    };
    tokio::select! {
        () = answers => {}
        () = async {
            eventually(PATIENCE, "it is asked", async || {
                assert!(attempt().await.is_err(), "it has the only place");
                if weir.log().matches(ASKS).count() == 2 { Ok(()) } else { Err(weir.log()) }
            })
            .await;
            sleep(LONG).await;
            assert!(attempt().await.is_err(), "it has the only place");
        } => {}
    }
    back.say(b"PING\r\n").await;
    assert_eq!(back.line().await, "PONG");
    assert_eq!(ghosts(&weir.metrics().await), 1.0);
    drop((silent, back));
    weir.assert_nothing_leaked().await;
}

/// A machine that loses its power and comes back with its address: the PING tells it that the old connection is there
/// still, and its kernel resets that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_comes_back_has_its_place_again() {
    if !network::is_own() {
        return;
    }
    let link = Arc::new(Link::new());
    let server = NatsServer::start(ServerOptions::default().with(ACCOUNTS).everywhere()).await;
    let weir = for_one(&[&server]).reaching(&server, &Link::to(&link.node)).behind(&link).start().await;
    let mut lost = RawClient::connect(&weir.address, &app("orders")).await;
    // The server asks each client once in its first seconds, and then only after minutes.
    eventually(PATIENCE, "the server's own PING", async || match lost.next().await.expect("it is in") {
        Some(client::Op::Ping) => Ok(()),
        other => Err(other),
    })
    .await;
    lost.send(b"PONG\r\n").await.expect("it is in");
    lost.round_trip().await.expect("it is in");
    // Its kernel acknowledges the last PONG: weir's would else send that again, which tells of the reset by itself.
    sleep(Duration::from_millis(500)).await;
    link.cut();
    lost.abandon();
    sleep(Duration::from_millis(100)).await;
    link.heal();
    let mut back = gets_in(&weir, &app("orders")).await;
    back.round_trip().await.expect("it is in");
    server.settles_at(1).await;
    drop(back);
    weir.assert_nothing_leaked().await;
}
