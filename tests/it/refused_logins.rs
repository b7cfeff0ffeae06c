//! A server that refuses logins which the other servers let in, as in a rotation of passwords that is half done: its
//! clients get in elsewhere, unseen, and it ranks behind until it is mended. A login that is wrong everywhere stays one
//! error, and says nothing about a server.

use std::time::Duration;

use futures::future::join_all;
use nkeys::KeyPair;
use rustix::process::Signal;
use tokio::time::sleep;
use weir_testkit::*;

const VIOLATION: &str = "Authorization Violation";
const FULL: &str = "maximum connections exceeded";

/// One user, whose password is `right`.
const RIGHT: &str = "authorization { users: [{user: app, password: right}] }";
const OTHER: &str = "authorization { users: [{user: app, password: other}] }";

fn app() -> Login {
    Login::user("app", "right")
}

async fn cluster(config: &str) -> Cluster {
    Cluster::start(3, |one| one.default_timeouts().with(config)).await
}

/// Logins that this server has refused since its first start.
fn refused_by(server: &NatsServer) -> usize {
    server.log().matches("authentication error").count()
}

fn failing(metrics: &metrics::Metrics, server: &str) -> bool {
    metrics.get(&format!("weir_server_logins_failing{{server=\"{server}\"}}")) == Some(1.0)
}

/// Clients that come one after another and stay; all of them get in.
async fn come(weir: &Weir, login: &Login, n: usize) -> Vec<RawClient> {
    let mut clients = Vec::new();
    for nth in 0..n {
        match RawClient::attempt(&weir.address, login, PATIENCE).await {
            Attempt::In(client) => clients.push(client),
            other => panic!("client {nth} of {n}: {other:?}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
    clients
}

/// The same client again and again until it is in, as libraries do it; panics at an authorization error.
async fn comes_until_in(weir: &Weir, login: &Login) -> (RawClient, usize) {
    for refusals in 0..20 {
        match RawClient::attempt(&weir.address, login, PATIENCE).await {
            Attempt::In(client) => return (client, refusals),
            Attempt::Refused { text, .. } if text == FULL => sleep(Duration::from_millis(200)).await,
            other => panic!("after {refusals} refusals: {other:?}"),
        }
    }
    panic!("refused 20 times")
}

async fn half_done_rotation(with_readings: bool) {
    let mut cluster = cluster(RIGHT).await;
    let config = WeirConfig::of(&cluster).default_settings();
    let weir = if with_readings { config } else { config.without_monitors() }.start().await;
    let before = come(&weir, &app(), 30).await;
    cluster.servers[0].reconfigure(RIGHT, OTHER);
    cluster.servers[0].restart().await;
    cluster.servers[0].settles_at(0).await;

    // n1 is the emptiest, and refuses everybody.
    let after = come(&weir, &app(), 60).await;
    let metrics = weir.until("n1 is known to fail logins", |metrics| failing(metrics, "n1")).await;
    assert!(!failing(&metrics, "n2") && !failing(&metrics, "n3"));
    assert!(metrics.sum_where("weir_server_login_failures_total", "server", "n1") >= 1.0);
    assert_eq!(metrics.sum("weir_bad_logins_total"), 0.0, "no client had a bad login");
    weir.says("a server refuses a login that another server lets in").await;
    let tried = refused_by(&cluster.servers[0]);
    assert!((1..=20).contains(&tried), "{tried} logins at n1");
    cluster.servers[0].settles_at(0).await;

    // The password is mended, in the same process: the next trial shows it.
    cluster.servers[0].reconfigure(OTHER, RIGHT);
    cluster.servers[0].signal(Signal::HUP);
    let mut late = Vec::new();
    eventually(PATIENCE, "n1 gets clients again", async || {
        late.extend(come(&weir, &app(), 1).await);
        let n1 = cluster.servers[0].connections().await;
        if n1 > 0 { Ok(()) } else { Err(refused_by(&cluster.servers[0])) }
    })
    .await;
    weir.until("n1 fails no more", |metrics| !failing(metrics, "n1")).await;
    weir.says("a server lets clients in again").await;
    drop((before, after, late));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_another_password_gets_no_clients_until_it_is_mended() {
    half_done_rotation(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_without_readings() {
    half_done_rotation(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weir_that_has_just_started_finds_out_with_the_first_clients_and_a_restart_ends_it() {
    let mut cluster = cluster(RIGHT).await;
    cluster.servers[0].reconfigure(RIGHT, OTHER);
    cluster.servers[0].restart().await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    // All at once: nobody has been let in yet.
    let at_once = at_once(60, |_| {
        let address = weir.address.clone();
        async move { RawClient::attempt(&address, &app(), PATIENCE).await }
    })
    .await;
    let clients: Vec<_> = at_once.into_iter().map(Attempt::expect_in).collect();
    let tried = refused_by(&cluster.servers[0]);
    assert!((1..=20).contains(&tried), "{tried} logins at n1");
    weir.until("n1 is known to fail logins", |metrics| failing(metrics, "n1")).await;
    cluster.servers[0].reconfigure(OTHER, RIGHT);
    cluster.servers[0].restart().await;
    weir.sees(3).await;
    // Up it was before, too: that it is another process now is what lets clients in there again.
    weir.says("server has restarted server=\"n1\"").await;
    let more = come(&weir, &app(), 10).await;
    assert!(cluster.servers[0].connections().await >= 9, "{:?}", cluster.connections().await);
    assert_eq!(refused_by(&cluster.servers[0]), tried, "no login was refused since");
    drop((clients, more));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_is_wrong_everywhere_is_one_error_and_no_servers_fault() {
    let cluster = cluster(RIGHT).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let here = come(&weir, &app(), 6).await;
    let wrong = Login::user("app", "wrong");
    let attempts = join_all((0..40).map(|_| RawClient::attempt(&weir.address, &wrong, PATIENCE))).await;
    for attempt in attempts {
        assert_eq!(attempt.refusal(), Some(VIOLATION), "{attempt:?}");
    }
    let each = |metrics: &metrics::Metrics| metrics.sum("weir_bad_logins_total") == 40.0;
    let metrics = weir.until("one for each client", each).await;
    assert_eq!(metrics.sum("weir_server_logins_failing"), 0.0);
    let tried: usize = cluster.servers.iter().map(refused_by).sum();
    assert!((40..=52).contains(&tried), "{tried} logins for 40 clients: more than the budget for second tries");
    drop(here);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_was_right_and_is_now_refused_everywhere_is_passed_on() {
    let mut cluster = cluster(RIGHT).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let clients = come(&weir, &app(), 6).await;
    for server in &mut cluster.servers {
        server.reconfigure(RIGHT, OTHER);
        server.signal(Signal::HUP);
    }
    eventually(PATIENCE, "the servers have the other password", async || {
        let all = cluster.servers.iter().all(|server| server.log_contains("Reloaded server configuration"));
        if all { Ok(()) } else { Err("not yet") }
    })
    .await;
    let before: usize = cluster.servers.iter().map(refused_by).sum();
    for _ in 0..20 {
        let attempt = RawClient::attempt(&weir.address, &app(), PATIENCE).await;
        assert_eq!(attempt.refusal(), Some(VIOLATION), "{attempt:?}");
    }
    let tried = cluster.servers.iter().map(refused_by).sum::<usize>() - before;
    assert!((20..=32).contains(&tried), "{tried} logins for 20 clients");
    assert_eq!(weir.metrics().await.sum("weir_server_logins_failing"), 0.0);
    come(&weir, &Login::user("app", "other"), 6).await;
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signs_comes_back_and_finds_a_server_that_lets_it_in() {
    let key = KeyPair::new_user();
    let right = format!("authorization {{ users: [{{nkey: {}}}] }}", key.public_key());
    let other = format!("authorization {{ users: [{{nkey: {}}}] }}", KeyPair::new_user().public_key());
    let mut cluster = cluster(&right).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let before = come(&weir, &Login::nkey(&key), 30).await;
    cluster.servers[0].reconfigure(&right, &other);
    cluster.servers[0].restart().await;
    weir.sees(3).await;
    let mut after = Vec::new();
    let mut refusals = 0;
    for _ in 0..30 {
        let (client, refused) = comes_until_in(&weir, &Login::nkey(&key)).await;
        after.push(client);
        refusals += refused;
    }
    assert!(refusals >= 1, "n1 was the emptiest");
    assert!(refusals <= 8, "{refusals} refusals: one, and one for each trial");
    weir.until("n1 is known to fail logins", |metrics| failing(metrics, "n1")).await;
    let told = |metrics: &metrics::Metrics| metrics.get("weir_refused_total{reason=\"server_refuses_login\"}");
    weir.until("each refusal is counted", |metrics| told(metrics) == Some(refusals as f64)).await;
    drop((before, after));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_names_anothers_key_gets_the_servers_error_and_blames_no_server() {
    let key = KeyPair::new_user();
    let cluster = cluster(&format!("authorization {{ users: [{{nkey: {}}}] }}", key.public_key())).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let forged = Login::nkey(&KeyPair::new_user()).with("nkey", key.public_key().into());
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.extend(come(&weir, &Login::nkey(&key), 1).await);
        let attempt = RawClient::attempt(&weir.address, &forged, PATIENCE).await;
        assert_eq!(attempt.refusal(), Some(VIOLATION), "{attempt:?}");
    }
    assert_eq!(weir.metrics().await.sum("weir_server_logins_failing"), 0.0);
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_logins_is_used_when_no_other_has_room() {
    let mut cluster = Cluster::start(2, |one| {
        let one = one.default_timeouts().with(RIGHT);
        if one.name == "n2" { one.max_connections(9) } else { one }
    })
    .await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let mut clients = come(&weir, &app(), 6).await;
    cluster.servers[0].reconfigure(RIGHT, "authorization { users: [{user: b, password: b}] }");
    cluster.servers[0].restart().await;
    weir.sees(2).await;
    // Whoever comes before weir knows that n1 is back goes to n2.
    eventually(PATIENCE, "n1 is known to fail logins", async || {
        drop(come(&weir, &app(), 1).await);
        if failing(&weir.metrics().await, "n1") { Ok(()) } else { Err("not yet") }
    })
    .await;
    eventually(PATIENCE, "n2 is full", async || {
        match RawClient::attempt(&weir.address, &app(), PATIENCE).await {
            Attempt::In(client) => {
                clients.push(client);
                Err("not yet".to_owned())
            }
            // The password is known to be good elsewhere, so the client is to come back.
            Attempt::Refused { text, .. } if text == FULL => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    cluster.servers[1].settles_at(8).await; // the last slot is the reserve
    // Whom n1 knows, it lets in.
    RawClient::connect(&weir.address, &Login::user("b", "b")).await;
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn official_clients_that_reconnect_read_no_authorization_error() {
    let mut cluster = cluster(RIGHT).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let (errors, mut told) = tokio::sync::mpsc::unbounded_channel();
    let connect = |_: usize| {
        let errors = errors.clone();
        let options = async_nats::ConnectOptions::with_user_and_password("app".into(), "right".into());
        let options = options.event_callback(move |event| {
            let errors = errors.clone();
            async move {
                let said = event.to_string().to_lowercase();
                if said.contains("authorization") {
                    let _ = errors.send(said);
                }
            }
        });
        let url = weir.url();
        async move { options.connect(url).await.expect("connects") }
    };
    let clients = join_all((0..30).map(connect)).await;
    for n in [0, 1] {
        // First the one that comes back with another password, then one whose clients would all go there.
        if n == 0 {
            cluster.servers[0].reconfigure(RIGHT, OTHER);
        }
        cluster.servers[n].restart().await;
        weir.sees(3).await;
        weir.until("all are back", |metrics| metrics.sum("weir_sessions_active") == 30.0).await;
    }
    for client in &clients {
        eventually(PATIENCE, "the client knows that it is back", async || match client.connection_state() {
            async_nats::connection::State::Connected => Ok(()),
            other => Err(other),
        })
        .await;
        client.flush().await.expect("flush");
    }
    assert_eq!(told.try_recv().ok(), None);
    assert_eq!(weir.metrics().await.sum("weir_bad_logins_total"), 0.0);
}
