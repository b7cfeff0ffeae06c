//! Binds and builds everything, runs it, and ends it in order.

mod background;
mod discovery;
pub mod drain;
mod every_second;
pub mod file_limit;
mod file_watch;
mod fleet_addresses;
mod fleets;
mod listeners;
mod log_thread;
pub mod logging;
pub mod members;
mod monitor;
pub mod mover;
mod notifying;
mod passed_sockets;
mod ports_file;
mod ready_line;
pub mod reload;
mod service_manager;
mod signals;
mod supervisor;
pub mod sysctl;
mod usage;
mod worker;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::{Arc, LazyLock, atomic::AtomicU64},
    thread,
};

use arc_swap::ArcSwap;
use tokio::{
    runtime,
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admin::socket::{AdminSocket, Operator},
    admission::{Admission, Limit},
    advertised_info::AdvertisedInfo,
    cluster::account_lookup::{AccountLookup, MAX_QUEUED},
    config::{AdminConfig, Config, Origin},
    identity::{Directory, Keys},
    net::{socket, timer},
    notify::Notifier,
    relay::registry::SessionRegistry,
    reports::Reports,
    server::{
        background::{Background, first_readings},
        file_limit::{ClientBudget, Shortfall},
        listeners::{Bound, Listeners},
        monitor::Monitor,
        passed_sockets::{PassedError, PassedSocket, PassedSockets},
        reload::{Parts, Reloader},
        service_manager::ServiceManager,
    },
    session::{
        Descriptors, Shared, damped_dials::DampedDials, ghosts::Ghosts, move_orders::MoveOrders, read_ahead::ReadAhead,
    },
    tally::Tallies,
    telemetry::{
        counters::Counters,
        process::{HOST_NAME, STARTED},
        storms::Flight,
    },
    tls::{BadFile, Connector, ServersTls},
    upstream::Servers,
    worker::Heartbeats,
};

pub use self::{background::plain_info, passed_sockets::take as take_passed_sockets, ready_line::ReadyLine};

/// Why weir could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {err}")]
    Bind { address: SocketAddr, err: io::Error },
    #[error("cannot connect from {address} (cluster.source_addresses): {err}")]
    Source { address: IpAddr, err: io::Error },
    #[error("cannot write {path}: {err}")]
    PortsFile { path: String, err: io::Error },
    #[error("cannot open the admin socket {path}: {err}")]
    AdminSocket { path: String, err: io::Error },
    /// A certificate or key of a listener cannot be used. Reading the configuration checks the files, so they have
    /// changed since.
    #[error("TLS of {address}: {bad:?}")]
    Tls { address: SocketAddr, bad: Vec<BadFile> },
    /// A file of `[cluster.tls]` cannot be used; it too has changed since the configuration was read.
    #[error("TLS towards the servers: {0:?}")]
    ServersTls(Vec<BadFile>),
    /// A file of `[cluster.websocket_tls]` cannot be used any more.
    #[error("TLS towards the servers' WebSocket ports: {0:?}")]
    WebSocketTls(Vec<BadFile>),
    /// The `ca_file` of the webhook cannot be used any more.
    #[error("TLS towards the webhook: {0:?}")]
    Webhook(Vec<BadFile>),
    /// The limit of open files is too low for a single client.
    #[error("{0}")]
    FileLimit(#[from] Shortfall),
    /// The operating system refuses a thread, a signal handler or a runtime.
    #[error("cannot start: {0}")]
    Os(#[from] io::Error),
    /// The login to the system account cannot be used.
    #[error("cluster.system: {0}")]
    System(String),
    /// The login to the fleet cannot be used.
    #[error("fleet: {0}")]
    Fleet(String),
    /// The service manager has passed a socket for which there is no use.
    #[error("{0}")]
    Passed(#[from] PassedError),
    /// A pattern of an account's `users` is no glob. The configuration checks them, so this is a defect.
    #[error("bad pattern: {0}")]
    Pattern(#[from] globset::Error),
}

/// What weir has from whoever has started it.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Listening sockets.
    pub sockets: Vec<PassedSocket>,
    /// Where it is told that weir is ready.
    pub ready: Option<ReadyLine>,
}

/// Serves until a signal stops it, then drains. `origin` is where the configuration is read again.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Config, origin: Origin, inherited: Inherited) -> Result<(), ServerError> {
    // It is read at the first question, and that may come late.
    LazyLock::force(&STARTED);
    let workers = config.workers.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let budget = ClientBudget::of(&config, workers)?;
    sysctl::tell_of_settings(&config, budget.clients);
    for warning in config.warnings().iter() {
        warn!(warning = warning.statement(), "the configuration is valid and leaves something to chance");
    }
    let passed = PassedSockets::assign(inherited.sockets, &config, workers)?;
    let assembly = Assembly::build(&config, workers, &budget, passed)?;
    let control = runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(assembly.run(&config, origin, inherited.ready))
}

/// Everything bound and built, nothing running yet.
struct Assembly {
    shared: Arc<Shared>,
    account_lookups: mpsc::Receiver<AccountLookup>,
    bound: Bound,
    monitor: Option<TcpListener>,
    admin_socket: Option<AdminSocket>,
    workers: usize,
    passed: Arc<PassedSockets>,
}

impl Assembly {
    fn build(
        config: &Config,
        workers: usize,
        budget: &ClientBudget,
        passed: PassedSockets,
    ) -> Result<Self, ServerError> {
        for &address in &config.upstream.source_addresses {
            socket::can_come_from(address).map_err(|err| ServerError::Source { address, err })?;
        }
        let bound = Bound::all(&config.listeners, workers, &passed)?;
        let monitor = config.monitor.map(|at| monitor::bind(at, &passed)).transpose()?;
        let admin_socket = config.admin.as_ref().map(bind_admin_socket).transpose()?;
        let (asking, account_lookups) = mpsc::channel(MAX_QUEUED);
        let heartbeats = Heartbeats::new(workers, timer::now());
        let shared = Arc::new(shared(config, budget, (asking, heartbeats))?);
        let passed = Arc::new(passed);
        Ok(Self { shared, account_lookups, bound, monitor, admin_socket, workers, passed })
    }

    async fn run(self, config: &Config, origin: Origin, ready: Option<ReadyLine>) -> Result<(), ServerError> {
        let Self { shared, account_lookups, bound, monitor, admin_socket, workers, passed } = self;
        let stop = CancellationToken::new();
        let background = Background::new(Arc::clone(&shared), stop.clone());
        let service_manager = ServiceManager::of_environment();
        background.keep_told(&service_manager);
        let (access, members, fleet) = background.watch_cluster(config, account_lookups).await?;
        background.start_notifying(config, &members)?;
        let (to_workers, sockets): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let certificates = Arc::<Notify>::default();
        let parts = Parts {
            listeners: Listeners::new(Arc::clone(&shared), to_workers, Arc::clone(&passed), stop.clone()),
            monitor: Monitor::new(background.tasks().clone(), Arc::clone(&shared), passed, stop.clone()),
            members: members.clone(),
        };
        let configuration = origin.to_string();
        let told = service_manager.clone();
        let reloader =
            Reloader::new(origin, config.clone(), Arc::clone(&shared), parts, Arc::clone(&certificates), told);
        let reloader = Arc::new(reloader);
        // A reload that is asked for meanwhile waits until weir has started.
        let mut parts = reloader.parts().await;
        background.start_housekeeping(&reloader, members.mover(), certificates)?;
        if let Some((socket, configured)) = monitor.zip(config.monitor) {
            parts.monitor.serve(configured, socket, &config.http_base_path)?;
        }
        if let Some(socket) = admin_socket {
            background
                .start_admin_socket(socket, Operator::new(Arc::clone(&shared), &reloader, members, configuration));
        }
        first_readings(&shared, &access, fleet.as_ref()).await;

        let mut threads = Vec::new();
        for (n, sockets) in sockets.into_iter().enumerate() {
            threads.push(worker::start(n, sockets, Arc::clone(&shared), stop.clone())?);
        }
        // All, so that weir does not run where a worker cannot listen: the kernel would give it a share of the clients.
        let opened = parts.listeners.open(bound).await?;
        parts.listeners.put(opened).await;
        shared.heartbeats.started(timer::now());
        if let Some(admin) = &config.admin {
            info!(socket = %admin.socket.display(), "the admin socket is open");
        }
        // Whoever sees or hears that weir is ready may stop it at once.
        let signals = signals::Stop::register()?;
        if let Some(path) = &config.ports_file {
            ports_file::write(path, &parts.listeners.addresses(), parts.monitor.address())
                .map_err(|err| ServerError::PortsFile { path: path.display().to_string(), err })?;
        }
        drop(parts);
        service_manager.ready(&shared);
        if let Some(ready) = ready {
            ready.write();
        }

        drain_when_told(signals, &shared, &reloader, &service_manager).await;
        if let Some(fleet) = fleet {
            fleet.leave().await;
        }
        stop.cancel();
        background.ended().await;
        for thread in threads {
            let _ = thread.join();
        }
        info!("stopped");
        Ok(())
    }
}

/// Binds the admin socket.
fn bind_admin_socket(config: &AdminConfig) -> Result<AdminSocket, ServerError> {
    let path = &config.socket;
    AdminSocket::bind(path).map_err(|err| ServerError::AdminSocket { path: path.display().to_string(), err })
}

/// Builds what all sessions share.
fn shared(
    config: &Config,
    budget: &ClientBudget,
    (account_lookups, heartbeats): (mpsc::Sender<AccountLookup>, Heartbeats),
) -> Result<Shared, ServerError> {
    let servers = Arc::new(Servers::new(&config.upstream));
    let connector = |tls: &ServersTls| Connector::load(tls.clone()).map(Arc::new);
    let servers_tls = config.servers_tls.as_ref().map(connector).transpose().map_err(ServerError::ServersTls)?;
    let websocket_tls = match &config.websocket_tls {
        Some(own) => Some(connector(own).map_err(ServerError::WebSocketTls)?),
        None => servers_tls.clone(),
    };
    let server_name = config.server_name.clone().unwrap_or_else(|| HOST_NAME.clone());
    let advertised_info = AdvertisedInfo::new(Arc::clone(&servers), server_name);
    let sessions = Arc::<SessionRegistry>::default();
    sessions.closed().set_most(config.max_closed_clients);
    Ok(Shared {
        account_lookups,
        admission: Arc::new(Admission::new(&config.admission, Arc::clone(&servers))),
        arrived: Arc::new(Notify::new()),
        fleet: config.fleet.as_ref().map(|fleet| Arc::new(fleets::fleet(fleet))),
        directory: Arc::new(Directory::new(&config.admission.rules)?),
        keys: Arc::<Keys>::default(),
        notifier: Arc::new(Notifier::new(advertised_info.own_server_id())),
        usage: ArcSwap::default(),
        moves_under_way: ArcSwap::default(),
        advertised_info: Arc::new(advertised_info),
        counters: Arc::new(Counters::default()),
        tallies: Tallies::default(),
        policies: ArcSwap::from_pointee(config.policies.clone()),
        reports: Reports::default(),
        damped_dials: DampedDials::default(),
        move_orders: MoveOrders::default(),
        ghosts: Ghosts::default(),
        unanswered: Arc::default(),
        flight: Flight::default(),
        sessions,
        held: Arc::default(),
        refusing: Limit::new(budget.refusals),
        heartbeats,
        descriptors: Descriptors { clients: Some(Limit::new(budget.clients)), pauses: Arc::default() },
        read_ahead: ReadAhead::default(),
        sends_proxy_headers: config.upstream.compatibility.proxy_protocol,
        proxy_key: config.proxy_key.clone(),
        listeners: ArcSwap::default(),
        terminators: ArcSwap::default(),
        servers_tcp: config.servers_tcp,
        servers_tls,
        websocket_tls,
        dials_websockets: config.dials_websockets(),
        next_id: AtomicU64::new(1),
        servers,
    })
}

/// Waits for a signal that stops weir, and drains; a second signal ends the drain.
async fn drain_when_told(
    mut signals: signals::Stop,
    shared: &Arc<Shared>,
    reloader: &Reloader,
    service_manager: &ServiceManager,
) {
    signals.next().await;
    let drain = reloader.drain();
    service_manager.stopping(&drain);
    tokio::select! {
        () = drain.run(shared) => {}
        () = signals.next() => info!("second signal: stopping immediately"),
    }
}
