//! PROXY headers: weir reads them from trusted load balancers and sends them to servers that expect them.

use std::time::Duration;

use ::weir::internals::protocol::proxy_header;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use weir_testkit::client::{End, Op};
use weir_testkit::operator::Operator;
use weir_testkit::tls::{Authority, TlsClient, pair};
use weir_testkit::*;

use crate::leafnodes::{self, Hub};

const FULL: &str = "maximum connections exceeded";
const UNKNOWN: &str = "Unknown Protocol Operation";
const TRUSTED_PROXIES: &str = "handshake_timeout = \"30s\"\naccept_proxy_protocol_from = [\"127.0.0.0/8\"]";

fn v1(source: &str) -> Vec<u8> {
    let family = if source.contains(':') { "TCP6" } else { "TCP4" };
    let here = if source.contains(':') { "2001:db8::ffff" } else { "198.51.100.1" };
    format!("PROXY {family} {source} {here} 40000 4222\r\n").into_bytes()
}

fn v2(source: &str) -> Vec<u8> {
    let mut header = Vec::new();
    proxy_header::write(
        std::net::SocketAddr::new(source.parse().unwrap(), 40000),
        "198.51.100.1:4222".parse().unwrap(),
        &mut header,
    );
    header
}

async fn attempt(weir: &Weir, header: &[u8], login: &Login) -> Attempt {
    RawClient::attempt_behind(header, &weir.address, login, PATIENCE).await
}

/// `ip:port` of each connection, as the server reports it.
async fn addresses(server: &NatsServer) -> Vec<String> {
    let connz = server.monitoring("/connz").await.unwrap();
    let address = |c: &Value| format!("{}:{}", c["ip"].as_str().unwrap(), c["port"]);
    connz["connections"].as_array().unwrap().iter().map(address).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_address_is_used_everywhere() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener(TRUSTED_PROXIES)
        .admission("max_hold = \"19s\"\nrefusal_spread = \"100ms\"\n[admission.per_source]\nmax_connections = 2")
        .start()
        .await;
    let mut clients = Vec::new();
    for (header, ip) in [
        (v1("192.0.2.1"), "192.0.2.1"),
        (v2("192.0.2.1"), "192.0.2.1"),
        (v1("2001:db8::1"), "2001:db8::1"),
        (v2("2001:db8:0:0:9::1"), "2001:db8::9:0:0:1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (proxy_header::LOCAL.to_vec(), "127.0.0.1"),
    ] {
        let mut client = attempt(&weir, &header, &Login::nobody()).await.expect_in();
        assert_eq!(client.info["client_ip"], ip);
        assert_eq!(client.info_after_pong().await["client_ip"], ip);
        client.round_trip().await.unwrap();
        clients.push(client);
    }
    // Two clients of each source (IPv6: of each /64) are in.
    for header in [v1("192.0.2.1"), v2("2001:db8::2"), proxy_header::LOCAL.to_vec()] {
        assert_eq!(attempt(&weir, &header, &Login::nobody()).await.refusal(), Some(FULL));
    }
    clients.push(attempt(&weir, &v2("192.0.2.2"), &Login::nobody()).await.expect_in());
    drop(clients);
    weir.until("the log knows who it was", |_| weir.log().contains("peer=192.0.2.2:40000")).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_may_come_in_pieces_and_with_connect_behind_it() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).listener(TRUSTED_PROXIES).start().await;
    for header in [v1("192.0.2.7"), v2("192.0.2.7")] {
        let mut client = RawClient::dial(&weir.address).await.unwrap();
        for part in header.chunks(5) {
            client.send(part).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        assert!(
            matches!(client.next_within(PATIENCE).await.unwrap(), Some(Op::Info(info)) if info["client_ip"] == "192.0.2.7")
        );

        let mut client = RawClient::dial(&weir.address).await.unwrap();
        let all = [&header[..], Login::nobody().connect_line().as_bytes(), b"PING\r\n"].concat();
        client.send(&all).await.unwrap();
        assert!(matches!(client.next_within(PATIENCE).await.unwrap(), Some(Op::Info(_))));
        assert_eq!(client.next_within(PATIENCE).await.unwrap(), Some(Op::Pong));
    }
    weir.assert_nothing_leaked().await;
}

/// Pods that use a balancer's name can be led to weir directly, from the network that the balancer is in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_may_be_missing_where_that_is_allowed() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let authority = Authority::new("weir tests");
    let listener = format!("{TRUSTED_PROXIES}\nallow_without_proxy_protocol = true");
    let weir = WeirConfig::of_servers(&[&server]).listener(&listener).start().await;
    for (header, ip) in [(&b""[..], "127.0.0.1"), (&v1("192.0.2.1"), "192.0.2.1"), (&v2("192.0.2.2"), "192.0.2.2")] {
        let client = attempt(&weir, header, &Login::nobody()).await.expect_in();
        assert_eq!(client.info["client_ip"], ip);
    }
    drop(RawClient::dial(&weir.address).await.unwrap());
    weir.until("a probe", |metrics| metrics.get("weir_probes_total") == Some(1.0)).await;
    // Who speaks before INFO gets INFO all the same, also where the first letter is that of `PROXY`.
    for words in ["PING\r\n", "PUB a 1\r\nx\r\n", "SUB a 1\r\n", "PRONG\r\n", "\r\nPING\r\n"] {
        let mut client = RawClient::dial(&weir.address).await.unwrap();
        client.send(words.as_bytes()).await.unwrap();
        let first = client.next_within(PATIENCE).await.unwrap();
        assert!(matches!(&first, Some(Op::Info(info)) if info["client_ip"] == "127.0.0.1"), "{words}: {first:?}");
    }
    // What may still become a header is waited for.
    for header in [v1("192.0.2.1"), v2("192.0.2.1")] {
        let mut client = RawClient::dial(&weir.address).await.unwrap();
        for part in header.chunks(5) {
            client.send(part).await.unwrap();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let first = client.next_within(PATIENCE).await.unwrap();
        assert!(matches!(&first, Some(Op::Info(info)) if info["client_ip"] == "192.0.2.1"), "{first:?}");
    }
    weir.assert_nothing_leaked().await;

    // A client that begins with TLS is not waited for.
    let own = authority.issue("weir", &["localhost"]);
    let listener = format!("{listener}\n[listeners.tls]\nhandshake_first = true\n{}", pair(&own));
    let weir = WeirConfig::of_servers(&[&server]).listener(&listener).start().await;
    let mut client = TlsClient::connect(&weir.address, "localhost", true, authority.client(None)).await.unwrap();
    assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_header_gets_no_further() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).listener(TRUSTED_PROXIES).start().await;
    let long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 5000]].concat();
    let endless = [b"PROXY TCP4 ", &[b'1'; 500][..]].concat();
    let connect = format!("{}PING\r\n", Login::nobody().connect_line()).into_bytes();
    for wrong in [&b"PROXY FOO\r\n"[..], b"\x16\x03\x01", &long, &endless, &connect] {
        let mut client = RawClient::dial(&weir.address).await.unwrap();
        client.send(wrong).await.unwrap();
        let (said, end) = client.rest(PATIENCE).await;
        assert_eq!((said, end), (format!("-ERR '{UNKNOWN}'\r\n"), End::Eof), "{wrong:?}");
    }
    drop(RawClient::dial(&weir.address).await.unwrap());
    let refused = |metrics: &metrics::Metrics, reason| metrics.sum_where("weir_refused_total", "reason", reason);
    // The connection without a byte counts as a probe, not as a refusal.
    let both =
        |metrics: &metrics::Metrics| metrics.sum("weir_probes_total") == 1.0 && refused(metrics, "protocol") == 5.0;
    weir.until("they are counted, and the probe", both).await;
    weir.assert_nothing_leaked().await;
    // The deadline also ends a client that has sent half a header, or none.
    let weir = WeirConfig::of_servers(&[&server]).listener(&TRUSTED_PROXIES.replace("30s", "300ms")).start().await;
    for part in [&v2("192.0.2.1")[..20], b""] {
        let mut client = RawClient::dial(&weir.address).await.unwrap();
        client.send(part).await.unwrap();
        assert_eq!(client.rest(PATIENCE).await, ("-ERR 'Stale Connection'\r\n".into(), End::Eof));
    }
    weir.until("both are counted", |metrics| refused(metrics, "handshake_timeout") == 2.0).await;
    // Once, not for each of them.
    let told = "no PROXY header from a network of accept_proxy_protocol_from";
    weir.says(told).await;
    let told = weir.log().matches(told).count();
    assert_eq!(told, 1, "{}", weir.log());
    server.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_no_header_is_one_of_the_listeners_clients() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let few = format!("{TRUSTED_PROXIES}\nmax_clients = 2");
    let weir = WeirConfig::of_servers(&[&server]).listener(&few).start().await;
    let silent = eventually(PATIENCE, "the silent ones are there first", async || {
        let silent = futures::future::join_all([(); 2].map(|()| RawClient::dial(&weir.address))).await;
        let attempt = attempt(&weir, &v2("192.0.2.1"), &Login::nobody()).await;
        attempt.refusal().map(|_| silent).ok_or("in")
    })
    .await;
    let full = |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", "listener_full") >= 1.0;
    weir.until("it is counted", full).await;
    drop(silent);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_believed() {
    let server = NatsServer::start(ServerOptions::default().with("proxy_protocol: true")).await;
    for believed in ["", "accept_proxy_protocol_from = [\"10.0.0.0/8\"]"] {
        let weir = WeirConfig::of_servers(&[&server])
            .listener(&format!("handshake_timeout = \"30s\"\n{believed}"))
            .cluster("proxy_protocol = true")
            .start()
            .await;
        for header in [v1("192.0.2.1"), v2("192.0.2.1"), proxy_header::LOCAL.to_vec()] {
            let mut client = RawClient::dial(&weir.address).await.unwrap();
            client.send(&header).await.unwrap();
            let greeted = client.next_within(PATIENCE).await.unwrap();
            assert!(matches!(&greeted, Some(Op::Info(info)) if info["client_ip"] == "127.0.0.1"), "{greeted:?}");
            assert_eq!(client.next_within(PATIENCE).await.unwrap(), Some(Op::Err(UNKNOWN.into())));
        }
        // After CONNECT neither weir nor the server reads it as a header.
        let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
        client.info_after_pong().await;
        client.send(&v1("192.0.2.1")).await.unwrap();
        assert_ne!(client.end(PATIENCE).await, End::StillOpen);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_learn_the_real_address() {
    nats::at_least(2, 13); // the exact version is 2.12.2
    let key = nkeys::KeyPair::new_user();
    let users = format!("accounts {{ A {{ users: [{{nkey: {}}}, {{user: a, password: p}}] }} }}", key.public_key());
    for config in ["accounts { A { users: [{user: a, password: p}] } }", &users] {
        let server = NatsServer::start(ServerOptions::default().with("proxy_protocol: true").with(config)).await;
        let believing =
            WeirConfig::of_servers(&[&server]).listener(TRUSTED_PROXIES).cluster("proxy_protocol = true").start().await;
        let mut logins = vec![Login::user("a", "p")];
        logins.extend((config == users).then(|| Login::nkey(&key)));
        let mut clients = Vec::new();
        for login in &logins {
            for header in [v1("192.0.2.1"), v2("2001:db8::1")] {
                let mut client = attempt(&believing, &header, login).await.expect_in();
                client.round_trip().await.unwrap();
                clients.push(client);
            }
        }
        let mut seen = addresses(&server).await;
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["192.0.2.1:40000", "2001:db8::1:40000"]);
        // Without a load balancer in front, the server sees the client's own address.
        let weir = WeirConfig::of_servers(&[&server]).cluster("proxy_protocol = true").start().await;
        drop(clients);
        server.settles_at(0).await;
        let client = RawClient::connect(&weir.address, &logins[0]).await;
        assert!(addresses(&server).await[0].starts_with("127.0.0.1:"));
        drop(client);
        weir.assert_nothing_leaked().await;
        believing.assert_nothing_leaked().await;
    }
}

/// Two `Authorization Violation`s in a row end Go, Java and JavaScript clients for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_gets_to_a_server_that_expects_no_header() {
    nats::at_least(2, 13); // the exact version is 2.12.2
    for users in ["", "accounts { A { users: [{user: a, password: p}] } }"] {
        let options =
            |name: &str, reads: bool| ServerOptions::named(name).with(&format!("proxy_protocol: {reads}")).with(users);
        let mut wrong = NatsServer::start(options("n1", false)).await;
        let right = NatsServer::start(options("n2", true)).await;
        let login = Login::user("a", "p");
        let told = "a server refuses PROXY headers, so weir sends it no client";

        let alone = WeirConfig::of_servers(&[&wrong]).cluster("proxy_protocol = true").start_at_once().await;
        alone.says(told).await;
        let both = WeirConfig::of_servers(&[&wrong, &right]).cluster("proxy_protocol = true").start_before(1).await;
        both.says(told).await;
        for _ in 0..10 {
            let refused = RawClient::attempt(&alone.address, &login, PATIENCE).await;
            assert_eq!(refused.refusal(), Some(FULL), "{refused:?}");
            let mut client = RawClient::connect(&both.address, &login).await;
            assert_eq!(client.info_after_pong().await["server_name"], "n2");
        }
        for weir in [&alone, &both] {
            assert_eq!(weir.log().matches(told).count(), 1, "{}", weir.log());
        }

        // Once it reads headers it gets clients; and none any more when it was started again without.
        wrong.stop().await;
        wrong.reconfigure("proxy_protocol: false", "proxy_protocol: true");
        wrong.restart().await;
        eventually(PATIENCE, "clients get in", async || {
            let attempt = RawClient::attempt(&alone.address, &login, PATIENCE).await;
            attempt.refusal().map_or(Ok(()), |refusal| Err(refusal.to_owned()))
        })
        .await;
        wrong.stop().await;
        wrong.reconfigure("proxy_protocol: true", "proxy_protocol: false");
        wrong.restart().await;
        eventually(PATIENCE, "it is told once more", async || {
            let attempt = RawClient::attempt(&alone.address, &login, PATIENCE).await;
            let times = alone.log().matches(told).count();
            if times == 2 { Ok(()) } else { Err(format!("{times} {attempt:?}")) }
        })
        .await;
        let refused = RawClient::attempt(&alone.address, &login, PATIENCE).await;
        assert_eq!(refused.refusal(), Some(FULL), "{refused:?}");
        both.assert_nothing_leaked().await;
    }
}

/// A load balancer reads the header, and the nats-server behind it knows nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_may_read_the_header_for_the_server() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, behind) = (listener.local_addr().unwrap().to_string(), server.address.clone());
    let balancer = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let behind = behind.clone();
            tokio::spawn(async move {
                let mut fixed = [0; 16];
                client.read_exact(&mut fixed).await?;
                let mut rest = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
                client.read_exact(&mut rest).await?;
                let mut server = tokio::net::TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    let config = WeirConfig::of_servers(&[&server]).cluster("proxy_protocol = true");
    let weir = config.replacing(&server.address, &address).start().await;
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.unwrap();
    assert!(!weir.log().contains("refuses PROXY headers"), "{}", weir.log());
    balancer.abort();
}

/// Servers read headers at their client ports only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leafnodes_come_without_a_header() {
    nats::at_least(2, 13); // the exact version is 2.12.2
    let hub = Hub::start("hub", "", "proxy_protocol: true").await;
    let weir = leafnodes::before(&[&hub]).cluster("proxy_protocol = true").start().await;
    let leafnode = leafnodes::leafnode("leaf", &leafnodes::url(&weir.address, "")).await;
    leafnodes::connected(&leafnode, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_src_limit_of_a_jwt_sees_the_real_address() {
    nats::at_least(2, 13);
    let operator = Operator::with_accounts([-1]);
    let config = operator.server_config();
    let server = NatsServer::start(ServerOptions::default().with("proxy_protocol: true").with(&config)).await;
    let weir =
        WeirConfig::of_servers(&[&server]).listener(TRUSTED_PROXIES).cluster("proxy_protocol = true").start().await;
    let user = operator.account(0).limited_to("192.0.2.0/24");
    let login = Login::jwt(&user.jwt, &user.key);
    attempt(&weir, &v2("192.0.2.77"), &login).await.expect_in().round_trip().await.unwrap();
    let outside = attempt(&weir, &v2("192.0.3.77"), &login).await;
    assert_eq!(outside.refusal(), Some("Authorization Violation"), "{outside:?}");
    weir.assert_nothing_leaked().await;
}
