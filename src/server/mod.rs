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
pub mod takeover;
mod usage;
mod worker;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    os::unix::net::UnixListener,
    sync::{Arc, LazyLock, atomic::AtomicU64},
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::{
    runtime,
    sync::{Notify, mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admin::socket::{AdminSocket, Operator, OperatorPause},
    admission::Admission,
    advertised_info::AdvertisedInfo,
    cluster::account_lookup::{AccountLookup, MAX_QUEUED},
    config::{AdminConfig, Config, NewClients, Origin},
    fleet::Process,
    identity::{Directory, Keys},
    net::{socket, timer},
    notify::Notifier,
    relay::registry::SessionRegistry,
    reports::Reports,
    server::{
        background::{Background, first_readings},
        drain::Drain,
        file_limit::{ClientBudget, Shortfall},
        listeners::{Bound, Listeners},
        monitor::Monitor,
        passed_sockets::{PassedError, PassedSocket, PassedSockets},
        reload::{Parts, Reloader},
        service_manager::ServiceManager,
        takeover::{FleetName, Giving, Home, TakenSockets, TakeoverError, Taking},
    },
    session::{
        Descriptors, Shared, damped_dials::DampedDials, ghosts::Ghosts, move_orders::MoveOrders, read_ahead::ReadAhead,
        takeover::Takeover,
    },
    tally::Tallies,
    telemetry::{
        counters::Counters,
        moment,
        process::{HOST_NAME, STARTED},
        storms::Flight,
    },
    tls::{BadFile, Connector, ServersTls},
    upstream::Servers,
    worker::Heartbeats,
};

pub use self::{background::plain_info, passed_sockets::take as take_passed_sockets, ready_line::ReadyLine};

/// How often it is looked whether sessions of a process before this one have ended.
const ENDS_ELSEWHERE: Duration = Duration::from_millis(100);

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
    /// There is no way to the process that runs.
    #[error("a takeover asks the running weir over its admin socket, and the configuration has no [admin]")]
    NoAdminSocket,
    /// The running process does not give what it has.
    #[error("no takeover: {0}")]
    Takeover(#[from] TakeoverError),
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
    /// weir takes over from the process that runs with this configuration.
    pub takes_over: bool,
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
    let control = runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(async {
        let (taking, sockets) = match inherited.takes_over {
            true => take_over(&config).await.map(|(taking, sockets)| (Some(taking), sockets))?,
            false => (None, TakenSockets::default()),
        };
        let passed = match &taking {
            Some(_) => PassedSockets::taken(sockets.listeners, sockets.monitor),
            None => PassedSockets::assign(inherited.sockets, &config, workers)?,
        };
        let assembly = Assembly::build(&config, workers, &budget, (passed, sockets.admin, taking))?;
        assembly.run(&config, origin, inherited.ready).await
    })
}

/// Asks the process that runs with this configuration for what it has.
async fn take_over(config: &Config) -> Result<(Taking, TakenSockets), ServerError> {
    let socket = &config.admin.as_ref().ok_or(ServerError::NoAdminSocket)?.socket;
    let fleet = config.fleet.as_ref().map(|fleet| FleetName { name: fleet.name.clone(), id: fleet.id.clone() });
    let (taking, sockets) = Taking::begin(socket, fleet).await?;
    moment::count_from(taking.origin());
    Ok((taking, sockets))
}

/// Everything bound and built, nothing running yet.
struct Assembly {
    shared: Arc<Shared>,
    account_lookups: mpsc::Receiver<AccountLookup>,
    bound: Bound,
    monitor: Option<TcpListener>,
    admin_socket: Option<Arc<AdminSocket>>,
    workers: usize,
    passed: Arc<PassedSockets>,
    /// From another process.
    taking: Option<Taking>,
}

impl Assembly {
    fn build(
        config: &Config,
        workers: usize,
        budget: &ClientBudget,
        (passed, admin, taking): (PassedSockets, Option<UnixListener>, Option<Taking>),
    ) -> Result<Self, ServerError> {
        for &address in &config.upstream.source_addresses {
            socket::can_come_from(address).map_err(|err| ServerError::Source { address, err })?;
        }
        let bound = Bound::all(&config.listeners, workers, &passed)?;
        let monitor = config.monitor.map(|at| monitor::bind(at, &passed)).transpose()?;
        let admin_socket = config.admin.as_ref().map(|config| admin_socket(config, admin)).transpose()?.map(Arc::new);
        let (asking, account_lookups) = mpsc::channel(MAX_QUEUED);
        let heartbeats = Heartbeats::new(workers, timer::now());
        let keys = taking.as_ref().map_or_else(Keys::default, Taking::keys);
        let member = taking.as_ref().and_then(Taking::member);
        let shared = Arc::new(shared(config, budget, (asking, heartbeats, keys), member)?);
        let passed = Arc::new(passed);
        Ok(Self { shared, account_lookups, bound, monitor, admin_socket, workers, passed, taking })
    }

    async fn run(self, config: &Config, origin: Origin, ready: Option<ReadyLine>) -> Result<(), ServerError> {
        let Self { shared, account_lookups, bound, mut monitor, admin_socket, workers, passed, mut taking } = self;
        let stop = CancellationToken::new();
        let background = Background::new(Arc::clone(&shared), stop.clone());
        let service_manager = ServiceManager::of_environment();
        background.keep_told(&service_manager);
        let before = taking.as_ref().map(|taking| taking.discovered().clone()).unwrap_or_default();
        let (access, members, fleet) = background.watch_cluster(config, account_lookups, &before).await?;
        background.start_notifying(config, &members)?;
        let (to_workers, work): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let certificates = Arc::<Notify>::default();
        let parts = Parts {
            listeners: Listeners::new(Arc::clone(&shared), to_workers, Arc::clone(&passed), stop.clone()),
            monitor: Monitor::new(background.tasks().clone(), Arc::clone(&shared), Arc::clone(&passed), stop.clone()),
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
        let (given, pause) = (Arc::<Notify>::default(), OperatorPause::default());
        let (link, has_taken_over) = (fleet.clone(), taking.is_some());
        let mut serve_operators = async |parts: &mut Parts| -> Result<(), ServerError> {
            let monitored = match monitor.take().zip(config.monitor) {
                Some((socket, configured)) => parts.monitor.serve(configured, socket, &config.http_base_path),
                None => Ok(()),
            };
            if let Some(socket) = admin_socket.clone() {
                socket.is_taken();
                let stop = stop.child_token();
                let (shared, given) = (Arc::clone(&shared), Arc::clone(&given));
                let giving = (Arc::clone(&socket), stop.clone(), pause.clone(), given);
                let (told, of_fleet) = (service_manager.clone(), (link.clone(), has_taken_over));
                let giving = Giving::new(Arc::clone(&shared), Arc::clone(&reloader), of_fleet, giving, told);
                let (members, giving) = (members.clone(), (giving, pause.clone()));
                let operator = Operator::new(shared, &reloader, members, configuration.clone(), giving);
                background.start_admin_socket(socket, operator, stop);
            }
            Ok(monitored?)
        };
        // Until it has taken over, another process answers operators.
        if taking.is_none() {
            serve_operators(&mut parts).await?;
        }
        // Another process is the weir of the fleet until it has given that.
        let begins = fleet.as_ref().filter(|_| taking.is_none());
        if let Some(fleet) = begins {
            fleet.begin();
        }
        first_readings(&shared, &access, begins).await;

        let mut threads = Vec::new();
        for (n, work) in work.into_iter().enumerate() {
            threads.push(worker::start(n, work, Arc::clone(&shared), stop.clone())?);
        }
        // All, so that weir does not run where a worker cannot listen: the kernel would give it a share of the clients.
        let opened = parts.listeners.open(bound).await?;
        parts.listeners.put(opened).await;
        shared.heartbeats.started(timer::now());
        // Whoever sees or hears that weir is ready may stop it at once, and what it has been given is to be drained.
        let mut signals = signals::Stop::register()?;
        let home = Home::new(Arc::clone(&shared), fleet.clone(), pause.clone(), &parts.listeners);
        if let Some(taking) = &mut taking {
            taking.take(&home).await?;
            passed.forget();
        }
        parts.listeners.begin();
        let (tell, mut broken_off) = oneshot::channel();
        // With this process would end all that it has been given, so that no error ends it from now on.
        if let Some(mut taking) = taking {
            if let Err(err) = serve_operators(&mut parts).await {
                warn!(%err, "no admin endpoints");
            }
            taking.serving(&home).await;
            members.drains_go_on();
            tokio::spawn(async move { taking.follow(home).await.map_err(|why| tell.send(why)) });
        }
        if let Some(admin) = &config.admin {
            info!(socket = %admin.socket.display(), "the admin socket is open");
        }
        if let Some(path) = &config.ports_file
            && let Err(err) = ports_file::write(path, &parts.listeners.addresses(), parts.monitor.address())
        {
            let err = ServerError::PortsFile { path: path.display().to_string(), err };
            if !has_taken_over {
                return Err(err);
            }
            warn!(%err, "the ports file is that of the weir before");
        }
        drop(parts);
        service_manager.ready(&shared);
        if let Some(ready) = ready {
            ready.write();
        }

        tokio::select! {
            Ok(why) = &mut broken_off => {
                admin_socket.iter().for_each(|socket| socket.is_given_away());
                return Err(why.into());
            }
            () = signals.next() => {
                let drain = reloader.drain();
                service_manager.stopping(&drain);
                drain_until_second(drain, &mut signals, &shared).await;
            }
            () = given.notified() => {
                // Balancers see the other process.
                let drain = Drain { grace: Duration::ZERO, new_clients: NewClients::Refuse, ..reloader.drain() };
                let until = Instant::now() + drain.duration;
                drain_until_second(drain, &mut signals, &shared).await;
                // The other process hears of the ends of sessions in a process before this one from this one.
                while !shared.takeover.elsewhere().is_empty() && Instant::now() < until {
                    tokio::time::sleep(ENDS_ELSEWHERE).await;
                }
            }
        }
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

/// Binds the admin socket, or goes on with that of another process.
fn admin_socket(config: &AdminConfig, taken: Option<UnixListener>) -> Result<AdminSocket, ServerError> {
    let path = &config.socket;
    let socket = match taken {
        Some(taken) => AdminSocket::adopt(taken, path),
        None => AdminSocket::bind(path),
    };
    socket.map_err(|err| ServerError::AdminSocket { path: path.display().to_string(), err })
}

/// Builds what all sessions share.
fn shared(
    config: &Config,
    budget: &ClientBudget,
    (account_lookups, heartbeats, keys): (mpsc::Sender<AccountLookup>, Heartbeats, Keys),
    goes_on_as: Option<Process>,
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
        fleet: config.fleet.as_ref().map(|fleet| Arc::new(fleets::fleet(fleet, goes_on_as))),
        directory: Arc::new(Directory::new(&config.admission.rules)?),
        keys: Arc::new(keys),
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
        takeover: Takeover::default(),
        sessions,
        held: Arc::default(),
        heartbeats,
        descriptors: Descriptors::new(budget.clients, budget.refusals),
        read_ahead: ReadAhead::default(),
        sends_proxy_headers: config.upstream.compatibility.proxy_protocol,
        proxy_key: config.proxy_key.clone(),
        listeners: ArcSwap::default(),
        terminators: ArcSwap::default(),
        servers_tcp: config.servers_tcp,
        servers_tls,
        websocket_tls,
        dials_websockets: config.dials_websockets().into(),
        next_id: AtomicU64::new(1),
        servers,
    })
}

/// Drains; a signal ends the drain.
async fn drain_until_second(drain: Drain, signals: &mut signals::Stop, shared: &Arc<Shared>) {
    tokio::select! {
        () = drain.run(shared) => {}
        () = signals.next() => info!("second signal: stopping immediately"),
    }
}
