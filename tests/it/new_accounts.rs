//! A storm of clients that are each of an account of their own, in front of a weir that has seen none of them.

use weir_testkit::*;

use crate::slow_server::PASSWORD;

const CLIENTS: usize = 200;

/// Each login is the first of its account, and takes as long as those beside it make it take. That shows all the same
/// how many the server can do at a time: a few.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_accounts_that_weir_has_not_seen_does_not_flood_the_server() {
    nats::at_least(2, 12); // servers name the account
    let account = |n| format!("A{n} {{ users: [{{user: u{n}, password: \"{PASSWORD}\"}}] }}\n");
    let accounts: String = (0..CLIENTS).map(account).collect();
    let cluster = Cluster::start(1, |one| one.default_timeouts().with(&format!("accounts {{ {accounts} }}"))).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let login = |n| Login::user(&format!("u{n}"), "p").lang("go");
    let storm = Crowd::start_each(&weir.address, CLIENTS, Habit::NATS_GO, login);
    let mut most = 0.0_f64;
    weir.until("all are in", |now| {
        most = most.max(now.sum("weir_handshake_limit"));
        now.sum("weir_sessions_active") >= CLIENTS as f64
    })
    .await;
    say(&format!("at most {most} logins at a time"));
    assert!(most <= 32.0, "{most} logins at a time, each of which takes a core");
    storm.settles_at(CLIENTS).await;
    storm.end().await;
    weir.assert_nothing_leaked().await;
}

/// Both accounts are unknown when their clients come. The first client of the quiet one does not wait behind all that
/// have come before it of the other one: as many of these get in meanwhile as log in beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_one_unknown_account_leaves_turns_to_another() {
    nats::at_least(2, 12); // servers name the account
    let account = |name: &str| format!("{name} {{ users: [{{user: {name}, password: \"{PASSWORD}\"}}] }}");
    let accounts = format!("accounts {{ {}, {} }}", account("storm"), account("quiet"));
    let cluster = Cluster::start(1, |one| one.default_timeouts().with(&accounts)).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let login = |name: &str| Login::user(name, "p").lang("go");
    let storm = Crowd::start(&weir.address, CLIENTS, &login("storm"), Habit::NATS_GO);
    weir.until("some are in, the others wait", |now| {
        now.sum("weir_sessions_active") >= 4.0 && now.sum("weir_held") >= CLIENTS as f64 / 2.0
    })
    .await;
    let before = weir.metrics().await.sum("weir_sessions_active");
    let quiet = RawClient::connect(&weir.address, &login("quiet")).await;
    let meanwhile = weir.metrics().await.sum("weir_sessions_active") - before;
    say(&format!("{meanwhile} clients have got in until the first of the quiet account is"));
    assert!(meanwhile <= 16.0, "{meanwhile}");
    storm.settles_at(CLIENTS).await;
    drop(quiet);
    storm.end().await;
    weir.assert_nothing_leaked().await;
}

/// Each of eight accounts has one client, which come at once to a weir that has met none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_clients_of_many_accounts_do_not_share_one_quota() {
    nats::at_least(2, 12);
    // A login takes long enough that all are under way at once.
    const ACCOUNTS: usize = 8;
    let accounts: String =
        (0..ACCOUNTS).map(|n| format!("A{n} {{ users: [{{user: u{n}, password: \"{PASSWORD}\"}}] }}\n")).collect();
    let server = NatsServer::start(ServerOptions::default().with(&format!("accounts {{ {accounts} }}"))).await;
    // Without a reading, too: the server itself says that it names accounts.
    for config in [WeirConfig::of_servers(&[&server]), WeirConfig::of_servers(&[&server]).without_monitors()] {
        let weir = config.account("default", "max_connections = 2").start().await;
        let clients = at_once(ACCOUNTS, |n| {
            let address = weir.address.clone();
            async move { RawClient::attempt(&address, &Login::user(&format!("u{n}"), "p"), PATIENCE).await }
        })
        .await;
        let clients: Vec<_> = clients.into_iter().map(Attempt::expect_in).collect();
        for n in 0..ACCOUNTS {
            let sample = format!("weir_account_connections{{account=\"A{n}\"}}");
            weir.until("it counts for its account", |metrics| metrics.get(&sample) == Some(1.0)).await;
        }
        // Each of them has the quota to itself.
        let login = Login::user("u3", "p");
        let second = RawClient::connect(&weir.address, &login).await;
        let third = RawClient::attempt(&weir.address, &login, PATIENCE).await;
        assert_eq!(third.refusal(), Some("maximum account active connections exceeded"));
        drop((clients, second));
        weir.assert_nothing_leaked().await;
    }
}
