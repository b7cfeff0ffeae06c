//! The servers of the cluster: their load, their health, and which one a new client goes to.
//!
//! [`Servers::place`] reads every server's lock-free [`snapshot`] and counters ([`load`]), lets [`placement`] choose,
//! and reserves a [`Slot`]. What a server is given at a time follows from how long its handshakes take
//! ([`concurrency`]).

mod addresses;
mod auth_mode;
mod changes;
mod cluster_name;
mod compatibility;
pub mod concurrency;
mod counters;
mod dial_time;
mod discovered;
mod endpoint;
mod fleet_pace;
mod health;
mod id;
pub mod leafnode_port;
pub mod leaky_bucket;
mod load;
mod login_health;
mod names;
mod own_connection;
mod params;
mod pause;
mod peers;
pub mod placement;
mod process;
mod reading;
pub mod reconciled_count;
mod remembered;
mod server;
mod shared_slots;
#[cfg(test)]
mod simulation;
mod slot;
mod snapshot;
mod staggered_close;
mod unseen;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};

use crate::{
    outcome::Refusal,
    protocol::MAX_CONTROL_LINE,
    upstream::{
        cluster_name::ClusterName,
        placement::{Choice, Tier, View},
        snapshot::TimeOrigin,
        staggered_close::StaggeredClose,
        unseen::Unseen,
    },
};

pub use self::{
    addresses::Addresses,
    changes::Drained,
    compatibility::Compatibility,
    concurrency::login_speed::LoginSpeed,
    counters::{BOUNDS, Times},
    discovered::{Change as DiscoveredChange, Discovered, MOST_DISCOVERED},
    endpoint::{Endpoint, Monitor, Port, by_turns},
    fleet_pace::{FleetPace, NextClient},
    id::ServerId,
    login_health::LoginFailure,
    own_connection::OwnConnection,
    params::{Params, Reserve, ServerParams, WebSocketAddress},
    placement::Urgency,
    reading::Reading,
    remembered::RememberedServers,
    server::{InfoKind, InfoWhen, Server, drain::Drain, leased::Around, standing::Standing, told_to_go::StillAccepts},
    slot::Slot,
};

/// No CONNECT is longer than this, in bytes.
const LONGEST_CONNECT: usize = 1024 * 1024;

/// The pace of a cluster of which nothing is known, in clients per second.
const UNKNOWN_PACE: f64 = 1000.0;

/// The outcome of a placement.
#[derive(Debug)]
pub enum Placement {
    /// A slot has been reserved.
    Placed(Slot),
    /// There is room, but not now: the server that the client should go to is at its handshake limit.
    Busy,
    /// No server has room.
    Full,
}

/// The servers at one moment. To be dropped before the next `.await`: it is one of a few for each thread.
pub type ServerList = Guard<Arc<Vec<Arc<Server>>>>;

/// All servers of the cluster. They may come and go ([`changes`]): whoever looks takes the list of that moment, without
/// a lock.
#[derive(Debug)]
pub struct Servers {
    list: ArcSwap<Vec<Arc<Server>>>,
    /// How many are in the list; each server has it too.
    listed: Arc<AtomicUsize>,
    /// How many have been forgotten.
    forgotten: AtomicU64,
    /// Held while the list changes, with the id of the server that is added next.
    next_id: Mutex<ServerId>,
    /// The cluster as configured, without its servers.
    params: Params,
    /// Whether leafnodes come through weir.
    counts_leafnodes: AtomicBool,
    /// Whether all clients use the WebSocket ports.
    only_websocket: AtomicBool,
    origin: TimeOrigin,
    staggered_close: Mutex<StaggeredClose>,
    unseen: Unseen,
    /// The pace that weir shares, where it is one of a fleet; each server has it too.
    fleet: Arc<OnceLock<Arc<FleetPace>>>,
}

/// The list.
impl Servers {
    /// The cluster as configured; nothing is known about it yet.
    pub fn new(params: &Params) -> Self {
        let common = Params { servers: Vec::new(), ..params.clone() };
        let servers = Self {
            list: ArcSwap::default(),
            listed: Arc::default(),
            forgotten: AtomicU64::new(0),
            next_id: Mutex::new(ServerId::from_raw(0)),
            staggered_close: Mutex::new(StaggeredClose::new(common.close_spread)),
            fleet: Arc::default(),
            params: common,
            counts_leafnodes: AtomicBool::new(false),
            only_websocket: AtomicBool::new(params.only_websocket),
            origin: TimeOrigin::default(),
            unseen: Unseen::default(),
        };
        for one in &params.servers {
            servers.add(one.clone());
        }
        servers
    }

    /// Every server, in the order in which they came: that of the configuration at first.
    pub fn list(&self) -> ServerList {
        self.list.load()
    }

    /// The same, to be kept across an `.await`.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Server>> + use<> {
        let list = self.list.load_full();
        (0..list.len()).map_while(move |n| list.get(n).cloned())
    }

    /// The server with this id, unless it has gone.
    pub fn get(&self, id: ServerId) -> Option<Arc<Server>> {
        self.list().iter().find(|server| server.id() == id).cloned()
    }

    /// Whether leafnodes come through weir: then those of each server count beside its connections.
    pub fn count_leafnodes(&self, count: bool) {
        self.counts_leafnodes.store(count, Relaxed);
        self.list().iter().for_each(|server| server.leafnode().count(count));
    }

    /// Whether all clients of weir use the servers' WebSocket ports from now on.
    pub fn use_only_websockets(&self, only: bool) {
        self.only_websocket.store(only, Relaxed);
        self.list().iter().for_each(|server| server.use_only_websocket(only));
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.listed.load(Relaxed)
    }

    /// Whether weir hears from any server in which account it has put a client.
    pub fn tell_accounts(&self) -> bool {
        self.list().iter().any(|server| server.tells_accounts())
    }

    /// Whether there is no server.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Every server of a list as placement sees it.
fn views<'a>(
    list: &'a [Arc<Server>],
    origin: &TimeOrigin,
    now: Instant,
) -> impl Iterator<Item = View> + Clone + use<'a> {
    let timestamp = origin.timestamp(now);
    list.iter().map(move |server| server.view_at(timestamp, now))
}

/// Placement.
impl Servers {
    /// Reserves a slot on the server with the lowest share of those that the client has not `tried`.
    pub fn place(&self, now: Instant, tried: &[ServerId], urgency: Urgency, rng: &mut fastrand::Rng) -> Placement {
        self.place_unless(now, |id, _| tried.contains(&id), urgency, rng)
    }

    /// The same among the servers that are as they should be.
    pub fn place_well(&self, now: Instant, tried: &[ServerId], urgency: Urgency, rng: &mut fastrand::Rng) -> Placement {
        self.place_unless(now, |id, view| view.tier != Tier::Eligible || tried.contains(&id), urgency, rng)
    }

    fn place_unless(
        &self,
        now: Instant,
        is_excluded: impl Fn(ServerId, &View) -> bool + Copy,
        urgency: Urgency,
        rng: &mut fastrand::Rng,
    ) -> Placement {
        let list = self.list();
        let views = list.iter().zip(views(&list, &self.origin, now)).map(move |(server, mut view)| {
            if is_excluded(server.id(), &view) {
                view.tier = Tier::Excluded;
            }
            view
        });
        let Some(unseen) = self.unseen.factors() else { return Self::place_among(&list, views, now, urgency, rng) };
        let seed = rng.u64(..);
        let views = list.iter().enumerate().zip(views);
        let views = views.map(|((at, server), view)| unseen.add(view, at, server, seed));
        Self::place_among(&list, views, now, urgency, rng)
    }

    /// Reserves a slot on one of the servers of `list`, as `views` show them.
    fn place_among(
        list: &[Arc<Server>],
        views: impl Iterator<Item = View> + Clone,
        now: Instant,
        urgency: Urgency,
        rng: &mut fastrand::Rng,
    ) -> Placement {
        // Another worker may take the last slot between the choice and the reservation. Each time that happens,
        // somebody else got in.
        for _ in 0..8 {
            match placement::choose(views.clone(), urgency, rng) {
                Choice::Busy => return Placement::Busy,
                Choice::Full => return Placement::Full,
                Choice::Server(index) => {
                    if let Some(slot) = Slot::reserve(&list[index], now) {
                        return Placement::Placed(slot);
                    }
                }
            }
        }
        Placement::Busy
    }

    /// Takes a slot on the server that a client should go to of those that it has not `tried`, whether that has room or
    /// not. `None` where there is no server to which a client may go at all.
    pub fn place_over(&self, now: Instant, tried: &[ServerId], rng: &mut fastrand::Rng) -> Option<Slot> {
        let list = self.list();
        let views = list.iter().zip(views(&list, &self.origin, now)).enumerate();
        let views = views.filter(|(_, (server, _))| !tried.contains(&server.id()));
        let views = views.map(|(index, (server, view))| (index, view, server.is_only_full(now)));
        Slot::over(&list[placement::choose_over(views, rng)?], now)
    }

    /// Takes a slot of the reserve, for a client that claims the system account.
    pub fn place_in_reserve(&self, now: Instant, rng: &mut fastrand::Rng) -> Option<Slot> {
        let list = self.list();
        let views = list.iter().zip(views(&list, &self.origin, now));
        let views = views.map(|(server, view)| View { ceiling: server.load().capacity(), ..view });
        match placement::choose(views, Urgency::Urgent, rng) {
            Choice::Server(index) => Slot::from_reserve(&list[index]),
            Choice::Busy | Choice::Full => None,
        }
    }

    /// How many clients the servers that may be used could take now, busy or not.
    pub fn headroom(&self, now: Instant) -> u32 {
        placement::headroom(views(&self.list(), &self.origin, now))
    }

    /// Whether any server could take a client now, busy or not.
    pub fn has_headroom(&self, now: Instant) -> bool {
        self.headroom(now) > 0
    }

    /// Whether a new client may be served now. Servers that cannot be read count, since clients are sent there where
    /// there are no others, and full ones do: a client waits there, or is told in words.
    pub fn any_reachable(&self, now: Instant) -> bool {
        self.list().iter().any(|server| server.is_reachable(now))
    }

    /// Why there is no server for a client: none can be used, or all that can be are full.
    pub fn no_room(&self, now: Instant) -> Refusal {
        if self.can_use_none(now) { Refusal::NoServer } else { Refusal::ServerCapacity }
    }

    /// The same for a client of this port, which may be the one that is missing: `reason` is why it has no server.
    pub fn lacks_port(&self, port: Port, reason: Refusal, now: Instant) -> Refusal {
        let list = self.list();
        match (reason, port) {
            (Refusal::ServerCapacity | Refusal::HoldExpired, Port::Leafnode)
                if list.iter().all(|server| server.leafnode().endpoint().is_none()) =>
            {
                Refusal::NoLeafnodePort
            }
            (Refusal::ServerCapacity, _) if !list.iter().any(|server| server.port_answers(port, now)) => {
                Refusal::NoServer
            }
            (reason, _) => reason,
        }
    }

    /// Whether no server can be used.
    pub fn can_use_none(&self, now: Instant) -> bool {
        !self.any_reachable(now)
    }

    /// Judges the servers whose cluster's name does not fit by what all of them say. To be called now and then.
    pub fn judge_cluster_names(&self, now: Instant) {
        let list = self.list();
        if list.iter().any(|server| server.cluster_name().1) {
            let all: Vec<_> = list.iter().map(|server| server.voter(now)).collect();
            list.iter().for_each(|server| server.judge_cluster_name(&all));
        }
    }

    /// The servers by the names of their clusters, in words, where there are several and the configuration names none.
    pub fn several_clusters(&self) -> Option<String> {
        let (list, mut clusters) = (self.list(), BTreeMap::<_, Vec<_>>::new());
        for server in list.iter() {
            if let (Some(name), false) = server.cluster_name() {
                clusters.entry(name).or_default().push(server.name());
            }
        }
        if clusters.len() < 2 || list.iter().any(|server| server.has_configured_cluster()) {
            return None;
        }
        let words = |(name, servers): (&ClusterName, &Vec<&str>)| {
            format!("{} ({})", name.as_deref().unwrap_or("none"), servers.join(", "))
        };
        Some(clusters.iter().map(words).collect::<Vec<_>>().join(", "))
    }

    /// How many servers weir should have a fresh reading of, and has none.
    pub fn without_reading(&self, now: Instant) -> usize {
        self.list().iter().filter(|server| server.lacks_reading(now)).count()
    }
}

/// What the servers have in common: the system account, and limits of the protocol.
impl Servers {
    /// Whether this is the name of the system account.
    pub fn is_system_account(&self, account: &str) -> bool {
        self.list().iter().any(|server| server.is_system_account(account))
    }

    /// When a reading has last shown that the configuration of a server is another one than before: users may be in
    /// other accounts since.
    pub fn reconfigured_at(&self) -> Option<Instant> {
        self.list().iter().filter_map(|server| server.reconfigured_at()).max()
    }

    /// The longest argument of a control line that any server accepts, in bytes: a client is placed on one that accepts
    /// its CONNECT. What weir reads of a client before that is bounded, whatever a server says.
    pub fn max_control_line(&self) -> usize {
        let of = |server: &Arc<Server>| match server.max_control_line() {
            usize::MAX => MAX_CONTROL_LINE,
            told => told,
        };
        self.list().iter().map(of).max().unwrap_or(MAX_CONTROL_LINE).min(LONGEST_CONNECT)
    }

    /// The longest that any server waits for CONNECT: a client may be placed on any of them. At least nats-server's own
    /// default.
    pub fn auth_timeout(&self, port: Port) -> Duration {
        self.list().iter().map(|server| server.auth_timeout(port)).fold(server::DEFAULT_AUTH_TIMEOUT, Duration::max)
    }
}

/// Closing the clients of servers that die.
impl Servers {
    /// How long to wait before the client of a session that its server has ended is closed. `pace` is how many clients
    /// the cluster takes in a second, where that is known.
    pub fn close_delay(&self, now: Instant, pace: Option<f64>, rng: &mut fastrand::Rng) -> Duration {
        let pace = self.pace_of_closes(now, pace);
        self.staggered_close.lock().unwrap_or_else(PoisonError::into_inner).delay(now, pace, rng)
    }

    /// How many clients may be closed in a second so that the cluster takes them back as they come. `pace` is how many
    /// it takes, where that is known.
    pub fn pace_of_closes(&self, now: Instant, pace: Option<f64>) -> f64 {
        pace.or_else(|| self.logins_per_second(now)).unwrap_or(UNKNOWN_PACE).clamp(1.0, 1e6)
    }

    /// A lower bound of the logins that the usable servers can take in a second; `None` before the first login.
    fn logins_per_second(&self, now: Instant) -> Option<f64> {
        let list = self.list();
        let usable = list.iter().filter(|server| server.is_up(now));
        usable.filter_map(|server| server.logins_per_second()).reduce(|sum, one| sum + one)
    }
}
