//! `weir storm`: many clients, each with the behaviour of a real library, against a real address, from this process.

mod attempt;
mod client;
mod progress;
mod report;
mod self_load;
mod stats;
mod target;
mod tls;

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
    client_library::{behaviour::Memory, library::Library},
    server::file_limit,
    storm::{
        client_mix::ClientMix,
        live::{
            client::{Client, RunState},
            progress::Progress,
            self_load::CpuMeter,
            stats::Stats,
            tls::ClientTlsFactory,
        },
    },
    tls::BadFile,
};

pub use report::LoadReport;
pub use target::Target;
pub use tls::TlsOptions;

/// File descriptors of everything but clients: standard streams, epoll, name resolution.
const OTHER_FILES: u64 = 64;
/// One source address has about 28,000 ports by default. On loopback, clients beyond this number use further addresses.
const CLIENTS_PER_SOURCE: usize = 10_000;
/// How often the run checks whether it is over.
const TICK: Duration = Duration::from_millis(10);

/// What `weir storm` runs.
#[derive(Debug, Clone)]
pub struct LoadRun {
    pub clients: usize,
    pub mix: ClientMix,
    /// The servers in each client's list.
    pub targets: Vec<Target>,
    /// The run stops at this time at the latest.
    pub time_limit: Duration,
    /// First attempts per second; `None`: all at once.
    pub rate_limit: Option<u32>,
    /// This long after all clients have connected, they drop their connections at once and come back.
    pub drop_after: Option<Duration>,
    /// The number of threads that the clients run on.
    pub threads: usize,
    /// The seed of the clients' jitter.
    pub seed: u64,
    /// `None`: the clients speak no TLS.
    pub tls: Option<TlsOptions>,
}

/// Why a run cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LoadRunError {
    /// The limit of open files is too low for the clients.
    #[error(
        "the limit of {limit} open files carries {carried} clients, not {clients}: raise it (`ulimit -n {needed}`), \
         or take fewer"
    )]
    Files { limit: u64, carried: u64, clients: u64, needed: u64 },
    #[error("{target} has no address: {err}")]
    Name { target: String, err: io::Error },
    /// The authorities of the servers' certificates cannot be read.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Tls(Vec<BadFile>),
    /// The operating system refuses a thread, a signal handler or a runtime.
    #[error("cannot start: {0}")]
    Os(#[from] io::Error),
}

impl LoadRun {
    /// Runs to the end. Shows the progress on stderr unless `quiet`.
    ///
    /// # Errors
    /// The run cannot start.
    pub fn run(&self, quiet: bool) -> Result<LoadReport, LoadRunError> {
        let (limit, clients) = (file_limit::raise().soft, self.clients as u64);
        let needed = clients + OTHER_FILES;
        if needed > limit {
            return Err(LoadRunError::Files { limit, carried: limit.saturating_sub(OTHER_FILES), clients, needed });
        }
        let tls = self.tls.as_ref().map(|options| self.client_tls(options)).transpose()?.map(Arc::new);
        let control = runtime::Builder::new_current_thread().enable_all().build()?;
        control.block_on(self.run_clients(limit - needed, tls, quiet))
    }

    fn client_tls(&self, options: &TlsOptions) -> Result<ClientTlsFactory, LoadRunError> {
        let name = |target: &Target| {
            let no_name = |err| io::Error::new(io::ErrorKind::InvalidInput, err);
            let no_address = |err| LoadRunError::Name { target: target.to_string(), err };
            target.server_name().map_err(no_name).map_err(no_address)
        };
        let names = self.targets.iter().map(name).collect::<Result<_, _>>()?;
        ClientTlsFactory::new(options, names).map_err(LoadRunError::Tls)
    }

    /// The libraries that occur, with their behaviour over TLS if the clients speak it.
    fn libraries(&self) -> Vec<Arc<Library>> {
        let with_tls = |library: &Library| if self.tls.is_some() { library.with_tls() } else { library.clone() };
        self.mix.libraries().into_iter().map(with_tls).map(Arc::new).collect()
    }

    async fn run_clients(
        &self,
        abandoned_allowed: u64,
        tls: Option<Arc<ClientTlsFactory>>,
        quiet: bool,
    ) -> Result<LoadReport, LoadRunError> {
        let addresses = self.resolve().await?;
        let state =
            Arc::new(RunState { stats: Stats::new(), addresses, drop: CancellationToken::new(), abandoned_allowed });
        let stop = CancellationToken::new();
        let (began, mut cpu) = (Instant::now(), CpuMeter::new(self.threads));
        state.stats.first.begin(began);
        let threads = (0..self.threads).map(|n| self.spawn_thread(n, Arc::clone(&state), tls.clone(), stop.clone()));
        let threads = threads.collect::<io::Result<Vec<_>>>()?;
        self.supervise(&state, began, &mut cpu, quiet).await?;
        let report = LoadReport::new(self, &state.stats, began.elapsed(), cpu);
        stop.cancel();
        for thread in threads {
            let _ = thread.join();
        }
        Ok(report)
    }

    /// The first address of each target.
    async fn resolve(&self) -> Result<Vec<SocketAddr>, LoadRunError> {
        let mut addresses = Vec::new();
        for target in &self.targets {
            let found = lookup_host(target.host_port()).await.map(|mut all| all.next());
            let none = || io::Error::new(io::ErrorKind::NotFound, "the name exists, but has no address");
            let found = found.and_then(|first| first.ok_or_else(none));
            addresses.push(found.map_err(|err| LoadRunError::Name { target: target.to_string(), err })?);
        }
        Ok(addresses)
    }

    /// Starts the `thread`th thread, with its share of the clients.
    fn spawn_thread(
        &self,
        thread: usize,
        state: Arc<RunState>,
        tls: Option<Arc<ClientTlsFactory>>,
        stop: CancellationToken,
    ) -> io::Result<thread::JoinHandle<()>> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let run = self.clone();
        thread::Builder::new().name(format!("storm-{thread}")).spawn(move || {
            runtime.block_on(async {
                let libraries = run.libraries();
                for n in (thread..run.clients).step_by(run.threads) {
                    let library = &libraries[n % libraries.len()];
                    let client = run.client(n, library, tls.as_deref(), &state.addresses);
                    tokio::spawn(client.run(Arc::clone(&state)));
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = state.stats.delay.measure() => {}
                }
            });
        })
    }

    fn client(
        &self,
        n: usize,
        library: &Arc<Library>,
        tls: Option<&ClientTlsFactory>,
        addresses: &[SocketAddr],
    ) -> Client {
        let name = format!("storm-{n}");
        let all_loopback = addresses.iter().all(|address| matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback()));
        // The first clients use the usual address, the next ones 127.0.0.2, 127.0.0.3, and so on.
        let more = u32::try_from(n / CLIENTS_PER_SOURCE).unwrap_or(0);
        let source = (all_loopback && more > 0).then(|| IpAddr::V4(Ipv4Addr::from_bits(0x7f00_0001 + more)));
        let starts_after = self.rate_limit.map_or(0.0, |rate| n as f64 / f64::from(rate));
        Client {
            library: Arc::clone(library),
            tls: tls.map(|tls| tls.client(library)),
            connect: self.targets.iter().map(|t| t.connect_line(library, &name, tls.is_some())).collect(),
            source,
            rng: fastrand::Rng::with_seed(self.seed.wrapping_add(n as u64)),
            starts_after: Duration::from_secs_f64(starts_after),
            memory: Memory::default(),
        }
    }

    /// Shows the progress and drops all connections when it is time. Returns when no client is trying any more, at the
    /// time limit, or on SIGINT.
    async fn supervise(&self, state: &RunState, began: Instant, cpu: &mut CpuMeter, quiet: bool) -> io::Result<()> {
        let stats = &state.stats;
        let mut progress = Progress::new(self.clients, quiet);
        let mut interrupted = Box::pin(tokio::signal::ctrl_c());
        let mut decided_at = None;
        while began.elapsed() < self.time_limit {
            tokio::select! {
                () = sleep(TICK) => {}
                signal = &mut interrupted => {
                    signal?;
                    break;
                }
            }
            progress.show(stats);
            cpu.poll();
            if !self.all_decided(stats) {
                decided_at = None;
                continue;
            }
            let since = decided_at.get_or_insert_with(Instant::now).elapsed();
            match self.drop_after {
                Some(after) if !stats.dropped.load(Relaxed) => {
                    if since >= after && stats.given_up.load(Acquire) < self.clients as u64 {
                        stats.again.begin(Instant::now());
                        stats.dropped.store(true, Relaxed);
                        state.drop.cancel();
                        decided_at = None;
                    }
                }
                _ => break,
            }
        }
        progress.end(stats);
        Ok(())
    }

    /// Whether every client is connected now, after it connected in this phase, or has given up.
    fn all_decided(&self, stats: &Stats) -> bool {
        let (given_up, clients) = (stats.given_up.load(Acquire), self.clients as u64);
        stats.phase().clients_connected() as u64 + given_up >= clients
            && stats.connected.load(Acquire) + given_up >= clients
    }
}
