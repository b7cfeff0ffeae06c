//! The tasks that run beside the workers, on the control thread: reading servers, handing out turns, signals, the admin
//! endpoints, and the work of every second.

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    net::UnixListener,
    sync::{Mutex, Notify, mpsc},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    admin::{
        self, report_sampler,
        socket::{AdminSocket, Operator},
        storm_sampler,
    },
    advertised_info::PrefaceShape,
    cluster::{self, ClusterAccess, PlainInfo, account_lookup::AccountLookup, system_account::SystemAccount},
    config::Config,
    dispatch,
    fleet_link::FleetLink,
    server::{
        ServerError,
        discovery::{self, ConnectUrls, DiscoveredNow, DiscoveredServers, Discovery, NamedByServers},
        every_second, file_watch, fleet_addresses, fleets,
        members::{self, Members},
        mover::Mover,
        notifying::Notifying,
        reload::Reloader,
        service_manager::ServiceManager,
        signals,
        supervisor::Supervisor,
    },
    session::{Shared, ghosts},
    tls::{self, HandshakeFirst},
};

/// How long the first readings may take before weir serves without them.
const FIRST_READINGS: Duration = Duration::from_secs(2);

/// The running tasks.
pub struct Background {
    tasks: Supervisor,
    notifying: Notifying,
    shared: Arc<Shared>,
}

impl Background {
    pub fn new(shared: Arc<Shared>, stop: CancellationToken) -> Self {
        let tasks = Supervisor::new(stop);
        Self { notifying: Notifying::new(&tasks, &shared), tasks, shared }
    }

    /// Starts what the service manager is told again and again.
    pub fn keep_told(&self, service_manager: &ServiceManager) {
        let (service_manager, all) = (service_manager.clone(), Arc::clone(&self.shared));
        self.tasks.spawn("service manager", move |stop| service_manager.clone().keep_told(Arc::clone(&all), stop));
    }

    /// Starts everything that asks the servers, the system account first, before any client takes a slot. `before` are
    /// servers that a process before this one has discovered.
    pub async fn watch_cluster(
        &self,
        config: &Config,
        account_lookups: mpsc::Receiver<AccountLookup>,
        before: &DiscoveredServers,
    ) -> Result<(ClusterAccess, Members, Option<FleetLink>), ServerError> {
        let shared = &self.shared;
        // Before the system account, which is reached through the servers.
        let now = DiscoveredNow::default();
        let discovery = match config.discover.as_ref().and_then(|discover| Some((discover, discover.from.as_ref()?))) {
            Some((discover, from)) => Some(Discovery::begin(discover, from, (&now, before), &shared.servers).await),
            None => None,
        };
        let asks_servers = config.discover.as_ref().filter(|discover| discover.connect_urls);
        let named = asks_servers.map(|discover| NamedByServers::new(discover, (&now, before), &shared.servers));
        let system = self.open_system_account(config)?;
        let access = ClusterAccess {
            system,
            tls: shared.servers_tls.clone(),
            websocket_tls: shared.websocket_tls.clone(),
            plain_info: Arc::new(ArcSwap::from_pointee(plain_info(config))),
        };
        let fleet = fleets::join(config, shared, &self.tasks, &access)?;
        let (lookups, all, cluster) = (Arc::new(Mutex::new(account_lookups)), Arc::clone(shared), access.clone());
        self.tasks.spawn("account look-ups", move |stop| {
            cluster::account_lookup::run(
                Arc::clone(&all.servers),
                Arc::clone(&all.advertised_info),
                Arc::clone(&all.directory),
                Arc::clone(&all.admission),
                cluster.clone(),
                Arc::clone(&lookups),
                stop,
            )
        });
        let members = Members::watch_all(shared, &self.tasks, access.clone(), (fleet.clone(), now), config);
        if let Some(discovery) = discovery {
            let (discovery, all, members) = (Arc::new(Mutex::new(discovery)), Arc::clone(shared), members.clone());
            self.tasks.spawn("discovery", move |stop| {
                discovery::follow_name(Arc::clone(&discovery), Arc::clone(&all), members.clone(), stop)
            });
        }
        if let Some(named) = named {
            let urls = ConnectUrls::new(named, access.clone(), &config.upstream);
            let (urls, all, members) = (Arc::new(Mutex::new(urls)), Arc::clone(shared), members.clone());
            self.tasks.spawn("discovery by servers", move |stop| {
                discovery::follow_servers(Arc::clone(&urls), Arc::clone(&all), members.clone(), stop)
            });
        }
        Ok((access, members, fleet))
    }

    /// Opens the connection to the system account, where there is a login for it, and starts what depends on it.
    fn open_system_account(&self, config: &Config) -> Result<Option<SystemAccount>, ServerError> {
        let Some(login) = &config.system_login else { return Ok(None) };
        let shared = &self.shared;
        let addresses = members::addresses(shared, config.discover.as_ref());
        let system = SystemAccount::connect(login, &addresses, shared.servers_tls.as_deref(), &shared.servers)
            .map_err(|err| ServerError::System(err.to_string()))?;
        let account = system.clone();
        self.tasks.spawn("system login", move |stop| account.clone().watch_login(stop));
        let (account, all) = (system.clone(), Arc::clone(shared));
        self.tasks.spawn("lame ducks", move |stop| {
            let (servers, info) = (Arc::clone(&all.servers), Arc::clone(&all.advertised_info));
            cluster::watch_lame_ducks(account.clone(), servers, info, stop)
        });
        let (account, all, interval) = (system.clone(), Arc::clone(shared), config.upstream.poll_interval);
        self.tasks.spawn("accounts", move |stop| {
            let (admission, servers) = (Arc::clone(&all.admission), Arc::clone(&all.servers));
            cluster::accounts::watch(account.clone(), admission, servers, interval, stop)
        });
        if config.answer_requests {
            let (account, all) = (system.clone(), Arc::clone(shared));
            self.tasks
                .spawn("system requests", move |stop| admin::answer_requests(Arc::clone(&all), account.clone(), stop));
        }
        Ok(Some(system))
    }

    /// Starts who hears of events beside the log.
    pub fn start_notifying(&self, config: &Config, members: &Members) -> Result<(), ServerError> {
        self.notifying.follow(members.addresses());
        self.notifying.apply(config).map_err(ServerError::Webhook)
    }

    /// Starts handing out turns, renewing certificates when told by `certificates`, answering signals, and the work of
    /// every second.
    pub fn start_housekeeping(
        &self,
        reloader: &Arc<Reloader>,
        mover: &Mover,
        certificates: Arc<Notify>,
    ) -> io::Result<()> {
        let shared = &self.shared;
        let all = Arc::clone(shared);
        self.tasks
            .spawn("turns", move |stop| dispatch::run(Arc::clone(&all.admission), Arc::clone(&all.arrived), stop));
        // Where it is `[cluster.tls]` itself it is there twice, and the second look finds nothing new.
        let towards_servers = [&shared.servers_tls, &shared.websocket_tls];
        let towards_servers: Vec<_> =
            towards_servers.into_iter().flatten().map(|tls| ("towards servers", Arc::clone(tls))).collect();
        let (all, notifying) = (Arc::clone(shared), self.notifying.clone());
        self.tasks.spawn("certificates", move |stop| {
            let (all, towards_servers, notifying) = (Arc::clone(&all), towards_servers.clone(), notifying.clone());
            let connectors = move || {
                let webhook = notifying.webhook_tls().map(|tls| ("webhook", tls));
                towards_servers.iter().cloned().chain(webhook).collect()
            };
            tls::renew(move || all.terminators.load_full(), connectors, Arc::clone(&certificates), stop)
        });
        let (all, in_force, notifying) = (Arc::clone(shared), Arc::clone(reloader), self.notifying.clone());
        self.tasks.spawn("every second", move |stop| {
            let in_force = Arc::clone(&in_force);
            let notifying = notifying.clone();
            let changes = move || {
                let config = in_force.in_force();
                notifying.keep(&config);
                config.upstream.warn_at
            };
            every_second::run(Arc::clone(&all), changes, stop)
        });
        let (mover, in_force) = (mover.clone(), Arc::clone(reloader));
        self.tasks.spawn("mover", move |stop| {
            let in_force = Arc::clone(&in_force);
            mover.clone().watch(move || in_force.in_force().rebalance, stop)
        });
        let (maintenance, reloader) = (Arc::new(Mutex::new(signals::Maintenance::register()?)), Arc::clone(reloader));
        let watching = Arc::clone(&reloader);
        self.tasks.spawn("configuration file", move |stop| {
            let reloader = Arc::clone(&watching);
            async move { file_watch::watch(&reloader, stop).await }
        });
        self.tasks.spawn("signals", move |stop| {
            let (maintenance, reloader) = (Arc::clone(&maintenance), Arc::clone(&reloader));
            async move { maintenance.lock().await.handle(&reloader, stop).await }
        });
        if shared.fleet.is_some() {
            let all = Arc::clone(shared);
            self.tasks.spawn("fleet addresses", move |stop| fleet_addresses::announce(Arc::clone(&all), stop));
        }
        let all = Arc::clone(shared);
        self.tasks.spawn("ghosts", move |stop| ghosts::find(Arc::clone(&all), stop));
        let all = Arc::clone(shared);
        self.tasks.spawn("storm sampler", move |stop| storm_sampler::record(Arc::clone(&all), stop));
        let all = Arc::clone(shared);
        self.tasks.spawn("report sampler", move |stop| report_sampler::run(Arc::clone(&all), stop));
        Ok(())
    }

    /// What its tasks belong to.
    pub fn tasks(&self) -> &Supervisor {
        &self.tasks
    }

    /// Serves the verbs on the admin socket until `stop`, which comes no later than weir's end.
    pub fn start_admin_socket(&self, socket: Arc<AdminSocket>, operator: Operator, stop: CancellationToken) {
        let operator = Arc::new(operator);
        self.tasks.until(stop).spawn("admin socket", move |stop| {
            let (listener, is_own) = (socket.listener.try_clone(), socket.is_own());
            let operator = Arc::clone(&operator);
            async move {
                match listener.and_then(UnixListener::from_std) {
                    Ok(listener) => admin::socket::serve((listener, is_own), operator, stop).await,
                    Err(err) => warn!(%err, "no admin socket"),
                }
            }
        });
    }

    /// Waits until all tasks have ended. They do so once they are told to stop.
    pub async fn ended(self) {
        self.tasks.ended().await;
    }
}

/// What servers send to a connection without TLS, as far as the listeners' `handshake_first` tells.
pub fn plain_info(config: &Config) -> PlainInfo {
    let mut passing = config.listeners.iter().map(|one| one.passes_through);
    match passing.clone().all(|first| first == Some(HandshakeFirst::Always)) {
        true => PlainInfo::NotSent,
        false if passing.any(|first| first.is_some()) => PlainInfo::ThenClientTls,
        false => PlainInfo::NoTls,
    }
}

/// Waits for up to [`FIRST_READINGS`] until it is seen whether the system account answers, every server has been read
/// once or has failed to answer (a server that is down keeps nobody waiting), one server has shown its INFO, and it is
/// seen whether the fleet can be reached. From then on placement knows the capacities, and weir knows whether clients
/// are asked to sign a nonce.
pub async fn first_readings(shared: &Shared, access: &ClusterAccess, fleet: Option<&FleetLink>) {
    let deadline = Instant::now() + FIRST_READINGS;
    let unread = || shared.servers.iter().any(|server| server.awaits_first_reading());
    let unknown =
        || shared.advertised_info.shape() == PrefaceShape::Unknown && **access.plain_info.load() != PlainInfo::NotSent;
    let unconnected = || access.system.as_ref().is_some_and(SystemAccount::is_open);
    let alone = || fleet.is_some_and(FleetLink::is_open);
    while (unread() || unknown() || unconnected() || alone()) && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
}
