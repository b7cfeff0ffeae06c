//! nats-py, nats.js, nats.go and jnats with sessions that go from server to server: none of them notices.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use futures::StreamExt;
use futures::future::join_all;
use rustix::process::Signal;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use weir_testkit::{admin::AdminSocket, *};

use crate::rehome::REHOME;

/// What a client says in the end that it has had.
#[derive(Debug, Deserialize)]
struct Report {
    client: String,
    disconnects: u64,
    all: Vec<u64>,
    jobs: Vec<u64>,
    asked: u64,
    unanswered: u64,
    published: u64,
    /// Acknowledgements that JetStream has not confirmed.
    unconfirmed: u64,
    read: Vec<u64>,
}

struct Client {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Starts a client and waits until it is there; or says why it cannot run here.
    async fn start(language: &str, weir: &Weir) -> Result<Self, String> {
        let mut child = Command::from(script("client-matrix"))
            .args(["--stay", language, &weir.url()])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("run scripts/client-matrix");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        // It may have to be installed first.
        let first = tokio::time::timeout(35 * PATIENCE, lines.next_line()).await.expect("a first line").unwrap();
        match first.as_deref() {
            Some("READY") => Ok(Self { child, lines }),
            Some(line) if line.contains(": MISSING ") => Err(line.to_owned()),
            other => panic!("{language}: {other:?}"),
        }
    }

    async fn report(mut self) -> Report {
        let line = tokio::time::timeout(2 * PATIENCE, self.lines.next_line()).await.expect("a report in time").unwrap();
        let _ = self.child.wait().await;
        serde_json::from_str(&line.expect("a report")).expect("a report")
    }
}

/// What runs straight at one server beside the clients: it publishes numbers, and answers requests.
struct Beside {
    client: async_nats::Client,
    stop: Arc<AtomicBool>,
    next: Arc<AtomicU64>,
    publishes: tokio::task::JoinHandle<()>,
    /// Requests, and messages to JetStream, by the name of the client's language.
    heard: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Beside {
    async fn start(server: &NatsServer) -> Self {
        let client = async_nats::connect(server.url()).await.expect("a client at the server");
        let config = stream::Config {
            name: "MOVES".to_owned(),
            subjects: vec!["moves.js.*".to_owned()],
            num_replicas: 3,
            ..Default::default()
        };
        jetstream::new(client.clone()).create_stream(config).await.expect("a stream");
        let mut requests = client.subscribe("moves.echo").await.unwrap();
        let mut stored = client.subscribe("moves.js.*").await.unwrap();
        client.flush().await.unwrap();
        let heard = Arc::<Mutex<BTreeMap<String, u64>>>::default();
        let counts = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(message) = stored.next().await {
                *counts.lock().unwrap().entry(message.subject.to_string()).or_default() += 1;
            }
        });
        let counts = Arc::clone(&heard);
        let answers = client.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let who = String::from_utf8(request.payload.to_vec()).expect("a name");
                *counts.lock().unwrap().entry(who).or_default() += 1;
                answers.publish(request.reply.expect("a reply subject"), request.payload).await.unwrap();
            }
        });
        let (stop, next) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (until, n, publisher) = (Arc::clone(&stop), Arc::clone(&next), client.clone());
        let publishes = tokio::spawn(async move {
            while !until.load(Relaxed) {
                let number = n.fetch_add(1, Relaxed).to_string();
                publisher.publish("moves.all", number.clone().into()).await.unwrap();
                publisher.publish("moves.jobs", number.into()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
        });
        Self { client, stop, next, publishes, heard }
    }

    /// Publishes no more numbers, and tells the clients to end. Returns how many there have been.
    async fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.publishes.await.unwrap();
        // A session may be between two servers, and the servers may not know of all subscriptions again.
        let (client, n) = (self.client, self.next.load(Relaxed));
        tokio::spawn(async move {
            for _ in 0..100 {
                client.publish("moves.all", "end".into()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        n
    }
}

/// Runs all clients that are there while `faults` happen; returns what they say, and how many numbers were published
/// before the faults, and in all.
async fn while_they_work(
    cluster: &mut Cluster,
    weir: &Weir,
    faults: impl AsyncFnOnce(&mut Cluster),
) -> (Vec<Report>, u64) {
    let beside = Beside::start(&cluster.servers[1]).await;
    let mut clients = Vec::new();
    for language in ["py", "js", "go", "java"] {
        match Client::start(language, weir).await {
            Ok(client) => {
                clients.push(client);
                eventually(PATIENCE, "it works", async || {
                    let heard = beside.heard.lock().unwrap().clone();
                    let count = |name: &str| heard.get(name).copied().unwrap_or(0);
                    let works = count(language) >= 20 && count(&format!("moves.js.{language}")) >= 5;
                    if works { Ok(()) } else { Err(heard) }
                })
                .await;
            }
            Err(missing) => skip_part(language, &missing),
        }
    }
    faults(cluster).await;
    let published = beside.end().await;
    let reports = join_all(clients.into_iter().map(Client::report)).await;
    for report in &reports {
        let Report { client, disconnects, asked, unanswered, published, unconfirmed, read, .. } = report;
        say(&format!(
            "{client}: {} numbers, {} jobs, {asked} requests, {unanswered} unanswered, {published} to JetStream, {} read, \
             {unconfirmed} unconfirmed, {disconnects} disconnects",
            report.all.len(),
            report.jobs.len(),
            read.len()
        ));
        assert_eq!(*disconnects, 0, "{client}");
        let all_of_stream: BTreeSet<_> = read.iter().copied().collect();
        assert_eq!(all_of_stream, (0..*published).collect(), "{client} has read all that it has published");
        assert!(*published > 0 && *asked > 0, "{client} has worked");
    }
    (reports, published)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_all_languages_notice_no_move_and_lose_nothing() {
    let _alone = installs::one_at_a_time().await;
    let (mut cluster, admin) = (Cluster::start(3, ServerOptions::jetstream).await, AdminSocket::default());
    cluster.has_jetstream().await;
    let weir = WeirConfig::of(&cluster).account("default", REHOME).table(&admin.toml()).start().await;
    let is_empty = |n: usize| {
        move |metrics: &metrics::Metrics| metrics.get(&format!("weir_sessions_active{{server=\"n{n}\"}}")) == Some(0.0)
    };
    // The publisher's server stays; each of the three is emptied once.
    let (reports, published) = while_they_work(&mut cluster, &weir, async |cluster| {
        for n in [1, 3] {
            cluster.servers[n - 1].signal(Signal::USR2);
            weir.until("it is emptied", is_empty(n)).await;
            cluster.servers[n - 1].kill9();
            cluster.servers[n - 1].restart().await;
            cluster.whole().await;
            cluster.has_jetstream().await;
            weir.sees(3).await;
        }
        admin.does(&["drain", "n2"]).await;
        weir.until("it is emptied", is_empty(2)).await;
        admin.does(&["undrain", "n2"]).await;
    })
    .await;
    if reports.is_empty() {
        return skip("no client could be installed");
    }
    let mut jobs = Vec::new();
    for report in reports {
        let first = report.all[0];
        assert_eq!(report.all, (first..published).collect::<Vec<_>>(), "{}", report.client);
        assert_eq!(report.unanswered, 0, "{}", report.client);
        jobs.extend(report.jobs);
    }
    jobs.sort_unstable();
    let first = jobs[0];
    assert_eq!(jobs, (first..published).collect::<Vec<_>>(), "each job once");
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum_where("weir_moves_total", "result", "not_rehomed"), 0.0);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_all_languages_stay_connected_when_servers_are_killed() {
    let _alone = installs::one_at_a_time().await;
    let mut cluster = Cluster::start(3, ServerOptions::jetstream).await;
    cluster.has_jetstream().await;
    let weir = WeirConfig::of(&cluster).account("default", REHOME).start().await;
    let (reports, _) = while_they_work(&mut cluster, &weir, async |cluster| {
        for n in [0, 2] {
            cluster.servers[n].kill9();
            let name = format!("weir_sessions_active{{server=\"n{}\"}}", n + 1);
            weir.until("its sessions are elsewhere", |metrics| metrics.get(&name) == Some(0.0)).await;
            cluster.servers[n].restart().await;
            cluster.whole().await;
            cluster.has_jetstream().await;
            weir.sees(3).await;
        }
    })
    .await;
    if reports.is_empty() {
        return skip("no client could be installed");
    }
    for Report { client, all, unanswered, .. } in &reports {
        assert!(all.is_sorted_by(|one, next| one < next), "{client}: no message comes twice or out of order");
        // One request of each may be on its way to a server that dies.
        assert!(*unanswered <= 2, "{client}: {unanswered} requests");
    }
    let mut jobs: Vec<_> = reports.iter().flat_map(|report| report.jobs.iter().copied()).collect();
    jobs.sort_unstable();
    assert!(jobs.is_sorted_by(|one, next| one < next), "no job is done twice");
    assert_eq!(weir.metrics().await.sum_where("weir_moves_total", "result", "not_rehomed"), 0.0);
    weir.assert_nothing_leaked().await;
}
