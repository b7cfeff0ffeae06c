//! Listeners that pass TLS through: keys and client certificates stay on the servers, and weir reads nothing inside
//! TLS.

use std::sync::Arc;
use std::time::Duration;

use async_nats::ConnectOptions;
use futures::StreamExt;
use rustix::process::Signal;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_testkit::{
    admin::AdminSocket,
    client::Op,
    tls::{Authority, Issued, TlsClient},
    *,
};

/// A short hold, so that clients that cannot be admitted are refused soon.
const SOON: &str = "rate = 20000\nburst = 20000\nmax_hold = \"300ms\"\nrefusal_spread = \"1ms\"";

/// An authority and the certificates of two users.
struct Users {
    authority: Authority,
    orders: Issued,
    billing: Issued,
}

impl Users {
    fn new() -> Self {
        let authority = Authority::new("weir tests");
        let (orders, billing) = (authority.issue("orders", &[]), authority.issue("billing", &[]));
        Self { authority, orders, billing }
    }

    /// The configuration of servers that identify users by certificate.
    fn servers(&self, handshake_first: &str) -> String {
        let own = self.authority.issue("server", &["localhost", "127.0.0.1"]);
        format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify_and_map: true, timeout: 30, \
             handshake_first: {handshake_first} }}\n\
             accounts {{ ORDERS {{ users: [{{user: \"CN=orders\"}}] }}, BILLING {{ users: [{{user: \"CN=billing\"}}] }} }}",
            own.cert,
            own.key,
            self.authority.ca()
        )
    }

    /// The official Rust client with the certificate of one user.
    fn rust_client(&self, own: &Issued, tls_first: bool) -> ConnectOptions {
        let options = ConnectOptions::new()
            .connection_timeout(PATIENCE)
            .require_tls(true)
            .add_root_certificates(self.authority.ca())
            .add_client_certificate(own.cert.clone(), own.key.clone());
        if tls_first { options.tls_first() } else { options }
    }

    fn by_hand(&self) -> Arc<ClientConfig> {
        self.authority.client(Some(&self.orders))
    }
}

fn listener(handshake_first: &str) -> String {
    format!(
        "kind = \"passthrough\"\nhandshake_timeout = \"30s\"\n[listeners.passthrough]\nhandshake_first = {handshake_first}"
    )
}

/// Publishes a message to itself and waits for it.
async fn round_trip(client: &async_nats::Client) -> Result<(), String> {
    let mut inbox = client.subscribe("there").await.map_err(|err| err.to_string())?;
    client.publish("there", "and back".into()).await.map_err(|err| err.to_string())?;
    let message = tokio::time::timeout(Duration::from_secs(5), inbox.next()).await.map_err(|err| err.to_string())?;
    if message.is_some_and(|message| &message.payload[..] == b"and back") { Ok(()) } else { Err("another".into()) }
}

/// The accounts of all clients of the servers, sorted.
async fn accounts(cluster: &Cluster) -> Vec<String> {
    let mut all = Vec::new();
    for server in &cluster.servers {
        let connz = server.monitoring("/connz?auth=true").await.expect("/connz");
        let of = |one: &serde_json::Value| one["account"].as_str().unwrap_or_default().to_owned();
        all.extend(connz["connections"].as_array().expect("a list").iter().map(of));
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_certificate_is_who_it_says_on_every_server() {
    let users = Users::new();
    for (servers, weirs, clients_first) in
        [("false", "false", &[false][..]), ("true", "true", &[true]), ("\"900ms\"", "\"900ms\"", &[false, true])]
    {
        let mut cluster = Cluster::start(3, |server| server.with(&users.servers(servers)).no_advertise()).await;
        let weir = WeirConfig::of(&cluster).listener(&listener(weirs)).start().await;
        let mut clients = Vec::new();
        for n in 0..12 {
            let own = if n % 2 == 0 { &users.orders } else { &users.billing };
            let options = users.rust_client(own, clients_first[n % clients_first.len()]);
            clients.push(options.connect(format!("tls://localhost:{}", weir.port())).await.unwrap());
        }
        for client in &clients {
            eventually(PATIENCE, "a round trip", async || round_trip(client).await).await;
        }
        eventually(PATIENCE, "each is in its account", async || {
            let accounts = accounts(&cluster).await;
            if accounts == [["BILLING"; 6], ["ORDERS"; 6]].concat() { Ok(()) } else { Err(accounts) }
        })
        .await;
        let spread = cluster.settles_at(12).await;
        assert!(unevenness(&spread) <= 2.0, "{spread:?}");
        weir.agrees_with(&cluster).await;
        let are_in = |metrics: &metrics::Metrics| {
            metrics.sum("weir_admitted_total") == 12.0 && metrics.sum("weir_handshakes_active") == 0.0
        };
        let metrics = weir.until("all are told to be in", are_in).await;
        assert_eq!(metrics.sum("weir_refused_total"), 0.0);

        // A server dies, and its clients come back on the others.
        cluster.servers[0].kill9();
        for client in &clients {
            eventually(PATIENCE, "they come back", async || round_trip(client).await).await;
        }
        // All of them came back through weir.
        weir.until("12 sessions", |metrics| metrics.sum("weir_sessions_active") == 12.0).await;
        weir.agrees_with_servers(&[&cluster.servers[1], &cluster.servers[2]]).await;
        drop(clients);
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_info_is_rewritten_and_what_follows_is_not_touched() {
    let users = Users::new();
    let cluster = Cluster::start(2, |server| server.with(&users.servers("false"))).await;
    let listener = format!("advertise = [\"nats.example.com:4222\"]\n{}", listener("false"));
    let weir = WeirConfig::of(&cluster).listener(&listener).start().await;
    let mut client = TlsClient::connect(&weir.address, "localhost", false, users.by_hand()).await.unwrap();
    let info: serde_json::Value = serde_json::from_str(client.info.strip_prefix("INFO ").unwrap()).unwrap();
    assert_eq!(info["connect_urls"], serde_json::json!(["nats.example.com:4222"]));
    assert_eq!((&info["tls_required"], &info["tls_verify"]), (&true.into(), &true.into()));
    assert_eq!(info["client_ip"], "127.0.0.1");
    assert_eq!(info["port"].to_string(), weir.port());
    assert!(["n1", "n2"].contains(&info["server_name"].as_str().unwrap()), "{info}");
    assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
    // weir cannot rewrite the INFO after the first PONG, which is inside TLS.
    let after = client.line().await.unwrap();
    assert!(after.contains("\"remote_account\":\"ORDERS\"") && !after.contains("nats.example.com"), "{after}");

    // Large messages pass in both directions.
    let payload = "x".repeat(900_000);
    client.say("SUB much 1\r\nPING\r\n").await.unwrap();
    while client.line().await.unwrap() != "PONG\r\n" {}
    for _ in 0..10 {
        client.say(&format!("PUB much {}\r\n{payload}\r\n", payload.len())).await.unwrap();
        while !client.line().await.unwrap().starts_with("MSG much 1 ") {}
        assert_eq!(client.line().await.unwrap().trim_end(), payload);
    }
    drop(client);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_good_meets_the_servers_own_answer() {
    let users = Users::new();
    let stranger = Authority::new("somebody else");
    let foreign = stranger.issue("orders", &[]);
    let expired = users.authority.issue_with("old", &[], |one| one.not_after = rcgen::date_time_ymd(2021, 1, 1));
    for mode in ["false", "true"] {
        let cluster = Cluster::start(1, |server| server.with(&users.servers(mode))).await;
        let weir = WeirConfig::of(&cluster).listener(&listener(mode)).start().await;
        for own in [None, Some(&foreign), Some(&expired)] {
            let said = async |address: &str| {
                let client = users.authority.client(own);
                // With TLS 1.3 the handshake succeeds for the client; it learns of the refusal when it reads. It sends
                // nothing, because that could cause a reset.
                let entered =
                    async { TlsClient::connect(address, "localhost", mode == "true", client).await?.line().await };
                entered.await.expect_err("it is not good").to_string()
            };
            assert_eq!(said(&weir.address).await, said(&cluster.servers[0].address).await);
        }
        // An invalid client certificate says nothing about the server, which stays usable.
        weir.until("they are told apart", |m| m.sum("weir_closed_total") == 3.0).await;
        weir.sees(1).await;
        round_trip_by_hand(&weir, &users, mode == "true").await;
        weir.assert_nothing_leaked().await;
    }
}

async fn round_trip_by_hand(weir: &Weir, users: &Users, first: bool) {
    let mut client = TlsClient::connect(&weir.address, "localhost", first, users.by_hand()).await.unwrap();
    assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cluster_is_never_asked_and_its_clients_come_back() {
    let users = Users::new();
    for mode in ["false", "true"] {
        let first = mode == "true";
        let cluster = Cluster::start(2, |server| server.with(&users.servers(mode)).max_connections(2)).await;
        let weir =
            WeirConfig::of(&cluster).cluster("reserve = 0").listener(&listener(mode)).admission(SOON).start().await;
        let url = format!("tls://localhost:{}", weir.port());
        let mut inside = Vec::new();
        for _ in 0..4 {
            let client =
                users.rust_client(&users.orders, first).retry_on_initial_connect().connect(&url).await.unwrap();
            eventually(PATIENCE, "it is in", async || round_trip(&client).await).await;
            inside.push(client);
        }
        cluster.settles_at(4).await;
        let reason = "weir_refused_total{reason=\"server_capacity\"}";
        let before = weir.gauge(reason).await;
        for n in 1..=5 {
            let refused = TlsClient::connect(&weir.address, "localhost", first, users.by_hand()).await.err().unwrap();
            assert!(refused.to_string().contains("InternalError"), "{refused}");
            weir.until("the reason is told", |m| m.get(reason) == Some(before + f64::from(n))).await;
        }
        // A client that does not start TLS can read the reason, and its INFO says that TLS is required.
        if !first {
            let attempt = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
            let Attempt::Refused { text, info: Some(info), .. } = attempt else { panic!("{attempt:?}") };
            assert_eq!((&*text, &info["tls_required"]), ("maximum connections exceeded", &true.into()));
        }
        let waits = users.rust_client(&users.billing, first).retry_on_initial_connect().connect(&url).await.unwrap();
        inside.pop();
        eventually(PATIENCE, "it gets in", async || round_trip(&waits).await).await;
        assert!(!cluster.log_contains("maximum connections exceeded"));
        drop((waits, inside));
        weir.assert_nothing_leaked().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_have_limits_and_pace_holds() {
    let users = Users::new();
    for mode in ["false", "true"] {
        let first = mode == "true";
        let cluster = Cluster::start(1, |server| server.with(&users.servers(mode))).await;
        let admission = "rate = 2\nburst = 1\nmax_hold = \"19s\"\nrefusal_spread = \"1ms\"\n[admission.per_source]\nmax_connections = 6";
        let weir = WeirConfig::of(&cluster).listener(&listener(mode)).admission(admission).start().await;
        let enter = |_: usize| {
            let (address, config) = (weir.address.clone(), users.by_hand());
            async move {
                let mut client = TlsClient::connect(&address, "localhost", first, config).await?;
                client.enter().await.map(|_| client)
            }
        };
        let inside: Vec<_> = at_once(6, enter).await.into_iter().map(Result::unwrap).collect();
        let refused = enter(0).await.err().unwrap();
        assert!(refused.to_string().contains("InternalError"), "{refused}");
        let told = |m: &metrics::Metrics| m.get("weir_refused_total{reason=\"source_quota\"}") == Some(1.0);
        let metrics = weir.until("the reason is told", told).await;
        assert!(metrics.sum("weir_hold_seconds_count") >= 1.0, "the pace made one wait at least");
        drop(inside);
        weir.assert_nothing_leaked().await;
    }
}

/// weir can put nothing into the TLS of a client, so it asks the server whether it has closed the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_subscriber_holds_no_place_once_its_server_has_closed_it() {
    let users = Users::new();
    let own = format!("write_deadline: 500ms\n{}", users.servers("false"));
    let cluster = Cluster::start(1, |server| server.with(&own)).await;
    let (server, config) = (&cluster.servers[0], WeirConfig::of(&cluster));
    let weir = config
        .default_settings()
        .listener(&listener("false").replace("handshake_timeout = \"30s\"\n", ""))
        .start()
        .await;
    let enter = async |address: &str| {
        let mut client = TlsClient::connect(address, "localhost", false, users.by_hand()).await.unwrap();
        assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
        client
    };
    let (mut frozen, mut lives) = (enter(&weir.address).await, enter(&weir.address).await);
    frozen.say("SUB flood 1\r\n").await.unwrap();
    lives.say("SUB other 1\r\nPING\r\n").await.unwrap();
    let mut publisher = enter(&server.address).await;
    let message = format!("PUB flood 262144\r\n{}\r\n", "x".repeat(262_144));
    eventually(PATIENCE, "the server has closed its slow consumer", async || {
        publisher.say(&message.repeat(16)).await.unwrap();
        match server.connections().await {
            2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    // By its server, and not by TCP.
    let metrics = weir.until("only the other one is left", |metrics| metrics.sum("weir_sessions_active") == 1.0).await;
    assert_eq!(metrics.sum_where("weir_closed_total", "party", "downstream"), 0.0);
    lives.say("PUB other 5\r\nstill\r\n").await.unwrap();
    while lives.line().await.unwrap() != "still\r\n" {}
    drop((frozen, lives, publisher));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_everybody_by_fin() {
    let users = Users::new();
    for mode in ["false", "true"] {
        let cluster = Cluster::start(2, |server| server.with(&users.servers(mode))).await;
        let top = "workers = 2\nlame_duck_grace_period = \"100ms\"\nlame_duck_duration = \"1s\"";
        let mut weir = WeirConfig::of(&cluster).top(top).listener(&listener(mode)).start().await;
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client =
                TlsClient::connect(&weir.address, "localhost", mode == "true", users.by_hand()).await.unwrap();
            assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
            clients.push(client);
        }
        weir.signal(Signal::TERM);
        for mut client in clients {
            let mut rest = Vec::new();
            // The end comes without TLS close_notify, which only the server could send, and it is not a reset.
            let end = client.stream.read_to_end(&mut rest).await;
            assert!(end.as_ref().is_err_and(|err| err.kind() == std::io::ErrorKind::UnexpectedEof), "{end:?}");
        }
        assert!(weir.wait(PATIENCE).await.success());
        weir.says("party=\"weir\" phase=\"relay\" reason=\"draining\"").await;
        cluster.settles_at(0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_while_it_is_held_is_told_as_such() {
    let (users, admin) = (Users::new(), AdminSocket::default());
    let cluster = Cluster::start(1, |server| server.with(&users.servers("true"))).await;
    let weir = WeirConfig::of(&cluster).listener(&listener("true")).table(&admin.toml()).start().await;
    admin.does(&["pause"]).await;
    let mut hello = Vec::new();
    let name = "localhost".try_into().unwrap();
    ClientConnection::new(users.by_hand(), name).unwrap().write_tls(&mut hello).unwrap();
    let mut client = TcpStream::connect(&weir.address).await.unwrap();
    client.write_all(&hello).await.unwrap();
    weir.until("it is held", |metrics| metrics.sum("weir_held") == 1.0).await;
    drop(client);
    let told = |metrics: &metrics::Metrics| {
        let left = "weir_closed_total{party=\"downstream\",phase=\"hold\",reason=\"eof\"}";
        (metrics.get(left).unwrap_or_default(), metrics.sum("weir_probes_total"))
    };
    let metrics = weir.until("its end is told", |metrics| told(metrics) != (0.0, 0.0)).await;
    assert_eq!(told(&metrics), (1.0, 0.0));
    admin.does(&["resume"]).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_says_nothing_costs_little() {
    let users = Users::new();
    // The client needs the server's INFO first, so weir dials at once. The upstream connection ends with the client's.
    let cluster = Cluster::start(1, |server| server.with(&users.servers("false"))).await;
    let weir = WeirConfig::of(&cluster).listener(&listener("false")).start().await;
    let mut looks = RawClient::dial(&weir.address).await.unwrap();
    assert!(matches!(looks.next_within(PATIENCE).await.unwrap(), Some(Op::Info(_))));
    drop(looks);
    weir.until("a probe", |metrics| metrics.get("weir_probes_total") == Some(1.0)).await;
    weir.assert_nothing_leaked().await;

    // Here the client speaks first, and weir dials no server before it does.
    let cluster = Cluster::start(1, |server| server.with(&users.servers("true"))).await;
    let before = cluster.servers[0].total_connections().await;
    let told = |reason: &'static str| {
        move |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", reason) == 1.0
    };
    let weir = WeirConfig::of(&cluster).listener(&listener("true")).start().await;
    drop(TcpStream::connect(&weir.address).await.unwrap());
    weir.until("a probe", |metrics| metrics.get("weir_probes_total") == Some(1.0)).await;
    let mut plain = TcpStream::connect(&weir.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _ = plain.read(&mut [0; 9]).await;
    weir.until("no TLS", told("protocol")).await;
    weir.assert_nothing_leaked().await;

    let weir = WeirConfig::of(&cluster).listener(&listener("true").replace("30s", "500ms")).start().await;
    let mut silent = TcpStream::connect(&weir.address).await.unwrap();
    assert_eq!(silent.read(&mut [0; 9]).await.unwrap(), 0);
    weir.until("too late", told("handshake_timeout")).await;
    weir.assert_nothing_leaked().await;
    assert_eq!(cluster.servers[0].total_connections().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_told_the_clients_address() {
    if !nats::is_at_least(2, 15) {
        return skip("needs nats-server 2.15 or later, which reads PROXY headers in front of TLS");
    }
    let users = Users::new();
    for mode in ["false", "true"] {
        let options = format!("proxy_protocol: true\n{}", users.servers(mode));
        let cluster = Cluster::start(1, |server| server.with(&options)).await;
        let weir = WeirConfig::of(&cluster).cluster("proxy_protocol = true").listener(&listener(mode)).start().await;
        let mut client = TlsClient::connect(&weir.address, "localhost", mode == "true", users.by_hand()).await.unwrap();
        assert_eq!(client.enter().await.unwrap(), "PONG\r\n");
        let here = client.stream.get_ref().get_ref().0.local_addr().unwrap();
        let connz = cluster.servers[0].monitoring("/connz").await.unwrap();
        assert_eq!(connz["connections"][0]["port"], here.port(), "{connz}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_without_tls_are_not_used() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).listener(&listener("false")).admission(SOON).start().await;
    let attempt = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    assert_eq!(attempt.refusal(), Some("maximum connections exceeded"));
    let told = async || if weir.log().contains("it speaks no TLS") { Ok(()) } else { Err(weir.log()) };
    eventually(PATIENCE, "the log says why", told).await;
}

/// weir does not know who comes back, and does not have to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_weir_cannot_read_are_closed_for_their_age_and_come_back() {
    let users = Users::new();
    let cluster = Cluster::start(2, |server| server.with(&users.servers("false")).no_advertise()).await;
    let config = WeirConfig::of(&cluster).listener(&listener("false"));
    let weir = config.table("[rebalance]\nmax_connection_age = \"2s\"").start().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let options = users.rust_client(&users.orders, false);
        clients.push(options.connect(format!("tls://localhost:{}", weir.port())).await.unwrap());
    }
    let moved = "weir_moves_total{cause=\"age\",result=\"unreserved\"}";
    let metrics = weir.until("closed twice", |metrics| metrics.get(moved) >= Some(12.0)).await;
    assert_eq!(metrics.sum("weir_refused_total"), 0.0);
    for client in &clients {
        eventually(PATIENCE, "a round trip", async || round_trip(client).await).await;
    }
    drop(clients);
    weir.assert_nothing_leaked().await;
}
