//! Hundreds of failed logins from one source: weir slows that source down, and the account they claim is not affected.

use std::time::Duration;

use nkeys::KeyPair;
use weir_testkit::{admin::AdminSocket, *};

const VIOLATION: &str = "Authorization Violation";
const FULL: &str = "maximum connections exceeded";
const TRUSTED_PROXIES: &str = "handshake_timeout = \"30s\"\naccept_proxy_protocol_from = [\"127.0.0.0/8\"]";

async fn from(source: &str, weir: &Weir, login: &Login) -> Attempt {
    let header = format!("PROXY TCP4 {source} 198.51.100.1 40000 4222\r\n");
    RawClient::attempt_behind(header.as_bytes(), &weir.address, login, PATIENCE).await
}

async fn bad_logins_hurt_their_source_only(config: &str, good: Login, bad: Login, neighbour: Login) {
    let server = NatsServer::start(ServerOptions::default().with(config)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener(TRUSTED_PROXIES)
        .admission("rate = 20000\nburst = 20000\nmax_hold = \"19s\"\nrefusal_spread = \"5ms\"")
        .start()
        .await;
    from("192.0.2.66", &weir, &neighbour).await.expect_in();
    let (mut told, mut damped) = (0, 0);
    // Twenty at a time: weir forgives five per second, and a slow machine must be able to try more than that.
    for _ in 0..20 {
        let attempts = futures::future::join_all((0..20).map(|_| from("192.0.2.66", &weir, &bad))).await;
        for attempt in attempts {
            match attempt.refusal() {
                Some(VIOLATION) => told += 1,
                Some(FULL) => damped += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(told >= 100 && damped >= 100, "{told} reached the server, {damped} did not");
    let refused = |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", "source_rate");
    weir.until("those are counted", |metrics| refused(metrics) == f64::from(damped)).await;
    // Clients of the claimed account from another address get in, and so do others from the address of the failed
    // logins.
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(from("192.0.2.1", &weir, &good).await.expect_in());
        clients.push(from("192.0.2.66", &weir, &neighbour).await.expect_in());
    }
    assert_eq!(server.account_connections("ORDERS").await, 5);
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords() {
    let config = "accounts { ORDERS { users: [{user: o, password: p}] }, B { users: [{user: b, password: p}] } }";
    bad_logins_hurt_their_source_only(config, Login::user("o", "p"), Login::user("o", "x"), Login::user("b", "p"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures() {
    let key = KeyPair::new_user();
    let config = format!(
        "accounts {{ ORDERS {{ users: [{{nkey: {}}}] }}, B {{ users: [{{user: b, password: p}}] }} }}",
        key.public_key()
    );
    let forged = Login::nkey(&KeyPair::new_user()).with("nkey", key.public_key().into());
    bad_logins_hurt_their_source_only(&config, Login::nkey(&key), forged, Login::user("b", "p")).await;
}

/// All were in the queue before the first of them failed. Each counts, which is two minutes until all are forgiven; but
/// who has a good password gets in long before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_that_fail_at_once_keep_nobody_out_for_long() {
    const AT_ONCE: usize = 600;
    let admin = AdminSocket::default();
    let config = "accounts { ORDERS { users: [{user: o, password: p}] } }";
    let server = NatsServer::start(ServerOptions::default().with(config)).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener(TRUSTED_PROXIES)
        .admission("rate = 20000\nburst = 20000\nmax_hold = \"19s\"\nrefusal_spread = \"5ms\"")
        .table(&admin.toml())
        .start()
        .await;
    let bad = Login::user("o", "x").lang("nats.js");
    let of_credentials = |metrics: &metrics::Metrics| metrics.sum("weir_bad_logins_total");
    // On a slow machine some have waited for as long as they may: as many more come.
    let mut failed = 0;
    for _ in 0..5 {
        admin.does(&["pause"]).await;
        let all = futures::future::join_all((0..AT_ONCE).map(|_| from("192.0.2.66", &weir, &bad)));
        let resumed = async {
            weir.until("they are held", |metrics| metrics.sum("weir_held") >= AT_ONCE as f64 * 0.9).await;
            admin.does(&["resume"]).await;
        };
        let (attempts, ()) = futures::future::join(all, resumed).await;
        failed = attempts.iter().filter(|attempt| attempt.refusal() == Some(VIOLATION)).count();
        if failed > AT_ONCE / 2 {
            break;
        }
    }
    assert!(failed > AT_ONCE / 2, "{failed} reached the server");
    weir.until("those are counted", |metrics| of_credentials(metrics) >= failed as f64).await;
    let client = eventually(Duration::from_secs(30), "a good client is in", async || {
        match from("192.0.2.66", &weir, &Login::user("o", "p")).await {
            Attempt::In(client) => Ok(client),
            other => Err(other),
        }
    });
    drop(client.await);
    weir.assert_nothing_leaked().await;
}
