//! Operator mode: users with JWTs sign the nonce; users with bearer JWTs need not.

use std::time::Duration;

use weir_testkit::operator::{Operator, User};
use weir_testkit::*;

const FULL: &str = "maximum connections exceeded";
const QUOTA: &str = "maximum account active connections exceeded";
const VIOLATION: &str = "Authorization Violation";

fn login(user: &User) -> Login {
    Login::jwt(&user.jwt, &user.key)
}

fn bearer(user: &User) -> Login {
    Login::default().with("jwt", user.jwt.clone().into())
}

async fn cluster(operator: &Operator) -> Cluster {
    Cluster::start(2, |server| server.with(&operator.server_config())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_jwt_user_gets_in() {
    let operator = Operator::with_accounts([-1, -1]);
    let cluster = cluster(&operator).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let (one, two) = (operator.account(0), operator.account(1));
    let kinds = [
        (login(&one.user()), one),
        (login(&one.user_by_signing_key()), one),
        (bearer(&one.bearer()), one),
        (login(&two.user()), two),
        (login(&two.bearer()), two), // a bearer that signs nevertheless, as client libraries do
    ];
    let mut clients = Vec::new();
    for (login, account) in &kinds {
        let mut client = RawClient::connect(&weir.address, login).await;
        // Servers name the account since 2.12.
        let info = client.info_after_pong().await;
        assert!(info.get("remote_account").is_none_or(|named| *named == account.name()), "{info}");
        client.round_trip().await.unwrap();
        clients.push(client);
    }
    for (account, n) in [(one, 3.0), (two, 2.0)] {
        let sample = format!("weir_account_connections{{account=\"{}\"}}", account.name());
        weir.until(&sample, |metrics| metrics.get(&sample) == Some(n)).await;
    }
    // weir knew the account from the JWT before any server named it, and so never counted these clients in `default`.
    assert_eq!(weir.gauge("weir_account_connections{account=\"default\"}").await, 0.0);
    drop(clients);
    weir.assert_nothing_leaked().await;
    for (login, _) in &kinds {
        let line = login.connect_line();
        let jwt = line.split("\"jwt\":\"").nth(1).unwrap().split('"').next().unwrap();
        for part in jwt.split('.').skip(1) {
            assert!(!weir.log().contains(part), "a part of a JWT in the log");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_client_with_creds_comes_back() {
    let operator = Operator::with_accounts([-1]);
    let mut cluster = cluster(&operator).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let user = operator.account(0).user();
    let options = || async_nats::ConnectOptions::with_credentials(&user.creds()).unwrap().connection_timeout(PATIENCE);
    let connect = || options().connect(weir.url());
    let clients = futures::future::try_join_all((0..10).map(|_| connect())).await.unwrap();
    let mut service = clients[0].subscribe("service").await.unwrap();
    let answering = clients[0].clone();
    let answers = tokio::spawn(async move {
        while let Some(request) = futures::StreamExt::next(&mut service).await {
            let _ = answering.publish(request.reply.unwrap(), "yes".into()).await;
        }
    });
    for client in &clients {
        // The other server learns of the subscription a moment later.
        let asked = async || client.request("service", "?".into()).await;
        assert_eq!(&eventually(PATIENCE, "it is known everywhere", asked).await.payload[..], b"yes");
    }
    cluster.servers[1].kill9();
    let name = operator.account(0).name();
    eventually(PATIENCE, "all are on the other server", async || {
        match cluster.servers[0].account_connections(&name).await {
            10 => Ok(()),
            n => Err(n),
        }
    })
    .await;
    for client in &clients {
        eventually(PATIENCE, "requests are answered", async || client.request("service", "?".into()).await).await;
    }
    answers.abort();
    let _ = answers.await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_is_the_accounts_own() {
    let operator = Operator::with_accounts([-1, -1]);
    let cluster = cluster(&operator).await;
    let (one, two) = (operator.account(0), operator.account(1));
    let weir = WeirConfig::of(&cluster).account(&one.name(), "max_connections = 4").start().await;
    let logins = [login(&one.user()), login(&one.user_by_signing_key()), bearer(&one.bearer()), login(&one.user())];
    let attempts = at_once(24, |i| {
        let (address, login) = (weir.address.clone(), logins[i % 4].clone());
        async move { RawClient::attempt(&address, &login, PATIENCE).await }
    })
    .await;
    let inside = attempts.iter().filter(|a| matches!(a, Attempt::In(_))).count();
    let told = attempts.iter().filter(|a| a.refusal() == Some(QUOTA)).count();
    assert_eq!((inside, told), (4, 20), "{attempts:?}");
    RawClient::connect(&weir.address, &login(&two.user())).await.round_trip().await.unwrap();
    drop(attempts);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cluster_tells_those_who_sign_and_holds_bearers() {
    let operator = Operator::with_accounts([-1]);
    let config = operator.server_config();
    let server = NatsServer::start(ServerOptions::default().max_connections(5).with(&config)).await;
    let admission = "rate = 20000\nburst = 20000\nmax_hold = \"5s\"\nrefusal_spread = \"5s\"\n[admission.max_hold_by_lang]\npatient = \"19s\"";
    let weir = WeirConfig::of_servers(&[&server]).cluster("reserve = 0").admission(admission).start().await;
    let (user, bare) = (operator.account(0).user(), operator.account(0).bearer());
    let mut clients = Vec::new();
    // They answer no PING: under the name of those who come later they would be taken for ghosts.
    let inside = login(&user).name("inside");
    for _ in 0..5 {
        clients.push(RawClient::connect(&weir.address, &inside).await);
    }
    let told = RawClient::attempt(&weir.address, &login(&user), PATIENCE).await;
    assert_eq!(told.refusal(), Some(FULL), "{told:?}");
    // A bearer's CONNECT is valid for any server at any time, so weir holds the client after the connect check.
    let mut late = loop {
        let mut waiting = RawClient::greeted(&weir.address).await.unwrap();
        let connect = bearer(&bare).lang("patient").connect_line();
        waiting.send(format!("{connect}PING\r\n").as_bytes()).await.unwrap();
        match waiting.next_within(Duration::from_millis(400)).await {
            Err(_) => drop(clients.pop()),
            Ok(early) => {
                assert_eq!(early, Some(client::Op::Err(FULL.into()))); // weir refused it early, at a random moment
                continue;
            }
        }
        match waiting.next_within(PATIENCE).await.unwrap() {
            Some(client::Op::Pong) => break waiting,
            early => assert_eq!(early, Some(client::Op::Err(FULL.into()))),
        }
        clients.push(RawClient::connect(&weir.address, &inside).await);
    };
    late.round_trip().await.unwrap();
    drop((clients, late));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_not_believed() {
    let operator = Operator::with_accounts([-1]);
    let cluster = cluster(&operator).await;
    let account = operator.account(0);
    let weir = WeirConfig::of(&cluster).account(&account.name(), "max_connections = 2").start().await;
    let inside = RawClient::connect(&weir.address, &login(&account.user())).await;
    // A JWT of another operator, a JWT with a forged signature, a valid JWT with another user's nonce signature, and
    // one without any.
    let (stranger, user) = (Operator::with_accounts([-1]), account.user());
    let mut forged = user.jwt.clone();
    forged.replace_range(forged.len() - 8.., "AAAAAAAA");
    for wrong in [
        login(&stranger.account(0).user()),
        login(&User { jwt: forged, key: user.key.clone() }),
        login(&User { jwt: user.jwt.clone(), key: nkeys::KeyPair::new_user() }),
        bearer(&user),
    ] {
        for _ in 0..3 {
            let attempt = RawClient::attempt(&weir.address, &wrong, PATIENCE).await;
            assert_eq!(attempt.refusal(), Some(VIOLATION), "{attempt:?}");
        }
    }
    // The failed logins took no slot of the account.
    let second = RawClient::connect(&weir.address, &login(&user)).await;
    drop((inside, second));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_in_files_are_as_good() {
    let operator = Operator::with_accounts([3, -1]);
    let dir = tempfile::tempdir().unwrap();
    let config = operator.server_config_with_files(1, dir.path());
    let server = NatsServer::start(ServerOptions::default().with(&config)).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let account = operator.account(0);
    let mut clients = Vec::new();
    for login in [login(&account.user()), login(&account.user_by_signing_key()), bearer(&account.bearer())] {
        let mut client = RawClient::connect(&weir.address, &login).await;
        client.round_trip().await.unwrap();
        clients.push(client);
    }
    assert_eq!(server.account_connections(&account.name()).await, 3);
    let told = RawClient::attempt(&weir.address, &login(&account.user()), PATIENCE).await;
    assert_eq!(told.refusal(), Some(QUOTA), "{told:?}");
    drop(clients);
    weir.assert_nothing_leaked().await;
}
