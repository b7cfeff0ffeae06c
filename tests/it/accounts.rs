//! Accounts: the configuration maps credentials to an account, and what the server says about the account corrects
//! that.

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use weir_testkit::*;

const QUOTA: &str = "maximum account active connections exceeded";
const VIOLATION: &str = "Authorization Violation";
const ACCOUNTS: &str = "
    accounts {
        ORDERS { users: [{user: orders-1, password: op}, {user: orders-2, password: op}] }
        BILLING { users: [{user: bill, password: bp}] }
        GUESTS { users: [{user: guest, password: gp}] }
        TIGHT { users: [{user: tight, password: tp}], limits { max_connections: 1 } }
    }
    no_auth_user: guest";

async fn cluster() -> Cluster {
    Cluster::start(2, |server| server.with(ACCOUNTS)).await
}

async fn refusal(weir: &Weir, login: &Login) -> Option<String> {
    RawClient::attempt(&weir.address, login, PATIENCE).await.refusal().map(str::to_owned)
}

async fn counts(weir: &Weir, account: &str, n: usize) {
    let sample = format!("weir_account_connections{{account=\"{account}\"}}");
    let counted = |metrics: &metrics::Metrics| metrics.get(&sample).unwrap_or(0.0) == n as f64;
    weir.until(&format!("{n} in {account}"), counted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_belong_to_accounts_by_glob() {
    let cluster = cluster().await;
    let weir = WeirConfig::of(&cluster)
        .account("ORDERS", "users = [\"orders-*\"]\nmax_connections = 5")
        .account("BILLING", "users = [\"bill\"]\nmax_connections = 2")
        .start()
        .await;
    let logins = ["orders-1", "orders-2", "orders-1", "orders-2", "orders-1"].map(|user| Login::user(user, "op"));
    let mut clients = Vec::new();
    for login in &logins {
        clients.push(RawClient::connect(&weir.address, login).await);
    }
    for login in &logins {
        assert_eq!(refusal(&weir, login).await.as_deref(), Some(QUOTA));
    }
    counts(&weir, "ORDERS", 5).await;
    assert_eq!(cluster.account_connections("ORDERS").await, 5);

    let bill = RawClient::connect(&weir.address, &Login::user("bill", "bp")).await;
    counts(&weir, "BILLING", 1).await;
    drop((clients, bill));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_account_is_learned_from_the_server() {
    nats::at_least(2, 12); // since 2.12 a server names the account in the INFO after the first PONG
    let cluster = cluster().await;
    // The configuration lists no users of these two accounts.
    let weir = WeirConfig::of(&cluster)
        .account("BILLING", "max_connections = 3")
        .account("GUESTS", "max_connections = 2")
        .start()
        .await;
    for (login, account, max) in [(Login::user("bill", "bp"), "BILLING", 3), (Login::nobody(), "GUESTS", 2)] {
        let mut clients = vec![RawClient::connect(&weir.address, &login).await];
        counts(&weir, account, 1).await; // weir has moved the slot to the client's real account
        for _ in 1..max {
            clients.push(RawClient::connect(&weir.address, &login).await);
        }
        assert_eq!(refusal(&weir, &login).await.as_deref(), Some(QUOTA), "{account} is known now, and full");
        counts(&weir, account, max).await;
        assert_eq!(cluster.account_connections(account).await, max as u64);
        drop(clients);
        counts(&weir, account, 0).await;
    }
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_tell_is_asked() {
    let old = match nats::debian().await {
        Ok(old) => old,
        Err(why) => return skip(&why),
    };
    let system = "system_account: SYS\naccounts { SYS { users: [{user: admin, password: a}] }, A { users: [{user: u, password: p}, {user: v, password: p}] } }";
    let options = ServerOptions { binary: Some(old), ..ServerOptions::default().with(system) };
    let server = NatsServer::start(options).await;
    let over_http = WeirConfig::of_servers(&[&server]).account("A", "max_connections = 2");
    let login = "[cluster.system]\nuser = \"admin\"\npassword = \"a\"";
    let over_system = over_http.clone().without_monitors().cluster(login);
    for (config, user) in [(over_http, "u"), (over_system, "v")] {
        let weir = config.start().await;
        let login = Login::user(user, "p");
        let first = RawClient::connect(&weir.address, &login).await;
        counts(&weir, "A", 1).await; // weir has moved the slot to the client's real account
        counts(&weir, "default", 0).await;
        let second = RawClient::connect(&weir.address, &login).await;
        assert_eq!(refusal(&weir, &login).await.as_deref(), Some(QUOTA));
        drop((first, second));
        counts(&weir, "A", 0).await;
        weir.assert_nothing_leaked().await;
    }
}

/// A server so old that it does not tell clients their account, with this many users in A.
///
/// # Errors
/// Why there is none.
async fn names_no_account(users: usize) -> Result<NatsServer, String> {
    let options = ServerOptions { binary: Some(nats::debian().await?), ..ServerOptions::default() };
    let users: String = (0..users).map(|n| format!("{{user: u{n}, password: p}},")).collect();
    Ok(NatsServer::start(options.with(&format!("accounts {{ A {{ users: [{users}] }} }}"))).await)
}

/// Each user logs in for the first time, so that no account is known before its client is in. Those for whom the
/// account turns out to have no room end, without an `-ERR`, which ends some libraries for good; they read it when they
/// come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_found_over_the_quota_of_their_account_end() {
    const USERS: usize = 6;
    let server = match names_no_account(USERS).await {
        Ok(server) => server,
        Err(why) => return skip(&why),
    };
    let weir = WeirConfig::of_servers(&[&server]).account("A", "max_connections = 2").start().await;
    let logins: Vec<_> = (0..USERS).map(|n| Login::user(&format!("u{n}"), "p")).collect();
    let attempts = at_once(USERS, |n| {
        let (address, login) = (weir.address.clone(), logins[n].clone());
        async move { RawClient::attempt(&address, &login, PATIENCE).await }
    })
    .await;
    let clients = attempts.into_iter().map(Attempt::expect_in);
    let over = |metrics: &metrics::Metrics| metrics.sum_where("weir_closed_total", "reason", "account_quota");
    weir.until("the others have ended", |metrics| over(metrics) == (USERS - 2) as f64).await;
    counts(&weir, "A", 2).await;
    counts(&weir, "default", 0).await;
    server.settles_at(2).await;
    let (mut inside, mut ended) = (Vec::new(), 0);
    for (n, mut client) in clients.enumerate() {
        if client.round_trip().await.is_ok() {
            inside.push(client);
            continue;
        }
        ended += 1;
        assert_ne!(client.end(PATIENCE).await, client::End::StillOpen);
        assert!(client.errors.is_empty(), "{:?}", client.errors);
        assert_eq!(refusal(&weir, &logins[n]).await.as_deref(), Some(QUOTA));
    }
    assert_eq!((inside.len(), ended), (2, USERS - 2));
    drop(inside);
    counts(&weir, "A", 0).await;
    weir.assert_nothing_leaked().await;
}

/// A server's monitoring fails while its clients log in. They are counted once it answers again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_could_not_be_asked_for_is_asked_for_again() {
    const USERS: usize = 5;
    let server = match names_no_account(USERS).await {
        Ok(server) => server,
        Err(why) => return skip(&why),
    };
    let (answers, listener) = (watch::Sender::new(true), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (here, monitor) = (listener.local_addr().unwrap().to_string(), server.monitor.clone());
    let mut it_answers = answers.subscribe();
    let forwarding = tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            if *it_answers.borrow_and_update() {
                let (monitor, mut it_answers) = (monitor.clone(), it_answers.clone());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(monitor).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = it_answers.changed() => {}
                    }
                });
            }
        }
    });
    let weir = WeirConfig::of_servers(&[&server]).with_monitor(&here).account("A", "max_connections = 2").start().await;
    answers.send_replace(false);
    let clients = at_once(USERS, |n| {
        let address = weir.address.clone();
        async move { RawClient::connect(&address, &Login::user(&format!("u{n}"), "p")).await }
    })
    .await;
    eventually(PATIENCE, "it cannot be asked", async || {
        if weir.log().contains("a client's account is not known") { Ok(()) } else { Err("not yet") }
    })
    .await;
    counts(&weir, "default", USERS).await;
    answers.send_replace(true);
    counts(&weir, "A", 2).await;
    counts(&weir, "default", 0).await;
    drop(clients);
    weir.assert_nothing_leaked().await;
    forwarding.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_guess_of_the_configuration_is_corrected() {
    nats::at_least(2, 12);
    let cluster = cluster().await;
    // The configuration puts orders-2 into the wrong account. What the server says about the account decides.
    let weir = WeirConfig::of(&cluster)
        .account("BILLING", "users = [\"bill\", \"orders-2\"]\nmax_connections = 1")
        .account("ORDERS", "users = [\"orders-1\"]\nmax_connections = 3")
        .start()
        .await;
    let misplaced = RawClient::connect(&weir.address, &Login::user("orders-2", "op")).await;
    counts(&weir, "ORDERS", 1).await;
    counts(&weir, "BILLING", 0).await;
    let bill = RawClient::connect(&weir.address, &Login::user("bill", "bp")).await; // the slot in BILLING is free again
    // weir has learned the account of this credential.
    let again = RawClient::connect(&weir.address, &Login::user("orders-2", "op")).await;
    counts(&weir, "ORDERS", 2).await;
    counts(&weir, "BILLING", 1).await;
    drop((misplaced, bill, again));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_own_refusals_pass_unchanged() {
    let cluster = cluster().await;
    let weir = WeirConfig::of(&cluster).account("ORDERS", "users = [\"orders-*\"]\nmax_connections = 50").start().await;
    for wrong in [Login::user("orders-1", "wrong"), Login::user("nobody", "op"), Login::token("no token here")] {
        let direct = RawClient::attempt(&cluster.servers[0].address, &wrong, PATIENCE).await;
        assert_eq!(direct.refusal(), Some(VIOLATION));
        for _ in 0..10 {
            assert_eq!(refusal(&weir, &wrong).await.as_deref(), Some(VIOLATION));
        }
    }
    // Only the servers know this limit: one client on each. A server checks its limit before it counts the client, so
    // it may let in a few that come at once.
    let tight = Login::user("tight", "tp");
    let attempts = at_once(10, |_| {
        let (address, login) = (weir.address.clone(), tight.clone());
        async move { RawClient::attempt(&address, &login, PATIENCE).await }
    })
    .await;
    let inside = attempts.iter().filter(|attempt| matches!(attempt, Attempt::In(_))).count();
    let told = attempts.iter().filter(|attempt| attempt.refusal() == Some(QUOTA)).count();
    assert!(inside >= 1 && told >= 1 && inside + told == 10, "{attempts:?}");
    drop(attempts);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_passed_on_and_never_logged() {
    let server = NatsServer::start(ServerOptions::default().with("authorization { token: \"s3cr3t-t0ken\" }")).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let right = Login::token("s3cr3t-t0ken");
    let mut client = RawClient::connect(&weir.address, &right).await;
    client.round_trip().await.unwrap();
    for wrong in [Login::token("wr0ng-t0ken"), Login::user("u", "wr0ng-passw0rd"), Login::nobody()] {
        assert_eq!(refusal(&weir, &wrong).await.as_deref(), Some(VIOLATION));
    }
    // weir itself refuses this CONNECT. The part that weir cannot parse contains a secret.
    let mut broken = RawClient::greeted(&weir.address).await.unwrap();
    broken.send(b"CONNECT {\"auth_token\":\"s3cr3t-t0ken\",\"user\": br0ken}\r\n").await.unwrap();
    assert_ne!(broken.end(PATIENCE).await, client::End::StillOpen);

    drop(client);
    weir.assert_nothing_leaked().await;
    let (_, metrics) = http::get(&weir.monitor, "/metrics").await.unwrap();
    for secret in ["s3cr3t-t0ken", "wr0ng-t0ken", "wr0ng-passw0rd", "br0ken"] {
        assert!(!weir.log().contains(secret) && !metrics.contains(secret), "{secret} has leaked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weir_and_the_server_never_disagree_about_who_it_is() {
    let cluster = cluster().await;
    let weir = WeirConfig::of(&cluster)
        .account("ORDERS", "users = [\"orders-*\"]\nmax_connections = 100")
        .account("BILLING", "users = [\"bill\"]\nmax_connections = 100")
        .start()
        .await;
    // nats-server compares keys without case (by Unicode folding), reads escapes in them, and takes the last of
    // several. For nats-server each of these is user `bill`.
    let tricks = [
        r#"CONNECT {"verbose":false,"user":"orders-1","pass":"op","User":"bill","PASS":"bp"}"#,
        r#"connect {"verbose":false,"USER":"bill","Pass":"bp"}"#,
        "CONNECT\t{\"verbose\":false,\"user\":\"orders-1\",\"pass\":\"op\",\"u\u{17f}er\":\"bill\",\"pa\u{17f}s\":\"bp\"}",
        r#"CONNECT   {"verbose":false,"\u0075ser":"bill","p\u0061ss":"bp"}  "#,
        r#"cOnNeCt {"VERBOSE":false,"user":null,"user":"bill","pass":"x","pass":"bp","unknown":{"user":"orders-1"}}"#,
    ];
    for (i, trick) in tricks.iter().enumerate() {
        let mut client = RawClient::greeted(&weir.address).await.unwrap();
        client.send(format!("{trick}\r\nPING\r\n").as_bytes()).await.unwrap();
        let answer = client.next_within(PATIENCE).await.unwrap();
        assert_eq!(answer, Some(client::Op::Pong), "{trick}");
        counts(&weir, "BILLING", 1).await;
        let theirs = (cluster.account_connections("BILLING").await, cluster.account_connections("ORDERS").await);
        assert_eq!(theirs, (1, 0), "trick {i}: {trick}");
        drop(client);
        counts(&weir, "BILLING", 0).await;
        cluster.settles_at(0).await;
    }
    weir.assert_nothing_leaked().await;
}

const MOVED: &str = "{user: moved, password: p}";

/// A server that moves a user from account A, which the user `stays` keeps full, to B, and weir with a quota of one for
/// A that knows both users as A's.
async fn moved_out_of_a_full_account(options: ServerOptions) -> (NatsServer, Weir, RawClient) {
    let accounts = format!("accounts {{ A {{ users: [{{user: stays, password: p}}, {MOVED}] }}, B {{ users: [] }} }}");
    let mut server = NatsServer::start(options.with(&accounts)).await;
    let weir = WeirConfig::of_servers(&[&server]).account("A", "max_connections = 1").start().await;
    for user in ["stays", "moved"] {
        let client = RawClient::connect(&weir.address, &Login::user(user, "p")).await;
        counts(&weir, "A", 1).await;
        drop(client);
        counts(&weir, "A", 0).await;
    }
    let stays = RawClient::connect(&weir.address, &Login::user("stays", "p")).await;
    counts(&weir, "A", 1).await;
    assert_eq!(refusal(&weir, &Login::user("moved", "p")).await.as_deref(), Some(QUOTA), "it is in A, and A is full");
    let (before, after) = (format!(", {MOVED}] }}, B {{ users: [] }}"), format!("] }}, B {{ users: [{MOVED}] }}"));
    server.reload(&before, &after).await;
    (server, weir, stays)
}

/// weir hears of the other configuration with its next reading.
async fn the_one_who_was_moved_gets_in(server: &NatsServer, weir: &Weir, mut stays: RawClient) {
    let moved = eventually(PATIENCE, "it is let in", async || {
        RawClient::attempt(&weir.address, &Login::user("moved", "p"), PATIENCE).await.into_client().ok_or("refused")
    })
    .await;
    counts(weir, "A", 1).await;
    counts(weir, "B", 1).await;
    let another = RawClient::connect(&weir.address, &Login::user("moved", "p")).await;
    counts(weir, "B", 2).await;
    stays.round_trip().await.expect("it stays");
    for _ in 0..10 {
        assert_eq!(refusal(weir, &Login::user("stays", "p")).await.as_deref(), Some(QUOTA), "this one is in A");
    }
    // The first of them has been at the server, and leaves it.
    eventually(PATIENCE, "each is in its account", async || {
        let seen = (server.account_connections("A").await, server.account_connections("B").await);
        if seen == (1, 2) { Ok(()) } else { Err(seen) }
    })
    .await;
    drop((moved, another, stays));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_was_moved_out_of_a_full_account_gets_in() {
    nats::at_least(2, 12);
    let (server, weir, stays) = moved_out_of_a_full_account(ServerOptions::default()).await;
    the_one_who_was_moved_gets_in(&server, &weir, stays).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_was_moved_gets_in_where_servers_do_not_tell() {
    let old = match nats::debian().await {
        Ok(old) => old,
        Err(why) => return skip(&why),
    };
    let options = ServerOptions { binary: Some(old), ..ServerOptions::default() };
    let (server, weir, stays) = moved_out_of_a_full_account(options).await;
    the_one_who_was_moved_gets_in(&server, &weir, stays).await;
}
