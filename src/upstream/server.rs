//! One nats-server as weir knows it: its counters, its health, its readings, and what placement sees of them.

mod dialled;
pub(super) mod drain;
mod handshakes;
pub(super) mod leased;
mod over;
pub(super) mod remembered;
mod shared;
pub(super) mod standing;
mod told;
pub(super) mod told_to_go;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;

use crate::{
    protocol::info::Info,
    upstream::{
        auth_mode::AuthMode,
        cluster_name::Membership,
        concurrency::{
            limit::{self, ConcurrencyLimit},
            login_speed::{LoginSpeed, SpeedComparison},
        },
        counters::ServerCounters,
        dial_time::DialTime,
        endpoint::{Endpoint, Monitor, Port},
        fleet_pace::FleetPace,
        health::{Health, HealthStatus},
        id::ServerId,
        leafnode_port::LeafnodePort,
        load::Load,
        login_health::LoginHealth,
        names::Names,
        params::{Params, Reserve, ServerParams},
        placement::{Tier, View},
        process::Process,
        reading::Reading,
        server::{drain::Drain, leased::SlotLease, shared::SharedState, told_to_go::ToldToGo},
        snapshot::{AtomicSnapshot, Snapshot, TimeOrigin, Timestamp},
    },
};

/// nats-server's own default for `max_connections` (`DEFAULT_MAX_CONNECTIONS`, const.go): assumed until a reading says
/// otherwise.
const DEFAULT_MAX_CONNECTIONS: u32 = 65_536;
/// No configured cap.
const NO_CAP: u32 = u32::MAX;
/// nats-server's own default for `auth_timeout` (`AUTH_TIMEOUT`, const.go).
pub(super) const DEFAULT_AUTH_TIMEOUT: Duration = Duration::from_secs(2);
/// What is longer counts as this, so that a wrong reading does not keep silent connections for ever.
const LONGEST_AUTH_TIMEOUT: Duration = Duration::from_secs(60);
/// In slow start the handshake limit is at most this on a server that has just started, and rises from there.
const INITIAL_SLOW_START_LIMIT: u32 = 16;
/// A server that has said `maximum connections exceeded` gets no clients for this long: about the time to the next
/// reading.
const FULL_FOR: Duration = Duration::from_secs(1);
/// The span over which nats-server counts connections for `connection_rate_limit` (rate_counter.go). A server that has
/// said that it is throttled does no handshake for so long.
const THROTTLED_FOR: Duration = Duration::from_secs(1);
/// A lame duck is left alone for this long, nats-server's own default for `lame_duck_duration`; then a client tries it.
/// Mostly another process has been seen at its address before that.
const LAME_DUCK_FOR: Duration = Duration::from_secs(120);
/// The log is told of an INFO that weir does not understand at most once in this time, for each server.
const TELL_OF_INFO_EVERY: Duration = Duration::from_secs(60);
/// A reading that has been old for this long says nothing any more: whoever filled the server may have left.
const FORGET_OLD_READING_AFTER: Duration = Duration::from_secs(60);

/// Which of a server's INFOs one is: the next of the same kind is mostly the same.
#[derive(Debug, Clone, Copy)]
pub struct InfoKind {
    pub port: Port,
    pub when: InfoWhen,
}

/// When a server sends an INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoWhen {
    /// It opens a connection.
    Opens,
    /// It follows the first PONG.
    BehindPong,
    /// It comes in a session, to all clients when something has changed.
    InSession,
}

impl InfoKind {
    /// How many there are of one port.
    const OF_PORT: usize = 3;
    const COUNT: usize = Self::OF_PORT * Port::COUNT;

    fn index(self) -> usize {
        self.when as usize + Self::OF_PORT * self.port as usize
    }
}

/// A server's WebSocket port.
#[derive(Debug)]
pub struct WebSocketPort {
    pub endpoint: Endpoint,
    /// Whether it speaks TLS.
    pub secure: bool,
}

#[derive(Debug, Default)]
struct State {
    health: Health,
    login_health: LoginHealth,
    /// Of the WebSocket port, where other clients use the client port.
    websocket_health: Health,
    /// Of the leafnode port.
    leafnode_health: Health,
    read_at: Option<Instant>,
    last_reading: Option<Reading>,
    /// See [`Reading::config`], and when a reading has last shown another one than before.
    config: String,
    reconfigured_at: Option<Instant>,
    full_until: Option<Instant>,
    throttled_until: Option<Instant>,
    lame_duck_until: Option<Instant>,
    told_to_go: ToldToGo,
    process: Process,
    membership: Membership,
    drain: Drain,
    /// Several servers answer: [`Process::is_one_of_several`] when that was last asked.
    is_several: bool,
    /// How many times another process has taken the place of the one before.
    restarts: u64,
    /// When the log was last told of an INFO that was not understood.
    info_error_told: Option<Instant>,
    concurrency_limit: ConcurrencyLimit,
    speed: SpeedComparison,
    /// Where weir is one of a fleet.
    shared: Option<Box<SharedState>>,
}

/// A server: its configuration, its counters, and what is known of it.
#[derive(Debug)]
pub struct Server {
    id: ServerId,
    endpoint: Endpoint,
    websocket: Option<WebSocketPort>,
    /// The leafnode port, once it is known.
    leafnode: LeafnodePort,
    only_websocket: AtomicBool,
    monitor: ArcSwapOption<Monitor>,
    /// The configured cap; [`NO_CAP`] is none.
    max_connections: AtomicU32,
    reserve: Reserve,
    slow_start: Duration,
    stale_after: Duration,
    read_over_system_account: bool,
    /// The configured names of the clusters that the servers belong to.
    cluster_names: Vec<Box<str>>,
    /// How many servers there are: one alone has no other whose cluster it could differ from.
    listed: Arc<AtomicUsize>,
    names: Names,
    counters: ServerCounters,
    system_account: ArcSwapOption<String>,
    auth_mode: AuthMode,
    load: Load,
    /// By its last reading; `usize::MAX` while unknown.
    max_control_line: AtomicUsize,
    /// By its last reading, in milliseconds; 0 while unknown.
    auth_timeout_ms: AtomicU64,
    /// The same at the WebSocket port; 0 while unknown, and where it is the same.
    websocket_auth_timeout_ms: AtomicU64,
    /// The same at the leafnode port; 0 while unknown.
    leafnode_auth_timeout_ms: AtomicU64,
    /// What its ports say of it to those who are about to dial, by [`Port`].
    port_infos: [ArcSwapOption<Info>; Port::COUNT],
    /// The last INFO of each kind.
    infos: [ArcSwapOption<Info>; InfoKind::COUNT],
    /// INFO lines that were not understood in full.
    info_errors: AtomicU64,
    /// By [`Port`].
    dial_times: [DialTime; Port::COUNT],
    /// Dials of the port that most clients use have failed since the last answer.
    dials_have_failed: AtomicBool,
    origin: TimeOrigin,
    /// What placement reads of `state`.
    snapshot: AtomicSnapshot,
    /// Changed by [`Server::change`] only, so that `snapshot` follows.
    state: Mutex<State>,
    /// It was asked for a reading and gave none.
    reading_failed: AtomicBool,
    /// See [`Server::may_get_credentials_first`].
    plain_info_seen: AtomicBool,
    /// See [`Server::limits_its_rate`].
    has_throttled: AtomicBool,
    /// See [`Server::refuses_proxy_header`].
    refuses_proxy_header: AtomicBool,
    /// Whether its `drain` is on: readable without the lock.
    is_draining: AtomicBool,
    /// The pace that weir shares, where it is one of a fleet.
    fleet: Arc<OnceLock<Arc<FleetPace>>>,
    /// How many handshakes weir may have under way beside those of the other weirs; `u32::MAX` where it is in no fleet.
    allowance: AtomicU32,
    /// What it may have of the slots, where weir is one of a fleet.
    slots: SlotLease,
}

/// Construction and the state behind the lock.
impl Server {
    /// `listed` is how many servers there are; `fleet` is the pace that weir shares.
    pub fn new(
        id: ServerId,
        params: ServerParams,
        cluster: &Params,
        origin: TimeOrigin,
        (listed, fleet): (Arc<AtomicUsize>, Arc<OnceLock<Arc<FleetPace>>>),
    ) -> Self {
        let capacity = params.max_connections.unwrap_or(DEFAULT_MAX_CONNECTIONS);
        let server = Self {
            id,
            endpoint: Endpoint::new(params.address, cluster.source_addresses.clone()),
            websocket: params.websocket.map(|port| WebSocketPort {
                endpoint: Endpoint::new(port.address, cluster.source_addresses.clone()),
                secure: port.secure,
            }),
            leafnode: LeafnodePort::new(params.leafnode, cluster),
            only_websocket: AtomicBool::new(cluster.only_websocket),
            monitor: ArcSwapOption::new(params.monitor.map(|url| Arc::new(Monitor::new(url)))),
            max_connections: AtomicU32::new(params.max_connections.unwrap_or(NO_CAP)),
            reserve: cluster.reserve,
            slow_start: cluster.slow_start,
            // Two polls may be lost, or be slow, before a reading counts as old.
            stale_after: cluster.poll_interval * 3 + Duration::from_secs(1),
            read_over_system_account: cluster.system,
            cluster_names: cluster.cluster_names.clone(),
            listed,
            names: Names::new(params.name),
            counters: ServerCounters::default(),
            system_account: ArcSwapOption::empty(),
            auth_mode: AuthMode::default(),
            load: Load::new(capacity, cluster.reserve.ceiling(capacity)),
            max_control_line: AtomicUsize::new(usize::MAX),
            auth_timeout_ms: AtomicU64::new(0),
            websocket_auth_timeout_ms: AtomicU64::new(0),
            leafnode_auth_timeout_ms: AtomicU64::new(0),
            port_infos: Default::default(),
            infos: Default::default(),
            info_errors: AtomicU64::new(0),
            dial_times: Default::default(),
            dials_have_failed: AtomicBool::new(false),
            origin,
            snapshot: AtomicSnapshot::default(),
            state: Mutex::default(),
            reading_failed: AtomicBool::new(false),
            plain_info_seen: AtomicBool::new(false),
            has_throttled: AtomicBool::new(false),
            refuses_proxy_header: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            fleet,
            allowance: AtomicU32::new(u32::MAX),
            slots: SlotLease::default(),
        };
        server.forget_capacity();
        server.change(|_| ());
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements, so a panic elsewhere while it was locked spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and updates the snapshot for placement.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let changed = change(&mut state);
        self.snapshot.store(self.snapshot_of(&state));
        let have_failed = state.health.has_failed();
        if self.dials_have_failed.load(Relaxed) != have_failed {
            self.dials_have_failed.store(have_failed, Relaxed);
        }
        self.is_draining.store(state.drain != Drain::Off, Relaxed);
        changed
    }

    fn snapshot_of(&self, state: &State) -> Snapshot {
        let timestamp = |at: Option<Instant>| at.map_or(Timestamp::LONG_AGO, |at| self.origin.timestamp(at));
        Snapshot {
            excluded_until: match (state.membership.is_stranger(), state.drain) {
                (true, _) => Timestamp::NEVER,
                (false, Drain::Off) => timestamp(state.full_until.max(state.lame_duck_until)),
                (false, Drain::Drained | Drain::Leaves) => Timestamp::UNTIL_UNDRAINED,
            },
            ejected_until: timestamp(state.health.ejected_until()),
            logins_failing_until: timestamp(state.login_health.failing_until()),
            stale_from: match state.read_at {
                _ if !self.has_readings() || state.is_several => Timestamp::NEVER,
                None => Timestamp::LONG_AGO,
                Some(at) => self.origin.timestamp(at + self.stale_after).just_after(),
            },
            slow_start_until: timestamp(self.slow_start_until(state)),
            frees_up_soon_until: timestamp(state.concurrency_limit.frees_up_soon_until()),
            throttled_until: timestamp(state.throttled_until),
            handshake_limit: state.concurrency_limit.limit(),
            login_speed: state.speed.speed(),
            login_speed_until: timestamp(state.speed.known_until()),
        }
    }
}

/// Who and where it is.
impl Server {
    /// What tables know it by.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// Its name in logs and metrics: the configured one, else its own once known, else its address.
    pub fn name(&self) -> &str {
        self.names.last().unwrap_or(self.endpoint.address())
    }

    /// What weir has counted of it.
    pub fn counters(&self) -> &ServerCounters {
        &self.counters
    }

    /// The last INFO of this port, as dials have shown it. The counterpart of [`Server::parse_info`]: only what led to
    /// new words for clients is kept here.
    pub fn port_info(&self, port: Port) -> &ArcSwapOption<Info> {
        &self.port_infos[port as usize]
    }

    /// `host:port` of the client port.
    pub fn address(&self) -> &str {
        self.endpoint.address()
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The WebSocket port, if weir uses it.
    pub fn websocket(&self) -> Option<&WebSocketPort> {
        self.websocket.as_ref()
    }

    /// The leafnode port.
    pub fn leafnode(&self) -> &LeafnodePort {
        &self.leafnode
    }

    /// The monitoring URL, and where it leads, if there is one.
    pub fn monitor(&self) -> Option<Arc<Monitor>> {
        self.monitor.load_full()
    }
}

/// What placement sees of it.
impl Server {
    /// Its counters.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Whether a client may be sent there now.
    pub fn is_up(&self, now: Instant) -> bool {
        self.view(now).tier == Tier::Eligible
    }

    /// Whether a client that is sent there may be served, full or not: it has answered the last dial, and is not in
    /// lame duck mode.
    pub fn is_reachable(&self, now: Instant) -> bool {
        let state = self.state();
        let is_lame_duck = state.lame_duck_until.is_some_and(|until| now < until);
        let is_used = state.drain == Drain::Off && !state.membership.is_stranger();
        !is_lame_duck && is_used && state.health.status(now) == HealthStatus::Up
    }

    /// How old its last reading is; `None` before the first one.
    pub fn reading_age(&self, now: Instant) -> Option<Duration> {
        self.state().read_at.map(|at| now.saturating_duration_since(at))
    }

    /// Whether weir should have a fresh reading of it, and has none.
    pub fn lacks_reading(&self, now: Instant) -> bool {
        self.has_readings() && self.reading_age(now).is_none_or(|age| age > self.stale_after)
    }

    pub fn view(&self, now: Instant) -> View {
        self.view_at(self.origin.timestamp(now), now)
    }

    /// The view at `now`, whose `timestamp` the caller has computed once for all servers.
    #[inline]
    pub fn view_at(&self, timestamp: Timestamp, now: Instant) -> View {
        let snapshot = self.snapshot.load();
        let in_slow_start = timestamp < snapshot.slow_start_until;
        // A trial is not shared.
        let is_trial_due = snapshot.is_trial_due(timestamp);
        let allowance = if is_trial_due { u32::MAX } else { self.allowance.load(Relaxed) };
        View {
            tier: snapshot.tier(timestamp),
            projected: self.load.projected(),
            ceiling: self.load.ceiling(),
            handshakes: if is_trial_due { 0 } else { self.load.handshakes() },
            // Who waits for a lease waits as for a busy server.
            handshake_limit: if timestamp < snapshot.throttled_until || self.slots.is_used_up(now) {
                0
            } else if in_slow_start {
                self.slow_start_limit(now).min(allowance)
            } else {
                snapshot.handshake_limit.min(allowance)
            },
            frees_up_soon: timestamp < snapshot.frees_up_soon_until,
            login_speed: self.login_speed(&snapshot, timestamp),
        }
    }

    #[inline]
    fn login_speed(&self, snapshot: &Snapshot, now: Timestamp) -> LoginSpeed {
        // While somebody finds out, the others go by what was known before.
        let is_known = now < snapshot.login_speed_until || self.load.under_way() > 0;
        if is_known { snapshot.login_speed } else { LoginSpeed::Untried }
    }

    #[cold]
    fn slow_start_limit(&self, now: Instant) -> u32 {
        self.handshake_limit(&self.state(), now)
    }

    /// The handshake limit with slow start: a server that has just come up is warming caches and routes while every new
    /// client would go to it, since it is the emptiest. Until it is `slow_start` old, its handshakes in flight are
    /// limited further, so that it fills steadily.
    fn handshake_limit(&self, state: &State, now: Instant) -> u32 {
        if state.throttled_until.is_some_and(|until| now < until) {
            return 0;
        }
        let limit = state.concurrency_limit.limit();
        let (Some(read_at), Some(last)) = (state.read_at, &state.last_reading) else { return limit };
        let age = last.uptime.saturating_add(now.saturating_duration_since(read_at));
        if age >= self.slow_start {
            return limit;
        }
        let part = age.as_secs_f64() / self.slow_start.as_secs_f64();
        limit.min(INITIAL_SLOW_START_LIMIT + (f64::from(limit::MAX_LIMIT - INITIAL_SLOW_START_LIMIT) * part) as u32)
    }

    /// When slow start is over; `None` if it was over at the last reading.
    fn slow_start_until(&self, state: &State) -> Option<Instant> {
        let (read_at, last) = (state.read_at?, state.last_reading.as_ref()?);
        Some(read_at + self.slow_start.checked_sub(last.uptime)?)
    }
}

#[cfg(test)]
mod tests;
