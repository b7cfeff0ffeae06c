//! TLS between weir and the servers.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use weir_testkit::{
    tls::{Authority, pair},
    *,
};

use crate::own_connections::{OWN_ACCOUNTS, OWN_OTHERS, OWN_SYSTEM, has_its_own_connections};

/// `tls { … }` of a nats-server.
fn server_tls(authority: &Authority, hosts: &[&str], more: &str) -> String {
    let own = authority.issue("n1", hosts);
    format!("tls {{ cert_file: {:?}, key_file: {:?}, {more} }}", own.cert, own.key)
}

/// weir in front of a server, with this `[cluster.tls]`.
fn weir_of(server: &NatsServer, tls: &str) -> WeirConfig {
    WeirConfig::of_servers(&[server]).cluster_tls(tls)
}

async fn round_trip(weir: &Weir, login: &Login) {
    let mut client = RawClient::connect(&weir.address, login).await;
    client.subscribe("there", 1).await.unwrap();
    client.publish("there", &[7; 200_000]).await.unwrap();
    let (subject, payload) = client.next_msg().await;
    assert!(subject == "there" && payload == [7; 200_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_info_and_before_it_with_and_without_certificates_of_its_own() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("weir", &["weir.example.com"]);
    let ca = format!("ca_file = {:?}", authority.ca());
    for (first, verify) in [(false, false), (true, false), (false, true)] {
        let more = format!("handshake_first: {first}, verify: {verify}, ca_file: {:?}, timeout: 30", authority.ca());
        let server =
            NatsServer::start(ServerOptions::default().with(&server_tls(&authority, &["127.0.0.1"], &more))).await;
        let mut tls = format!("{ca}\nhandshake_first = {first}\n");
        if verify {
            tls.push_str(&pair(&own));
        }
        let weir = weir_of(&server, &tls).start().await;
        round_trip(&weir, &Login::nobody()).await;
        let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
        client.round_trip().await.unwrap();
        drop(client);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nonce_is_signed_and_a_refusal_passed_on() {
    let authority = Authority::new("weir tests");
    let user = nkeys::KeyPair::new_user();
    let tls = server_tls(&authority, &["nats.example.com"], "timeout: 30");
    let users = format!("authorization {{ users = [ {{ nkey: {} }} ] }}", user.public_key());
    let server = NatsServer::start(ServerOptions::default().with(&tls).with(&users)).await;
    let weir =
        weir_of(&server, &format!("ca_file = {:?}\nserver_name = \"nats.example.com\"", authority.ca())).start().await;
    round_trip(&weir, &Login::nkey(&user)).await;
    let stranger = Login::nkey(&nkeys::KeyPair::new_user());
    let attempt = RawClient::attempt(&weir.address, &stranger, PATIENCE).await;
    assert_eq!(attempt.refusal(), Some("Authorization Violation"));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_told_apart() {
    let (authority, stranger) = (Authority::new("weir tests"), Authority::new("somebody else"));
    let tls = server_tls(&authority, &["127.0.0.1"], "timeout: 30");
    let secure = NatsServer::start(ServerOptions::default().with(&tls)).await;
    let plain = NatsServer::start(ServerOptions::default()).await;
    let trusted = format!("ca_file = {:?}", authority.ca());
    for (server, tls, said) in [
        (&secure, format!("ca_file = {:?}", stranger.ca()), "UnknownIssuer"),
        (&secure, format!("{trusted}\nserver_name = \"elsewhere.example.com\""), "not valid for name"),
        (&plain, trusted.clone(), "it speaks no TLS"),
    ] {
        let weir = weir_of(server, &tls)
            .admission("rate = 20000\nmax_hold = \"200ms\"\nrefusal_spread = \"1ms\"")
            .start_at_once()
            .await;
        // On a busy machine a client's hold may end before its server is dialled, so clients come until one was.
        eventually(PATIENCE, said, async || {
            let attempt = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
            assert_eq!(attempt.refusal(), Some("maximum connections exceeded"), "{said}");
            if weir.log().contains(said) { Ok(()) } else { Err(weir.log()) }
        })
        .await;
    }
    let weir = WeirConfig::of_servers(&[&secure]).admission("max_hold = \"200ms\"").start_at_once().await;
    // On a busy machine a client's hold may end before its server is dialled, so clients come until one was.
    eventually(PATIENCE, "a hint", async || {
        RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
        if weir.log().contains("[cluster.tls]") { Ok(()) } else { Err(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_that_says_so_where_tls_should_begin_is_not_taken_for_a_broken_one() {
    let authority = Authority::new("weir tests");
    for first in [false, true] {
        let more = format!("handshake_first: {first}");
        let tls = server_tls(&authority, &["127.0.0.1"], &more);
        let options = |name: &str, max| ServerOptions::named(name).max_connections(max).with(&tls);
        let n1 = NatsServer::start(options("n1", 1)).await;
        let n2 = NatsServer::start(options("n2", 1000)).await;
        let trusted = format!("ca_file = {:?}\nhandshake_first = {first}", authority.ca());
        // No reading says that n1 is full: weir finds it out by its word.
        let weir = WeirConfig::of_servers(&[&n1, &n2]).without_monitors().cluster_tls(&trusted).start().await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
        }
        tokio::join!(n1.settles_at(1), n2.settles_at(19));
        n1.says("maximum connections exceeded").await; // the case did happen
        drop(clients);
        n1.settles_at(0).await;
        let mut again = Vec::new();
        eventually(PATIENCE, "n1 is used again", async || {
            again.push(RawClient::connect(&weir.address, &Login::nobody()).await);
            if n1.connections().await == 1 { Ok(()) } else { Err(again.len()) }
        })
        .await;
        assert!(!weir.log().contains("server ejected"), "{}", weir.log());
        drop(again);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_wait_for_a_server_that_limits_its_rate_of_tls_handshakes() {
    let authority = Authority::new("weir tests");
    for first in [false, true] {
        let more = format!("handshake_first: {first}, connection_rate_limit: 5");
        let server =
            NatsServer::start(ServerOptions::default().with(&server_tls(&authority, &["127.0.0.1"], &more))).await;
        let trusted = format!("ca_file = {:?}\nhandshake_first = {first}", authority.ca());
        // Five clients a second: the holds of this test are long enough for all.
        let weir = weir_of(&server, &trusted).start().await;
        let clients = at_once(30, |_| {
            let address = weir.address.clone();
            async move { RawClient::connect(&address, &Login::nobody()).await }
        })
        .await;
        server.settles_at(30).await;
        let metrics = weir.metrics().await;
        assert_eq!((metrics.sum("weir_refused_total"), weir.health().await), (0.0, 200));
        weir.says("limits its rate").await; // the case did happen
        assert!(!weir.log().contains("server ejected"), "{}", weir.log());
        drop(clients);
        weir.assert_nothing_leaked().await;
    }
}

/// Listens at `address` in the place of a server that asks for TLS, and returns what the first connection sends within
/// a second of its INFO. A real server would not tell.
async fn what_a_server_with_tls_gets(address: &str) -> String {
    let listener = eventually(PATIENCE, "the port", async || TcpListener::bind(address).await).await;
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let info = "INFO {\"server_id\":\"NEW\",\"version\":\"2.15.0\",\"max_payload\":1048576,\"tls_required\":true}\r\n";
    stream.write_all(info.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let _ = timeout(Duration::from_secs(1), stream.read_to_end(&mut got)).await;
    String::from_utf8_lossy(&got).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_reaches_a_server_that_has_begun_to_require_tls() {
    let users = "authorization { users: [{ user: a, password: s3cr3t }] }";
    let mut server = NatsServer::start(ServerOptions::default().with(users)).await;
    let weir = WeirConfig::of_servers(&[&server]).without_monitors().start().await;
    // From the second client on CONNECT goes with the dial.
    let login = Login::user("a", "s3cr3t");
    for _ in 0..3 {
        RawClient::connect(&weir.address, &login).await;
    }
    let mut session = RawClient::connect(&weir.address, &login).await;
    server.kill9();
    session.end(PATIENCE).await;
    let address = server.address.clone();
    let attempt = RawClient::attempt(&weir.address, &login, PATIENCE);
    let (got, _) = tokio::join!(what_a_server_with_tls_gets(&address), attempt);
    assert!(!got.contains("s3cr3t"), "{got}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_reaches_a_server_that_has_begun_to_require_tls_while_nobody_was_there() {
    let users = "authorization { users: [{ user: a, password: s3cr3t }] }";
    let mut server = NatsServer::start(ServerOptions::default().with(users)).await;
    let weir = WeirConfig::of_servers(&[&server]).without_monitors().start().await;
    let login = Login::user("a", "s3cr3t");
    for _ in 0..3 {
        drop(RawClient::connect(&weir.address, &login).await);
    }
    weir.until("nobody is there", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    server.settles_at(0).await;
    server.kill9();
    let address = server.address.clone();
    let attempt = RawClient::attempt(&weir.address, &login, PATIENCE);
    let (got, _) = tokio::join!(what_a_server_with_tls_gets(&address), attempt);
    assert!(!got.contains("s3cr3t"), "{got}");
}

/// A server that weir reaches by another name than that of its certificate, with the logins of weir's own connections.
async fn of_another_name(authority: &Authority, more: &str) -> NatsServer {
    let tls = server_tls(authority, &["nats.example.com"], more);
    NatsServer::start(ServerOptions::default().with(&tls).with(OWN_ACCOUNTS)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weirs_own_connections_check_the_configured_name_and_no_other() {
    let authority = Authority::new("weir tests");
    for first in [false, true] {
        let server = of_another_name(&authority, &format!("timeout: 30, handshake_first: {first}")).await;
        let tls = |name: &str| format!("ca_file = {:?}\nhandshake_first = {first}\n{name}", authority.ca());
        let config = |name: &str| weir_of(&server, &tls(name)).table(OWN_SYSTEM).table(OWN_OTHERS);
        let weir = config("server_name = \"nats.example.com\"").start().await;
        has_its_own_connections(&weir, 1).await;
        for name in ["server_name = \"elsewhere.example.com\"", ""] {
            let weir = config(name).start_at_once().await;
            for what in ["the system account", "the fleet", "publish events"] {
                let told = format!("no connection to {what}");
                eventually(PATIENCE, &told, async || if weir.log().contains(&told) { Ok(()) } else { Err(weir.log()) })
                    .await;
            }
            assert!(!weir.log().contains("connected to"), "{}", weir.log());
        }
    }
}

/// The servers and weir get certificates of another authority: the old ones are good for nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weirs_own_connections_use_renewed_certificates() {
    let (before, after) = (Authority::new("weir tests"), Authority::new("their successors"));
    let of_weir = |authority: &Authority| authority.issue("weir", &["weir.example.com"]);
    let verify = |authority: &Authority| format!("timeout: 30, verify: true, ca_file: {:?}", authority.ca());
    let own = of_weir(&before);
    let mut server = of_another_name(&before, &verify(&before)).await;
    let tls = format!("ca_file = {:?}\nserver_name = \"nats.example.com\"\n{}", before.ca(), pair(&own));
    let mut weir = weir_of(&server, &tls).table(OWN_SYSTEM).table(OWN_OTHERS).log_level("info").start().await;
    has_its_own_connections(&weir, 1).await;
    server.stop().await;
    // weir reads the same files, and the server is configured with others.
    let new = of_weir(&after);
    let written = [(after.ca(), before.ca()), (new.cert, own.cert), (new.key, own.key)];
    let old = server_tls(&before, &["nats.example.com"], &verify(&before));
    server.reconfigure(&old, &server_tls(&after, &["nats.example.com"], &verify(&after)));
    for (from, to) in written {
        std::fs::copy(from, to).expect("a copy");
    }
    weir.signal(Signal::HUP);
    weir.says("certificates renewed of=\"towards servers\"").await;
    server.restart().await;
    weir.sees(1).await;
    has_its_own_connections(&weir, 2).await;
}

/// Whoever has the keys of an old session need not show a certificate any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_with_a_server_outlives_its_certificate() {
    let authority = Authority::new("weir tests");
    // Long enough for weir to come up on a busy machine; its own dials have a session by then.
    let end = SystemTime::now() + Duration::from_secs(20);
    let own = authority.issue_until("n1", &["127.0.0.1"], end);
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 30 }}", own.cert, own.key);
    let server = NatsServer::start(ServerOptions::default().with(&tls)).await;
    let weir = weir_of(&server, &format!("ca_file = {:?}", authority.ca()))
        .admission("rate = 20000\nmax_hold = \"200ms\"\nrefusal_spread = \"1ms\"")
        .start()
        .await;
    for _ in 0..3 {
        RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
    }
    eventually(PATIENCE, "its certificate has expired", async || {
        let attempt = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
        match (attempt.refusal(), weir.log()) {
            (Some(_), log) if log.contains("certificate expired") => Ok(()),
            (refusal, _) => Err(format!("{refusal:?}, {:?} after its end", end.elapsed())),
        }
    })
    .await;
}
