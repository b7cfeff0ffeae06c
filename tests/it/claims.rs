//! What a client merely claims: `nkey` and `jwt` in front of servers that ignore them, and names that somebody else
//! proves later.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use weir_testkit::{admin::AdminSocket, *};

const QUOTA: &str = "maximum account active connections exceeded";

/// Accounts whose users have passwords: such servers send no nonce.
const PASSWORDS: &str = "
    accounts {
        A { users: [{user: bob, password: bp}] }
        EVE { users: [{user: eve, password: ep}] }
        ORDERS { users: [{user: orders, password: op}] }
    }";

/// A JWT that nobody has signed, of a user of this account.
fn unsigned_jwt(account: &KeyPair) -> String {
    let (account, user) = (account.public_key(), KeyPair::new_user().public_key());
    let part = |json: String| BASE64URL_NOPAD.encode(json.as_bytes());
    let payload = format!(r#"{{"iss":"{account}","sub":"{user}","nats":{{"type":"user","version":2}}}}"#);
    format!("{}.{}.c2ln", part(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#.into()), part(payload))
}

/// A login with what the server ignores beside it.
fn with_nkey(login: &Login, nkey: &str) -> Login {
    login.clone().with("nkey", nkey.into())
}

fn with_jwt(login: &Login) -> Login {
    login.clone().with("jwt", unsigned_jwt(&KeyPair::new_account()).into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_nkey_or_a_jwt_that_the_server_ignores_gets_nobody_past_the_quota_of_its_user() {
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(PASSWORDS)).await;
    let weir =
        WeirConfig::of_servers(&[&server]).default_settings().table("[users.bob]\nmax_connections = 1").start().await;
    let bob = Login::user("bob", "bp");
    let inside = RawClient::connect(&weir.address, &bob).await;
    for login in
        [bob.clone(), with_nkey(&bob, "UABC"), with_nkey(&bob, &KeyPair::new_user().public_key()), with_jwt(&bob)]
    {
        let told = RawClient::attempt(&weir.address, &login, PATIENCE).await;
        assert_eq!(told.refusal(), Some(QUOTA), "{told:?} {login:?}");
    }
    drop(inside);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_nkey_that_the_server_ignores_spends_nobody_elses_rate() {
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(PASSWORDS)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .default_settings()
        .account("ORDERS", "users = [\"orders*\"]\nrate = 1\nburst = 5")
        .start()
        .await;
    let eve = Login::user("eve", "ep");
    for n in 0..10 {
        drop(RawClient::connect(&weir.address, &with_nkey(&eve, &format!("orders-{n}"))).await);
    }
    let orders = at_once(5, |_| {
        let address = weir.address.clone();
        async move { RawClient::attempt(&address, &Login::user("orders", "op"), PATIENCE).await }
    })
    .await;
    assert!(orders.iter().all(|attempt| matches!(attempt, Attempt::In(_))), "{orders:?}");
    drop(orders);
    weir.assert_nothing_leaked().await;
}

/// Turns are fair between accounts, so made-up accounts would take the turns of real ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_accounts_take_no_turns_of_real_ones() {
    const OF_A: usize = 40;
    const OF_EVE: usize = 240;
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(PASSWORDS)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .admission("rate = 20\nburst = 1\nmax_hold = \"19s\"")
        .account("A", "users = [\"bob\"]")
        .account("EVE", "users = [\"eve\"]")
        .start()
        .await;
    let eve = Login::user("eve", "ep");
    let mut waiting = Vec::new();
    for _ in 0..OF_EVE {
        let mut client = RawClient::greeted(&weir.address).await.unwrap();
        client.send(format!("{}PING\r\n", with_jwt(&eve).connect_line()).as_bytes()).await.unwrap();
        waiting.push(client);
    }
    weir.until("EVE's clients wait", |metrics| metrics.sum("weir_held") >= 0.6 * OF_EVE as f64).await;
    let before = server.total_connections().await;
    let a = at_once(OF_A, |_| {
        let address = weir.address.clone();
        async move { RawClient::attempt(&address, &Login::user("bob", "bp"), PATIENCE).await.expect_in() }
    })
    .await;
    // One turn of the other account for each of A's, and those that were given between the two looks.
    let turns = server.total_connections().await - before;
    assert!(turns <= 3 * OF_A as u64, "{turns} logins until all {OF_A} of A were in");
    drop((a, waiting));
    weir.assert_nothing_leaked().await;
}

/// In front of servers that trust an operator a JWT without a signature may be a bearer's, or made up: until a server
/// has let it in, it does not make its client one of another account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_bearers_take_no_turns_of_real_ones() {
    const OF_A: usize = 20;
    const OF_EVE: usize = 120;
    let operator = operator::Operator::with_accounts([-1]);
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(&operator.server_config())).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener("accept_proxy_protocol_from = [\"127.0.0.0/8\"]")
        .admission("rate = 20\nburst = 1")
        .start()
        .await;
    let header = |source: &str| format!("PROXY TCP4 {source} 198.51.100.1 40000 4222\r\n");
    let eve = at_once(OF_EVE, |_| {
        let (address, header) = (weir.address.clone(), header("192.0.2.66"));
        let login = Login::default().with("jwt", unsigned_jwt(&KeyPair::new_account()).into()).lang("nats.js");
        async move {
            let mut client = RawClient::dial(&address).await.unwrap();
            client.send(header.as_bytes()).await.unwrap();
            client.next_within(PATIENCE).await.unwrap();
            client.send(format!("{}PING\r\n", login.connect_line()).as_bytes()).await.unwrap();
            client
        }
    })
    .await;
    let waiting = |metrics: &metrics::Metrics| metrics.sum("weir_held");
    weir.until("EVE's clients wait", |metrics| waiting(metrics) >= 0.6 * OF_EVE as f64).await;
    let before = server.total_connections().await;
    let bare = operator.account(0).bearer();
    let a = at_once(OF_A, |_| {
        let (address, header) = (weir.address.clone(), header("192.0.2.1"));
        let login = Login::default().with("jwt", bare.jwt.clone().into()).lang("nats.js");
        async move { RawClient::attempt_behind(header.as_bytes(), &address, &login, PATIENCE).await.expect_in() }
    })
    .await;
    // One turn of the other source for each of A's, and those that were given between the two looks.
    let turns = server.total_connections().await - before;
    assert!(turns <= 3 * OF_A as u64, "{turns} logins until all {OF_A} of A were in");
    drop((a, eve));
    weir.assert_nothing_leaked().await;
}

/// A server with NKey users looks at `nkey`, and ignores a JWT as long as it trusts no operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jwt_is_nothing_to_a_server_without_operator() {
    let key = KeyPair::new_user();
    let config = format!(
        "accounts {{ A {{ users: [{{nkey: {}}}] }}, B {{ users: [{{user: bob, password: bp}}] }} }}",
        key.public_key()
    );
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(&config)).await;
    let weir =
        WeirConfig::of_servers(&[&server]).default_settings().table("[users.\"*\"]\nmax_connections = 1").start().await;
    for login in [Login::nkey(&key), Login::user("bob", "bp")] {
        let inside = RawClient::connect(&weir.address, &login).await;
        let told = RawClient::attempt(&weir.address, &with_jwt(&login), PATIENCE).await;
        assert_eq!(told.refusal(), Some(QUOTA), "{told:?}");
        drop(inside);
    }
    weir.assert_nothing_leaked().await;
}

/// An auth callout sees the CONNECT of the client as it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auth_callout_still_sees_the_nkey() {
    nats::at_least(2, 10);
    let callout = callout::Callout::new();
    let server = NatsServer::start(ServerOptions::default().with(&callout.server_config_for("APP {}"))).await;
    let service = callout.run(&server.address, Duration::ZERO).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().start().await;
    let client = RawClient::connect(&weir.address, &with_nkey(&Login::user("alice", "x"), "UABC")).await;
    assert_eq!(client.info.get("nonce"), None);
    assert_eq!(service.seen().pop().unwrap()["connect_opts"]["nkey"], "UABC");
    drop(client);
    weir.assert_nothing_leaked().await;
}

/// The system account has a user, whose name everybody knows.
const SYSTEM: &str = "
    system_account: SYS
    accounts {
        SYS { users: [{user: admin, password: a}] }
        A { users: [{user: bob, password: bp}] }
    }";

const FULL: &str = "maximum connections exceeded";

/// Bob names all operators there may be, in every way there is. None of it gets him past `max_clients`, past
/// `per_source`, or onto the slots that are kept for operators.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_merely_names_an_operator_has_no_privilege() {
    let server = NatsServer::start(ServerOptions::default().max_connections(6).with(SYSTEM)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener("max_clients = 4\naccept_proxy_protocol_from = [\"127.0.0.0/8\"]")
        .cluster("reserve = 2")
        .admission("max_hold = \"2s\"\nrefusal_spread = \"5ms\"\n[admission.per_source]\nmax_connections = 4")
        .account("SYS", "users = [\"admin*\"]")
        .start()
        .await;
    let bob = Login::user("bob", "bp");
    let from = async |source: &str, login: &Login| {
        let header = format!("PROXY TCP4 {source} 198.51.100.1 40000 4222\r\n");
        RawClient::attempt_behind(header.as_bytes(), &weir.address, login, PATIENCE).await
    };
    let mut inside = Vec::new();
    for _ in 0..4 {
        inside.push(from("192.0.2.66", &bob).await.expect_in());
    }
    for n in 0..20 {
        let told = from("192.0.2.66", &with_nkey(&bob, &format!("admin-{n}"))).await;
        assert_eq!(told.refusal(), Some(FULL), "{n}: {told:?}");
    }
    // Some of these are tried, and the server says what it thinks of them.
    for _ in 0..20 {
        let told = from("192.0.2.66", &Login::user("admin", "wrong")).await;
        assert!(told.refusal().is_some(), "{told:?}");
    }
    server.settles_at(4).await; // it sees the last wrong one leave a moment later
    // An operator that has never been here is let in all the same, and counts.
    let operator = eventually(PATIENCE, "an operator from elsewhere is in", async || {
        from("192.0.2.1", &Login::user("admin", "a")).await.into_client().ok_or("refused")
    })
    .await;
    weir.until("it counts", |metrics| metrics.sum("weir_sessions_active") == 5.0).await;
    drop((inside, operator));
    weir.assert_nothing_leaked().await;
}

/// A user whom the configuration takes for an operator, and the server puts elsewhere: the login is good, and what was
/// granted for the claim is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_the_server_does_not_bear_out_is_put_back_under_the_limits() {
    nats::at_least(2, 12);
    let server = NatsServer::start(ServerOptions::default().max_connections(6).with(SYSTEM)).await;
    let full_listener = WeirConfig::of_servers(&[&server]).listener("max_clients = 2").cluster("reserve = 0");
    let full_server = WeirConfig::of_servers(&[&server]).cluster("reserve = 4");
    for (config, reason) in [(full_listener, "listener_full"), (full_server, "server_capacity")] {
        let weir = config
            .admission("max_hold = \"2s\"\nrefusal_spread = \"5ms\"")
            .account("SYS", "users = [\"admin\", \"bob\"]")
            .start()
            .await;
        let admin = Login::user("admin", "a");
        let inside = [RawClient::connect(&weir.address, &admin).await, RawClient::connect(&weir.address, &admin).await];
        let told = RawClient::attempt(&weir.address, &Login::user("bob", "bp"), PATIENCE).await;
        assert_eq!(told.refusal(), Some(FULL), "{reason}: {told:?}");
        weir.until(reason, |metrics| metrics.sum_where("weir_refused_total", "reason", reason) == 1.0).await;
        let third = RawClient::connect(&weir.address, &admin).await;
        drop((inside, third));
        weir.assert_nothing_leaked().await;
        server.settles_at(0).await;
    }
}

/// In front of servers with a nonce the kept slots are taken before anybody has said who it is. A stranger that names
/// an operator's key, and then says nothing on as many connections as it likes, does not keep the operator out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_strangers_do_not_fill_the_slots_that_are_kept_for_operators() {
    let operator = operator::Operator::with_accounts([-1, -1]);
    let config = operator.server_config_with_system(1);
    let server = NatsServer::start(ServerOptions::default().max_connections(10).with(&config)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener("accept_proxy_protocol_from = [\"127.0.0.0/8\"]")
        .cluster("reserve = 6")
        .admission("rate = 20000\nburst = 20000\nmax_hold = \"2s\"\nrefusal_spread = \"5ms\"")
        .start()
        .await;
    let header = |source: &str| format!("PROXY TCP4 {source} 198.51.100.1 40000 4222\r\n");
    let from = async |source: &str, login: &Login| {
        RawClient::attempt_behind(header(source).as_bytes(), &weir.address, login, PATIENCE).await
    };
    let login = |account: usize| {
        let user = operator.account(account).user();
        Login::jwt(&user.jwt, &user.key)
    };
    let (orders, system) = (login(0), login(1));
    drop(from("192.0.2.1", &system).await.expect_in());
    server.settles_at(0).await;
    let mut inside = Vec::new();
    for _ in 0..4 {
        inside.push(from("192.0.2.9", &orders).await.expect_in());
    }
    // The server is full but for what is kept. The stranger knows the JWT of a user of the system account, not its key.
    let forged = Login::jwt(&operator.account(1).user().jwt, &KeyPair::new_user());
    assert!(from("192.0.2.66", &forged).await.refusal().is_some());
    let mut silent = Vec::new();
    for round in 0..6 {
        for _ in 0..8 {
            let mut stranger = RawClient::dial(&weir.address).await.unwrap();
            stranger.send(header("192.0.2.66").as_bytes()).await.unwrap();
            silent.push(stranger);
        }
        let at = from("192.0.2.1", &system).await;
        assert!(matches!(at, Attempt::In(_)), "round {round}: {at:?}");
    }
    drop((silent, inside));
    weir.assert_nothing_leaked().await;
}

/// Strangers who know the name of a user, and not its password, wait in the queue as long as they can. Clients of that
/// user that have logged in before find its quota free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_wait_hold_no_slot_that_a_known_client_could_have() {
    const STRANGERS: usize = 10;
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(PASSWORDS)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener("accept_proxy_protocol_from = [\"127.0.0.0/8\"]")
        .admission("rate = 1\nburst = 6\nmax_hold = \"19s\"")
        .account("ORDERS", &format!("users = [\"orders\"]\nmax_connections = {STRANGERS}"))
        .table("[users.\"order*\"]\nmax_connections = 10\n[names.\"report\"]\nmax_connections = 10")
        .start()
        .await;
    let header = |source: &str| format!("PROXY TCP4 {source} 198.51.100.1 40000 4222\r\n");
    let orders = |password: &str| Login::user("orders", password).name("report").lang("nats.js");
    let good = orders("op");
    let from = async |login: &Login| {
        RawClient::attempt_behind(header("192.0.2.1").as_bytes(), &weir.address, login, PATIENCE).await
    };
    drop(from(&good).await.expect_in());
    server.settles_at(0).await;
    // The others of the burst, so that there is a queue.
    let others: Vec<_> = at_once(6, |_| {
        let address = weir.address.clone();
        async move { RawClient::attempt(&address, &Login::user("eve", "ep").lang("nats.js"), PATIENCE).await }
    })
    .await;
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        let mut stranger = RawClient::dial(&weir.address).await.unwrap();
        let lines = format!("{}{}PING\r\n", header("192.0.2.66"), orders("wrong").connect_line());
        stranger.send(lines.as_bytes()).await.unwrap();
        strangers.push(stranger);
    }
    weir.until("they wait", |metrics| metrics.sum("weir_held") >= 0.6 * STRANGERS as f64).await;
    let known = futures::future::join_all((0..3).map(|_| from(&good))).await;
    assert!(known.iter().all(|attempt| matches!(attempt, Attempt::In(_))), "{known:?}");
    drop((known, strangers, others));
    weir.assert_nothing_leaked().await;
}

/// Wrong passwords use up no rate of the user whose name they claim, nor that of its account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_passwords_spend_no_rate_of_a_known_client() {
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(PASSWORDS)).await;
    let rate = "rate = 1\nburst = 6";
    let by_account =
        WeirConfig::of_servers(&[&server]).default_settings().account("A", &format!("users = [\"bob\"]\n{rate}"));
    let by_user = WeirConfig::of_servers(&[&server]).default_settings().table(&format!("[users.bob]\n{rate}"));
    for config in [by_account, by_user] {
        let weir = config.start().await;
        let bob = Login::user("bob", "bp");
        drop(RawClient::connect(&weir.address, &bob).await);
        let wrong = Login::user("bob", "wrong").lang("impatient");
        for _ in 0..30 {
            drop(RawClient::attempt(&weir.address, &wrong, Duration::from_millis(50)).await);
        }
        let refused = server.log().matches("authentication error").count();
        assert!(refused >= 5, "the server was asked too seldom to spend what bob has left of the burst: {refused}");
        let clients = at_once(5, |_| {
            let address = weir.address.clone();
            async move { RawClient::attempt(&address, &Login::user("bob", "bp"), PATIENCE).await }
        })
        .await;
        assert!(clients.iter().all(|attempt| matches!(attempt, Attempt::In(_))), "{clients:?}");
        drop(clients);
        weir.assert_nothing_leaked().await;
    }
}

/// In an account without limits. All wait in a pause, those who are not known first, and go one after another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_logged_in_before_has_a_turn_before_those_who_only_claim_to_be_of_the_account() {
    let server = NatsServer::start(ServerOptions::default().with(PASSWORDS)).await;
    let admin = AdminSocket::default();
    let weir = WeirConfig::of_servers(&[&server])
        .admission("rate = 2\nburst = 1")
        .account("ORDERS", "users = [\"orders\"]")
        .table(&admin.toml())
        .start()
        .await;
    let orders = Login::user("orders", "op").lang("nats.js");
    let before = RawClient::connect(&weir.address, &orders.clone().name("before")).await;
    admin.does(&["pause"]).await;
    let waits = |login: Login| {
        let address = weir.address.clone();
        tokio::spawn(async move {
            let mut client = RawClient::attempt(&address, &login, PATIENCE).await.expect_in();
            // The server numbers its connections as they come.
            client.info_after_pong().await["client_id"].as_u64().unwrap()
        })
    };
    let is_held = async |n: f64| drop(weir.until("it waits", |metrics| metrics.sum("weir_held") == n).await);
    let mut others = Vec::new();
    for n in 1..=3 {
        others.push(waits(orders.clone().from_source([127, 0, 0, 2].into()).name(&format!("other-{n}"))));
        is_held(n.into()).await;
    }
    let known = waits(orders.name("known"));
    is_held(4.0).await;
    admin.does(&["resume"]).await;
    let known = known.await.unwrap();
    for other in others {
        let other = other.await.unwrap();
        assert!(known < other, "its number is {known}, that of one who is not known {other}");
    }
    drop(before);
}
