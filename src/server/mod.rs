//! Builds the parts, runs them, ends them in order.

pub mod drain;
pub mod file_limit;
pub mod logging;
pub mod sysctl;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    thread::{self, JoinHandle},
    time::Duration,
};

use governor::clock::DefaultClock;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    admin::{self, storm_sampler},
    admission::{Admission, Limit},
    advertised_info::{AdvertisedInfo, Security, Shape},
    cluster::{
        self, ClusterAccess, PlainInfo,
        account_lookup::{AccountLookup, MAX_QUEUED},
        system_account::SystemAccount,
    },
    config::{Config, ListenerConfig},
    dispatch,
    identity::{Directory, Keys},
    net::{accept, linger, socket},
    outcome::Refusal,
    protocol::websocket::upgrade::Rules,
    relay::{self, registry::Sessions},
    session::{self, Listener, Shared, Through, Web},
    telemetry::counters::Counters,
    tls::{self, BadFile, Connector, HandshakeFirst, ListenerTls, ServersTls, Terminator},
    upstream::Servers,
};

/// Why weir could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {err}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        err: io::Error,
    },
    /// Nothing can come from an address of `cluster.source_addresses`.
    #[error("cannot connect from {address} (cluster.source_addresses): {err}")]
    Source {
        /// Which.
        address: IpAddr,
        /// Why.
        err: io::Error,
    },
    /// The ports file cannot be written.
    #[error("cannot write {path}: {err}")]
    PortsFile {
        /// Which.
        path: String,
        /// Why.
        err: io::Error,
    },
    /// A certificate or key cannot be used. Reading the configuration checks them, so they have changed since.
    #[error("TLS of {address}: {bad:?}")]
    Tls {
        /// Which listener.
        address: SocketAddr,
        /// Which files, and why.
        bad: Vec<BadFile>,
    },
    /// The same, towards the servers.
    #[error("TLS towards the servers: {0:?}")]
    ServersTls(Vec<BadFile>),
    /// The operating system refuses a thread, a signal handler or a runtime.
    #[error("cannot start: {0}")]
    Os(#[from] io::Error),
    /// The login to the system account cannot be used.
    #[error("cluster.system: {0}")]
    System(String),
    /// A pattern of an account's `users` is no glob. The configuration checks them, so this is a defect.
    #[error("bad pattern: {0}")]
    Pattern(#[from] globset::Error),
}

/// How long the first readings may take before weir serves without them.
const FIRST_READINGS: Duration = Duration::from_secs(2);

/// Serves until it is told to stop, then drains.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Config) -> Result<(), ServerError> {
    let workers = config.workers.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let room = Room::under_the_file_limit(&config, workers);
    sysctl::warn_of_settings(&config);
    let parts = Parts::bind(&config, workers, &room)?;
    let control = runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(parts.run(&config))
}

/// How many clients the limit of open files has room for. Running out of descriptors would stop `accept` and leave clients
/// waiting unseen in the kernel's queue; refusing them politely needs one descriptor each.
struct Room {
    /// This part of each listener's `max_clients` is served.
    share: f64,
    /// Clients that are being turned away at once.
    turned_away: u32,
}

impl Room {
    /// Of a limit that is too low, a tenth is kept for refusing those it has no room for.
    const KEPT: f64 = 0.1;

    fn under_the_file_limit(config: &Config, workers: usize) -> Self {
        let limit = file_limit::raise();
        let (wanted, servers) = (config.admission.max_clients, config.upstream.servers.len());
        let turned_away = |descriptors: u64| u32::try_from(descriptors).unwrap_or(u32::MAX);
        match file_limit::carries(limit.soft, wanted, servers, workers) {
            Ok(spare) => Self { share: 1.0, turned_away: turned_away(spare) },
            Err(shortfall) => {
                let served = f64::from(shortfall.carried) * (1.0 - Self::KEPT);
                warn!("{shortfall}; until then {} are served and the others refused", served as u32);
                let kept = f64::from(shortfall.carried) * Self::KEPT * 2.0;
                Self { share: served / f64::from(wanted), turned_away: turned_away(kept as u64) }
            }
        }
    }
}

/// Everything bound and built, nothing running yet.
struct Parts {
    shared: Arc<Shared>,
    questions: mpsc::Receiver<AccountLookup>,
    advertised_info: Arc<AdvertisedInfo>,
    /// For each worker, its socket of each listener.
    sockets: Vec<Vec<(std::net::TcpListener, Arc<Listener>)>>,
    monitor: Option<std::net::TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Parts {
    fn bind(config: &Config, workers: usize, room: &Room) -> Result<Self, ServerError> {
        for &address in &config.upstream.source_addresses {
            socket::can_come_from(address).map_err(|err| ServerError::Source { address, err })?;
        }
        let mut bound = Vec::new();
        for one in &config.listeners {
            let address = one.listen;
            let sockets = socket::listeners(address, workers).map_err(|err| ServerError::Bind { address, err })?;
            bound.push((sockets[0].local_addr()?, sockets, one));
        }
        let monitor = config
            .monitor
            .map(|address| {
                let listener =
                    std::net::TcpListener::bind(address).map_err(|err| ServerError::Bind { address, err })?;
                listener.set_nonblocking(true)?;
                Ok::<_, ServerError>(listener)
            })
            .transpose()?;
        let servers = Arc::new(Servers::new(&config.upstream));
        let addresses: Vec<_> = bound.iter().map(|(address, ..)| *address).collect();
        let face = |address: SocketAddr, one: &ListenerConfig| {
            let required = |tls: &ListenerTls| Security::Required { verify: tls.clients.is_some() };
            let security = match one.passes_through {
                Some(_) => Security::Servers,
                None => one.tls.as_ref().map_or(Security::None, required),
            };
            (address, one.advertise.clone(), security)
        };
        let listener_infos = bound.iter().map(|(address, _, one)| face(*address, one));
        let advertised_info = Arc::new(AdvertisedInfo::new(listener_infos, servers.len()));
        let terminators = terminators(&bound)?;
        let connector = |tls: &ServersTls| Connector::load(tls.clone()).map(Arc::new);
        let servers_tls = config.servers_tls.as_ref().map(connector).transpose().map_err(ServerError::ServersTls)?;
        let (asking, questions) = mpsc::channel(MAX_QUEUED);
        let shared = Arc::new(Shared {
            account_lookups: asking,
            admission: Arc::new(Admission::new(&config.admission, Arc::clone(&servers), DefaultClock::default())),
            arrived: Arc::new(Notify::new()),
            directory: Arc::new(Directory::new(&config.admission.rules)?),
            keys: Keys::default(),
            advertised_info: Arc::clone(&advertised_info),
            counters: Arc::new(Counters::new(servers.len())),
            flight: storm_sampler::Flight::default(),
            sessions: Arc::new(Sessions::default()),
            turned_away: Limit::new(room.turned_away),
            sends_proxy_headers: config.upstream.compatibility.proxy_protocol,
            proxy_key: config.proxy_key.clone(),
            terminators: addresses
                .iter()
                .copied()
                .zip(&terminators)
                .filter_map(|(a, tls)| Some((a, tls.clone()?)))
                .collect(),
            servers_tls,
            next_id: AtomicU64::new(1),
            servers,
        });
        let mut sockets: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
        for (((_, of_listener, one), face), tls) in
            bound.into_iter().zip(advertised_info.listener_infos()).zip(terminators)
        {
            let listener = Arc::new(Listener {
                face: Arc::clone(face),
                gate: Limit::new((f64::from(one.max_clients) * room.share) as u32),
                handshake_timeout: one.handshake_timeout,
                believes: one.accept_proxy_protocol_from.clone(),
                tls,
                websocket: one.websocket.as_ref().map(|websocket| Web {
                    rules: Rules { secure: one.tls.is_some(), ..websocket.rules.clone() },
                    believes: websocket.accept_forwarded_from.clone(),
                }),
                through: one.passes_through.map(Through::new),
            });
            for (of_worker, socket) in sockets.iter_mut().zip(of_listener) {
                of_worker.push((socket, Arc::clone(&listener)));
            }
        }
        Ok(Self { shared, questions, advertised_info, sockets, monitor, addresses })
    }

    async fn run(self, config: &Config) -> Result<(), ServerError> {
        let Self { shared, questions, advertised_info, sockets, monitor: monitor_socket, addresses } = self;
        let stop = CancellationToken::new();
        let background = TaskTracker::new();
        let system = self::system(config, &shared, &background, &stop).await?;
        let access = ClusterAccess {
            system: system.clone(),
            tls: shared.servers_tls.clone(),
            plain_info: self::plain_info(config),
        };
        background.spawn(cluster::account_lookup::run(
            Arc::clone(&shared.servers),
            Arc::clone(&advertised_info),
            Arc::clone(&shared.directory),
            Arc::clone(&shared.admission),
            access.clone(),
            questions,
            stop.child_token(),
        ));
        for server in shared.servers.iter() {
            let (interval, warn_at, compatibility) =
                (config.upstream.poll_interval, config.upstream.warn_at, config.upstream.compatibility);
            background.spawn(cluster::watch(
                Arc::clone(server),
                Arc::clone(&advertised_info),
                interval,
                warn_at,
                compatibility,
                access.clone(),
                stop.child_token(),
            ));
        }
        background.spawn(dispatch::give(
            Arc::clone(&shared.admission),
            Arc::clone(&shared.arrived),
            stop.child_token(),
        ));
        let renews = (!shared.terminators.is_empty() || shared.servers_tls.is_some()).then(Arc::<Notify>::default);
        if let Some(told) = renews.clone() {
            let (listeners, servers) = (shared.terminators.clone(), shared.servers_tls.clone());
            background.spawn(tls::renew(listeners, servers, told, stop.child_token()));
        }
        let (hangup, reopen) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?);
        background.spawn(hear_signals(hangup, reopen, renews, stop.child_token()));
        background.spawn(every_second(Arc::clone(&shared), stop.child_token()));
        background.spawn(storm_sampler::record(Arc::clone(&shared), stop.child_token()));
        let monitor_address = monitor_socket.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
        if let Some(socket) = monitor_socket {
            let socket = socket::on_this_runtime(socket)?;
            background.spawn(admin::serve(socket, Arc::clone(&shared), stop.child_token()));
        }
        first_readings(&shared, &access).await;

        let mut threads = Vec::new();
        for (n, of_worker) in sockets.into_iter().enumerate() {
            threads.push(worker(n, of_worker, Arc::clone(&shared), stop.clone())?);
        }
        for address in &addresses {
            info!(%address, "listening");
        }
        if let Some(address) = monitor_address {
            info!(%address, "monitoring");
        }
        if let Some(path) = &config.ports_file {
            write_ports(path, &addresses, monitor_address)
                .map_err(|err| ServerError::PortsFile { path: path.display().to_string(), err })?;
        }

        stop_when_told(&shared, config).await?;
        stop.cancel();
        background.close();
        background.wait().await;
        for thread in threads {
            let _ = thread.join();
        }
        info!("stopped");
        Ok(())
    }
}

/// What was bound for a listener.
type Bound<'a> = (SocketAddr, Vec<std::net::TcpListener>, &'a ListenerConfig);

/// The end of TLS of each listener that has one.
fn terminators(bound: &[Bound<'_>]) -> Result<Vec<Option<Arc<Terminator>>>, ServerError> {
    let load = |(address, _, one): &Bound<'_>| {
        let Some(tls) = &one.tls else { return Ok(None) };
        let address = *address;
        let loaded = Terminator::load(tls.clone()).map_err(|bad| ServerError::Tls { address, bad })?;
        Ok(Some(Arc::new(loaded)))
    };
    bound.iter().map(load).collect()
}

/// What the servers send to a connection without TLS, as far as the listeners tell.
fn plain_info(config: &Config) -> PlainInfo {
    let mut passing = config.listeners.iter().map(|one| one.passes_through);
    match passing.clone().all(|first| first == Some(HandshakeFirst::Always)) {
        true => PlainInfo::NotSent,
        false if passing.any(|first| first.is_some()) => PlainInfo::ThenClientTls,
        false => PlainInfo::NoTls,
    }
}

/// Opens the connection to the system account before any client takes a slot, and what stands on it.
async fn system(
    config: &Config,
    shared: &Arc<Shared>,
    background: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Option<SystemAccount>, ServerError> {
    let Some(login) = &config.system_login else { return Ok(None) };
    let addresses: Vec<_> = config.upstream.servers.iter().map(|server| server.address.clone()).collect();
    let system = SystemAccount::connect(login, &addresses, shared.servers_tls.as_deref())
        .await
        .map_err(|err| ServerError::System(err.to_string()))?;
    let (servers, admission, interval) = (&shared.servers, &shared.admission, config.upstream.poll_interval);
    background.spawn(cluster::watch_lame_ducks(
        system.clone(),
        Arc::clone(servers),
        Arc::clone(&shared.advertised_info),
        stop.child_token(),
    ));
    background.spawn(cluster::accounts::watch(
        system.clone(),
        Arc::clone(admission),
        Arc::clone(servers),
        interval,
        stop.child_token(),
    ));
    Ok(Some(system))
}

/// Waits, for a while, until the system account is open, every server that can be read has been read once or asked in vain
/// (one that is down keeps nobody waiting), and one has shown its INFO: placement knows capacities then, and it is known
/// whether clients are asked to sign.
async fn first_readings(shared: &Shared, access: &ClusterAccess) {
    let deadline = Instant::now() + FIRST_READINGS;
    let unread = || shared.servers.iter().any(|server| server.awaits_first_reading());
    let unknown = || shared.advertised_info.shape() == Shape::Unknown && access.plain_info != PlainInfo::NotSent;
    let unconnected = || access.system.as_ref().is_some_and(|system| !system.is_up());
    while (unread() || unknown() || unconnected()) && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
}

/// A worker: one thread, one runtime, its own listening sockets, its own sessions.
fn worker(
    n: usize,
    sockets: Vec<(std::net::TcpListener, Arc<Listener>)>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(format!("worker-{n}")).spawn(move || {
        runtime.block_on(async move {
            let sessions = TaskTracker::new();
            tokio::spawn(relay::grow_up());
            tokio::spawn(session::upstream_pool::maintain(Arc::clone(&shared)));
            for (socket, listener) in sockets {
                let socket = match socket::on_this_runtime(socket) {
                    Ok(socket) => socket,
                    Err(err) => return warn!(%err, "a worker cannot listen"),
                };
                let (shared, tracker) = (Arc::clone(&shared), sessions.clone());
                sessions.spawn(accept::accept(socket, stop.child_token(), move |stream, peer| {
                    let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
                    match listener.through {
                        None => tracker.spawn(session::serve(shared, listener, stream, peer)),
                        Some(_) => tracker.spawn(session::pass_through(shared, listener, stream, peer)),
                    };
                }));
            }
            stop.cancelled().await;
            sessions.close();
            // Farewells take a second at most; whoever is in the middle of a preface loses nothing.
            let _ = tokio::time::timeout(Duration::from_secs(2), async {
                sessions.wait().await;
                linger::all_over().await;
            })
            .await;
        });
    })
}

/// The once-a-second work: forgetting, and the summary line while clients are refused.
async fn every_second(shared: Arc<Shared>, stop: CancellationToken) {
    let (mut refused_before, mut warned_before) = (0, [0; Refusal::ALL.len()]);
    let work = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            shared.admission.sweep(Instant::now().into_std());
            let refused = shared.counters.refused_in_all();
            if refused > refused_before {
                let sessions = shared.sessions.len();
                info!(refused = refused - refused_before, held = shared.admission.held(), sessions, "refusing");
            }
            refused_before = refused;
            let warned = Refusal::ALL.map(|reason| shared.admission.warned().of(reason));
            for (reason, (now, before)) in Refusal::ALL.into_iter().zip(warned.into_iter().zip(warned_before)) {
                if now > before {
                    warn!(clients = now - before, reason = reason.name(), "let in over a quota that only warns");
                }
            }
            warned_before = warned;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// SIGHUP is nats-server's signal to reload, SIGUSR1 the one to open its log again: whatever there is to do, they end nothing.
async fn hear_signals(mut hangup: Signal, mut reopen: Signal, renews: Option<Arc<Notify>>, stop: CancellationToken) {
    loop {
        tokio::select! {
            _ = hangup.recv() => match &renews {
                Some(renews) => renews.notify_one(),
                None => {
                    info!("SIGHUP: there are no certificates to read again, and a new configuration needs a restart")
                }
            },
            _ = reopen.recv() => info!("SIGUSR1: there is no log file to open again, since weir logs to standard error"),
            () = stop.cancelled() => return,
        }
    }
}

/// SIGTERM or SIGINT drains, and so does SIGUSR2, nats-server's signal for lame duck mode; a second one stops at once.
async fn stop_when_told(shared: &Arc<Shared>, config: &Config) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut lame_duck = signal(SignalKind::user_defined2())?;
    let mut told = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = lame_duck.recv() => {}
        }
    };
    told().await;
    tokio::select! {
        () = drain::drain(shared, config.lame_duck_grace_period, config.lame_duck_duration) => {}
        () = told() => info!("told again: stopping at once"),
    }
    Ok(())
}

/// CertificateNames where weir listens, for whoever let it choose its ports. Written beside and moved, so that a reader never sees half of it.
fn write_ports(path: &Path, listeners: &[SocketAddr], monitor: Option<SocketAddr>) -> io::Result<()> {
    let listeners: Vec<_> = listeners.iter().map(SocketAddr::to_string).collect();
    let ports = serde_json::json!({
        "listeners": listeners,
        "monitor": monitor.map(|address| address.to_string()),
        "pid": std::process::id(),
    });
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, ports.to_string())?;
    std::fs::rename(&beside, path)
}
