//! Monitoring ports that stall, flood, lie, or answer for another server, all at the same time, in front of servers
//! that are two thirds full. Whoever comes gets in, and what weir makes of it costs no memory.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use weir_testkit::*;

use crate::scene::{EAGER, Scene, all_come, nothing};

/// What the monitoring ports do.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// They answer.
    None,
    /// They say half of an answer and stop.
    Stall,
    /// They say an answer without an end, as fast as it is taken.
    Flood,
    /// They say that their servers are empty, and have room for a million.
    SayEmpty,
    /// The first of them says that its server is full.
    OneSaysFull,
    /// They say other numbers each time.
    SayAnything,
    /// Each says what the next one would.
    AnswerForAnother,
    /// They end each connection.
    Close,
}

impl Fault {
    /// Waits until weir goes by what the ports do now.
    async fn takes_hold(self, weir: &Weir) {
        let room = |metrics: &metrics::Metrics| metrics.sum("weir_server_headroom");
        let of_first = |metrics: &metrics::Metrics| metrics.get("weir_server_headroom{server=\"n1\"}");
        match self {
            Self::Stall | Self::Flood | Self::Close => weir.sees(0).await,
            Self::SayEmpty => drop(weir.until("the servers seem empty", |now| room(now) > 1_000_000.0).await),
            Self::OneSaysFull => drop(weir.until("n1 seems full", |now| of_first(now) <= Some(0.0)).await),
            Self::AnswerForAnother => weir.says("leads to another server").await,
            // Some readings.
            Self::SayAnything | Self::None => sleep(Duration::from_secs(1)).await,
        }
    }
}

/// The monitoring port of each server behind a port that can misbehave.
struct Monitors {
    addresses: Vec<String>,
    fault: Arc<Mutex<Fault>>,
}

impl Monitors {
    fn before(cluster: &Cluster) -> Self {
        let fault = Arc::new(Mutex::new(Fault::None));
        let real: Arc<Vec<_>> = Arc::new(cluster.servers.iter().map(|server| server.monitor.clone()).collect());
        let addresses = (0..real.len()).map(|n| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.set_nonblocking(true).expect("a listener for tokio");
            let address = listener.local_addr().expect("an address").to_string();
            let (real, fault) = (Arc::clone(&real), Arc::clone(&fault));
            tokio::spawn(async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, n, Arc::clone(&real), Arc::clone(&fault)));
                }
            });
            address
        });
        Self { addresses: addresses.collect(), fault }
    }

    fn all(&self, fault: Fault) {
        *self.fault.lock().expect("fault") = fault;
    }
}

/// Answers the requests of one connection to the n-th port. What writes nothing more ends the connection, or keeps it
/// open until weir ends it.
async fn answer(mut stream: TcpStream, n: usize, real: Arc<Vec<String>>, fault: Arc<Mutex<Fault>>) {
    let mut request = vec![0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut request).await {
        let fault = *fault.lock().expect("fault");
        let behind = &real[if matches!(fault, Fault::AnswerForAnother) { (n + 1) % real.len() } else { n }];
        let line = String::from_utf8_lossy(&request[..read]).into_owned();
        let path = line.split(' ').nth(1).unwrap_or("/varz").to_owned();
        let Ok((status, body)) = http::get(behind, &path).await else { return };
        let says = |fields: &[(&str, i64)]| {
            let mut varz: Value = serde_json::from_str(&body).unwrap_or_default();
            fields.iter().for_each(|(field, value)| varz[*field] = (*value).into());
            varz.to_string()
        };
        let body = match fault {
            Fault::Close => return,
            Fault::Flood => return flood(stream).await,
            Fault::SayEmpty => says(&[("connections", 0), ("max_connections", 1_000_000), ("total_connections", 0)]),
            Fault::OneSaysFull if n == 0 => says(&[("connections", 60), ("max_connections", 60)]),
            Fault::SayAnything => says(&[
                ("connections", fastrand::i64(-5..200_000)),
                ("max_connections", fastrand::i64(-5..1_000_000)),
                ("total_connections", fastrand::i64(..)),
            ]),
            Fault::None | Fault::Stall | Fault::OneSaysFull | Fault::AnswerForAnother => body,
        };
        let head = format!("HTTP/1.1 {status} OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let said = if matches!(fault, Fault::Stall) { &body[..body.len() / 2] } else { &body };
        if stream.write_all(format!("{head}{said}").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn flood(mut stream: TcpStream) {
    let spaces = vec![b' '; 64 << 10];
    let mut written = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{").await;
    while written.is_ok() {
        written = stream.write_all(&spaces).await;
    }
}

pub async fn monitors_misbehave(meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let mut monitors = None;
    let configure = |config: WeirConfig, cluster: &Cluster| {
        let behind = Monitors::before(cluster);
        let pairs = cluster.servers.iter().zip(&behind.addresses);
        let config = pairs.fold(config, |config, (server, address)| config.replacing(&server.monitor, address));
        monitors = Some(behind);
        config.cluster("poll_interval = \"200ms\"")
    };
    let mut scene = Scene::start_with(|server| server.max_connections(60), configure, EAGER).await;
    let (monitors, before) = (monitors.expect("monitors"), scene.weir.rss());
    let mut meanwhile = Some(meanwhile);
    for fault in [
        Fault::Stall,
        Fault::Flood,
        Fault::SayEmpty,
        Fault::OneSaysFull,
        Fault::SayAnything,
        Fault::AnswerForAnother,
        Fault::Close,
    ] {
        monitors.all(fault);
        fault.takes_hold(&scene.weir).await;
        all_come(&scene, 3).await;
        if matches!(fault, Fault::SayAnything)
            && let Some(meanwhile) = meanwhile.take()
        {
            meanwhile(&mut scene).await;
        }
        monitors.all(Fault::None);
        scene.recovers(&format!("all monitoring ports: {fault:?}"), Instant::now()).await;
        assert_eq!(scene.lost(), 0, "{fault:?}: {:?} {:?}", scene.orders.ends(), scene.rest.ends());
    }
    let grown = scene.weir.rss().saturating_sub(before) >> 20;
    assert!(grown < 32, "weir grew by {grown} MiB");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitoring_ports_that_stall_flood_and_lie() {
    monitors_misbehave(nothing).await;
}
