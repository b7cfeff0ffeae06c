//! Sessions that are moved to another server while theirs works: no client loses its connection, and none a message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinHandle;
use weir_testkit::{
    admin::AdminSocket,
    tls::{Authority, pair},
    *,
};

use crate::{
    moves::moved,
    natsz::ask,
    rehome::{REHOME, gets},
};

/// The numbers that publishers have sent, in the order in which they came.
type Numbers = BTreeMap<String, Vec<u64>>;

/// Counts how often a client with these options loses its connection.
pub(crate) fn count_disconnects(options: async_nats::ConnectOptions) -> (async_nats::ConnectOptions, Arc<AtomicU64>) {
    let disconnects = Arc::<AtomicU64>::default();
    let seen = Arc::clone(&disconnects);
    let options = options.event_callback(move |event| {
        if matches!(event, async_nats::Event::Disconnected) {
            seen.fetch_add(1, Relaxed);
        }
        std::future::ready(())
    });
    (options, disconnects)
}

/// A subscriber through weir, of each message and of a share of a queue's.
struct Subscriber {
    /// What it has had of `all.*`, by publisher, and of `jobs.*`.
    had: JoinHandle<(Numbers, Numbers)>,
    /// The publishers from which `all.*` has come.
    heard: Arc<Mutex<BTreeSet<String>>>,
    disconnects: Arc<AtomicU64>,
}

impl Subscriber {
    async fn start(options: async_nats::ConnectOptions, url: String) -> Self {
        let (options, disconnects) = count_disconnects(options);
        let client = options.connect(url).await.expect("a client");
        let (mut all, mut jobs) = (
            client.subscribe("all.*").await.unwrap(),
            client.queue_subscribe("jobs.*", "workers".to_owned()).await.unwrap(),
        );
        client.flush().await.unwrap();
        let heard = Arc::<Mutex<BTreeSet<String>>>::default();
        let publishers = Arc::clone(&heard);
        let had = tokio::spawn(async move {
            let (mut of_all, mut of_jobs) = <(Numbers, Numbers)>::default();
            let note = |had: &mut Numbers, message: async_nats::Message| {
                let (_, publisher) = message.subject.split_once('.').expect("a publisher");
                let n = str::from_utf8(&message.payload).unwrap().split(' ').next().unwrap().parse().unwrap();
                had.entry(publisher.to_owned()).or_default().push(n);
            };
            loop {
                tokio::select! {
                    message = all.next() => {
                        let message = message.expect("a subscription that does not end");
                        if message.payload == "end" {
                            break;
                        }
                        note(&mut of_all, message);
                        publishers.lock().unwrap().extend(of_all.keys().cloned());
                    }
                    message = jobs.next() => note(&mut of_jobs, message.expect("a subscription that does not end")),
                }
            }
            // The last jobs are on their way.
            while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(500), jobs.next()).await {
                note(&mut of_jobs, message);
            }
            drop(client);
            (of_all, of_jobs)
        });
        Self { had, heard, disconnects }
    }
}

/// Publishes numbered messages straight at a server until it is stopped; gives back how many.
fn publish(address: &str, name: &'static str, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let (url, stop) = (format!("nats://{address}"), Arc::clone(stop));
    tokio::spawn(async move {
        let client = async_nats::connect(url).await.expect("a publisher");
        let mut n = 0;
        while !stop.load(Relaxed) {
            // Of several sizes, the last of which a relay does not hold.
            let text = format!("{n} {}", "x".repeat([0, 100, 5_000, 60_000][n as usize % 4]));
            client.publish(format!("all.{name}"), text.clone().into()).await.unwrap();
            client.publish(format!("jobs.{name}"), format!("{n}").into()).await.unwrap();
            n += 1;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        client.flush().await.unwrap();
        n
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_lost_or_doubled_while_sessions_go_from_server_to_server() {
    nothing_is_lost("", Weir::url, async_nats::ConnectOptions::new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_over_websocket_within_tls() {
    let authority = Authority::new("weir tests");
    let own = authority.issue("weir", &["localhost"]);
    let listener =
        format!("kind = \"websocket\"\n[listeners.websocket]\ncompression = true\n[listeners.tls]\n{}", pair(&own));
    let options =
        || async_nats::ConnectOptions::new().connection_timeout(PATIENCE).add_root_certificates(authority.ca());
    nothing_is_lost(&listener, |weir| format!("wss://localhost:{}", weir.port()), options).await;
}

/// Clients that connect so go through a drain, a rebalance and a lame duck.
async fn nothing_is_lost(
    listener: &str,
    url: impl Fn(&Weir) -> String,
    options: impl Fn() -> async_nats::ConnectOptions,
) {
    const SUBSCRIBERS: usize = 9;
    let (mut cluster, admin) = (Cluster::start(3, |server| server).await, AdminSocket::default());
    let config = WeirConfig::of(&cluster).listener(listener).account("default", REHOME).table(&admin.toml());
    let weir = config.start().await;
    let subscribers = join_all((0..SUBSCRIBERS).map(|_| Subscriber::start(options(), url(&weir)))).await;
    let stop = Arc::<AtomicBool>::default();
    // They are on servers that go on.
    let publishers: Vec<_> = [("a", 1), ("b", 2)]
        .map(|(name, at)| (name, publish(&cluster.servers[at].address, name, &stop)))
        .into_iter()
        .collect();

    // Until the publishers know of all subscriptions a new server may have what the old one never had.
    for subscriber in &subscribers {
        eventually(PATIENCE, "it hears both publishers", async || {
            let heard = subscriber.heard.lock().unwrap().len();
            if heard == 2 { Ok(()) } else { Err(heard) }
        })
        .await;
    }
    admin.does(&["drain", "n1"]).await;
    let is_empty = |metrics: &metrics::Metrics| metrics.get("weir_sessions_active{server=\"n1\"}") == Some(0.0);
    weir.until("n1 is empty", is_empty).await;
    admin.does(&["undrain", "n1"]).await;
    admin.does(&["rebalance"]).await;
    weir.says("rebalance has ended").await;
    cluster.servers[0].signal(Signal::USR2);
    weir.until("n1 is empty again", is_empty).await;

    stop.store(true, Relaxed);
    let mut sent = BTreeMap::new();
    for (name, publisher) in publishers {
        sent.insert(name.to_owned(), (0..publisher.await.unwrap()).collect::<Vec<_>>());
    }
    let last = async_nats::connect(format!("nats://{}", cluster.servers[1].address)).await.expect("a publisher");
    last.publish("all.end", "end".into()).await.unwrap();
    last.flush().await.unwrap();
    let mut jobs = Numbers::new();
    for (n, subscriber) in subscribers.into_iter().enumerate() {
        let (of_all, of_jobs) = tokio::time::timeout(PATIENCE, subscriber.had).await.expect("its end").unwrap();
        for (publisher, sent) in &sent {
            assert_eq!(differences(&of_all[publisher], sent), "", "subscriber {n}, publisher {publisher}");
        }
        for (publisher, numbers) in of_jobs {
            jobs.entry(publisher).or_default().extend(numbers);
        }
        assert_eq!(subscriber.disconnects.load(Relaxed), 0);
    }
    for (publisher, sent) in &sent {
        let jobs = jobs.get_mut(publisher).expect("jobs of each publisher");
        jobs.sort_unstable();
        assert_eq!(differences(jobs, sent), "", "jobs of publisher {publisher}");
    }
    let metrics = weir.metrics().await;
    let rehomed: Vec<_> = ["drain", "rebalance", "lame_duck"].iter().map(|c| moved(&metrics, c, "rehomed")).collect();
    assert!(rehomed.iter().all(|n| *n >= 2.0), "{rehomed:?}");
    weir.assert_nothing_leaked().await;
}

/// The subjects of the client's subscriptions at the server that has it, sorted.
pub(crate) async fn subscriptions(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for server in &cluster.servers {
        let Some(connz) = server.monitoring("/connz?subs=1").await else { continue };
        let all = connz["connections"].as_array().expect("a list").clone();
        let lists = all.iter().filter_map(|one| one["subscriptions_list"].as_array());
        found.extend(lists.flatten().map(|subject| subject.as_str().expect("a subject").to_owned()));
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_maximum_is_counted_and_what_is_subscribed_to_meanwhile_is_there() {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).account("default", REHOME).table(&admin.toml()).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.info_after_pong().await;
    client
        .send(b"SUB few 1\r\nUNSUB 1 6\r\nSUB ends 2\r\nSUB goes 3\r\nUNSUB 2 1\r\nSUB later.max 5\r\n")
        .await
        .unwrap();
    for n in 0..2 {
        client.publish("few", format!("{n}").as_bytes()).await.unwrap();
    }
    assert_eq!(gets(&mut client).await, ["few 0", "few 1"]);
    let counts = cluster.settles_at(1).await;
    let from = if counts[0] == 1 { "n1" } else { "n2" };
    admin.does(&["drain", from]).await;
    eventually(PATIENCE, "it is on both servers", async || match cluster.connections().await[..] {
        [1, 1] => Ok(()),
        ref counts => Err(counts.to_vec()),
    })
    .await;
    client.publish("few", b"2").await.unwrap();
    client.publish("ends", b"once").await.unwrap();
    client.send(b"SUB new 4\r\nUNSUB 3\r\nUNSUB 5 2\r\n").await.unwrap();
    assert_eq!(gets(&mut client).await, ["few 2", "ends once"]);
    let rehomed = |metrics: &metrics::Metrics| moved(metrics, "drain", "rehomed") == 1.0;
    weir.until("it has gone", rehomed).await;
    cluster.settles_at(1).await;
    assert_eq!(subscriptions(&cluster).await, ["few", "later.max", "new"]);
    let connz = ask(&weir, "/connz").await;
    let shown = &connz["connections"][0];
    let to = if from == "n1" { "n2" } else { "n1" };
    assert_eq!(
        [&shown["server"], &shown["rehomable"], &shown["moves"]],
        [&json!(to), &json!(true), &json!(1)],
        "{shown}"
    );
    for n in 3..9 {
        client.publish("few", format!("{n}").as_bytes()).await.unwrap();
    }
    for subject in ["ends", "goes", "new", "later.max", "later.max", "later.max"] {
        client.publish(subject, b"x").await.unwrap();
    }
    let expected = ["few 3", "few 4", "few 5", "new x", "later.max x", "later.max x"];
    assert_eq!(gets(&mut client).await, expected);
    assert_eq!(subscriptions(&cluster).await, ["new"]);
    drop(client);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_on_two_servers_is_closed() {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).account("default", REHOME).table(&admin.toml()).start().await;
    let mut silent = RawClient::connect(&weir.address, &Login::nobody().with("echo", false.into())).await;
    let mut counts = RawClient::connect(&weir.address, &Login::nobody()).await;
    counts.send(b"SUB jobs workers 1\r\nUNSUB 1 5\r\n").await.unwrap();
    counts.round_trip().await.unwrap();
    for server in ["n1", "n2"] {
        admin.does(&["drain", server]).await;
        let name = format!("weir_sessions_active{{server=\"{server}\"}}");
        weir.until("it is empty", |metrics| metrics.get(&name) == Some(0.0)).await;
        admin.does(&["undrain", server]).await;
    }
    for client in [&mut silent, &mut counts] {
        assert_eq!(client.end(PATIENCE).await, client::End::Eof, "a plain end of stream");
    }
    let metrics = weir.metrics().await;
    assert_eq!((moved(&metrics, "drain", "not_rehomed"), moved(&metrics, "drain", "rehomed")), (2.0, 0.0));
    assert_eq!(metrics.sum_where("weir_closed_total", "reason", "drain"), 2.0);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_subscribes_for_each_request_is_moved_too() {
    let (cluster, admin) = (Cluster::start(2, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).account("default", REHOME).table(&admin.toml()).start().await;
    let mut client = RawClient::connect(&weir.address, &Login::nobody()).await;
    client.info_after_pong().await;
    let counts = cluster.settles_at(1).await;
    let from = if counts[0] == 1 { "n1" } else { "n2" };
    admin.does(&["drain", from]).await;
    let (mut asked, mut answered) = (0, Vec::new());
    while moved(&weir.metrics().await, "drain", "rehomed") == 0.0 {
        let request = format!("SUB _INBOX.{asked} {asked}\r\nUNSUB {asked} 1\r\nPUB _INBOX.{asked} 1\r\nx\r\n");
        client.send(request.as_bytes()).await.unwrap();
        answered.extend(gets(&mut client).await);
        asked += 1;
    }
    assert!(asked > 50, "it has asked all the while: {asked}");
    assert_eq!(answered, (0..asked).map(|n| format!("_INBOX.{n} x")).collect::<Vec<_>>());
    assert_eq!(moved(&weir.metrics().await, "drain", "stayed"), 0.0);
    drop(client);
    weir.assert_nothing_leaked().await;
}

/// Messages wait for a server that stands still, and it delivers them when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_twice_where_the_new_server_stands_still() {
    const SUBSCRIBERS: u64 = 9;
    let (mut cluster, admin) = (Cluster::start(3, |server| server).await, AdminSocket::default());
    let weir = WeirConfig::of(&cluster).account("default", REHOME).table(&admin.toml()).start().await;
    let options = async_nats::ConnectOptions::new;
    let subscribers = join_all((0..SUBSCRIBERS).map(|_| Subscriber::start(options(), weir.url()))).await;
    let stop = Arc::<AtomicBool>::default();
    let publisher = publish(&cluster.servers[1].address, "a", &stop);
    let before = cluster.settles_at(SUBSCRIBERS + 1).await;
    admin.does(&["drain", "n1"]).await;
    eventually(PATIENCE, "sessions are on n1 and n3", async || match cluster.connections().await[2] {
        n if n > before[2] => Ok(()),
        n => Err(n),
    })
    .await;
    // Within the 1.5 s for which both deliver, mostly.
    tokio::time::sleep(Duration::from_millis(700)).await;
    cluster.servers[2].signal(Signal::STOP);
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.servers[2].signal(Signal::CONT);
    weir.until("n1 is empty", |metrics| metrics.get("weir_sessions_active{server=\"n1\"}") == Some(0.0)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Relaxed);
    publisher.await.unwrap();
    let last = async_nats::connect(format!("nats://{}", cluster.servers[1].address)).await.expect("a publisher");
    last.publish("all.end", "end".into()).await.unwrap();
    last.flush().await.unwrap();
    for (n, subscriber) in subscribers.into_iter().enumerate() {
        let (of_all, _) = tokio::time::timeout(PATIENCE, subscriber.had).await.expect("its end").unwrap();
        let (had, mut seen) = (&of_all["a"], BTreeSet::new());
        let twice: Vec<_> = had.iter().filter(|number| !seen.insert(**number)).collect();
        let of = format!("{} of {}, from {:?} on", twice.len(), had.len(), twice.first());
        assert!(had.len() > 100 && twice.is_empty(), "subscriber {n} had twice: {of}");
    }
    weir.assert_nothing_leaked().await;
}

/// How two lists of numbers differ, in few words; nothing where they are the same. The first that were sent may be
/// missing: the publisher's server did not know of all subscriptions yet.
fn differences(had: &[u64], sent: &[u64]) -> String {
    let sent = sent.get(had.first().map_or(0, |first| *first as usize)..).unwrap_or_default();
    assert!(sent.len() > 100, "{had:?}");
    let first = had.iter().zip(sent).position(|(had, sent)| had != sent);
    match first.or((had.len() != sent.len()).then_some(had.len().min(sent.len()))) {
        None => String::new(),
        Some(at) => {
            let part =
                |all: &[u64]| format!("{:?}", &all[at.saturating_sub(2).min(all.len())..(at + 5).min(all.len())]);
            format!("{} of {}, first other at {at}: {} instead of {}", had.len(), sent.len(), part(had), part(sent))
        }
    }
}
