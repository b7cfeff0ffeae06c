//! Hundreds of failed logins from one source: weir slows that source down, and the account they claim is not affected.

use nkeys::KeyPair;
use weir_testkit::*;

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
