//! A refusal: weir sends INFO, reads CONNECT and PING, sends `-ERR '…'` and a FIN. It never resets the connection and
//! never refuses before CONNECT.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_testkit::client::{End, Op};
use weir_testkit::*;

const FULL: &str = "maximum connections exceeded";
const QUOTA: &str = "maximum account active connections exceeded";
const SECOND: Duration = Duration::from_secs(1);

/// A full server with ten slots, and weir in front of it.
async fn full() -> (NatsServer, Weir, Vec<RawClient>) {
    let server = NatsServer::start(ServerOptions::default().max_connections(10)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .cluster("reserve = 0")
        .admission("rate = 20000\nburst = 20000\nmax_hold = \"500ms\"\nrefusal_spread = \"300ms\"\n[admission.max_hold_by_lang]\npatient = \"19s\"")
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        // They answer no PING: under the name of those who come later they would be taken for ghosts.
        clients.push(RawClient::connect(&weir.address, &Login::nobody().lang("patient").name("inside")).await);
    }
    server.settles_at(10).await;
    (server, weir, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn word_for_word() {
    let (server, weir, clients) = full().await;
    let mut outside = RawClient::greeted(&weir.address).await.unwrap();
    assert!(outside.next_within(SECOND).await.is_err(), "nothing before CONNECT");

    outside.send(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await.unwrap();
    let (said, end) = outside.rest(PATIENCE).await;
    assert_eq!((said.as_str(), end), ("-ERR 'maximum connections exceeded'\r\n", End::Eof));
    assert!(!server.log_contains(FULL), "the server was not asked");

    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_of_handshake_is_refused_politely() {
    let (_server, weir, clients) = full().await;
    let connect = Login::nobody().connect_line();
    let shapes: Vec<Vec<String>> = vec![
        vec![format!("{connect}PING\r\n")],
        vec![connect.clone(), "PING\r\n".into()],
        vec![connect.clone()], // no PING at all
        vec![format!("{connect}PING\r\n"), "SUB a 1\r\nSUB b 2\r\n".into(), "PING\r\n".into()], // nats.net pipelines
        vec![format!("{connect}PING\r\nSUB a 1\r\nPUB a 2\r\nhi\r\n")],
        connect.as_bytes().chunks(7).map(|part| String::from_utf8_lossy(part).into_owned()).collect(),
    ];
    for shape in shapes {
        let mut client = RawClient::greeted(&weir.address).await.unwrap();
        for part in &shape {
            client.send(part.as_bytes()).await.unwrap();
            // With this pause the part most likely gets a TCP segment of its own.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (said, end) = client.rest(PATIENCE).await;
        assert_eq!((said.as_str(), end), ("-ERR 'maximum connections exceeded'\r\n", End::Eof), "{shape:?}");
    }
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_on_talking_can_read_why_too() {
    let (_server, weir, clients) = full().await;
    let ends = at_once(20, |_| {
        let address = weir.address.clone();
        async move {
            let mut client = RawClient::greeted(&address).await.unwrap();
            client.send(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await.unwrap();
            let (mut reader, mut writer) = client.split();
            let mut talk = async || {
                let written = writer.write_all(b"PUB a 2\r\nhi\r\n").await;
                tokio::time::sleep(Duration::from_millis(2)).await;
                written
            };
            // Writes until there is something to read, and then a little longer, as a client that has not read it yet.
            let answered = async || tokio::time::timeout(Duration::ZERO, reader.get_ref().readable()).await.is_ok();
            while !answered().await {
                talk().await.expect("weir listens");
            }
            for _ in 0..10 {
                talk().await.expect("weir still listens: a reset might overtake its last word");
            }
            let mut said = String::new();
            let read = tokio::time::timeout(PATIENCE, reader.read_to_string(&mut said)).await;
            (said, format!("{read:?}"))
        }
    })
    .await;
    for (said, end) in ends {
        assert_eq!(said, "-ERR 'maximum connections exceeded'\r\n", "{end}");
        assert!(end.starts_with("Ok(Ok("), "no reset: {end}");
    }
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_at_once_can_all_read_why() {
    let (_server, weir, clients) = full().await;
    let attempts = at_once(500, |i| {
        let address = weir.address.clone();
        let login = if i % 2 == 0 { Login::nobody() } else { Login::nobody().in_two_writes() };
        async move { RawClient::attempt(&address, &login, PATIENCE).await }
    })
    .await;
    let polite =
        |attempt: &&Attempt| matches!(attempt, Attempt::Refused { text, info: Some(_), end: End::Eof } if text == FULL);
    let rude: Vec<_> = attempts.iter().filter(|attempt| !polite(attempt)).collect();
    assert!(rude.is_empty(), "{} of 500, such as {:?}", rude.len(), rude[0]);
    let all = weir.until("all are counted", |metrics| metrics.sum("weir_refused_total") == 500.0).await;
    let named = |reason| all.sum_where("weir_refused_total", "reason", reason);
    assert_eq!(named("server_capacity") + named("hold_expired"), 500.0, "{}", all.excerpt(&["weir_refused_total"]));
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_has_the_servers_own_text() {
    let accounts = "accounts { A { users: [{user: a, password: p}] } }";
    let server = NatsServer::start(ServerOptions::default().with(accounts)).await;
    let weir = WeirConfig::of_servers(&[&server]).account("A", "users = [\"a\"]\nmax_connections = 1").start().await;
    let inside = RawClient::connect(&weir.address, &Login::user("a", "p")).await;

    let mut outside = RawClient::greeted(&weir.address).await.unwrap();
    assert!(outside.next_within(SECOND).await.is_err(), "nothing before CONNECT");
    outside.send(format!("{}PING\r\n", Login::user("a", "p").connect_line()).as_bytes()).await.unwrap();
    let (said, end) = outside.rest(PATIENCE).await;
    assert_eq!((said, end), (format!("-ERR '{QUOTA}'\r\n"), End::Eof));

    drop(inside);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_client_gets_the_place_that_becomes_free() {
    let server = NatsServer::start(ServerOptions::default().max_connections(10)).await;
    let admission = "rate = 20000\nburst = 20000\nmax_hold = \"19s\"\nrefusal_spread = \"19s\"";
    let weir = WeirConfig::of_servers(&[&server]).cluster("reserve = 0").admission(admission).start().await;
    let mut clients = Vec::new();
    // They answer no PING: under the name of the one who comes later they would be taken for ghosts.
    let inside = Login::nobody().name("inside");
    for _ in 0..10 {
        clients.push(RawClient::connect(&weir.address, &inside).await);
    }
    let mut late = weir.lets_in_late(&mut clients, &inside, &Login::nobody()).await;
    late.round_trip().await.unwrap();
    assert!(!server.log_contains(FULL));

    drop((clients, late));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_greeting_is_one_that_every_client_takes() {
    let server = NatsServer::start(ServerOptions::default().with("max_payload: 524288")).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let theirs = RawClient::greeted(&server.address).await.unwrap().info;
    let mut client = RawClient::greeted(&weir.address).await.unwrap();
    let ours = client.info.clone();
    for key in ["max_payload", "version", "headers", "proto"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    assert!(ours["server_id"].as_str().is_some_and(|id| !id.is_empty()));
    assert!(ours.get("nonce").is_none() && ours["connect_urls"].as_array().is_none_or(Vec::is_empty), "{ours}");
    assert!(ours["client_ip"].as_str().is_none_or(|ip| ip == "127.0.0.1"), "{ours}");

    // Between CONNECT and PONG a client gets only what it asked for: +OK only with `verbose`.
    client.send(format!("{}PING\r\n", Login::nobody().connect_line()).as_bytes()).await.unwrap();
    assert_eq!(client.next_within(PATIENCE).await.unwrap(), Some(Op::Pong));
    drop(client);
    let mut verbose = RawClient::connect(&weir.address, &Login::nobody().with("verbose", true.into())).await;
    verbose.send(b"PUB a 0\r\n\r\n").await.unwrap();
    let answer = loop {
        match verbose.next_within(PATIENCE).await.unwrap() {
            Some(Op::Info(_)) => {} // the INFO after the first PONG
            other => break other,
        }
    };
    assert_eq!(answer, Some(Op::Ok));
    drop(verbose);
    weir.assert_nothing_leaked().await;
}
