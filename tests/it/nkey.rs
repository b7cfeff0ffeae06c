//! NKeys: a client signs the nonce of the server that it is placed on.

use std::time::Duration;

use nkeys::KeyPair;
use weir_testkit::client::{End, Op};
use weir_testkit::*;

const FULL: &str = "maximum connections exceeded";
const VIOLATION: &str = "Authorization Violation";

/// Two accounts: the user of ORDERS signs with an NKey, the user of BILLING has a password.
fn accounts(key: &KeyPair) -> String {
    format!(
        "accounts {{ ORDERS {{ users: [{{nkey: {}}}] }}, BILLING {{ users: [{{user: bill, password: bp}}] }} }}",
        key.public_key()
    )
}

async fn cluster(key: &KeyPair) -> Cluster {
    Cluster::start(2, |server| server.with(&accounts(key))).await
}

fn bill() -> Login {
    Login::user("bill", "bp")
}

/// A server with ten slots, full of clients that do not sign, and weir in front of it.
async fn full(key: &KeyPair, admission: &str) -> (NatsServer, Weir, Vec<RawClient>) {
    let server = NatsServer::start(ServerOptions::default().max_connections(10).with(&accounts(key))).await;
    let admission = format!("{admission}\n[admission.max_hold_by_lang]\npatient = \"19s\"");
    let weir = WeirConfig::of_servers(&[&server]).cluster("reserve = 0").admission(&admission).start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        // They answer no PING: under the name of those who come later they would be taken for ghosts.
        clients.push(RawClient::connect(&weir.address, &bill().lang("patient").name("inside")).await);
    }
    server.settles_at(10).await;
    (server, weir, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_sign_and_those_who_do_not() {
    let key = KeyPair::new_user();
    let cluster = cluster(&key).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let mut clients = Vec::new();
    for i in 0..20 {
        let login = if i % 2 == 0 { Login::nkey(&key) } else { bill() };
        let mut client = RawClient::connect(&weir.address, &login).await;
        let shown = client.info.clone();
        assert_eq!(shown["nonce"].as_str().map(str::len), Some(15), "{shown}");
        assert!(shown.get("connect_urls").is_none(), "{shown}");
        let info = client.info_after_pong().await;
        let account = if i % 2 == 0 { "ORDERS" } else { "BILLING" };
        // Servers name the account since 2.12.
        assert!(info.get("remote_account").is_none_or(|named| named == account), "{info}");
        assert_eq!((&info["server_id"], &info["client_id"]), (&shown["server_id"], &shown["client_id"]));
        assert!(info.get("nonce").is_none(), "{info}");
        client.round_trip().await.unwrap();
        clients.push(client);
    }
    assert_eq!(cluster.account_connections("ORDERS").await, 10);
    let counts = cluster.connections().await;
    assert!(unevenness(&counts) < 1.3, "{counts:?}");
    weir.agrees_with(&cluster).await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_signs_and_comes_back() {
    let key = KeyPair::new_user();
    let mut cluster = cluster(&key).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let options = || async_nats::ConnectOptions::with_nkey(key.seed().unwrap()).connection_timeout(PATIENCE);
    let connect = || options().connect(weir.url());
    let clients = futures::future::try_join_all((0..10).map(|_| connect())).await.unwrap();
    let mut inbox = clients[0].subscribe("a").await.unwrap();
    clients[0].flush().await.unwrap();
    // The other server learns of the subscription a moment after the flush.
    let message = eventually(PATIENCE, "a message from another server", async || {
        clients[9].publish("a", "hello".into()).await.unwrap();
        tokio::time::timeout(Duration::from_millis(200), futures::StreamExt::next(&mut inbox)).await
    })
    .await
    .unwrap();
    assert_eq!(&message.payload[..], b"hello");

    cluster.servers[0].kill9();
    eventually(PATIENCE, "all are on the other server", async || {
        match cluster.servers[1].account_connections("ORDERS").await {
            10 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    for client in &clients {
        seen_by_server(client).await; // the client is connected again
    }
    drop((clients, inbox));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_signature_meets_the_servers_own_words() {
    let (key, other) = (KeyPair::new_user(), KeyPair::new_user());
    let cluster = cluster(&key).await;
    let weir = WeirConfig::of(&cluster).start().await;
    // Another key, another key with the user's public key, and a signature that was valid on another connection.
    let seen = RawClient::greeted(&weir.address).await.unwrap();
    let replayed = Login::default().with("nkey", key.public_key().into()).with(
        "sig",
        data_encoding::BASE64URL_NOPAD
            .encode(&key.sign(seen.info["nonce"].as_str().unwrap().as_bytes()).unwrap())
            .into(),
    );
    for wrong in [Login::nkey(&other), Login::nkey(&other).with("nkey", key.public_key().into()), replayed] {
        let attempt = RawClient::attempt(&weir.address, &wrong, PATIENCE).await;
        assert_eq!(attempt.refusal(), Some(VIOLATION), "{attempt:?}");
    }
    // Dropped only here: weir gives the connection of a client that leaves without an answer to the next client, with
    // its nonce.
    drop(seen);
    RawClient::connect(&weir.address, &Login::nkey(&key)).await.round_trip().await.unwrap();
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_turn_those_who_sign_are_told_in_time() {
    let key = KeyPair::new_user();
    let admission = "rate = 20000\nburst = 20000\nmax_hold = \"8s\"\nrefusal_spread = \"8s\"";
    let (server, weir, clients) = full(&key, admission).await;
    let attempts = at_once(100, |_| {
        let (address, login) = (weir.address.clone(), Login::nkey(&key).lang("go"));
        async move { RawClient::attempt(&address, &login, PATIENCE / 2).await }
    })
    .await;
    for attempt in attempts {
        let polite = matches!(&attempt, Attempt::Refused { text, info: Some(_), end: End::Eof } if text == FULL);
        assert!(polite, "{attempt:?}");
    }
    assert!(!server.log_contains(FULL) && !server.log_contains("authentication error"), "the server was not asked");
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_turn_those_who_do_not_sign_wait_on() {
    let key = KeyPair::new_user();
    let admission = "rate = 20000\nburst = 20000\nmax_hold = \"1s\"\nrefusal_spread = \"19s\"";
    let (_server, weir, mut clients) = full(&key, admission).await;
    let mut late = weir.lets_in_late(&mut clients, &bill().lang("patient"), &Login::nkey(&key)).await;
    late.round_trip().await.unwrap();
    drop(late);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_signs_waits_for_the_place_that_becomes_free() {
    let key = KeyPair::new_user();
    let (_server, weir, mut clients) =
        full(&key, "rate = 20000\nburst = 20000\nmax_hold = \"19s\"\nrefusal_spread = \"19s\"").await;
    // weir refuses a client that cannot be served in time at a random moment, which is now and then too early for this
    // test.
    let mut late = loop {
        let refused = "weir_refused_total";
        let before = weir.metrics().await.sum(refused);
        let (address, login) = (weir.address.clone(), Login::nkey(&key));
        let waiting = tokio::spawn(async move { RawClient::attempt(&address, &login, PATIENCE).await });
        let held = |metrics: &metrics::Metrics| metrics.sum("weir_held") == 1.0 || metrics.sum(refused) > before;
        weir.until("one client is held", held).await;
        drop(clients.pop());
        match waiting.await.unwrap() {
            Attempt::In(late) => break late,
            early => assert_eq!(early.refusal(), Some(FULL), "{early:?}"),
        }
        clients.push(RawClient::connect(&weir.address, &bill().lang("patient")).await);
    };
    late.round_trip().await.unwrap();
    drop(late);
    // A client that leaves while it is held leaves nothing behind.
    clients.push(RawClient::connect(&weir.address, &bill().lang("patient")).await);
    let held = "weir_held";
    let gone = eventually(PATIENCE, "one client is held", async || {
        let gone = RawClient::dial(&weir.address).await.unwrap();
        // Negative check: after this time weir must not have refused the client. It refuses at a random moment, and
        // then the next one is tried.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if weir.gauge(held).await == 1.0 { Ok(gone) } else { Err("gave up already, at random, or is not there yet") }
    })
    .await;
    drop(gone);
    weir.until("nobody is held", |metrics| metrics.sum("weir_held") == 0.0).await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_costs_no_slot_for_longer_than_the_server_allows() {
    let key = KeyPair::new_user();
    let patience = "authorization { timeout: 12 }";
    let server = NatsServer::start(ServerOptions::default().with(&accounts(&key)).with(patience)).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    // A client that signs and a client that does not, both slower than the server's auth timeout.
    weir.says("server found").await; // its own dial is over
    let before = server.total_connections().await;
    let mut slow = Vec::new();
    for login in [Login::nkey(&key), bill()] {
        slow.push((RawClient::greeted(&weir.address).await.unwrap(), login));
    }
    assert_eq!(server.total_connections().await - before, 2);
    server.settles_at(0).await;
    for (client, login) in &mut slow {
        let line = login.answering(&client.info).connect_line();
        client.send(format!("{line}PING\r\n").as_bytes()).await.unwrap();
    }
    assert_eq!(
        slow[0].0.rest(PATIENCE).await,
        (format!("-ERR '{FULL}'\r\n"), End::Eof),
        "signed for a server that is gone"
    );
    assert_eq!(slow[1].0.next_within(PATIENCE).await.unwrap(), Some(Op::Pong), "replayed to a new one");
    assert!(!server.log_contains("Authentication Timeout"));
    drop(slow);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_after_info() {
    let key = KeyPair::new_user();
    let mut cluster = cluster(&key).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let mut waiting = Vec::new();
    for i in 0..8 {
        let login = if i % 2 == 0 { Login::nkey(&key) } else { bill() };
        waiting.push((RawClient::greeted(&weir.address).await.unwrap(), login));
    }
    cluster.servers[0].kill9();
    for (client, login) in &mut waiting {
        let line = login.answering(&client.info).connect_line();
        client.send(format!("{line}PING\r\n").as_bytes()).await.unwrap();
        let signs = line.contains("nkey");
        match client.next_within(PATIENCE).await.unwrap() {
            Some(Op::Pong) => assert!(!signs || client.info["server_name"] == "n2"),
            Some(Op::Err(text)) => {
                assert!(signs && client.info["server_name"] == "n1", "{text}: {}", client.info);
                assert_eq!(text, FULL);
            }
            other => panic!("{other:?}"),
        }
    }
    drop(waiting);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_come_and_go() {
    let key = KeyPair::new_user();
    let server = NatsServer::start(ServerOptions::default().max_connections(20).with(&accounts(&key))).await;
    let weir = WeirConfig::of_servers(&[&server]).cluster("reserve = 0").start().await;
    weir.says("server found").await; // its own dial is over
    let before = server.total_connections().await;
    for i in 0..100 {
        let probe = RawClient::dial(&weir.address).await.unwrap();
        if i % 2 == 0 { probe.abandon() } else { drop(probe) }
    }
    weir.until("all are counted", |metrics| metrics.sum("weir_probes_total") == 100.0).await;
    server.settles_at(0).await;
    let cost = server.total_connections().await - before;
    assert!(cost <= 100, "{cost} connections for 100 probes");
    assert!(!server.log_contains(FULL));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_holds_for_those_who_sign() {
    let key = KeyPair::new_user();
    let cluster = cluster(&key).await;
    let users = format!("users = [\"{}\"]\nmax_connections = 3", key.public_key());
    let weir = WeirConfig::of(&cluster).account("ORDERS", &users).start().await;
    let attempts = at_once(20, |_| {
        let (address, login) = (weir.address.clone(), Login::nkey(&key));
        async move { RawClient::attempt(&address, &login, PATIENCE).await }
    })
    .await;
    let inside = attempts.iter().filter(|a| matches!(a, Attempt::In(_))).count();
    let told = attempts.iter().filter(|a| a.refusal() == Some("maximum account active connections exceeded")).count();
    assert_eq!((inside, told), (3, 17), "{attempts:?}");
    assert_eq!(cluster.account_connections("ORDERS").await, 3);
    RawClient::connect(&weir.address, &bill()).await.round_trip().await.unwrap();
    drop(attempts);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_those_who_sign_never_goes_over() {
    let key = KeyPair::new_user();
    let cluster = Cluster::start(2, |server| server.max_connections(50).with(&accounts(&key))).await;
    let weir = WeirConfig::of(&cluster)
        .cluster("reserve = 5")
        .admission("max_hold = \"1500ms\"\nrefusal_spread = \"1500ms\"")
        .start()
        .await;
    let login = |i| if i % 4 == 0 { bill() } else { Login::nkey(&key) };
    let crowd = Crowd::start_each(&weir.address, 400, Habit::NATS_GO, login);
    let probing = tokio::spawn({
        let address = weir.address.clone();
        async move {
            for _ in 0..200 {
                drop(RawClient::dial(&address).await);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    crowd.settles_at(90).await;
    probing.await.unwrap();
    let tried = crowd.attempts();
    eventually(PATIENCE, "everyone outside has tried again", async || match crowd.attempts() {
        now if now >= tried + 600 => Ok(()),
        now => Err(now),
    })
    .await;
    assert_eq!((crowd.connected(), crowd.most_connected(), crowd.lost()), (90, 90, 0));
    assert_eq!(cluster.settles_at(90).await, [45, 45]);
    let strange: Vec<_> = crowd.ends().into_keys().filter(|end| ![FULL, "timed out"].contains(&end.as_str())).collect();
    assert!(strange.is_empty(), "only polite refusals: {strange:?}");
    say(&format!("{:?}", crowd.ends()));
    for word in [FULL, "authentication error", "Authentication Timeout"] {
        assert!(!cluster.log_contains(word), "{word}");
    }
    crowd.end().await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_nobody_answered_goes_to_the_next_client() {
    let key = KeyPair::new_user();
    let config =
        format!("accounts {{ A {{ users: [{{nkey: {}}}] }} }}\nauthorization {{ timeout: 60 }}", key.public_key());
    let server = NatsServer::start(ServerOptions::default().with(&config)).await;
    let weir = WeirConfig::of_servers(&[&server]).top("workers = 1").start().await;
    weir.says("server found").await; // its own dial is over
    let before = server.total_connections().await;
    let mut nonces = std::collections::HashSet::new();
    for probes in 1..=10 {
        let probe = RawClient::greeted(&weir.address).await.unwrap();
        nonces.insert(probe.info["nonce"].to_string());
        drop(probe);
        weir.until("the probe is counted", |all| all.sum("weir_probes_total") == f64::from(probes)).await;
    }
    let mut client = RawClient::connect(&weir.address, &Login::nkey(&key)).await;
    client.round_trip().await.unwrap();
    assert!(nonces.contains(&client.info["nonce"].to_string()));
    assert_eq!((nonces.len(), server.total_connections().await - before), (1, 1));
    // This nonce is answered now, so the next client gets another one.
    let other = RawClient::connect(&weir.address, &Login::nkey(&key)).await;
    assert_ne!(other.info["nonce"], client.info["nonce"]);
    drop((client, other));
    weir.assert_nothing_leaked().await;
}
