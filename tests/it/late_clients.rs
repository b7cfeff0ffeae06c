//! Clients that are late: slow devices, slow links, people who type. Whatever nats-server lets in by default gets in
//! through weir too, and no client that takes its time makes a server look bad.
//!
//! The pauses are what clients do, and no test asserts how long weir takes. A machine that makes them longer changes
//! nothing: each is long where it is to be late, and far from what weir and the servers allow where it is not.

use std::time::Duration;

use nkeys::KeyPair;
use tokio::{net::TcpStream, time::sleep};
use weir_testkit::{
    tls::{Authority, TlsClient, pair},
    *,
};

/// Longer than Go, Java and C wait in all, so a client that speaks then is none of these at its defaults.
const LATE: Duration = Duration::from_millis(2500);

/// A client that reads INFO, waits, and says CONNECT then.
async fn late(address: &str, pause: Duration, login: &Login) -> Attempt {
    let client = RawClient::greeted(address).await.expect("INFO");
    sleep(pause).await;
    client.enter(&login.clone().lang("device"), PATIENCE).await
}

/// No server was taken for a bad one.
async fn nobody_was_ejected(weir: &Weir, servers: usize) {
    assert!(!weir.log().contains("server ejected"), "{}", weir.log());
    assert_eq!(weir.metrics().await.sum("weir_server_up"), servers as f64);
    assert_eq!(weir.health().await, 200);
}

async fn behind(servers: &[&NatsServer], listener: &str) -> Weir {
    WeirConfig::of_servers(servers).default_settings().listener(listener).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_connect_gets_in_and_nobody_else_is_disturbed() {
    let server = NatsServer::start(ServerOptions::default().default_timeouts()).await;
    let weir = behind(&[&server], "handshake_timeout = \"30s\"").await;
    let attempts = at_once(10, |n| {
        let address = weir.address.clone();
        async move {
            sleep(Duration::from_millis(100) * n as u32).await;
            let late = late(&address, LATE, &Login::nobody()).await;
            // In the same moment one that is not late.
            (late, RawClient::attempt(&address, &Login::nobody(), PATIENCE).await)
        }
    })
    .await;
    for (late, prompt) in attempts {
        late.expect_in();
        prompt.expect_in();
    }
    nobody_was_ejected(&weir, 1).await;
    weir.assert_nothing_leaked().await;
}

/// Between 1.9 s and 2 s after accept the client's own deadline is nearly over: it may be let in or refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_at_the_last_moment_is_no_verdict_on_the_server() {
    let server = NatsServer::start(ServerOptions::default().default_timeouts()).await;
    let weir = behind(&[&server], "").await;
    for pause in [1880, 1920, 1950, 1970] {
        let attempt = late(&weir.address, Duration::from_millis(pause), &Login::nobody()).await;
        assert!(matches!(attempt, Attempt::In(_) | Attempt::Refused { .. } | Attempt::Ended(_)), "{attempt:?}");
    }
    nobody_was_ejected(&weir, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_clients_do_not_keep_the_others_from_even_servers() {
    let cluster = Cluster::start(2, |server| server.default_timeouts()).await;
    let servers: Vec<_> = cluster.servers.iter().collect();
    let weir = behind(&servers, "handshake_timeout = \"30s\"").await;
    let slow = at_once(15, |n| {
        let address = weir.address.clone();
        async move {
            sleep(Duration::from_millis(200) * n as u32).await;
            late(&address, LATE, &Login::nobody()).await
        }
    });
    let (slow, others) = tokio::join!(slow, async {
        let mut others = Vec::new();
        for _ in 0..60 {
            others.push(RawClient::connect(&weir.address, &Login::nobody()).await);
            sleep(Duration::from_millis(100)).await;
        }
        others
    });
    let slow: Vec<_> = slow.into_iter().map(Attempt::expect_in).collect();
    nobody_was_ejected(&weir, 2).await;
    let spread = cluster.settles_at(75).await;
    assert!(unevenness(&spread) <= 1.2, "{spread:?}");
    drop((slow, others));
    weir.assert_nothing_leaked().await;
}

/// nats-server allows 2 s for TLS and then 3 s for CONNECT. weir did not: 2 s for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_connect_have_the_time_that_nats_server_gives_each() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("weir", &["localhost"]);
    let server = NatsServer::start(ServerOptions::default().default_timeouts()).await;
    let weir = behind(&[&server], &format!("[listeners.tls]\n{}", pair(&own))).await;
    let clients = at_once(5, |_| {
        let (address, config) = (weir.address.clone(), authority.client(None));
        async move {
            let info = TlsClient::info(TcpStream::connect(&address).await.unwrap()).await.unwrap();
            sleep(Duration::from_millis(1200)).await;
            let mut client = TlsClient::handshake(info, "localhost", config).await.unwrap();
            sleep(Duration::from_millis(1200)).await;
            (client.enter().await.unwrap(), client)
        }
    })
    .await;
    for (answer, _) in &clients {
        assert_eq!(answer, "PONG\r\n");
    }
    nobody_was_ejected(&weir, 1).await;
}

/// In front of servers with a nonce the dial comes before INFO, and TLS may come before the dial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_client_hello_is_no_verdict_on_a_server_with_a_nonce() {
    let key = KeyPair::new_user();
    let users =
        format!("authorization {{ timeout: 30, users: [{{nkey: {}}}, {{user: a, password: a}}] }}", key.public_key());
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(&users)).await;
    let authority = Authority::new("weir tests");
    let own = authority.issue("weir", &["localhost"]);
    let listener = format!("handshake_timeout = \"30s\"\n[listeners.tls]\nhandshake_first = true\n{}", pair(&own));
    let weir = behind(&[&server], &listener).await;
    let tcp = TcpStream::connect(&weir.address).await.unwrap();
    sleep(LATE).await;
    let mut client = TlsClient::over(tcp, "localhost", true, authority.client(None)).await.unwrap();
    assert!(client.info.contains("\"nonce\""), "{}", client.info);
    let login = Login::nkey(&key).lang("device");
    sleep(LATE).await;
    let info = serde_json::from_str(client.info.strip_prefix("INFO ").unwrap()).unwrap();
    client.say(&format!("{}PING\r\n", login.answering(&info).connect_line())).await.unwrap();
    assert_eq!(client.line().await.unwrap(), "PONG\r\n");
    nobody_was_ejected(&weir, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_client_hello_is_passed_through() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("server", &["localhost"]);
    let tls =
        format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 30, handshake_first: true }}", own.cert, own.key);
    let server = NatsServer::start(ServerOptions::default().default_timeouts().with(&tls)).await;
    let listener =
        "kind = \"passthrough\"\nhandshake_timeout = \"30s\"\n[listeners.passthrough]\nhandshake_first = true";
    let weir = behind(&[&server], listener).await;
    let tcp = TcpStream::connect(&weir.address).await.unwrap();
    sleep(LATE).await;
    let mut client = TlsClient::over(tcp, "localhost", true, authority.client(None)).await.unwrap();
    assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
    nobody_was_ejected(&weir, 1).await;
}
