//! Servers behind a listener that passes TLS through, and that say where TLS should begin that they are busy.

use std::{sync::Arc, time::Duration};

use nkeys::KeyPair;
use rustls::ClientConfig;
use tokio::time::sleep;
use weir_testkit::{
    tls::{Authority, TlsClient},
    *,
};

/// `tls { … }` of a nats-server.
fn server_tls(authority: &Authority, more: &str) -> String {
    let own = authority.issue("server", &["localhost", "127.0.0.1"]);
    format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 30, {more} }}", own.cert, own.key)
}

fn listener(handshake_first: &str) -> String {
    format!(
        "kind = \"passthrough\"\nhandshake_timeout = \"30s\"\n[listeners.passthrough]\nhandshake_first = {handshake_first}"
    )
}

/// A client's TLS, every other one with a ClientHello of some 8 KiB.
fn client_tls(authority: &Authority, n: usize) -> Arc<ClientConfig> {
    let mut config = authority.client_config(rustls::ALL_VERSIONS, None);
    if n % 2 == 1 {
        config.alpn_protocols = (100..800).map(|n| format!("proto-{n}").into_bytes()).collect();
    }
    Arc::new(config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_wait_for_a_server_that_limits_its_rate_of_tls_handshakes() {
    let authority = Authority::new("weir tests");
    for mode in ["false", "true", "\"900ms\""] {
        let more = format!("handshake_first: {mode}, connection_rate_limit: 5");
        let server = NatsServer::start(ServerOptions::default().with(&server_tls(&authority, &more))).await;
        // Five clients a second: the holds of this test are long enough for all.
        let weir = WeirConfig::of_servers(&[&server]).listener(&listener(mode)).start().await;
        let clients = at_once(20, |n| {
            let (address, config) = (weir.address.clone(), client_tls(&authority, n));
            async move {
                let mut client = TlsClient::connect(&address, "localhost", mode != "false", config).await?;
                client.enter().await.map(|pong| (client, pong))
            }
        })
        .await;
        let clients: Vec<_> = clients.into_iter().map(|client| client.expect("it is in")).collect();
        assert!(clients.iter().all(|(_, pong)| pong == "PONG\r\n"));
        server.settles_at(20).await;
        let metrics = weir.metrics().await;
        assert_eq!((metrics.sum("weir_refused_total"), weir.health().await), (0.0, 200));
        weir.says("limits its rate").await; // the case did happen
        assert!(!weir.log().contains("server ejected"), "{}", weir.log());
        drop(clients);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_full_server_are_placed_elsewhere() {
    let authority = Authority::new("weir tests");
    for mode in ["false", "true"] {
        let tls = server_tls(&authority, &format!("handshake_first: {mode}"));
        let options = |name: &str, max| ServerOptions::named(name).max_connections(max).with(&tls);
        let (n1, n2) = (NatsServer::start(options("n1", 1)).await, NatsServer::start(options("n2", 1000)).await);
        // No reading says that n1 is full: weir finds it out by its word.
        let weir = WeirConfig::of_servers(&[&n1, &n2]).without_monitors().listener(&listener(mode)).start().await;
        let mut clients = Vec::new();
        for n in 0..12 {
            let config = client_tls(&authority, n);
            let mut client = TlsClient::connect(&weir.address, "localhost", mode == "true", config).await.unwrap();
            assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
            clients.push(client);
        }
        tokio::join!(n1.settles_at(1), n2.settles_at(11));
        n1.says("maximum connections exceeded").await; // the case did happen
        drop(clients);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_sign_get_no_info_of_a_server_that_is_known_to_limit_its_rate() {
    let authority = Authority::new("weir tests");
    let user = KeyPair::new_user();
    let users = format!("authorization {{ users = [ {{ nkey: {} }} ] }}", user.public_key());
    let tls = server_tls(&authority, "connection_rate_limit: 2");
    let server = NatsServer::start(ServerOptions::default().with(&tls).with(&users)).await;
    let weir = WeirConfig::of_servers(&[&server]).listener(&listener("false")).start().await;
    let enter = async |address: &str| {
        let mut client = TlsClient::connect(address, "localhost", false, authority.client(None)).await?;
        let info = serde_json::from_str(client.info.strip_prefix("INFO ").unwrap()).unwrap();
        client.say(&format!("{}PING\r\n", Login::nkey(&user).answering(&info).connect_line())).await?;
        client.line().await.map(|said| (client, said))
    };
    let mut inside = Vec::new();
    let mut lost = 0;
    for round in 0..10 {
        // Others use up what the server takes in this second.
        for tries in 0.. {
            match enter(&server.address).await {
                Ok(other) => inside.push(other),
                Err(_) => break,
            }
            assert!(tries < 20, "it limits its rate");
        }
        match enter(&weir.address).await {
            Ok((client, said)) => {
                assert_eq!(said, "PONG\r\n");
                inside.push((client, said));
            }
            // Before weir has heard of the limit, it finds it out with a client.
            Err(_) => lost += usize::from(round > 0),
        }
        // weir leaves the server alone for a second.
        sleep(Duration::from_millis(1100)).await;
    }
    // A server that is slow to say no, for once, is not waited for.
    assert!(lost <= 1, "{lost}");
    weir.says("limits its rate").await; // the case did happen
    drop(inside);
    weir.assert_nothing_leaked().await;
}
