//! Auth callouts: through weir the callout service gets the same requests as without weir, and no more at a time than
//! allowed.

use std::time::Duration;

use nkeys::KeyPair;
use weir_testkit::{
    callout::Callout,
    operator::{Operator, User},
    *,
};

const VIOLATION: &str = "Authorization Violation";
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 4222\r\n";
const QUOTA: &str = "maximum account active connections exceeded";
const APP: &str = "users = [\"*\"]";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_asked_the_same_as_without_weir() {
    nats::at_least(2, 12); // PROXY headers
    for callout in [Callout::new(), Callout::encrypted()] {
        asked_the_same(callout).await;
    }
}

async fn asked_the_same(callout: Callout) {
    let config = ServerOptions::default().with(&callout.server_config()).with("proxy_protocol: true");
    let server = NatsServer::start(config).await;
    let service = callout.run(&server.address, Duration::ZERO).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener("accept_proxy_protocol_from = [\"127.0.0.0/8\"]")
        .cluster("proxy_protocol = true")
        .start()
        .await;
    let key = KeyPair::new_user();
    for login in [
        Login::user("alice", "s3cr3t").name("a name").with("version", "9.9.9".into()),
        Login::token("t0ken"),
        // It signs the server's nonce with a key that only the callout service knows.
        Login::user("alice", "x").with("nkey", key.public_key().into()).signing(&key),
        Login::user("al\u{e9}ce \"q\"", "p\\w"),
    ] {
        let mut asked = Vec::new();
        for address in [&server.address, &weir.address] {
            let mut client = RawClient::attempt_behind(HEADER, address, &login, PATIENCE).await.expect_in();
            client.round_trip().await.unwrap();
            let mut request = service.seen().pop().unwrap();
            let nonce = client.info["nonce"].as_str().expect("servers with NKey users send a nonce");
            let signed = login.answering(&client.info);
            for (key, value) in signed.fields() {
                if ["user", "pass", "auth_token", "nkey", "sig", "name", "version"].contains(&key.as_str()) {
                    assert_eq!(request["connect_opts"][key], *value, "{key}");
                }
            }
            if request["client_info"]["nonce"].is_string() {
                assert_eq!(request["client_info"]["nonce"], nonce);
            }
            assert_eq!(request["client_info"]["host"], "192.0.2.7");
            // These fields differ between any two connections.
            request["client_info"].as_object_mut().unwrap().retain(|key, _| key != "id" && key != "nonce");
            request["connect_opts"].as_object_mut().unwrap().remove("sig");
            request["user_nkey"].take();
            request["request_nonce"].take();
            asked.push(request);
        }
        assert_eq!(asked[0], asked[1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_service_is_given_as_many_as_it_may_have() {
    nats::at_least(2, 10);
    let callout = Callout::new();
    let server = NatsServer::start(ServerOptions::default().with(&callout.server_config())).await;
    let service = callout.run(&server.address, Duration::from_millis(50)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .account("APP", &format!("{APP}\nmax_handshakes = 2"))
        .account("AUTH", "users = [\"auth\"]")
        .start()
        .await;
    let attempts = at_once(16, |_| {
        let address = weir.address.clone();
        async move { RawClient::attempt(&address, &Login::user("alice", "x").lang("nats.js"), PATIENCE).await }
    })
    .await;
    let clients: Vec<_> = attempts.into_iter().filter_map(Attempt::into_client).collect();
    assert!(clients.len() >= 8, "{} of 16 are in, most of the others out of time", clients.len());
    assert!(service.most_at_once() <= 2, "{} at once", service.most_at_once());
    assert_eq!(weir.metrics().await.sum("weir_bad_logins_total"), 0.0);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_no_passes_and_is_counted_by_account_source_and_reason() {
    nats::at_least(2, 10);
    let callout = Callout::new();
    let server = NatsServer::start(ServerOptions::default().with(&callout.server_config())).await;
    let _service = callout.run(&server.address, Duration::ZERO).await;
    let weir = WeirConfig::of_servers(&[&server]).account("APP", APP).start().await;
    for _ in 0..3 {
        let attempt = RawClient::attempt(&weir.address, &Login::user("nobody", "s3cr3t"), PATIENCE).await;
        assert_eq!(attempt.refusal(), Some(VIOLATION));
    }
    for sample in [
        "weir_bad_logins_total{account=\"APP\",reason=\"violation\"}",
        "weir_bad_logins_by_source_total{source=\"127.0.0.1\"}",
    ] {
        weir.until("all three are counted", |metrics| metrics.get(sample) == Some(3.0)).await;
    }
    assert!(!weir.log().contains("s3cr3t"));
}

/// An operator with the accounts AUTH, A and B, the callout service of AUTH, and servers that ask it about everybody
/// who shows the sentinel.
struct Sentinel {
    operator: Operator,
    sentinel: User,
    callout: Callout,
}

impl Sentinel {
    fn new() -> Self {
        let mut operator = Operator::with_accounts([-1; 4]);
        let user = operator.with_callout(0);
        let [auth, a, b] = [0, 1, 2].map(|n| operator.account(n));
        let callout = Callout::in_operator_mode(auth, &user, &[("A", a), ("B", b)])
            .account_of(|user| if user.starts_with("bob") { "B" } else { "A" }.to_owned());
        Self { sentinel: auth.sentinel(), operator, callout }
    }

    /// Two servers, with a default sentinel (since nats-server 2.11) or without.
    async fn servers(&self, is_default: bool) -> Cluster {
        // Without a system account nats-server 2.15.1 panics at the first client that the callout is asked about.
        let mut config = self.operator.server_config_with_system(3);
        if is_default {
            config += &format!("default_sentinel: {:?}", self.sentinel.jwt);
        }
        Cluster::start(2, |server| server.with(&config)).await
    }

    fn account(&self, n: usize) -> String {
        self.operator.account(n).name()
    }
}

/// A client without a JWT is asked about at the callout, as if it had shown the sentinel. Through weir it gets into the
/// same account as without, and counts there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_sentinel_stands_for_clients_without_a_jwt() {
    nats::at_least(2, 12); // servers name the account
    let setting = Sentinel::new();
    let cluster = setting.servers(true).await;
    let service = setting.callout.run(&cluster.servers[0].address, Duration::ZERO).await;
    let (a, b) = (setting.account(1), setting.account(2));
    let weir =
        WeirConfig::of(&cluster).account(&a, "max_connections = 2").account(&b, "max_connections = 1").start().await;
    let (mut inside, mut again) = (Vec::new(), 0);
    for (login, account) in [(Login::user("alice", "x"), &a), (Login::user("bob", "x"), &b), (Login::nobody(), &a)] {
        for address in [&cluster.servers[1].address, &weir.address] {
            let mut client = loop {
                match RawClient::attempt(address, &login, PATIENCE).await {
                    // A server that waits long for the callout sends its PING meanwhile. weir keeps that back.
                    Attempt::Broken(why) if *address != weir.address => {
                        assert!(why.contains("Ping") && again < 20, "{why}");
                        again += 1;
                    }
                    attempt => break attempt.expect_in(),
                }
            };
            assert_eq!(client.info_after_pong().await["remote_account"], **account, "{login:?} at {address}");
            client.round_trip().await.unwrap();
            if *address == weir.address {
                inside.push(client);
            }
        }
    }
    // Whoever went at the server's PING may have gone before the callout was asked.
    let seen = service.seen().len();
    assert!((6..=6 + again).contains(&seen), "{seen} of {again} tried again");
    for (login, text) in [
        (Login::user("nobody", "x"), VIOLATION),
        (Login::user("alice", "x"), QUOTA),
        (Login::user("alice-2", "x"), QUOTA), // known to be in A once the server has said so
        (Login::user("bob-2", "x"), QUOTA),
    ] {
        let told = RawClient::attempt(&weir.address, &login, PATIENCE).await;
        assert_eq!(told.refusal(), Some(text), "{login:?}");
    }
    drop(inside);
    weir.assert_nothing_leaked().await;
}

/// Clients that show the sentinel themselves all have the same JWT. Who they are is in their user and password, which
/// the callout judges: one of them does not count in the account of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_show_one_sentinel_are_not_one_client() {
    nats::at_least(2, 12);
    let setting = Sentinel::new();
    let cluster = setting.servers(false).await;
    let _service = setting.callout.run(&cluster.servers[0].address, Duration::ZERO).await;
    let (a, b) = (setting.account(1), setting.account(2));
    let weir =
        WeirConfig::of(&cluster).account(&a, "max_connections = 1").account(&b, "max_connections = 1").start().await;
    let with_sentinel = |user: &str| Login::user(user, "x").with("jwt", setting.sentinel.jwt.clone().into());
    let (alice, bob) = (with_sentinel("alice"), with_sentinel("bob"));
    for _ in 0..2 {
        let first = RawClient::connect(&weir.address, &alice).await;
        let second = RawClient::attempt(&weir.address, &bob, PATIENCE).await.expect_in();
        for account in [&a, &b] {
            let sample = format!("weir_account_connections{{account=\"{account}\"}}");
            weir.until("the server has named the account", |metrics| metrics.get(&sample) == Some(1.0)).await;
        }
        for one_more in [&alice, &bob] {
            let told = RawClient::attempt(&weir.address, one_more, PATIENCE).await;
            assert_eq!(told.refusal(), Some(QUOTA), "{one_more:?}");
        }
        drop((first, second));
        weir.assert_nothing_leaked().await;
    }
}

/// The user name is the same in every tenant; who has which password is of which account only the service knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_name_that_stands_for_several_accounts_is_of_none_until_a_server_has_said() {
    nats::at_least(2, 12);
    let callout = Callout::new().account_of_password(|password| password.to_uppercase());
    let accounts = "A { users: [] }, B { users: [] }";
    let server = NatsServer::start(ServerOptions::default().with(&callout.server_config_for(accounts))).await;
    let _service = callout.run(&server.address, Duration::ZERO).await;
    let weir = WeirConfig::of_servers(&[&server]).account("A", "max_connections = 1").start().await;
    let [a, b] = ["a", "b"].map(|password| Login::user("app", password));
    let first = RawClient::connect(&weir.address, &a).await;
    // The name is known as A's, which is full.
    let mut of_b = vec![RawClient::connect(&weir.address, &b).await];
    assert_eq!(RawClient::attempt(&weir.address, &a, PATIENCE).await.refusal(), Some(QUOTA));
    for _ in 0..5 {
        of_b.push(RawClient::connect(&weir.address, &b).await);
        assert_eq!(RawClient::attempt(&weir.address, &a, PATIENCE).await.refusal(), Some(QUOTA));
    }
    // Who is refused has been at the server, and leaves it.
    eventually(PATIENCE, "each is in its account", async || {
        let seen = (server.account_connections("A").await, server.account_connections("B").await);
        if seen == (1, 6) { Ok(()) } else { Err(seen) }
    })
    .await;
    drop((first, of_b));
    weir.assert_nothing_leaked().await;
}
