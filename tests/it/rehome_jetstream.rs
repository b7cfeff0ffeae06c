//! What JetStream and the rest of a client's library see while its session goes from server to server: a watcher of a
//! KV bucket, an ordered consumer, a push consumer with acknowledgements, a drained subscription, a request that nobody
//! answers. With async-nats.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_nats::RequestErrorKind;
use async_nats::jetstream::{self, consumer::push, kv, stream};
use futures::StreamExt;
use tokio::task::JoinHandle;
use weir_testkit::{admin::AdminSocket, *};

use crate::{planned_moves::count_disconnects, rehome::REHOME};

fn number(payload: &[u8]) -> u64 {
    str::from_utf8(payload).expect("text").parse().expect("a number")
}

/// Reads numbers until this one has come.
fn until_last(
    last: &Arc<AtomicU64>,
    mut numbers: impl futures::Stream<Item = u64> + Unpin + Send + 'static,
) -> JoinHandle<Vec<u64>> {
    let last = Arc::clone(last);
    tokio::spawn(async move {
        let mut had = Vec::new();
        while had.last() != Some(&last.load(Relaxed)) {
            match tokio::time::timeout(Duration::from_millis(200), numbers.next()).await {
                Ok(Some(number)) => had.push(number),
                Ok(None) => panic!("it has ended behind {had:?}"),
                // The last one may have come before it was known to be that.
                Err(_) => {}
            }
        }
        had
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_and_consumers_go_on_through_a_move_and_the_death_of_their_server() {
    let (mut cluster, admin) = (Cluster::start(3, ServerOptions::jetstream).await, AdminSocket::default());
    cluster.has_jetstream().await;
    let weir = WeirConfig::of(&cluster).account("default", REHOME).table(&admin.toml()).start().await;
    // What publishes is there, and stays.
    admin.does(&["drain", "n2"]).await;
    let straight = async_nats::connect(cluster.servers[1].url()).await.expect("a client at n2");
    let beside = jetstream::new(straight.clone());
    let config = stream::Config {
        name: "FLOW".to_owned(),
        subjects: vec!["flow.*".to_owned()],
        num_replicas: 3,
        ..Default::default()
    };
    beside.create_stream(config).await.expect("a stream");
    let bucket = kv::Config { bucket: "SETTINGS".to_owned(), num_replicas: 3, history: 64, ..Default::default() };
    let settings = beside.create_key_value(bucket).await.expect("a bucket");

    let (options, disconnects) = count_disconnects(async_nats::ConnectOptions::new());
    let client = options.connect(weir.url()).await.expect("a client");
    let js = jetstream::new(client.clone());
    let last = Arc::new(AtomicU64::new(u64::MAX));

    let watched = js.get_key_value("SETTINGS").await.expect("the bucket").watch("key").await.expect("a watcher");
    let watched = until_last(&last, watched.map(|entry| number(&entry.expect("an entry").value)).boxed());
    let flow = js.get_stream("FLOW").await.expect("the stream");
    let ordered = push::OrderedConfig { deliver_subject: client.new_inbox(), ..Default::default() };
    let ordered = flow.create_consumer(ordered).await.expect("an ordered consumer").messages().await.unwrap();
    let ordered = until_last(&last, ordered.map(|message| number(&message.expect("a message").payload)).boxed());
    let pushed = push::Config {
        deliver_subject: client.new_inbox(),
        durable_name: Some("pushed".to_owned()),
        ack_wait: Duration::from_secs(2),
        ..Default::default()
    };
    let mut pushed = flow.create_consumer(pushed).await.expect("a push consumer").messages().await.unwrap();
    let upto = Arc::clone(&last);
    let pushed = tokio::spawn(async move {
        // What was not acknowledged in time comes again.
        let mut had = BTreeSet::new();
        while had.len() as u64 != upto.load(Relaxed).saturating_add(1) {
            if let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(200), pushed.next()).await {
                let message = message.expect("a message");
                had.insert(number(&message.payload));
                message.ack().await.expect("an acknowledgement");
            }
        }
    });
    let mut drained = client.subscribe("drained").await.unwrap();
    client.flush().await.unwrap();

    let (stop, publisher) = (Arc::<AtomicBool>::default(), straight.clone());
    let until = Arc::clone(&stop);
    let publishes = tokio::spawn(async move {
        let mut n = 0;
        while !until.load(Relaxed) {
            // JetStream is without a leader for a while when a server dies; what comes twice under one id is one.
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", n.to_string());
            let acked = beside.publish_with_headers("flow.a", headers, n.to_string().into()).await;
            let is_stored = match acked {
                Ok(acked) => acked.await.is_ok(),
                Err(_) => false,
            };
            if is_stored {
                while settings.put("key", n.to_string().into()).await.is_err() {}
                publisher.publish("drained", n.to_string().into()).await.unwrap();
                n += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        n - 1
    });

    let at = async |cluster: &Cluster| {
        let metrics = weir.metrics().await;
        let is_there = |n: &usize| metrics.get(&format!("weir_sessions_active{{server=\"n{}\"}}", n + 1)) == Some(1.0);
        (0..cluster.servers.len()).find(is_there).expect("a server with the client")
    };
    let nobody_answers = async || {
        let error = client.request("nobody.here", "".into()).await.expect_err("nobody is there");
        assert_eq!(error.kind(), RequestErrorKind::NoResponders);
    };
    nobody_answers().await;
    let first = at(&cluster).await;
    admin.does(&["drain", &format!("n{}", first + 1)]).await;
    // The subscription ends in the middle of the move, and has had all before that.
    drained.drain().await.unwrap();
    let mut had = Vec::new();
    while let Some(message) = drained.next().await {
        had.push(number(&message.payload));
    }
    assert!(!had.is_empty() && had.is_sorted_by(|one, next| one + 1 == *next), "{had:?}");
    weir.until("it has moved", |metrics| metrics.sum_where("weir_moves_total", "cause", "drain") == 1.0).await;
    nobody_answers().await;
    admin.does(&["undrain", &format!("n{}", first + 1)]).await;

    let second = at(&cluster).await;
    assert_ne!(first, second);
    cluster.servers[second].kill9();
    weir.until("it is re-homed", |metrics| metrics.sum_where("weir_moves_total", "cause", "server_lost") == 1.0).await;
    nobody_answers().await;
    cluster.servers[second].restart().await;
    cluster.has_jetstream().await;
    stop.store(true, Relaxed);
    let n = publishes.await.unwrap();
    last.store(n, Relaxed);

    let in_time = async |reading: JoinHandle<Vec<u64>>| {
        tokio::time::timeout(2 * PATIENCE, reading).await.expect("the last one comes").unwrap()
    };
    assert_eq!(in_time(ordered).await, (0..=n).collect::<Vec<_>>(), "an ordered consumer misses nothing");
    let watched = in_time(watched).await;
    assert!(watched.is_sorted_by(|one, next| one < next), "a watcher sees no value twice");
    tokio::time::timeout(2 * PATIENCE, pushed).await.expect("all is pushed").unwrap();
    assert_eq!(disconnects.load(Relaxed), 0);
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum_where("weir_moves_total", "result", "rehomed"), 2.0);
    say(&format!("{} numbers, {} of them seen by the watcher, {} by the drained one", n + 1, watched.len(), had.len()));
    drop(client);
}
