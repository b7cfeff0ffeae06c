//! Hostile clients: weir ends each with a reason, in bounded time and memory, and no other client is affected.

use std::time::Duration;

use weir_testkit::client::End;
use weir_testkit::*;

/// A server, weir in front of it, and two ordinary clients that must not be affected.
struct Scene {
    server: NatsServer,
    weir: Weir,
    publisher: RawClient,
    subscriber: RawClient,
    published: u64,
}

impl Scene {
    async fn with(config: impl Fn(WeirConfig) -> WeirConfig) -> Self {
        let server = NatsServer::start(ServerOptions::default()).await;
        let weir = config(WeirConfig::of_servers(&[&server])).start().await;
        let publisher = RawClient::connect(&weir.address, &Login::nobody()).await;
        let mut subscriber = RawClient::connect(&weir.address, &Login::nobody()).await;
        subscriber.subscribe("canary", 1).await.unwrap();
        let mut scene = Self { server, weir, publisher, subscriber, published: 0 };
        scene.others_are_served().await;
        scene
    }

    /// Checks that the two ordinary clients still exchange messages and that a new client still gets in.
    async fn others_are_served(&mut self) {
        self.published += 1;
        let payload = self.published.to_string().into_bytes();
        self.publisher.publish("canary", &payload).await.unwrap();
        assert_eq!(self.subscriber.next_msg().await, ("canary".into(), payload));
        drop(RawClient::connect(&self.weir.address, &Login::nobody()).await);
    }

    /// How many connections weir has opened to the server so far, without those of `others_are_served`.
    async fn opened(&self) -> u64 {
        self.server.settles_at(2).await;
        self.server.total_connections().await - self.published
    }

    async fn refusals(&self, reason: &str) -> f64 {
        self.weir.metrics().await.sum_where("weir_refused_total", "reason", reason)
    }

    /// Waits until exactly `n` clients have been refused for this reason. weir counts a session when it has ended.
    async fn refuses(&self, reason: &str, n: f64) {
        let counted = |metrics: &metrics::Metrics| metrics.sum_where("weir_refused_total", "reason", reason) == n;
        self.weir.until(&format!("{n} refusals for {reason}"), counted).await;
    }

    async fn end(mut self) {
        self.others_are_served().await;
        self.server.settles_at(2).await;
        drop((self.publisher, self.subscriber));
        self.weir.assert_nothing_leaked().await;
    }
}

async fn sends(weir: &Weir, bytes: &[u8]) -> (String, End) {
    let mut client = RawClient::dial(&weir.address).await.unwrap();
    let _ = client.send(bytes).await; // may fail half-way, since weir need not read everything
    client.rest(PATIENCE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_without_an_upstream_connection() {
    let mut scene = Scene::with(|config| config).await;
    let before = (scene.opened().await, scene.refusals("protocol").await);
    let noise: Vec<u8> = (0..3000).map(|_| fastrand::u8(..)).chain(*b"\r\n").collect();
    let all: [&[u8]; 9] = [
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello, as it were\r\n",
        b"CONNECT\r\n",
        b"CONNECT {\"verbose\":fal\r\n",
        b"CONNECT [1,2,3]\r\n",
        b"CONNECT \"text\"\r\n",
        b"PUBLISH somewhere 3\r\nabc\r\n",
        b"\0\0\0\0\0\0\0\0\r\n",
        &noise,
    ];
    for bytes in all {
        let (said, end) = sends(&scene.weir, bytes).await;
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        assert_ne!(end, End::StillOpen, "after {what:?}");
        assert!(said.starts_with("INFO {") && !said.contains("PONG"), "after {what:?}: {said}");
    }
    assert_eq!(scene.opened().await, before.0, "none of it reached the server");
    scene.refuses("protocol", before.1 + all.len() as f64).await;
    scene.others_are_served().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_connect_and_silence_end_at_the_deadline() {
    let mut scene = Scene::with(|config| config.listener("handshake_timeout = \"4s\"")).await;
    let before = (scene.opened().await, scene.refusals("handshake_timeout").await);
    let silent = at_once(20, |i| {
        let address = scene.weir.address.clone();
        async move {
            let mut client = RawClient::greeted(&address).await.unwrap();
            if i % 2 == 0 {
                client.send(b"CONNECT {\"verbose\":false,\"na").await.unwrap();
            }
            client.end(PATIENCE).await
        }
    })
    .await;
    assert!(silent.iter().all(|end| *end != End::StillOpen), "{silent:?}");
    scene.refuses("handshake_timeout", before.1 + 20.0).await;

    // The same, but the client leaves before the deadline.
    for _ in 0..20 {
        let mut client = RawClient::greeted(&scene.weir.address).await.unwrap();
        client.send(b"CONNECT {\"verbose\":false,\"na").await.unwrap();
        client.abandon();
    }
    assert_eq!(scene.opened().await, before.0);
    scene.others_are_served().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_per_second_does_not_stretch_the_deadline() {
    let mut scene = Scene::with(|config| config.listener("handshake_timeout = \"4s\"")).await;
    let before = scene.refusals("handshake_timeout").await;
    let mut slow = RawClient::greeted(&scene.weir.address).await.unwrap();
    let line = Login::nobody().connect_line(); // at one byte per second this takes minutes
    let ended = async {
        for byte in line.bytes() {
            if slow.send(&[byte]).await.is_err() || slow.end(Duration::from_secs(1)).await != End::StillOpen {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(PATIENCE, ended).await.unwrap_or(false), "a slow writer is ended by the deadline");
    scene.refuses("handshake_timeout", before + 1.0).await;
    scene.others_are_served().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_without_a_newline_costs_no_memory() {
    let mut scene = Scene::with(|config| config).await;
    let (before, opened) = (scene.weir.rss(), scene.opened().await);
    let ends = at_once(100, |i| {
        let address = scene.weir.address.clone();
        async move {
            let start: &[u8] = if i % 2 == 0 { b"CONNECT {\"name\":\"" } else { b"" };
            let mut client = RawClient::greeted(&address).await.unwrap();
            let _ = client.send(&[start, &vec![b'a'; 1 << 20]].concat()).await; // weir need not read everything
            client.rest(PATIENCE).await.1
        }
    })
    .await;
    assert!(ends.iter().all(|end| *end != End::StillOpen), "{ends:?}");
    let grown = scene.weir.rss().saturating_sub(before) >> 20;
    assert!(grown < 50, "100 clients sent 1 MiB each; weir grew by {grown} MiB");
    assert_eq!(scene.opened().await, opened);
    scene.others_are_served().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_open_nothing_upstream() {
    let mut scene = Scene::with(|config| config).await;
    let before = (scene.opened().await, scene.weir.metrics().await);
    for i in 0..200 {
        match i % 3 {
            0 => drop(RawClient::dial(&scene.weir.address).await.unwrap()),
            1 => drop(RawClient::greeted(&scene.weir.address).await.unwrap()),
            _ => RawClient::greeted(&scene.weir.address).await.unwrap().abandon(),
        }
    }
    let probes = before.1.sum("weir_probes_total");
    scene.weir.until("200 probes are counted", |metrics| metrics.sum("weir_probes_total") == probes + 200.0).await;
    assert_eq!(scene.opened().await, before.0, "no upstream connection for a probe");
    let refused = |metrics: &weir_testkit::metrics::Metrics| metrics.sum("weir_refused_total");
    assert_eq!(refused(&scene.weir.metrics().await), refused(&before.1), "a probe is not a refusal");
    scene.others_are_served().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_connect_gets_the_servers_own_words() {
    let mut scene = Scene::with(|config| config).await;
    let long = Login::nobody().name(&"n".repeat(5000));
    let own = RawClient::attempt(&scene.server.address, &long, PATIENCE).await;
    scene.server.settles_at(2).await;
    let opened = scene.opened().await;

    let through = RawClient::attempt(&scene.weir.address, &long, PATIENCE).await;
    assert_eq!(through.refusal(), Some("maximum control line exceeded"), "{through:?}");
    assert_eq!(own.refusal().or(through.refusal()), through.refusal(), "as the server itself: {own:?}");
    assert!(matches!(through, Attempt::Refused { end: End::Eof, .. }), "{through:?}");
    assert_eq!(scene.opened().await, opened, "the server is not bothered");

    let fits = Login::nobody().name(&"n".repeat(3500));
    drop(RawClient::connect(&scene.weir.address, &fits).await);
    scene.others_are_served().await;
    scene.end().await;
}

/// One new client per second: a client behind thirty others is held long enough to send something meanwhile.
fn slow_pace(config: WeirConfig) -> WeirConfig {
    config.admission("rate = 1\nburst = 4\nmax_hold = \"19s\"\nrefusal_spread = \"100ms\"")
}

/// A client that is held behind thirty others and has sent `pipelined` after its CONNECT and PING. The thirty then
/// leave, so that it is next.
async fn held_with(scene: &Scene, pipelined: &[u8]) -> RawClient {
    // weir holds a Java client until its deadline, because jnats gains nothing from an early refusal.
    let greeting = format!("{}PING\r\n", Login::nobody().lang("java").connect_line());
    let mut before_it = Vec::new();
    for _ in 0..30 {
        let mut client = RawClient::greeted(&scene.weir.address).await.unwrap();
        client.send(greeting.as_bytes()).await.unwrap();
        before_it.push(client);
    }
    let mut client = RawClient::greeted(&scene.weir.address).await.unwrap();
    client.send(greeting.as_bytes()).await.unwrap();
    let there = |metrics: &metrics::Metrics| metrics.sum("weir_held") + metrics.sum("weir_sessions_active");
    scene.weir.until("all are held or in", |metrics| there(metrics) >= 2.0 + 31.0).await;
    let _ = client.send(pipelined).await; // weir need not read everything
    drop(before_it);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_held_client_pipelines_is_kept_in_order() {
    let mut scene = Scene::with(slow_pace).await;
    scene.server.settles_at(2).await;
    let mut pipelined = Vec::new();
    for i in 0..300 {
        pipelined.extend_from_slice(format!("PUB canary 100\r\n{i:0100}\r\n").as_bytes());
    }
    let mut held = held_with(&scene, &pipelined).await;
    for i in 0..300 {
        assert_eq!(scene.subscriber.next_msg().await.1, format!("{i:0100}").into_bytes());
    }
    held.round_trip().await.unwrap();
    drop(held);
    scene.end().await;
}

/// A second CONNECT of somebody else would move the session to another account. One of the same client is harmless
/// (`connect_again`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connect_of_somebody_else_ends_the_session() {
    let mut scene = Scene::with(|config| config).await;
    let again = Login::user("somebody", "else").connect_line();
    let ways: Vec<Vec<Vec<u8>>> = vec![
        vec![again.clone().into_bytes()],
        again.bytes().map(|byte| vec![byte]).collect(),
        vec![again.replace("CONNECT", "connect").into_bytes()],
        vec![again.replace("CONNECT ", "CoNnEcT\t").into_bytes()],
        vec![format!("PUB canary.not 12\r\nCONNECT {{}}\r\n\r\n{again}").into_bytes()],
        vec![b"PUB canary.not 5\r\nhel".to_vec(), format!("lo\r\nPING\r\n{again}").into_bytes()],
    ];
    for way in ways {
        let mut client = RawClient::connect(&scene.weir.address, &Login::nobody()).await;
        for bytes in &way {
            if client.send(bytes).await.is_err() {
                break;
            }
        }
        let (said, end) = client.rest(PATIENCE).await;
        assert_ne!(end, End::StillOpen, "after {way:?}: {said}");
        let answered = way.concat().windows(6).any(|bytes| bytes == b"PING\r\n");
        assert_eq!(said.contains("PONG"), answered, "what came before is answered: {said:?}");
        scene.others_are_served().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_looks_like_a_connect_passes() {
    let mut scene = Scene::with(|config| config).await;
    let evil = b"CONNECT {\"user\":\"b\"}\r\nCONNECT {}\r\n".as_slice();
    scene.publisher.publish("canary", evil).await.unwrap();
    assert_eq!(scene.subscriber.next_msg().await.1, evil);

    // CONNECT at the start of a TCP segment, and CONNECT after headers.
    let whole = format!("PUB canary {}\r\n", evil.len()).into_bytes();
    for bytes in [&whole[..], evil, b"\r\n"] {
        scene.publisher.send(bytes).await.unwrap();
        // With this pause the bytes most likely get a TCP segment of their own.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(scene.subscriber.next_msg().await.1, evil);

    let headers = b"NATS/1.0\r\nCONNECT: x\r\n\r\n".as_slice();
    let mut hpub = format!("HPUB canary {} {}\r\n", headers.len(), headers.len() + evil.len()).into_bytes();
    hpub.extend_from_slice(headers);
    hpub.extend_from_slice(evil);
    hpub.extend_from_slice(b"\r\n");
    scene.publisher.send(&hpub).await.unwrap();
    assert_eq!(scene.subscriber.next_msg().await.1, [headers, evil].concat());

    scene.publisher.round_trip().await.unwrap();
    scene.end().await;
}
