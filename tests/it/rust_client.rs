//! async-nats through weir to a JetStream cluster: everything that an application does. Nothing that a client is told
//! leads it past weir.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::pull::{self, MessagesErrorKind},
    message::PublishMessage,
    stream,
};
use async_nats::{Client, ConnectOptions, Subscriber};
use futures::StreamExt;
use weir_testkit::client::Op;
use weir_testkit::*;

async fn jetstream_cluster() -> Cluster {
    // With so few slots, placement does not accept a difference of one connection between servers, however slow one of
    // them is.
    Cluster::start(3, |server| server.jetstream().max_connections(100)).await
}

/// A cluster that has just started still closes and opens routes, and messages on such a route are lost, with weir or
/// without. These tests therefore repeat a request that got no answer in time, as an application does.
fn jetstream_of(client: &Client) -> jetstream::Context {
    jetstream::ContextBuilder::new().timeout(Duration::from_secs(5)).build(client.clone())
}

/// Stores message `i` once, however often it is sent.
async fn stored(js: &jetstream::Context, i: u64) -> u64 {
    eventually(PATIENCE, "an answer to a message that is to be stored", async || {
        let message = PublishMessage::build().payload(i.to_string().into()).message_id(i.to_string());
        let stored = js.send_publish(format!("orders.{i}"), message).await.map_err(|e| e.to_string())?;
        stored.await.map(|stored| stored.sequence).map_err(|e| e.to_string())
    })
    .await
}

async fn client(weir: &Weir) -> Client {
    ConnectOptions::new()
        .connection_timeout(PATIENCE)
        .request_timeout(Some(PATIENCE))
        .subscription_capacity(200_000)
        .connect(weir.url())
        .await
        .expect("async-nats connects through weir")
}

async fn next(subscriber: &mut Subscriber) -> async_nats::Message {
    tokio::time::timeout(PATIENCE, subscriber.next()).await.expect("a message in time").expect("still subscribed")
}

/// Publishes `ready` until the subscriber, perhaps on another server, receives it. From then on the subscriber misses
/// nothing.
async fn heard(publisher: &Client, subject: &'static str, subscriber: &mut Subscriber) {
    eventually(PATIENCE, "interest has spread", async || {
        publisher.publish(subject, "ready".into()).await.unwrap();
        publisher.flush().await.unwrap();
        match tokio::time::timeout(Duration::from_millis(200), subscriber.next()).await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_subscribe_request_and_queue_groups() {
    let cluster = jetstream_cluster().await;
    let weir = WeirConfig::of(&cluster).start().await;
    // One after another: of several at once, whoever comes while a server is busy goes to the next one.
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(client(&weir).await);
    }
    let shares = cluster.settles_at(6).await;
    assert!(shares.iter().all(|share| *share == 2), "spread over the servers: {shares:?}");

    let mut all = clients[0].subscribe("news.>").await.unwrap();
    heard(&clients[1], "news.ready", &mut all).await;
    for i in 0..100 {
        clients[1].publish(format!("news.{i}"), format!("item {i}").into()).await.unwrap();
    }
    let mut seen = 0;
    while seen < 100 {
        let message = next(&mut all).await;
        if message.payload == "ready" {
            continue; // `heard` has sent more than one
        }
        assert_eq!(
            (message.subject.as_str(), &message.payload[..]),
            (&*format!("news.{seen}"), format!("item {seen}").as_bytes())
        );
        seen += 1;
    }

    // A responder gets requests from clients on every server.
    let mut questions = clients[2].subscribe("double").await.unwrap();
    let responder = clients[2].clone();
    let answering = tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let n: u64 = std::str::from_utf8(&question.payload).unwrap().parse().unwrap();
            responder.publish(question.reply.unwrap(), (2 * n).to_string().into()).await.unwrap();
        }
    });
    for (i, asking) in clients.iter().enumerate() {
        let answer = eventually(PATIENCE, "the responder is known everywhere", async || {
            asking.request("double", i.to_string().into()).await.map_err(|e| e.to_string())
        })
        .await;
        assert_eq!(answer.payload, (2 * i).to_string());
    }
    answering.abort();

    // A queue group: each message goes to exactly one member.
    let mut members = Vec::new();
    for worker in &clients[..3] {
        members.push(worker.queue_subscribe("jobs", "workers".into()).await.unwrap());
        worker.flush().await.unwrap();
    }
    let got = Arc::new([const { AtomicU64::new(0) }; 3]);
    let mut working = tokio::task::JoinSet::new();
    for (i, mut member) in members.into_iter().enumerate() {
        let got = got.clone();
        working.spawn(async move {
            while member.next().await.is_some() {
                got[i].fetch_add(1, SeqCst);
            }
        });
    }
    let sum = || got.iter().map(|one| one.load(SeqCst)).sum::<u64>();
    // The publisher is on the server of a member. That server knows the member's interest since its flush.
    for _ in 0..300 {
        clients[0].publish("jobs", "x".into()).await.unwrap();
    }
    clients[0].flush().await.unwrap();
    eventually(PATIENCE, "all jobs are done", async || if sum() >= 300 { Ok(()) } else { Err(sum()) }).await;
    // Negative check: in this time no job may be delivered a second time.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(sum(), 300, "each job once");

    working.shutdown().await;
    drop((all, clients));
    cluster.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jetstream_publish_and_consume() {
    let cluster = jetstream_cluster().await;
    let weir = WeirConfig::of(&cluster).start().await;
    let (ours, theirs) = (client(&weir).await, client(&weir).await);
    let js = jetstream_of(&ours);
    let stream = eventually(PATIENCE, "a replicated stream", async || {
        let config = stream::Config {
            name: "ORDERS".into(),
            subjects: vec!["orders.>".into()],
            num_replicas: 3,
            ..Default::default()
        };
        js.get_or_create_stream(config).await.map_err(|e| e.to_string())
    })
    .await;
    for i in 0..200_u64 {
        assert_eq!(stored(&js, i).await, i + 1);
    }

    let also = jetstream_of(&theirs);
    let reader = eventually(PATIENCE, "a consumer", async || {
        let config = pull::Config { durable_name: Some("reader".into()), ..Default::default() };
        let same = also.get_stream("ORDERS").await.map_err(|e| e.to_string())?;
        same.create_consumer(config).await.map_err(|e| e.to_string())
    })
    .await;
    let mut messages = reader.messages().await.unwrap();
    let mut seen = 0_u64;
    while seen < 200 {
        let next = tokio::time::timeout(PATIENCE, messages.next()).await.expect("a message in time");
        match next.expect("they do not end") {
            Ok(message) => {
                assert_eq!(message.payload, seen.to_string());
                message.ack().await.unwrap();
                seen += 1;
            }
            Err(e) if e.kind() == MessagesErrorKind::NoResponders => messages = reader.messages().await.unwrap(),
            Err(e) => panic!("{e}"),
        }
    }

    drop((messages, reader, stream, js, also, ours, theirs));
    cluster.settles_at(0).await;
    weir.assert_nothing_leaked().await;
}

const MESSAGES: u64 = 100_000;

/// The size of message `i`: most are small, some are large, a few are at the server's limit of 1 MiB.
fn size(i: u64) -> usize {
    match i {
        i if i % 5_000 == 4_999 => 1 << 20,
        i if i % 1_000 == 999 => 65_536,
        i if i % 100 == 99 => 4_096 + (i % 4_096) as usize,
        i => 16 + (i * 31 % 240) as usize,
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Message `i`: its number, the checksum of the rest, and noise that contains line ends and protocol operations.
fn message(i: u64, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut noise = vec![0; size(i) - 16];
    random.fill(&mut noise);
    let word = b"\r\nCONNECT {}\r\nPING\r\n";
    if noise.len() > word.len() && i.is_multiple_of(3) {
        let at = random.usize(..noise.len() - word.len());
        noise[at..at + word.len()].copy_from_slice(word);
    }
    [&i.to_be_bytes()[..], &checksum(&noise).to_be_bytes(), &noise].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_messages_arrive_intact_and_in_order() {
    let cluster = Cluster::start(3, |server| server).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let (publisher, reader) = (client(&weir).await, client(&weir).await);
    let mut subscriber = reader.subscribe("bulk").await.unwrap();
    heard(&publisher, "bulk", &mut subscriber).await;

    let received = Arc::new(AtomicU64::new(0));
    let progress = received.clone();
    let sending = tokio::spawn(async move {
        let mut random = fastrand::Rng::with_seed(7);
        for i in 0..MESSAGES {
            publisher.publish("bulk", message(i, &mut random).into()).await.unwrap();
            // The publisher stays close enough that no server treats the reader as a slow consumer.
            while i - progress.load(SeqCst).min(i) > 4_000 {
                publisher.flush().await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        publisher.flush().await.unwrap();
    });
    let mut expected = 0;
    while expected < MESSAGES {
        let payload = next(&mut subscriber).await.payload;
        if payload == "ready" {
            continue; // `heard` has sent more than one
        }
        assert_eq!(payload[..8], expected.to_be_bytes(), "in order, none lost, none twice");
        assert_eq!(payload.len(), size(expected));
        assert_eq!(payload[8..16], checksum(&payload[16..]).to_be_bytes(), "message {expected} is intact");
        expected += 1;
        received.store(expected, SeqCst);
    }
    tokio::time::timeout(PATIENCE, sending).await.unwrap().unwrap();

    drop((subscriber, reader));
    cluster.settles_at(0).await;
    // The `relayed_*` counters count sessions that have ended.
    let bytes: u64 = (0..MESSAGES).map(|i| size(i) as u64).sum();
    let counted = |metrics: &metrics::Metrics| {
        metrics.sum("weir_relayed_bytes_total") >= 2.0 * bytes as f64
            && metrics.sum("weir_relayed_messages_total") >= 2.0 * MESSAGES as f64
    };
    weir.until("messages and bytes of both directions are counted", counted).await;
    weir.assert_nothing_leaked().await;
}

/// No INFO may name a server: a client would connect to it directly, past weir.
fn names_none(info: &serde_json::Value, cluster: &Cluster) {
    let urls = info["connect_urls"].as_array().cloned().unwrap_or_default();
    let ws = info["ws_connect_urls"].as_array().cloned().unwrap_or_default();
    assert!(urls.is_empty() && ws.is_empty(), "{info}");
    for address in cluster.addresses() {
        assert!(!info.to_string().contains(&address), "{address} in {info}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_info_ever_names_a_server() {
    nats::at_least(2, 12); // since 2.12 a server sends INFO after the first PONG
    let mut cluster = Cluster::start(3, |server| server).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
        names_none(&client.info.clone(), &cluster);
        let second = client.info_after_pong().await;
        names_none(&second, &cluster);
        assert!(
            cluster.servers.iter().any(|server| second["server_name"] == server.name.as_str()),
            "the real server: {second}"
        );
        clients.push((second["server_name"].as_str().unwrap().to_owned(), client));
    }
    let real = client(&weir).await;
    assert!(real.server_info().connect_urls.is_empty(), "{:?}", real.server_info());

    // When a server stops, the others tell their clients which servers are left, if they knew of that server.
    let knowing = eventually(PATIENCE, "another server knows of n3", async || {
        let (advertised, n3) = (cluster.advertised().await, &cluster.servers[2].address);
        let others = cluster.servers[..2].iter().zip(&advertised);
        let knowing: Vec<_> = others.filter(|(_, urls)| urls.contains(n3)).map(|(one, _)| one.name.clone()).collect();
        if knowing.is_empty() { Err(advertised) } else { Ok(knowing) }
    })
    .await;
    cluster.servers[2].stop().await;
    for (_, client) in clients.iter_mut().filter(|(server, _)| knowing.contains(server)) {
        let info = loop {
            match client.next_within(PATIENCE).await.expect("INFO about the smaller cluster") {
                Some(Op::Info(info)) => break info,
                Some(Op::Ping) => client.send(b"PONG\r\n").await.unwrap(),
                other => panic!("instead of INFO: {other:?}"),
            }
        };
        names_none(&info, &cluster);
    }
    drop((clients, real));
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advertised_addresses_replace_those_of_the_servers() {
    nats::at_least(2, 12);
    let cluster = Cluster::start(2, |server| server).await;
    let listener = "handshake_timeout = \"30s\"\nadvertise = [\"nats.example.com:4222\"]";
    let weir = WeirConfig::of(&cluster).listener(listener).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    for info in [client.info.clone(), client.info_after_pong().await] {
        assert_eq!(info["connect_urls"], serde_json::json!(["nats.example.com:4222"]), "{info}");
    }
    drop(client);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_info_names_the_cluster_and_nobodys_client_id() {
    let cluster = Cluster::start(2, |server| server).await;
    let weir = WeirConfig::of(&cluster).start().await;
    let client = RawClient::greeted(&weir.address).await.unwrap();
    assert_eq!(client.info["cluster"], "weir-test");
    assert_eq!(client.info.get("client_id"), None, "a server may have given the number to somebody else");
    if nats::is_at_least(2, 12) {
        let mut client = RawClient::connect(&weir.address, &Login::nobody().with("protocol", 1.into())).await;
        assert!(client.info_after_pong().await["client_id"].is_u64(), "the server's own INFO has it, behind PONG");
    }
}
