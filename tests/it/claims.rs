//! What a client merely claims: `nkey` and `jwt` in front of servers that ignore them, and names that somebody else
//! proves later.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use weir_testkit::*;

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
