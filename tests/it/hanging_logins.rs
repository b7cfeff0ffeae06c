//! Logins that take longer than usual, or for ever: a slow one is waited for as long as its server waits; one that
//! hangs costs neither other accounts their logins nor, where other servers would let it in, its own client.

use std::time::{Duration, Instant};

use futures::future::join_all;
use nkeys::KeyPair;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use weir_testkit::{callout::Callout, *};

/// What official Go clients wait for PONG at their defaults.
const GO_WAITS: Duration = Duration::from_secs(2);

/// weir as it is without a configuration of its own for admission.
fn with_defaults(servers: &[&NatsServer]) -> WeirConfig {
    WeirConfig::of_servers(servers).listener("").admission("")
}

/// A server that logs in `quiet` by itself and asks a callout about everybody else.
async fn asking(name: &str, callout: &Callout) -> NatsServer {
    let accounts = "QUIET { users: [{user: quiet, password: p}] }, APP {}";
    NatsServer::start(ServerOptions::named(name).with(&callout.server_config_for(accounts))).await
}

fn go(user: &str) -> Login {
    Login::user(user, "p").lang("go")
}

/// `n` clients, one each `interval`, and how each ended.
async fn trickle(address: &str, n: usize, interval: Duration, login: impl Fn(usize) -> Login) -> Vec<Attempt> {
    trickle_behind(|_| String::new(), address, n, interval, login).await
}

/// The same, each behind a PROXY header.
async fn trickle_behind(
    header: impl Fn(usize) -> String,
    address: &str,
    n: usize,
    interval: Duration,
    login: impl Fn(usize) -> Login,
) -> Vec<Attempt> {
    let began = Instant::now();
    let attempts = (0..n).map(|i| {
        let (header, address, login) = (header(i), address.to_owned(), login(i));
        tokio::spawn(async move {
            tokio::time::sleep_until((began + interval * i as u32).into()).await;
            RawClient::attempt_behind(header.as_bytes(), &address, &login, GO_WAITS).await
        })
    });
    join_all(attempts).await.into_iter().map(|attempt| attempt.expect("an attempt")).collect()
}

/// So many clients on each of two servers, past weir, that weir would not take a third one for as empty as them.
async fn fill(servers: [&NatsServer; 2], login: &Login) -> Vec<RawClient> {
    join_all((0..40).map(|n| RawClient::connect(&servers[n % 2].address, login))).await
}

/// A client that allows 10 s, as with `nats.Timeout(10 * time.Second)`; weir cannot know that. The callout takes 3 s,
/// and the server lets it have 30 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_login_is_waited_for_and_delays_no_other_account() {
    nats::at_least(2, 10);
    let callout = Callout::new().sparing(&["quiet"]);
    let server = asking("n1", &callout).await;
    let service = callout.run(&server.address, Duration::from_secs(3)).await;
    let weir = with_defaults(&[&server]).start().await;
    let before = RawClient::connect(&weir.address, &go("quiet")).await;
    let address = weir.address.clone();
    let slow = at_once(4, move |n| {
        let address = address.clone();
        async move { RawClient::attempt(&address, &go(&format!("slow{n}")), PATIENCE).await }
    });
    let quiet = trickle(&weir.address, 6, Duration::from_millis(500), |_| go("quiet"));
    let (slow, quiet) = tokio::join!(slow, quiet);
    let quiet: Vec<_> = quiet.into_iter().map(Attempt::expect_in).collect();
    let slow: Vec<_> = slow.into_iter().map(Attempt::expect_in).collect();
    assert_eq!(service.seen().len(), slow.len(), "each of them asked the callout once");
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    drop((before, slow, quiet));
    weir.assert_nothing_leaked().await;
}

/// Nobody answers the callout: everybody whom the servers do not know hangs. Those whom they know by password are not
/// affected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_of_strangers_that_hang_keep_nobody_else_out() {
    nats::at_least(2, 10);
    let callout = Callout::new().sparing(&["quiet"]);
    let servers = [asking("n1", &callout).await, asking("n2", &callout).await];
    let weir = with_defaults(&servers.each_ref()).start().await;
    let strangers = trickle(&weir.address, 20, Duration::from_millis(500), |n| go(&format!("nobody-{n}")));
    let known = trickle(&weir.address, 50, Duration::from_millis(200), |_| go("quiet"));
    let (strangers, known) = tokio::join!(strangers, known);
    let inside: Vec<_> = known.into_iter().filter_map(Attempt::into_client).collect();
    assert_eq!(inside.len(), 50, "of 50 clients that no server has to ask anybody about");
    assert!(strangers.iter().all(|stranger| !matches!(stranger, Attempt::In(_))));
    let limits = weir.metrics().await.sum("weir_handshake_limit");
    assert!(limits > 2.0, "the servers are given one login at a time, since strangers hang: {limits}");
    weir.says("logins hang").await;
    drop((strangers, inside));
    weir.assert_nothing_leaked().await;
}

/// The same for users who log in for the first time: no server has named their account yet, nor that of the strangers,
/// who come from one address. Half of the users share one address too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_logins_have_places_beside_strangers_whose_logins_hang() {
    nats::at_least(2, 10);
    const USERS: usize = 50;
    let header = |source: &str| format!("PROXY TCP4 {source} 198.51.100.1 40000 4222\r\n");
    let users: Vec<_> = (0..USERS).map(|n| format!("quiet-{n}")).collect();
    let names: Vec<_> = users.iter().map(String::as_str).collect();
    let callout = Callout::new().sparing(&[&names[..], &["before"]].concat());
    let known: String = users.iter().map(|user| format!("{{user: {user}, password: p}},")).collect();
    let accounts = format!("QUIET {{ users: [{known}] }}, USED {{ users: [{{user: before, password: p}}] }}, APP {{}}");
    let config = callout.server_config_for(&accounts);
    let start = async |name| NatsServer::start(ServerOptions::named(name).with(&config)).await;
    let servers = [start("n1").await, start("n2").await];
    let weir =
        with_defaults(&servers.each_ref()).listener("accept_proxy_protocol_from = [\"127.0.0.0/8\"]").start().await;
    let (used, ours) = (Login::user("before", "p").lang("nats.js"), header("192.0.2.201"));
    let before = join_all([(); 4].map(|()| RawClient::attempt_behind(ours.as_bytes(), &weir.address, &used, PATIENCE)));
    let before: Vec<_> = before.await.into_iter().map(Attempt::expect_in).collect();
    let of_a_user = |n| header(&if n % 2 == 0 { "192.0.2.200".into() } else { format!("192.0.2.{n}") });
    let each = Duration::from_millis(50);
    let strangers =
        trickle_behind(|_| header("198.51.100.66"), &weir.address, 240, each, |n| go(&format!("nobody-{n}")));
    let users = async {
        // Not before the strangers have all the places that they get.
        weir.until("logins hang", |metrics| metrics.sum("weir_handshakes_overdue") >= 12.0).await;
        trickle_behind(of_a_user, &weir.address, USERS, Duration::from_millis(200), |n| go(&users[n])).await
    };
    let (strangers, users) = tokio::join!(strangers, users);
    let inside: Vec<_> = users.into_iter().filter_map(Attempt::into_client).collect();
    assert_eq!(inside.len(), USERS, "of {USERS} users whom no server has to ask anybody about");
    drop((strangers, inside, before));
    weir.assert_nothing_leaked().await;
}

/// A client that waits longer than the server does for its callout (JavaScript: 20 s) would read `Authorization
/// Violation` from the server, which ends it for good the second time, although nobody has judged it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patient_client_reads_no_authorization_error_that_nobody_has_decided() {
    nats::at_least(2, 10);
    let config = Callout::new().server_config_for("APP {}").replace("timeout: 30", "timeout: 2");
    let server = NatsServer::start(ServerOptions::default().with(&config)).await;
    let weir = with_defaults(&[&server]).start().await;
    let login = Login::user("alice", "p").lang("nats.js");
    let direct = RawClient::attempt(&server.address, &login, PATIENCE).await;
    assert_eq!(direct.refusal(), Some("Authorization Violation"), "{direct:?}");
    let through = RawClient::attempt(&weir.address, &login, PATIENCE).await;
    assert_eq!(through.refusal(), Some("maximum connections exceeded"), "{through:?}");
    let refused =
        |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", "login_timeout") == 1.0;
    weir.until("the refusal is counted", refused).await;
    assert_eq!(weir.metrics().await.sum("weir_bad_logins_total"), 0.0);
    weir.assert_nothing_leaked().await;
}

/// n1 asks a callout that does not answer; n2 and n3 let the same user in. n1 is the emptiest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_which_logins_hang_does_not_starve_those_who_come_one_by_one() {
    nats::at_least(2, 10);
    let hangs = Callout::new().server_config_for("APP { users: [{user: app, password: p}] }");
    let lets_in = "accounts { APP { users: [{user: app, password: p}] } }";
    let start =
        async |name, config| NatsServer::start(ServerOptions::named(name).max_connections(1000).with(config)).await;
    let (n1, n2, n3) = (start("n1", &hangs[..]).await, start("n2", lets_in).await, start("n3", lets_in).await);
    let weir = with_defaults(&[&n1, &n2, &n3]).start().await;
    let direct = fill([&n2, &n3], &go("app")).await;
    weir.until("weir has seen them", |metrics| metrics.sum("weir_server_connections") >= 40.0).await;
    let clients = trickle(&weir.address, 60, Duration::from_millis(200), |_| go("app")).await;
    let inside: Vec<_> = clients.into_iter().filter_map(Attempt::into_client).collect();
    assert_eq!(inside.len(), 60, "of 60 clients that two idle servers let in at once");
    weir.says("a server does not answer logins, and others do").await;
    let log = weir.log();
    let told = log.lines().find(|line| line.contains("a server does not answer logins, and others do"));
    assert!(told.is_some_and(|line| line.contains("WARN") && line.contains("n1")), "{told:?}");
    drop((inside, direct));
    weir.assert_nothing_leaked().await;
}

/// The same with clients that sign. They have signed the nonce of their server, so those that are sent to n1 while weir
/// tries it have to come back. That is one at a time, at intervals that double.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_on_which_logins_hang_costs_few_clients_that_sign() {
    nats::at_least(2, 12); // servers name the account
    let key = KeyPair::new_user();
    let app = format!("APP {{ users: [{{nkey: {}}}] }}", key.public_key());
    let hangs = Callout::new().server_config_for(&app);
    let lets_in = format!("accounts {{ {app} }}");
    let start = async |name, config: &str| {
        NatsServer::start(ServerOptions::named(name).max_connections(1000).with(config)).await
    };
    let (n1, n2, n3) = (start("n1", &hangs).await, start("n2", &lets_in).await, start("n3", &lets_in).await);
    let weir = with_defaults(&[&n1, &n2, &n3]).start().await;
    let login = Login::nkey(&key).lang("go");
    let direct = fill([&n2, &n3], &login).await;
    weir.until("weir has seen them", |metrics| metrics.sum("weir_server_connections") >= 40.0).await;
    let clients = trickle(&weir.address, 60, Duration::from_millis(200), |_| login.clone()).await;
    let inside: Vec<_> = clients.into_iter().filter_map(Attempt::into_client).collect();
    // 12 s have room for trials after 1, 2, 4 and 8 s, each from half to one and a half times as long.
    assert!(inside.len() >= 52, "{} of 60 clients that two idle servers let in at once", inside.len());
    drop((inside, direct));
    weir.assert_nothing_leaked().await;
}

/// The same with a server of which weir has no readings, and which says INFO and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_but_info_does_not_starve_those_who_come_one_by_one() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = silent.accept().await.unwrap();
            tokio::spawn(async move {
                let info = b"INFO {\"server_id\":\"X\",\"version\":\"2.12.0\",\"proto\":1,\"headers\":true,\"max_payload\":1048576}\r\n";
                let _ = stream.write_all(info).await;
                let mut ignored = [0; 512];
                while stream.read(&mut ignored).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    let start = async |name| NatsServer::start(ServerOptions::named(name).max_connections(1000)).await;
    let (n2, n3) = (start("n2").await, start("n3").await);
    let weir = with_defaults(&[&n2, &n3])
        .table(&format!("[[cluster.servers]]\nname = \"n1\"\naddress = \"{address}\"\nmax_connections = 1000"))
        .start_before(3)
        .await;
    let direct = fill([&n2, &n3], &Login::nobody()).await;
    weir.until("weir has seen them", |metrics| metrics.sum("weir_server_connections") >= 40.0).await;
    let clients = trickle(&weir.address, 60, Duration::from_millis(200), |_| Login::nobody().lang("go")).await;
    let inside = clients.into_iter().filter_map(Attempt::into_client).count();
    assert_eq!(inside, 60, "of 60 clients that two idle servers let in at once");
    drop(direct);
    serving.abort();
}
