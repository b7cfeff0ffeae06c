//! One nats-server as weir knows it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::{
    protocol::info::{Info, InfoError},
    upstream::{
        Params, Reserve, ServerParams, Slot,
        concurrency::limit::{self, ConcurrencyLimit},
        health::{Health, Standing},
        load::{Load, ReadingEpoch},
        placement::{Tier, View},
        snapshot::{Epoch, Moment, Shown, Sight},
    },
};

/// nats-server's own default for `max_connections` (`DEFAULT_MAX_CONNECTIONS`, const.go): assumed until a reading says otherwise.
const DEFAULT_MAX_CONNECTIONS: u32 = 65_536;
/// Where the limit of handshakes in flight begins on a server that has just started, whatever it can do.
const FIRST_HANDSHAKE_LIMIT: u32 = 16;
/// nats-server's own default for `auth_timeout` (`AUTH_TIMEOUT`, const.go).
const DEFAULT_AUTH_TIMEOUT: Duration = Duration::from_secs(2);
/// After `maximum connections exceeded` the server is full by its own word for this long: about the time to the next reading.
const FULL_FOR: Duration = Duration::from_secs(1);

/// What a server said of itself (`VARZ`).
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The name the server gives itself.
    pub server_name: String,
    /// Its version.
    pub version: String,
    /// Clients it counts now.
    pub connections: u32,
    /// Its own limit; `None` is no limit.
    pub max_connections: Option<u32>,
    /// Its limit for the argument of one control line, CONNECT's included, in bytes.
    pub max_control_line: Option<usize>,
    /// How long it waits for CONNECT, from its accept.
    pub auth_timeout: Option<Duration>,
    /// When it started, in its own words: another value is another process.
    pub start: String,
    /// For how long it has been running.
    pub uptime: Duration,
    /// The system account, where it has one.
    pub system_account: Option<String>,
    /// CPU that its process used in its last second; 1.0 is one core.
    pub cpu: f64,
    /// Cores that it may use; 0 where it does not say.
    pub cores: u32,
}

#[derive(Debug, Default)]
struct State {
    health: Health,
    read_at: Option<Instant>,
    last: Option<Reading>,
    full_until: Option<Instant>,
    lame_duck: bool,
    concurrency_limit: ConcurrencyLimit,
}

/// A server: its configuration, its counters, what is known of it.
#[derive(Debug)]
pub struct Server {
    index: usize,
    params: ServerParams,
    reserve: Reserve,
    slow_start: Duration,
    stale_after: Duration,
    system: bool,
    name: OnceLock<String>,
    /// Where connections to it come from, and whose turn is next.
    sources: Vec<IpAddr>,
    next_source: AtomicUsize,
    system_account: OnceLock<String>,
    load: Load,
    /// By its last reading; `usize::MAX` while unknown.
    max_control_line: AtomicUsize,
    /// Where its address leads, as last looked up.
    resolved: ArcSwap<Vec<SocketAddr>>,
    /// Its last INFO of each kind: the next is the same, mostly.
    infos: [ArcSwapOption<Info>; 2],
    epoch: Epoch,
    /// What placement looks at of `state`.
    sight: Sight,
    /// Changed by [`Server::change`] only.
    state: Mutex<State>,
    /// It was asked for a reading, and gave none.
    gave_none: AtomicBool,
}

impl Server {
    pub fn new(index: usize, params: ServerParams, cluster: &Params, epoch: Epoch) -> Self {
        let capacity = params.max_connections.unwrap_or(DEFAULT_MAX_CONNECTIONS);
        let server = Self {
            index,
            reserve: cluster.reserve,
            slow_start: cluster.slow_start,
            // Two polls may be lost, or be slow, before a reading counts as old.
            stale_after: cluster.poll_interval * 3 + Duration::from_secs(1),
            system: cluster.system,
            name: params.name.clone().map(OnceLock::from).unwrap_or_default(),
            system_account: OnceLock::new(),
            sources: cluster.source_addresses.clone(),
            next_source: AtomicUsize::new(0),
            load: Load::new(capacity, cluster.reserve.ceiling(capacity)),
            max_control_line: AtomicUsize::new(usize::MAX),
            resolved: ArcSwap::from_pointee(params.address.parse().into_iter().collect()),
            infos: Default::default(),
            epoch,
            sight: Sight::default(),
            state: Mutex::default(),
            gave_none: AtomicBool::new(false),
            params,
        };
        server.change(|_| ());
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements, so a panic elsewhere while it was locked spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and shows placement what has come of it.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let changed = change(&mut state);
        self.sight.show(self.shown(&state));
        changed
    }

    fn shown(&self, state: &State) -> Shown {
        let moment = |at: Option<Instant>| at.map_or(Moment::LONG_AGO, |at| self.epoch.moment(at));
        Shown {
            barred_until: if state.lame_duck { Moment::NEVER } else { moment(state.full_until) },
            ejected_until: moment(state.health.ejected_until()),
            stale_from: match state.read_at {
                _ if !self.is_read() => Moment::NEVER,
                None => Moment::LONG_AGO,
                Some(at) => self.epoch.moment(at + self.stale_after).just_after(),
            },
            grown_at: moment(self.grown_at(state)),
            lively_until: moment(state.concurrency_limit.lively_until()),
            handshake_limit: state.concurrency_limit.limit(),
        }
    }

    /// Its place in the configuration.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its name in logs and metrics: the configured one, else its own once known, else its address.
    pub fn name(&self) -> &str {
        self.name.get().unwrap_or(&self.params.address)
    }

    /// `host:port` of the client port.
    pub fn address(&self) -> &str {
        &self.params.address
    }

    /// Where that leads, as last looked up; empty before the first time.
    pub fn resolved(&self) -> Arc<Vec<SocketAddr>> {
        self.resolved.load_full()
    }

    /// Takes over where the address leads now.
    pub fn set_resolved(&self, addresses: Vec<SocketAddr>) {
        if **self.resolved.load() != addresses {
            self.resolved.store(Arc::new(addresses));
        }
    }

    /// The addresses from which `to` may be connected, the one whose turn it is first; none where the kernel is to choose.
    pub fn sources(&self, to: SocketAddr) -> impl Iterator<Item = IpAddr> + use<'_> {
        let turn =
            if self.sources.is_empty() { 0 } else { self.next_source.fetch_add(1, Relaxed) % self.sources.len() };
        let (later, sooner) = self.sources.split_at(turn);
        sooner.iter().chain(later).copied().filter(move |from| from.is_ipv4() == to.is_ipv4())
    }

    /// The longest argument of a control line that it takes, in bytes; `usize::MAX` while unknown.
    pub fn max_control_line(&self) -> usize {
        self.max_control_line.load(Relaxed)
    }

    /// Reads an INFO of its: the one that opens a connection, or the one `after_pong`.
    ///
    /// # Errors
    /// It does not parse.
    pub fn parse_info(&self, json: &[u8], after_pong: bool) -> Result<Info, InfoError> {
        let known = &self.infos[usize::from(after_pong)];
        let before = known.load();
        let info = Info::parse_again(json, before.as_deref())?;
        if !before.as_ref().is_some_and(|before| info.is_recognised_as(before)) {
            known.store(Some(Arc::new(info.clone())));
        }
        Ok(info)
    }

    /// The monitoring URL, where there is one.
    pub fn monitor(&self) -> Option<&str> {
        self.params.monitor.as_deref()
    }

    /// Whether readings of it are to be had.
    pub fn is_read(&self) -> bool {
        self.system || self.params.monitor.is_some()
    }

    /// Whether its first reading is still to be waited for: there may be one, and it has not been asked in vain.
    pub fn may_be_read_soon(&self) -> bool {
        self.is_read() && !self.gave_none.load(Relaxed) && self.state().last.is_none()
    }

    /// It was asked for a reading, and gave none.
    pub fn gave_no_reading(&self) {
        self.gave_none.store(true, Relaxed);
    }

    /// Its counters.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// The last reading, however old.
    pub fn last_reading(&self) -> Option<Reading> {
        self.state().last.clone()
    }

    /// How long it waits for CONNECT, from its accept: by its last reading, else the default.
    pub fn auth_timeout(&self) -> Duration {
        self.state().last.as_ref().and_then(|last| last.auth_timeout).unwrap_or(DEFAULT_AUTH_TIMEOUT)
    }

    /// Whether a client may be sent there now.
    pub fn is_up(&self, now: Instant) -> bool {
        self.view(now).tier == Tier::Eligible
    }

    /// How placement sees it.
    pub fn view(&self, now: Instant) -> View {
        self.view_at(self.epoch.moment(now), now)
    }

    /// The same, where `moment` is known to be `now`.
    #[inline]
    pub fn view_at(&self, moment: Moment, now: Instant) -> View {
        let shown = self.sight.look();
        let handshake_limit = if moment < shown.grown_at { self.limit_while_young(now) } else { shown.handshake_limit };
        View {
            tier: shown.tier(moment),
            projected: self.load.projected(),
            ceiling: self.load.ceiling(),
            handshakes: self.load.handshakes(),
            handshake_limit,
            frees_up_soon: moment < shown.lively_until,
        }
    }

    #[cold]
    fn limit_while_young(&self, now: Instant) -> u32 {
        self.handshake_limit(&self.state(), now)
    }

    /// Slow start: a server that has just come up is warming caches and routes while every new client would go to it, since
    /// it is the emptiest. Its handshakes in flight are limited until it is `slow_start` old, so that it fills steadily.
    fn handshake_limit(&self, state: &State, now: Instant) -> u32 {
        let limit = state.concurrency_limit.limit();
        let (Some(read_at), Some(last)) = (state.read_at, &state.last) else { return limit };
        let age = last.uptime.saturating_add(now.saturating_duration_since(read_at));
        if age >= self.slow_start {
            return limit;
        }
        let grown = age.as_secs_f64() / self.slow_start.as_secs_f64();
        limit.min(FIRST_HANDSHAKE_LIMIT + (f64::from(limit::MOST - FIRST_HANDSHAKE_LIMIT) * grown) as u32)
    }

    /// When slow start is over; `None` where it is, or never was.
    fn grown_at(&self, state: &State) -> Option<Instant> {
        let (read_at, last) = (state.read_at?, state.last.as_ref()?);
        Some(read_at + self.slow_start.checked_sub(last.uptime)?)
    }

    /// A handshake ended with the server's PONG, that `should` not take longer than that.
    pub fn handshake_finished(&self, now: Instant, took: Duration, should: Duration) {
        let in_flight = self.load.handshakes();
        self.change(|state| state.concurrency_limit.finished(now, took, should, in_flight));
    }

    /// Logins a second that it can take at least, by what one has taken lately; `None` while there was none.
    pub fn logins_per_second(&self) -> Option<f64> {
        self.state().concurrency_limit.logins_per_second()
    }

    /// Whether no more than one handshake is under way, so that it takes what it takes alone.
    pub fn is_uncontended(&self) -> bool {
        self.load.handshakes() <= 1
    }

    /// A handshake did not end in time.
    pub fn handshake_timed_out(&self) {
        self.change(|state| state.concurrency_limit.timed_out());
    }

    /// Takes a slot, if one is free and the handshakes in flight allow it.
    pub fn reserve(server: &Arc<Self>, now: Instant) -> Option<Slot> {
        let limit = server.change(|state| match state.health.standing(now) {
            // A trial is one client's at a time.
            Standing::TrialDue => {
                state.health.trial_began(now);
                u32::MAX
            }
            _ => {
                if server.load.handshakes() == 0 {
                    state.concurrency_limit.began(now);
                }
                server.handshake_limit(state, now)
            }
        });
        server.load.reserve(limit).then(|| Slot::new(Arc::clone(server)))
    }

    /// Takes one of the slots that are kept free for the system account.
    pub fn take_from_reserve(server: &Arc<Self>) -> Option<Slot> {
        server.load.take_from_reserve().then(|| Slot::in_lane(Arc::clone(server)))
    }

    /// Whether this is the name of its system account, as far as it has said.
    pub fn is_system_account(&self, account: &str) -> bool {
        self.system_account.get().is_some_and(|name| name == account)
    }

    /// Takes a reading in; `mark` was taken before the poll was sent. Returns whether the server is another process than before.
    pub fn read(&self, now: Instant, mark: ReadingEpoch, reading: Reading) -> bool {
        let own = reading.max_connections.unwrap_or(u32::MAX);
        let capacity = self.params.max_connections.map_or(own, |cap| cap.min(own));
        self.load.set_capacity(capacity, self.reserve.ceiling(capacity));
        self.load.reconcile(mark, reading.connections);
        self.max_control_line.store(reading.max_control_line.unwrap_or(usize::MAX), Relaxed);
        let _ = self.name.set(reading.server_name.clone());
        if let Some(account) = &reading.system_account {
            let _ = self.system_account.set(account.clone());
        }
        self.change(|state| {
            let restarted = state.last.as_ref().is_some_and(|last| last.start != reading.start);
            if restarted {
                state.health.restarted(now);
                state.concurrency_limit = ConcurrencyLimit::default();
                state.lame_duck = false;
                state.full_until = None;
            }
            state.concurrency_limit.cores(now, reading.cpu, reading.cores);
            state.read_at = Some(now);
            state.last = Some(reading);
            restarted
        })
    }

    /// The server said `maximum connections exceeded`: others took what looked free.
    pub fn said_full(&self, now: Instant) {
        self.change(|state| state.full_until = Some(now + FULL_FOR));
    }

    /// The server announced lame duck mode on a session's INFO.
    pub fn said_lame_duck(&self) {
        self.change(|state| state.lame_duck = true);
    }

    /// A dial ended with its INFO.
    pub fn answered(&self) {
        self.change(|state| state.health.answered());
    }

    /// A dial failed before INFO. Returns the pause when this ejects the server anew.
    pub fn failed(&self, now: Instant, rng: &mut fastrand::Rng) -> Option<Duration> {
        self.change(|state| state.health.failed(now, rng))
    }
}

#[cfg(test)]
mod tests;
