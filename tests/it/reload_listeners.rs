//! A reload opens, changes and closes listeners, their TLS and the endpoints: present sessions notice nothing. Where
//! one address cannot be bound nothing changes.

use std::{net::TcpListener, time::Duration};

use tokio::net::TcpStream;
use weir_testkit::{
    metrics::Metrics,
    tls::{Authority, TlsClient, pair},
    websocket::WsClient,
    *,
};

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// The table of one more listener, in front of `[monitor]`.
fn with_listener(weir: &Weir, listen: &str, more: &str) {
    weir.reconfigure("[monitor]", &format!("[[listeners]]\nlisten = \"{listen}\"\n{more}\n[monitor]"));
}

fn listeners(metrics: &Metrics) -> Vec<String> {
    let label = |sample: &str| sample.split('"').nth(1).unwrap().to_owned();
    metrics.of("weir_listener_clients").map(|(sample, _)| label(sample)).collect()
}

async fn connect(address: &str) -> RawClient {
    RawClient::connect(address, &Login::nobody()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_and_sessions_stay() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).start().await;
    let first = weir.address.clone();
    let (second, third) = (local(ports::free()), local(ports::free()));
    let mut clients = vec![connect(&first).await];
    with_listener(&weir, &second, "advertise = [\"nats.example.com:4222\"]\nmax_clients = 3");
    with_listener(&weir, &third, "kind = \"websocket\"");
    let metrics = weir.reloads().await;
    let mut open = vec![first.clone(), second.clone(), third.clone()];
    let mut seen = listeners(&metrics);
    open.sort();
    seen.sort();
    assert_eq!(seen, open);
    // Enough for each worker to have some.
    for _ in 0..3 {
        let client = connect(&second).await;
        assert_eq!(client.info["connect_urls"][0], "nats.example.com:4222");
        clients.push(client);
    }
    assert!(RawClient::attempt(&second, &Login::nobody(), PATIENCE).await.refusal().is_some(), "max_clients is 3");
    let websocket = WsClient::connect(&third, "", &Login::nobody()).await;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(weir.ports_file()).unwrap()).unwrap();
    assert_eq!(ports["listeners"][1], second.as_str(), "{ports}");

    // The first and the third go.
    weir.reconfigure("[[listeners]]\nlisten = \"127.0.0.1:0\"\nhandshake_timeout = \"30s\"\n", "");
    weir.reconfigure(&format!("[[listeners]]\nlisten = \"{third}\"\nkind = \"websocket\"\n"), "");
    let metrics = weir.reloads().await;
    assert_eq!(listeners(&metrics), std::slice::from_ref(&second));
    for closed in [&first, &third] {
        let refused = async || match TcpStream::connect(closed).await {
            Err(err) if err.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{closed}: {other:?}")),
        };
        eventually(PATIENCE, "a closed listener takes no client", refused).await;
    }
    for client in &mut clients {
        client.round_trip().await.expect("present sessions stay");
    }
    // What is lower now than what is there, and what is higher.
    weir.reconfigure("max_clients = 3", "max_clients = 1");
    assert_eq!(weir.reloads().await.get(&format!("weir_listener_max_clients{{listener=\"{second}\"}}")), Some(1.0));
    assert!(RawClient::attempt(&second, &Login::nobody(), PATIENCE).await.refusal().is_some());
    weir.reconfigure("max_clients = 1", "max_clients = 4");
    let metrics = weir.reloads().await;
    let counted = format!("weir_listener_clients{{listener=\"{second}\"}}");
    assert!(metrics.get(&counted) >= Some(3.0), "{:?}: the same clients are counted on", metrics.get(&counted));
    clients.push(connect(&second).await);

    // The first comes back at its address.
    with_listener(&weir, &first, "");
    weir.reloads().await;
    clients.push(connect(&first).await);
    for client in &mut clients {
        client.round_trip().await.unwrap();
    }
    drop((clients, websocket));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_cannot_be_bound_changes_nothing() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).account("default", "max_connections = 1").start().await;
    let _client = connect(&weir.address).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (free, taken) = (local(ports::free()), taken.local_addr().unwrap().to_string());
    let good = std::fs::read_to_string(weir.config_file()).unwrap();
    for monitor in [false, true] {
        with_listener(&weir, &free, "");
        weir.reconfigure("max_connections = 1", "max_connections = 9");
        weir.reconfigure("level = \"debug\"", "level = \"info\"");
        match monitor {
            true => {
                weir.reconfigure("[monitor]\nlisten = \"127.0.0.1:0\"", &format!("[monitor]\nlisten = \"{taken}\""))
            }
            false => with_listener(&weir, &taken, ""),
        }
        let metrics = weir.reload().await;
        assert_eq!(metrics.get("weir_config_last_reload_successful"), Some(0.0));
        weir.says(&format!("cannot listen on {taken}")).await;
        assert_eq!(listeners(&metrics), std::slice::from_ref(&weir.address));
        let refused = async || if TcpStream::connect(&free).await.is_err() { Ok(()) } else { Err("it listens") };
        eventually(PATIENCE, "what was opened with it is closed again", refused).await;
        assert!(RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await.refusal().is_some());
        std::fs::write(weir.config_file(), &good).unwrap();
    }
    assert_eq!(weir.reloads().await.get("weir_config_reloads_total{result=\"unchanged\"}"), Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_comes_changes_and_goes() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).start().await;
    let plain = "handshake_timeout = \"30s\"\n";
    let tls = |pair: &str| format!("{plain}[listeners.tls]\n{pair}");
    let pairs = [&old, &new].map(|one| pair(&one.issue("weir", &["localhost"])));
    let mut plainly = connect(&weir.address).await;

    weir.reconfigure(plain, &tls(&pairs[0]));
    weir.reloads().await;
    let enter = async |weir: &Weir, authority: &Authority| {
        let mut client = TlsClient::connect(&weir.address, "localhost", false, authority.client(None)).await?;
        client.enter().await.map(|_| client)
    };
    let mut first = enter(&weir, &old).await.unwrap();
    plainly.round_trip().await.expect("who came without TLS stays");

    // A certificate of another authority, by another path.
    weir.reconfigure(&pairs[0], &pairs[1]);
    weir.reloads().await;
    assert!(enter(&weir, &old).await.is_err(), "the old authority has not signed this one");
    let mut second = enter(&weir, &new).await.unwrap();
    for client in [&mut first, &mut second] {
        client.say("PING\r\n").await.unwrap();
        while client.line().await.unwrap() != "PONG\r\n" {}
    }

    // A key that does not fit changes nothing.
    let wrong = old.issue("other", &["localhost"]);
    let key = pairs[1].lines().find(|line| line.starts_with("key_file")).unwrap().to_owned();
    weir.reconfigure(&key, &format!("key_file = {:?}", wrong.key));
    assert_eq!(weir.reload().await.get("weir_config_last_reload_successful"), Some(0.0));
    drop(enter(&weir, &new).await.unwrap());

    let text = std::fs::read_to_string(weir.config_file()).unwrap();
    let begin = text.find("[listeners.tls]").unwrap();
    let end = text.find("[monitor]").unwrap();
    weir.reconfigure(&text[begin..end], "");
    weir.reloads().await;
    drop(connect(&weir.address).await);
    plainly.round_trip().await.unwrap();
    first.say("PING\r\n").await.unwrap();
    drop((plainly, first, second));
    weir.assert_nothing_leaked().await;
}

/// The same address: another kind, a proxy that is believed, another time to say CONNECT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_changes_what_it_is() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).start().await;
    let mut client = connect(&weir.address).await;
    let settings = "handshake_timeout = \"30s\"\n";
    weir.reconfigure(settings, "accept_proxy_protocol_from = [\"127.0.0.1\"]\n");
    weir.reloads().await;
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 1111 2222\r\n";
    let behind = RawClient::attempt_behind(header, &weir.address, &Login::nobody(), PATIENCE).await.expect_in();
    assert_eq!(behind.info["client_ip"], "192.0.2.7");
    weir.reconfigure("accept_proxy_protocol_from = [\"127.0.0.1\"]\n", "kind = \"websocket\"\n");
    weir.reloads().await;
    drop(WsClient::connect(&weir.address, "", &Login::nobody()).await);
    weir.reconfigure("kind = \"websocket\"\n", "handshake_timeout = \"100ms\"\n");
    weir.reloads().await;
    let mut silent = RawClient::greeted(&weir.address).await.unwrap();
    silent.rest(PATIENCE).await;
    drop(connect(&weir.address).await);
    client.round_trip().await.unwrap();
    drop((client, behind, silent));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoints_move() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).start().await;
    let (before, port) = (weir.monitor.clone(), ports::free());
    let answers =
        async |address: &str, path: &str| http::get(address, path).await.map(|(status, _)| status).unwrap_or(0);
    let moved = async |address: &str, path: &str| {
        let there = async || if answers(address, path).await == 200 { Ok(()) } else { Err(format!("{address}{path}")) };
        eventually(PATIENCE, "the endpoints are there", there).await;
    };
    weir.reconfigure("[monitor]\nlisten = \"127.0.0.1:0\"", &format!("[monitor]\nlisten = \"127.0.0.1:{port}\""));
    weir.signal(rustix::process::Signal::HUP);
    moved(&local(port), "/metrics").await;
    let left = async || if answers(&before, "/metrics").await == 0 { Ok(()) } else { Err(()) };
    eventually(PATIENCE, "nobody is at the old address", left).await;
    // The same port of all addresses: weir is in its own way.
    weir.monitor = local(port);
    weir.reconfigure(
        &format!("[monitor]\nlisten = \"127.0.0.1:{port}\""),
        &format!("[monitor]\nlisten = \"0.0.0.0:{port}\""),
    );
    weir.signal(rustix::process::Signal::HUP);
    let told = format!("monitoring address=0.0.0.0:{port}");
    let has_moved = async || if weir.log().contains(&told) { Ok(()) } else { Err(weir.log()) };
    eventually(PATIENCE, "it has moved", has_moved).await;
    moved(&local(port), "/metrics").await;
    weir.reconfigure(
        &format!("listen = \"0.0.0.0:{port}\""),
        &format!("listen = \"0.0.0.0:{port}\"\nhttp_base_path = \"/weir\""),
    );
    weir.signal(rustix::process::Signal::HUP);
    moved(&local(port), "/weir/metrics").await;
    weir.reconfigure(&format!("[monitor]\nlisten = \"0.0.0.0:{port}\"\nhttp_base_path = \"/weir\""), "");
    weir.signal(rustix::process::Signal::HUP);
    let gone = async || match TcpStream::connect(local(port)).await {
        Err(_) => Ok(()),
        Ok(_) => Err("it listens"),
    };
    eventually(Duration::from_secs(60), "there are none", gone).await;
    drop(connect(&weir.address).await);
}
