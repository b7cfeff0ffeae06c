//! The servers of the cluster, each with the tasks that watch it: they come, are drained, and go while weir runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tracing::info;

use crate::{
    cluster::{self, ClusterAccess},
    config::{Config, DiscoverConfig},
    events::Event,
    fleet_link::FleetLink,
    outcome::MoveCause,
    server::{
        background::plain_info,
        discovery::{DiscoveredNow, DiscoveredServers},
        mover::Mover,
        supervisor::Supervisor,
    },
    session::Shared,
    upstream::{Compatibility, Drain, Drained, Server, ServerId, ServerParams},
};

/// How often it is looked whether the last session of a drained server has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The servers, with what watches them. What is started here runs on the runtime of the caller, which is that of the
/// control thread.
#[derive(Clone)]
pub struct Members(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    mover: Mover,
    tasks: Supervisor,
    access: ClusterAccess,
    fleet: Option<FleetLink>,
    poll_interval: Duration,
    compatibility: Compatibility,
    /// The name that servers are discovered by.
    discover: Option<DiscoverConfig>,
    discovered: DiscoveredNow,
    /// The sessions of a server that is drained end within this time.
    spread: ArcSwap<Duration>,
    tasks_of: Mutex<HashMap<ServerId, ServerTasks>>,
    /// Those of [`addresses`].
    addresses: watch::Sender<Vec<String>>,
}

/// What runs for one server.
struct ServerTasks {
    /// Reads and dials it, and keeps its addresses: ends when the server is removed.
    watch: Supervisor,
    /// Asks it about stalled sessions: ends when the server is forgotten.
    closed: Supervisor,
    /// Ends its sessions, while it is drained.
    drain: Option<Supervisor>,
}

impl Members {
    /// Watches the servers that there are.
    pub fn watch_all(
        shared: &Arc<Shared>,
        tasks: &Supervisor,
        access: ClusterAccess,
        (fleet, discovered): (Option<FleetLink>, DiscoveredNow),
        config: &Config,
    ) -> Self {
        let upstream = &config.upstream;
        let inner = Inner {
            shared: Arc::clone(shared),
            mover: Mover::new(shared),
            tasks: tasks.clone(),
            access,
            fleet,
            poll_interval: upstream.poll_interval,
            compatibility: upstream.compatibility,
            discover: config.discover.clone(),
            discovered,
            spread: ArcSwap::from_pointee(spread(config)),
            tasks_of: Mutex::default(),
            addresses: watch::Sender::new(addresses(shared, config.discover.as_ref())),
        };
        let members = Self(Arc::new(inner));
        for server in shared.servers.iter() {
            let tasks = members.0.watch(&server);
            members.0.tasks_of().insert(server.id(), tasks);
        }
        members
    }

    /// Takes over what a reload has changed for all servers. It is to be called before servers are added.
    pub fn follow(&self, config: &Config) {
        let Inner { shared, access, spread: within, .. } = &*self.0;
        within.store(Arc::new(spread(config)));
        access.plain_info.store(Arc::new(plain_info(config)));
        shared.dials_websockets.store(config.dials_websockets(), Relaxed);
        shared.servers.use_only_websockets(config.upstream.only_websocket);
    }

    /// What moves clients from server to server.
    pub fn mover(&self) -> &Mover {
        &self.0.mover
    }

    /// The servers that are discovered.
    pub fn discovered(&self) -> DiscoveredServers {
        self.0.discovered.servers(self.0.discover.as_ref())
    }

    /// Where the cluster is reached, and each change of that.
    pub fn addresses(&self) -> watch::Receiver<Vec<String>> {
        self.0.addresses.subscribe()
    }

    /// Adds a server. It gets its share of new clients as soon as it can be used. `by` says who wants that, for the
    /// log.
    pub fn add(&self, params: ServerParams, by: &str) -> Arc<Server> {
        let inner = &self.0;
        let server = inner.shared.servers.add(params);
        info!(server = server.name(), address = server.address(), by, "server added");
        let tasks = inner.watch(&server);
        inner.tasks_of().insert(server.id(), tasks);
        inner.addresses_changed();
        server
    }

    /// Takes over another name, cap or monitoring URL of a server; its address stays. Returns `false` for a server that
    /// has gone.
    pub fn update(&self, id: ServerId, params: &ServerParams) -> bool {
        let inner = &self.0;
        let Some((server, is_read_elsewhere)) = inner.shared.servers.update(id, params) else { return false };
        if is_read_elsewhere && server.drain() != Drain::Leaves {
            let mut tasks = inner.watch(&server);
            if let Some(before) = inner.tasks_of().remove(&id) {
                before.watch.stop();
                before.closed.stop();
                tasks.drain = before.drain;
            }
            inner.tasks_of().insert(id, tasks);
        }
        true
    }

    /// Gives a server no more clients, and moves those that it has to the others: at the pace at which the cluster
    /// takes them back, but within `lame_duck_duration` less `lame_duck_grace_period`.
    pub fn drain(&self, id: ServerId, by: &str) -> Drained {
        let inner = &self.0;
        let drained = inner.shared.servers.drain(id);
        if let Drained::Done(server) = &drained {
            info!(server = server.name(), sessions = server.load().sessions(), by, "server is drained: no new clients");
            inner
                .shared
                .notifier
                .pass_on(&Event::ServerDrained { server: server.name().to_owned(), by: by.to_owned() });
            inner.end_sessions(server);
        }
        drained
    }

    /// This process has taken over: the drains of the process before go on, each for as long as one that begins.
    pub fn drains_go_on(&self) {
        let inner = &self.0;
        for server in inner.shared.servers.iter().filter(|server| server.drain() == Drain::Drained) {
            info!(server = server.name(), sessions = server.load().sessions(), "the drain of a server goes on");
            inner.end_sessions(&server);
        }
    }

    /// Gives a server that was drained its share of new clients again. What is left of its sessions stays.
    pub fn undrain(&self, id: ServerId, by: &str) -> Drained {
        let inner = &self.0;
        let undrained = inner.shared.servers.undrain(id);
        if let Drained::Done(server) = &undrained {
            info!(server = server.name(), by, "server is drained no more: it gets clients again");
            inner
                .shared
                .notifier
                .pass_on(&Event::ServerUndrained { server: server.name().to_owned(), by: by.to_owned() });
            if let Some(tasks) = inner.tasks_of().get_mut(&id) {
                tasks.drain.take().iter().for_each(Supervisor::stop);
            }
        }
        undrained
    }

    /// Removes a server: it is drained, and forgotten once its last session has ended.
    pub fn remove(&self, id: ServerId, by: &str) -> Drained {
        let inner = &self.0;
        let removed = inner.shared.servers.remove(id);
        if let Drained::Done(server) = &removed {
            info!(server = server.name(), sessions = server.load().sessions(), by, "server removed: it is drained");
            inner
                .shared
                .notifier
                .pass_on(&Event::ServerDrained { server: server.name().to_owned(), by: by.to_owned() });
            if let Some(tasks) = inner.tasks_of().get(&id) {
                tasks.watch.stop();
            }
            inner.addresses_changed();
            inner.shared.advertised_info.servers_changed();
            inner.end_sessions(server);
        }
        removed
    }
}

/// Where weir's own connections go: to the servers that there are, and to the name that they are discovered by.
/// That leads to some of them even after all have moved.
pub fn addresses(shared: &Shared, discover: Option<&DiscoverConfig>) -> Vec<String> {
    let stay = shared.servers.iter().filter(|server| server.drain() != Drain::Leaves);
    let name = discover.and_then(DiscoverConfig::address);
    stay.map(|server| server.address().to_owned()).chain(name.map(str::to_owned)).collect()
}

/// The sessions of a server that is drained end within this time.
fn spread(config: &Config) -> Duration {
    config.lame_duck_duration.saturating_sub(config.lame_duck_grace_period)
}

impl Inner {
    fn tasks_of(&self) -> MutexGuard<'_, HashMap<ServerId, ServerTasks>> {
        self.tasks_of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts what watches a server.
    fn watch(&self, server: &Arc<Server>) -> ServerTasks {
        let (watch, closed) = (self.tasks.child(), self.tasks.child());
        let (asked, all, access) = (Arc::clone(server), Arc::clone(&self.shared), self.access.clone());
        closed.spawn("closed connections", move |stop| {
            let (info, sessions) = (Arc::clone(&all.advertised_info), Arc::clone(&all.sessions));
            cluster::watch_closed_connections(Arc::clone(&asked), info, access.clone(), sessions, stop)
        });
        let (watched, all, access) = (Arc::clone(server), Arc::clone(&self.shared), self.access.clone());
        let (interval, compatibility) = (self.poll_interval, self.compatibility);
        watch.spawn("server watch", move |stop| {
            let info = Arc::clone(&all.advertised_info);
            cluster::watch(Arc::clone(&watched), info, interval, compatibility, access.clone(), stop)
        });
        ServerTasks { watch, closed, drain: None }
    }

    /// Ends the sessions of a server that has just been drained, or removed.
    fn end_sessions(self: &Arc<Self>, server: &Arc<Server>) {
        let draining = self.tasks.child();
        let (inner, drained) = (Arc::clone(self), Arc::clone(server));
        draining.spawn("server drain", move |stop| {
            let (inner, server) = (Arc::clone(&inner), Arc::clone(&drained));
            async move {
                tokio::select! {
                    () = inner.drain(&server) => {}
                    () = stop.cancelled() => return,
                }
                // What was drained for a while ends with the drain.
                stop.cancelled().await;
            }
        });
        if let Some(tasks) = self.tasks_of().get_mut(&server.id()) {
            tasks.drain.replace(draining).iter().for_each(Supervisor::stop);
        }
    }

    async fn drain(&self, server: &Arc<Server>) {
        let began = Instant::now();
        self.mover.evacuate(server, MoveCause::Drain, **self.spread.load()).await;
        // A login that was under way ends as soon as it is a session.
        while server.load().held() > 0 {
            sleep(LOOK_AGAIN).await;
        }
        match server.drain() {
            Drain::Off => {}
            Drain::Drained => {
                info!(server = server.name(), took = ?began.elapsed(), "server is drained: no sessions left")
            }
            Drain::Leaves => self.forget(server).await,
        }
    }

    /// The last session of a removed server has ended.
    async fn forget(&self, server: &Server) {
        while !self.shared.servers.forget(server.id()) {
            sleep(LOOK_AGAIN).await;
        }
        info!(server = server.name(), address = server.address(), "server has gone");
        if let Some(tasks) = self.tasks_of().remove(&server.id()) {
            tasks.closed.stop();
            // This task too.
            tasks.drain.iter().for_each(Supervisor::stop);
        }
    }

    /// The connections to the system account and to the fleet may be made to the servers that there are now, and to no
    /// other.
    fn addresses_changed(&self) {
        let addresses = addresses(&self.shared, self.discover.as_ref());
        if addresses.is_empty() {
            return;
        }
        self.addresses.send_replace(addresses.clone());
        if let Some(fleet) = &self.fleet {
            fleet.set_addresses(addresses.clone());
        }
        if let Some(system) = &self.access.system {
            system.set_addresses(addresses);
        }
    }
}
