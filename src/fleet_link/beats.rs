//! Tells the other weirs what this one holds: at an interval, at once when that has jumped, and less often while
//! nothing changes.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_nats::{HeaderMap, PublishError};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    fleet::{
        beat::{AccountBeat, Beat, MOST_ACCOUNTS, ServerBeat},
        beat_key::SIGNATURE,
        key::Key,
        link::Counted,
        takeover::Before,
    },
    fleet_link::FleetLink,
    net::timer,
    session::Shared,
    telemetry::moment::Moment,
};

/// The interval while something changes, and while nothing does; 20 % more or less each time, so that weirs that begin
/// together do not publish in step.
const BUSY: Duration = Duration::from_millis(250);
const IDLE: Duration = Duration::from_secs(1);
const JITTER: f64 = 0.2;

/// How often it is looked whether something has jumped, while something changes and while nothing does.
const LOOK_BUSY: Duration = Duration::from_millis(10);
const LOOK_IDLE: Duration = Duration::from_millis(50);

/// No two beats come closer together.
const LEAST_GAP: Duration = Duration::from_millis(5);

/// Every so many beats everything is told of a span of accounts.
const FULL_EVERY: u64 = 8;

/// Most limited accounts of this weir that peers hear of.
const MOST_TOLD: usize = 16_384;

/// What a server's count has to change by, as a part of it, to be told at once.
const JUMP: f64 = 0.1;

/// Publishes beats for ever.
pub(super) async fn publish(link: &FleetLink, shared: &Shared) {
    let (fleet, wanted) = (&link.fleet, Arc::<Notify>::default());
    let wake = Arc::clone(&wanted);
    fleet.link().beats().calls(move || wake.notify_one());
    link.begin.cancelled().await;
    let mut up = link.connection.watch();
    let mut sender = Sender::default();
    loop {
        if fleet.ledger().is_given() {
            sleep_until(Instant::now() + LOOK_IDLE).await;
            continue;
        }
        let is_up = *up.borrow_and_update();
        if !is_up {
            // What waits for the connection would come too late to be of use.
            if up.changed().await.is_err() {
                return;
            }
            continue;
        }
        let beat = sender.next(link, shared);
        let every = Duration::from_millis(beat.every_ms.into());
        let message = beat.encode();
        fleet.link().sent(message.len());
        if publish_signed(link, message).await.is_ok() {
            fleet.link().count(Counted::BeatSent);
        }
        let sent = Instant::now();
        let at = sent + every.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
        let look = if every == BUSY { LOOK_BUSY } else { LOOK_IDLE };
        loop {
            let until = (Instant::now() + look).min(at);
            let is_wanted = timeout_at(until, wanted.notified()).await.is_ok();
            if is_wanted || Instant::now() >= at || sender.has_jumped(shared) || !*up.borrow() {
                break;
            }
        }
        sleep_until(sent + LEAST_GAP).await;
    }
}

async fn publish_signed(link: &FleetLink, beat: Vec<u8>) -> Result<(), PublishError> {
    let (subject, mut headers) = (link.subjects.beats(), HeaderMap::new());
    headers.insert(SIGNATURE, link.fleet.signer().sign(&subject, &beat));
    link.connection.get_client().await.publish_with_headers(subject, headers, beat.into()).await
}

/// What has been told in all, also by the processes before.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The number of the last beat.
    pub n: u64,
    pub before: Before,
}

impl FleetLink {
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What would be the next beat, with all accounts in use.
pub(super) fn next_in_full(link: &FleetLink, shared: &Shared) -> Beat {
    link.fleet.link().begin_beat(link.told().n + 1);
    let mut beat = gather(link, shared);
    // One more than is told shows that there is more.
    let mut accounts = shared.admission.accounts().told(MOST_TOLD + 1);
    beat.leaves_out = accounts.len() > MOST_TOLD;
    accounts.truncate(MOST_TOLD);
    beat.accounts = accounts.into_iter().collect();
    let told = link.told();
    beat.n = told.n + 1;
    told.before.add_to(&mut beat);
    beat
}

/// What was published last.
#[derive(Default)]
struct Sender {
    n: u64,
    last: Option<Beat>,
    /// What peers have been told of each account.
    accounts: BTreeMap<Key, AccountBeat>,
    /// Where the next span begins of which everything is told.
    from: Option<Key>,
    /// Slots held and logins under way of each server, in their order.
    told: Vec<(u32, u32)>,
}

impl Sender {
    fn next(&mut self, link: &FleetLink, shared: &Shared) -> Beat {
        self.n += 1;
        let mut whole = next_in_full(link, shared);
        link.told().n = whole.n;
        let accounts = std::mem::take(&mut whole.accounts);
        let mut beat = whole;
        self.add_accounts(&mut beat, accounts);
        beat.every_ms = millis(if self.is_new(&beat) { BUSY } else { IDLE });
        self.told = counts(shared).collect();
        self.last = Some(beat.clone());
        beat
    }

    /// Accounts that have changed, and from time to time all of a span, so that a lost message does no lasting harm.
    fn add_accounts(&mut self, beat: &mut Beat, now: BTreeMap<Key, AccountBeat>) {
        let gone = self.accounts.keys().filter(|key| !now.contains_key(key)).map(|key| (*key, AccountBeat::default()));
        let changed =
            now.iter().filter(|(key, one)| self.accounts.get(key) != Some(one)).map(|(key, one)| (*key, one.clone()));
        let tell: Vec<_> = gone.chain(changed).take(MOST_ACCOUNTS / 2).collect();
        for (key, one) in tell {
            match now.contains_key(&key) {
                true => drop(self.accounts.insert(key, one.clone())),
                false => drop(self.accounts.remove(&key)),
            }
            beat.accounts.insert(key, one);
        }
        if self.n % FULL_EVERY != 1 {
            return;
        }
        let first = self.from.take().unwrap_or(Key::LOWEST);
        let mut span = now.range(first..);
        let mut last = first;
        for (key, one) in span.by_ref().take(MOST_ACCOUNTS / 2) {
            last = *key;
            self.accounts.insert(*key, one.clone());
            beat.accounts.insert(*key, one.clone());
        }
        // The next span begins where this one ends, so that together they are all keys.
        self.from = span.next().map(|_| last);
        beat.all_of = Some((first, if self.from.is_some() { last } else { Key::HIGHEST }));
    }

    fn is_new(&self, beat: &Beat) -> bool {
        self.last.as_ref().is_none_or(|last| {
            (last.sessions, last.waiting, last.arrivals, last.admitted, last.leases_ok, last.rebalancing)
                != (beat.sessions, beat.waiting, beat.arrivals, beat.admitted, beat.leases_ok, beat.rebalancing)
                || last.servers != beat.servers
                || last.accounts != beat.accounts
        })
    }

    fn has_jumped(&self, shared: &Shared) -> bool {
        let mut told = self.told.iter();
        counts(shared).any(|now| told.next().is_none_or(|then| jumped(then.0, now.0) || jumped(then.1, now.1)))
    }
}

/// Whether peers should hear at once that a count has changed: by more than a tenth, and by one where it is small.
fn jumped(then: u32, now: u32) -> bool {
    f64::from(then.abs_diff(now)) > (JUMP * f64::from(then)).max(0.5)
}

fn counts(shared: &Shared) -> impl Iterator<Item = (u32, u32)> {
    shared.servers.iter().map(|server| (server.load().held(), server.load().under_way()))
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// What this weir holds now.
fn gather(link: &FleetLink, shared: &Shared) -> Beat {
    let (fleet, counters) = (&link.fleet, &shared.counters);
    let waiting = number(shared.admission.waiting().all());
    Beat {
        // Counted from the first process that was taken over: peers date beats by it.
        up_ms: Moment::now().raw() / 1_000_000,
        every_ms: millis(BUSY),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sessions: number(shared.sessions.len()),
        waiting,
        arrivals: shared.next_id.load(Relaxed) - 1,
        admitted: counters.admitted.load(Relaxed),
        leases_ok: fleet.link().has_bucket(),
        next: shared.servers.fleet_pace().map(|pace| pace.next_beat()),
        rebalancing: fleet.rebalancing(),
        rates: shared.admission.share_rates(timer::now()),
        servers: servers(link, shared),
        ..Beat::new(fleet.id().clone(), fleet.run())
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn servers(link: &FleetLink, shared: &Shared) -> BTreeMap<Key, ServerBeat> {
    // Whoever waits for a turn takes any server.
    let (waiting, now, keys) = (number(shared.admission.waiting().queued), timer::now(), link.fleet.keys());
    shared.servers.iter().map(|server| (server.fleet_key(keys), server.beat(now, waiting))).collect()
}
