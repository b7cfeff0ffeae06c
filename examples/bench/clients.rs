//! Many clients at once that connect and leave, stay idle, or are refused.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Outcome,
    nats::{Client, HELLO},
};

/// Runs `work` `count` times, `at_once` at a time, and returns all results.
async fn many<T, F>(count: u64, at_once: u64, work: impl Fn() -> F + Clone + Send + 'static) -> Outcome<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send,
{
    let left = Arc::new(AtomicU64::new(count));
    let mut workers = JoinSet::new();
    for _ in 0..at_once.min(count) {
        let (left, work) = (Arc::clone(&left), work.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            while left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok() {
                done.push(work().await?);
            }
            Ok::<_, io::Error>(done)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = workers.join_next().await {
        all.extend(done??);
    }
    Ok(all)
}

/// Makes `count` handshakes and closes each connection as soon as PONG is there. Returns how long all of them took.
pub(crate) async fn connect(address: SocketAddr, count: u64, at_once: u64) -> Outcome<Duration> {
    let began = Instant::now();
    many(count, at_once, move || async move { Client::connect(address).await.map(drop) }).await?;
    Ok(began.elapsed())
}

/// Opens sessions that stay.
pub(crate) async fn stay(address: SocketAddr, count: u64) -> Outcome<Vec<Client>> {
    many(count, 32, move || Client::connect(address)).await
}

/// Opens sessions over TLS that stay.
pub(crate) async fn stay_over_tls(
    address: SocketAddr,
    tls: &TlsConnector,
    count: u64,
) -> Outcome<Vec<Client<TlsStream<TcpStream>>>> {
    let tls = tls.clone();
    many(count, 32, move || {
        let tls = tls.clone();
        async move { Client::connect_over_tls(address, &tls).await }
    })
    .await
}

/// Opens sessions that stay, as many as the server takes. A connection with which a proxy has checked the server may
/// still be closing, so it tries repeatedly.
pub(crate) async fn fill(address: SocketAddr, count: u32) -> Outcome<Vec<Client>> {
    let mut inside = Vec::new();
    for _ in 0..100 {
        match Client::connect(address).await {
            Ok(client) => inside.push(client),
            Err(_) if inside.len() == count as usize => return Ok(inside),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Err(format!("the server took {} clients instead of {count}", inside.len()).into())
}

/// Makes an attempt that is refused. Returns whether the reason came after CONNECT: most official clients do not see
/// one that comes before.
async fn refused(address: SocketAddr) -> io::Result<bool> {
    const PATIENCE: Duration = Duration::from_secs(10);
    const REASON: &[u8] = b"-ERR 'maximum connections exceeded'";
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut words = Vec::with_capacity(2048);
    let (mut greeted, mut too_early) = (false, false);
    let read = async {
        loop {
            match stream.read_buf(&mut words).await {
                // Like a client library: it sends nothing before the server's first line, and takes a broken connection
                // as an end.
                Ok(n) if n > 0 && !greeted && words.starts_with(b"INFO ") && words.contains(&b'\n') => {
                    greeted = true;
                    too_early = memmem::find(&words, b"-ERR").is_some();
                    if stream.write_all(HELLO).await.is_err() {
                        return;
                    }
                }
                Ok(n) if n > 0 => {}
                _ => return,
            }
            if memmem::find(&words, b"PONG\r\n").is_some() {
                return;
            }
        }
    };
    timeout(PATIENCE, read).await.map_err(|_| io::Error::other("neither in nor refused"))?;
    if memmem::find(&words, b"PONG\r\n").is_some() {
        return Err(io::Error::other("admitted by a server that was to be full"));
    }
    Ok(greeted && !too_early && memmem::find(&words, REASON).is_some())
}

/// Makes attempts that are all refused. Returns the share of them to which the reason came after CONNECT.
pub(crate) async fn refuse(address: SocketAddr, count: u64, at_once: u64) -> Outcome<f64> {
    let read = many(count, at_once, move || refused(address)).await?;
    Ok(read.iter().filter(|&&read| read).count() as f64 / read.len() as f64)
}

/// How many clients got in, were refused, or left half-way.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Churned {
    pub(crate) admitted: u64,
    pub(crate) refused: u64,
    pub(crate) left: u64,
}

impl std::ops::AddAssign for Churned {
    fn add_assign(&mut self, other: Self) {
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.left += other.left;
    }
}

/// What a candidate uses, and how fast it is, at one time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State {
    pub(crate) resident_mib: f64,
    pub(crate) descriptors: f64,
    /// Of handshakes while nothing else is going on.
    pub(crate) handshake: Times,
    /// Of handshakes with the server itself, alternating with those: whatever else the machine does hits both.
    pub(crate) direct: Times,
}

/// Median and 99th percentile, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// The longest stay of a client of mode churn, in milliseconds.
const CHURN_STAYS: u64 = 200;

/// Lets clients come and go for this time, `at_once` at a time: most of them log in and stay for a moment, the others
/// leave half-way.
pub(crate) async fn churn(address: SocketAddr, at_once: u64, lasts: Duration) -> Outcome<Churned> {
    let until = Instant::now() + lasts;
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        workers.spawn(async move {
            let mut counted = Churned::default();
            while Instant::now() < until {
                match fastrand::u8(0..10) {
                    0 => leave(address, false).await,
                    1 => leave(address, true).await,
                    _ => match Client::connect(address).await {
                        Ok(mut client) => {
                            counted.admitted += 1;
                            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..CHURN_STAYS))).await;
                            let _ = client.say(b"PING\r\n").await;
                            continue;
                        }
                        Err(_) => {
                            counted.refused += 1;
                            continue;
                        }
                    },
                }
                counted.left += 1;
            }
            counted
        });
    }
    let mut all = Churned::default();
    while let Some(counted) = workers.join_next().await {
        all += counted?;
    }
    Ok(all)
}

/// Connects and leaves, before or after it has sent CONNECT. Errors do not matter.
async fn leave(address: SocketAddr, says_connect: bool) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    if says_connect {
        let mut info = [0; 2048];
        if stream.read(&mut info).await.is_ok() {
            let _ = stream.write_all(HELLO).await;
        }
    }
}

/// Makes handshakes one after another, alternating between the addresses.
pub(crate) async fn handshake_times<const N: usize>(addresses: [SocketAddr; N], count: usize) -> Outcome<[Times; N]> {
    let mut took = [const { Vec::new() }; N];
    for _ in 0..count {
        for (address, took) in addresses.into_iter().zip(&mut took) {
            let began = Instant::now();
            drop(Client::connect(address).await?);
            took.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(took.map(|mut took| {
        took.sort_by(f64::total_cmp);
        Times { p50: took[count / 2], p99: took[count * 99 / 100] }
    }))
}
