//! `weir storm`: clients of real libraries' behaviour against a real address, from this process.

mod attempt;
mod client;
mod own;
mod progress;
mod report;
mod security;
mod seen;
mod target;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{net::lookup_host, runtime, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    client_library::table::{Library, Like},
    server::file_limit,
    storm::live::{
        client::{Client, Shared},
        own::Cpu,
        progress::Progress,
        security::Security,
        seen::Seen,
    },
    tls::BadFile,
};

pub use report::Report;
pub use security::Tls;
pub use target::Target;

/// Descriptors of everything but clients: standard streams, epoll, a name being resolved.
const OTHER_FILES: u64 = 64;
/// One source address has about 28,000 ports by default; on loopback, clients beyond this many take further addresses.
const CLIENTS_PER_SOURCE: usize = 10_000;
/// How often the storm is looked at.
const TICK: Duration = Duration::from_millis(10);

/// What to play.
#[derive(Debug, Clone)]
pub struct Storm {
    /// How many clients.
    pub clients: usize,
    /// Of which libraries.
    pub like: Like,
    /// Where they go; each client goes through all of them.
    pub targets: Vec<Target>,
    /// The end, whatever happens.
    pub time_limit: Duration,
    /// First tries per second; `None` is all at once.
    pub rate_limit: Option<u32>,
    /// So long after all are in, all drop their connections at once and come back.
    pub drop_after: Option<Duration>,
    /// Threads that carry the clients.
    pub threads: usize,
    /// For jitter.
    pub seed: u64,
    /// Whether and how the clients speak TLS.
    pub tls: Option<Tls>,
}

/// Why a storm cannot be.
#[derive(Debug, thiserror::Error)]
pub enum StormError {
    /// The clients are more than the files.
    #[error(
        "the limit of {limit} open files carries {carried} clients, not {clients}: raise it (`ulimit -n {needed}`), \
         or take fewer"
    )]
    Files {
        /// In force.
        limit: u64,
        /// What it carries.
        carried: u64,
        /// What was asked for.
        clients: u64,
        /// What that takes.
        needed: u64,
    },
    /// A name without an address.
    #[error("{target} has no address: {err}")]
    Name {
        /// Which.
        target: String,
        /// Why.
        err: io::Error,
    },
    /// The authorities cannot be read.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Tls(Vec<BadFile>),
    /// The operating system refuses a thread, a signal handler or a runtime.
    #[error("cannot start: {0}")]
    Os(#[from] io::Error),
}

impl Storm {
    /// Plays it to its end and says what was seen. Progress goes to stderr unless `quiet`.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub fn play(&self, quiet: bool) -> Result<Report, StormError> {
        let (limit, clients) = (file_limit::raise().soft, self.clients as u64);
        let needed = clients + OTHER_FILES;
        if needed > limit {
            return Err(StormError::Files { limit, carried: limit.saturating_sub(OTHER_FILES), clients, needed });
        }
        let security = self.tls.as_ref().map(|tls| self.security(tls)).transpose()?.map(Arc::new);
        let control = runtime::Builder::new_current_thread().enable_all().build()?;
        control.block_on(self.play_on(limit - needed, security, quiet))
    }

    fn security(&self, tls: &Tls) -> Result<Security, StormError> {
        let name = |target: &Target| {
            let no_name = |err| io::Error::new(io::ErrorKind::InvalidInput, err);
            let none = |err| StormError::Name { target: target.to_string(), err };
            target.server_name().map_err(no_name).map_err(none)
        };
        let names = self.targets.iter().map(name).collect::<Result<_, _>>()?;
        Security::new(tls, names).map_err(StormError::Tls)
    }

    /// What the clients' libraries are like, over TLS where they speak it.
    fn libraries(&self) -> Vec<Arc<Library>> {
        let with_tls = |library: &Library| if self.tls.is_some() { library.with_tls() } else { library.clone() };
        self.like.libraries().into_iter().map(with_tls).map(Arc::new).collect()
    }

    async fn play_on(
        &self,
        ghosts_allowed: u64,
        security: Option<Arc<Security>>,
        quiet: bool,
    ) -> Result<Report, StormError> {
        let mut addresses = Vec::new();
        for target in &self.targets {
            let found = lookup_host(target.place()).await.map(|mut all| all.next());
            let none = || io::Error::new(io::ErrorKind::NotFound, "the name is known, without an address");
            let found = found.and_then(|first| first.ok_or_else(none));
            addresses.push(found.map_err(|err| StormError::Name { target: target.to_string(), err })?);
        }
        let shared = Arc::new(Shared { seen: Seen::new(), addresses, drop: CancellationToken::new(), ghosts_allowed });
        let stop = CancellationToken::new();
        let (began, mut own) = (Instant::now(), Cpu::new(self.threads));
        shared.seen.first.begin(began);
        let threads = (0..self.threads).map(|n| self.carry(n, Arc::clone(&shared), security.clone(), stop.clone()));
        let threads = threads.collect::<io::Result<Vec<_>>>()?;
        self.watch(&shared, began, &mut own, quiet).await?;
        let report = Report::of(self, &shared, began.elapsed(), own);
        stop.cancel();
        for thread in threads {
            let _ = thread.join();
        }
        Ok(report)
    }

    /// A thread with its share of the clients.
    fn carry(
        &self,
        thread: usize,
        shared: Arc<Shared>,
        security: Option<Arc<Security>>,
        stop: CancellationToken,
    ) -> io::Result<thread::JoinHandle<()>> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let storm = self.clone();
        thread::Builder::new().name(format!("storm-{thread}")).spawn(move || {
            runtime.block_on(async {
                let libraries = storm.libraries();
                for n in (thread..storm.clients).step_by(storm.threads) {
                    let library = &libraries[n % libraries.len()];
                    let client = storm.client(n, library, security.as_deref(), &shared.addresses);
                    tokio::spawn(client.live(Arc::clone(&shared)));
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = shared.seen.late.watch() => {}
                }
            });
        })
    }

    fn client(
        &self,
        n: usize,
        library: &Arc<Library>,
        security: Option<&Security>,
        addresses: &[SocketAddr],
    ) -> Client {
        let name = format!("storm-{n}");
        let all_loopback = addresses.iter().all(|address| matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback()));
        // 127.0.0.2, 127.0.0.3, …: the first of them have the usual address.
        let more = u32::try_from(n / CLIENTS_PER_SOURCE).unwrap_or(0);
        let source = (all_loopback && more > 0).then(|| IpAddr::V4(Ipv4Addr::from_bits(0x7f00_0001 + more)));
        let starts_after = self.rate_limit.map_or(0.0, |rate| n as f64 / f64::from(rate));
        Client {
            library: Arc::clone(library),
            tls: security.map(|security| security.of(library)),
            connect: self.targets.iter().map(|t| t.connect_line(library, &name, security.is_some())).collect(),
            source,
            rng: fastrand::Rng::with_seed(self.seed.wrapping_add(n as u64)),
            starts_after: Duration::from_secs_f64(starts_after),
        }
    }

    /// Looks on, drops all connections when it is time, and returns when nobody is trying any more, or the time is up.
    async fn watch(&self, shared: &Shared, began: Instant, own: &mut Cpu, quiet: bool) -> io::Result<()> {
        let seen = &shared.seen;
        let mut progress = Progress::new(self.clients, quiet);
        let mut interrupted = Box::pin(tokio::signal::ctrl_c());
        let mut decided_at = None;
        while began.elapsed() < self.time_limit {
            tokio::select! {
                () = sleep(TICK) => {}
                told = &mut interrupted => {
                    told?;
                    break;
                }
            }
            progress.show(seen);
            own.look();
            let given_up = seen.given_up.load(Acquire);
            let decided = seen.phase().is_in() as u64 + given_up >= self.clients as u64
                && seen.connected.load(Acquire) + given_up >= self.clients as u64;
            if !decided {
                decided_at = None;
                continue;
            }
            let since = decided_at.get_or_insert_with(Instant::now).elapsed();
            match self.drop_after {
                Some(after) if !seen.dropped.load(Relaxed) => {
                    if since >= after && given_up < self.clients as u64 {
                        seen.again.begin(Instant::now());
                        seen.dropped.store(true, Relaxed);
                        shared.drop.cancel();
                        decided_at = None;
                    }
                }
                _ => break,
            }
        }
        progress.end(seen);
        Ok(())
    }
}
