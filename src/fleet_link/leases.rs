//! Does in the bucket what the ledger of the leases wants, and tells it what is seen there.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    fleet::{
        addresses::Addresses,
        key::Kind,
        lease::{
            Answer, LeaseKey, Operation, Place, What,
            allowance::Allowance,
            ledger::{LOOK_EVERY, Ledger},
            record::Membership,
            surroundings::{Beginning, Reached, Settings, Surroundings},
        },
        link::Counted,
        member::MemberId,
        view::{Lease, Quota},
    },
    fleet_link::{
        FleetLink, Interest,
        bucket::{Bucket, Entry, NoBucket, Outcome, Rejection},
        slots,
    },
    net::timer,
    session::Shared,
};

/// The pause before the bucket is asked for again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often what is shown of the leases is made anew.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// How the bucket is made, and how the servers are asked.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// Copies of the bucket; `None` is one for each server, at most 3.
    pub replicas: Option<usize>,
    /// Whether the system account tells how many connections accounts have.
    pub has_system: bool,
}

/// The bucket as it is found, and why it is not there.
#[derive(Debug, Default)]
struct Found {
    bucket: Option<Bucket>,
    why_not: Option<(String, String)>,
}

/// Keeps this weir's leases for ever.
pub(super) async fn run(link: &FleetLink, shared: &Shared, wishes: Wishes) {
    let found = watch::Sender::new(Found::default());
    let lost = Notify::new();
    tokio::join!(
        keep_bucket(link, shared, wishes, &found, &lost),
        drive(link, shared, wishes, found.subscribe(), &lost)
    );
}

/// Opens the bucket, sees what changes in it, and opens it again after the connection was lost, or the bucket.
async fn keep_bucket(link: &FleetLink, shared: &Shared, wishes: Wishes, found: &watch::Sender<Found>, lost: &Notify) {
    let mut up = link.connection.watch();
    let none = |err: &NoBucket| {
        let remedy = err.remedy(&link.subjects.stream());
        Found { bucket: None, why_not: Some((err.to_string(), remedy)) }
    };
    let (mut made_at, mut pause, mut unwatched) = (None, FIRST_PAUSE, 0);
    loop {
        if up.wait_for(|is_up| *is_up).await.is_err() {
            return;
        }
        if !link.fleet.link().wants_leases() {
            found.send_replace(Found::default());
            sleep(LOOK_EVERY).await;
            continue;
        }
        let newest = link.fleet.ledger().newest();
        match Bucket::open(&link.connection, &link.subjects, wishes.replicas, shared.servers.len()).await {
            Ok(bucket) => {
                let is_other = made_at.replace(bucket.made_at()).is_some_and(|before| before != bucket.made_at());
                // It has what was known before it was asked for, if that is still known: what has been written since it
                // may not show yet.
                if is_other || bucket.last_revision() < newest.min(link.fleet.ledger().newest()) {
                    forget_bucket(&mut link.fleet.ledger());
                }
                tell_of_copies(&bucket, wishes);
                match bucket.watch().await {
                    Ok(changes) => {
                        found.send_replace(Found { bucket: Some(bucket), why_not: None });
                        (pause, unwatched) = (FIRST_PAUSE, 0);
                        let mut changes = pin!(changes);
                        loop {
                            tokio::select! {
                                change = changes.next() => match change {
                                    Some(Some(entry)) => see(link, &entry),
                                    _ => break,
                                },
                                changed = up.changed() => if changed.is_err() || !*up.borrow() { break },
                                () = lost.notified() => break,
                            }
                        }
                    }
                    // A server that has just taken over may not answer in time. Until then the bucket is as it was.
                    Err(_) if unwatched == 0 => unwatched = 1,
                    Err(err) => drop(found.send_replace(none(&NoBucket::NotWatched(err)))),
                }
            }
            Err(err) => drop(found.send_replace(none(&err))),
        }
        // Several weirs do not ask in step.
        sleep(pause.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn forget_bucket(ledger: &mut Ledger) {
    warn!("the bucket of the fleet is another one, or has gone back: weir takes its leases anew");
    ledger.forget_bucket(timer::now());
}

/// Says where the bucket is not kept as it is configured.
fn tell_of_copies(bucket: &Bucket, wishes: Wishes) {
    static TOLD: Mutex<Option<usize>> = Mutex::new(None);
    let copies = bucket.replicas();
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.replace(copies) == Some(copies) {
        return;
    }
    match wishes.replicas.filter(|wanted| *wanted != copies) {
        Some(wanted) => {
            warn!(copies, wanted, "the bucket of the fleet was there with other copies, and is used as it is")
        }
        None => info!(copies, "the bucket of the fleet is there"),
    }
}

fn see(link: &FleetLink, entry: &Entry) {
    link.fleet.link().count(Counted::Seen);
    if let Some(place) = Place::parse(&entry.key) {
        if let (Place::Member(holder), Some(value)) = (&place, &entry.value)
            && let Ok(Membership { bye, a, .. }) = Membership::decode(value)
        {
            let addresses = if bye { Addresses::default() } else { a };
            link.fleet.announcer().saw(timer::now(), holder.id(), entry.revision, addresses);
        }
        link.fleet.ledger().seen(timer::now(), &place, entry.revision, entry.value.as_deref());
    }
}

/// Asks the ledger what to do, does it, and tells what became of it.
async fn drive(link: &FleetLink, shared: &Shared, wishes: Wishes, mut found: watch::Receiver<Found>, lost: &Notify) {
    let (fleet, wanted) = (&link.fleet, Arc::<Notify>::default());
    let wake = Arc::clone(&wanted);
    fleet.leases().standing().on_need(move || wake.notify_one());
    let wake = Arc::clone(&wanted);
    fleet.link().leases().calls(move || wake.notify_one());
    link.begin.cancelled().await;
    let rejected = Rejected::default();
    let mut under_way = FuturesUnordered::new();
    let (mut told, mut around) = (Told::default(), Around::default());
    let mut shown = Instant::now();
    let mut suspended = suspended_for();
    loop {
        let suspended_now = suspended_for();
        if suspended_now.saturating_sub(suspended) >= LEAST_SUSPENSION {
            fleet.ledger().was_suspended(timer::now());
        }
        suspended = suspended.max(suspended_now);
        let (bucket, why_not) = {
            let found = found.borrow_and_update();
            (found.bucket.clone(), found.why_not.clone())
        };
        let (operations, invalid) = {
            let surroundings = around.look(link, shared);
            slots::look(link, shared, surroundings.live, timer::now());
            let settings = Settings {
                is_split_only: !fleet.link().wants_leases(),
                has_counts: have_counts(shared, wishes.has_system),
                has_readings: shared.servers.list().iter().all(|server| server.has_readings()),
                ..Settings::default()
            };
            let mut ledger = fleet.ledger();
            ledger.set(settings);
            ledger.surroundings(surroundings);
            // One that drains leads nobody to itself.
            let is_draining = shared.admission.is_draining();
            ledger.advertise(if is_draining { Arc::default() } else { shared.advertised_info.own_addresses() });
            if ledger.has_gone_back() {
                forget_bucket(&mut ledger);
                // It has to be watched anew.
                lost.notify_one();
            }
            (ledger.next(timer::now()), ledger.take_invalid())
        };
        for (key, err) in invalid {
            fleet.link().count(Counted::Invalid);
            warn!(key = key.to_string(), %err, "a value in the bucket of the fleet is not used: weir takes no more of that quota");
        }
        for operation in operations {
            under_way.push(perform(Performer { link, lost, rejected: &rejected }, bucket.clone(), operation));
        }
        // Where another process goes on as this weir, it is that one's to tell.
        if !link.is_given() {
            told.look(link, why_not, rejected.last(timer::now()));
        }
        if shown.elapsed() >= SHOW_EVERY {
            fleet.set_quotas(quotas(link));
            shown = Instant::now();
        }
        tokio::select! {
            Some((serial, answer)) = under_way.next() => {
                fleet.ledger().answered(timer::now(), serial, &answer);
                if matches!(answer, Answer::Stored { .. }) {
                    // A client may wait for what has come.
                    shared.arrived.notify_one();
                }
            }
            () = wanted.notified() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

/// What two readings of the clocks may differ by without a suspension.
const LEAST_SUSPENSION: Duration = Duration::from_millis(50);

/// For how long, at least, the machine has been suspended since its start: CLOCK_MONOTONIC, by which weir goes, stands
/// still meanwhile, and CLOCK_BOOTTIME does not.
fn suspended_for() -> Duration {
    // In this order: a thread that waits for its turn in between takes none of the two for longer than it is.
    let all = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    let running = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    all.saturating_sub(running)
}

/// Whether the servers, as they are now, count the connections of accounts: each of them has to tell its own.
fn have_counts(shared: &Shared, has_system: bool) -> bool {
    has_system || shared.servers.list().iter().all(|server| server.monitor().is_some())
}

/// The quotas in use here, with the leases of all weirs, the fullest first.
fn quotas(link: &FleetLink) -> Vec<Quota> {
    let (fleet, allowances) = (&link.fleet, link.fleet.leases().list());
    let seen: Vec<_> = {
        let ledger = fleet.ledger();
        let of = |one: &Arc<Allowance>| (ledger.leases(one.key()), ledger.past(one.key()));
        allowances.iter().filter(|one| one.quota().is_some()).map(|one| (Arc::clone(one), of(one))).collect()
    };
    let peers = fleet.peers();
    let mut all: Vec<Quota> = Vec::new();
    for (allowance, (leases, past)) in seen {
        let (LeaseKey { kind, key }, limit) = (allowance.key(), allowance.quota().unwrap_or(u32::MAX));
        let held = |id: &str| match id == fleet.id().as_str() {
            true => Some(allowance.usage().held),
            false if kind == Kind::Account => Some(peers.get(&MemberId::new(id).ok()?)?.account(key)?.held),
            false if kind == Kind::Server => Some(peers.get(&MemberId::new(id).ok()?)?.last().servers.get(&key)?.held),
            false => None,
        };
        let weirs = leases.iter().map(|one| {
            let id = one.holder.id();
            Lease { id: id.to_owned(), lease: one.lease, floor: one.floor, want: one.want, held: held(id) }
        });
        let leased = leases.iter().fold(0u32, |sum, one| sum.saturating_add(one.lease));
        let of = match kind {
            Kind::Account => "account",
            Kind::User => "user",
            Kind::Name => "name",
            Kind::Leafnodes => "leafnodes",
            Kind::Server => "server",
        };
        all.push(Quota {
            of: of.to_owned(),
            name: None,
            key: key.to_string(),
            limit,
            past,
            leased,
            free: limit.saturating_sub(past).saturating_sub(leased),
            weirs: weirs.collect(),
        });
    }
    let used = |one: &Quota| one.leased.saturating_add(one.past);
    all.sort_by_cached_key(|one| std::cmp::Reverse(u64::from(used(one)) * 1_000_000 / u64::from(one.limit.max(1))));
    all
}

/// Who was there while the connection was is told for so long after it has gone: peers are forgotten before.
const REMEMBER: Duration = Duration::from_secs(10);

/// What of the fleet the ledger is told.
#[derive(Default)]
struct Around {
    beginning: Beginning,
    /// The most weirs of late, the place of this one among them, and when that was.
    most: Option<(u32, u32, Instant)>,
}

impl Around {
    fn look(&mut self, link: &FleetLink, shared: &Shared) -> Surroundings {
        let (now, peers, is_connected) = (timer::now(), link.fleet.peers(), link.connection.is_up());
        let reached = Reached {
            servers: shared.servers.iter().any(|server| server.is_reachable(now)),
            fleet: is_connected,
            is_refused: link.connection.is_refused(),
        };
        let here = (peers.weirs(), peers.position());
        let is_old = |at: Instant| now.saturating_duration_since(at) >= REMEMBER;
        // Without a connection the last ones that were heard of are there still, for all that is known.
        let is_news = self.most.is_none_or(|(live, _, at)| live <= here.0 || is_connected && is_old(at));
        if is_news {
            self.most = Some((here.0, here.1, now));
        }
        let (live, position) = match self.most {
            Some((live, position, _)) if !is_connected => (live, position),
            _ => here,
        };
        Surroundings {
            live,
            position,
            others_have_leases: peers.iter().any(|peer| peer.last().leases_ok),
            is_connected,
            is_early: self.beginning.look(now, reached),
        }
    }
}

/// An operation that fails is answered so long after it was begun at the earliest, so that a ledger that tries again
/// does not try without a pause.
const FAILED_PAUSE: Duration = Duration::from_millis(250);

/// The same of a write that the servers do not make: another one will not be made either. Leases are in force for 2.5 s
/// after a write, and the ledger waits 2 s for an answer.
const REJECTED_PAUSE: Duration = Duration::from_millis(1500);

async fn perform(performer: Performer<'_>, bucket: Option<Bucket>, operation: Operation) -> (u64, Answer) {
    let Operation { serial, place, what } = operation;
    let began = Instant::now();
    let (answer, pause) = match (what, bucket) {
        (What::Ask, _) => (ask(performer.link, &place).await, Duration::ZERO),
        (What::Read, Some(bucket)) => match bucket.read(&place.to_string()).await {
            Ok(None) => (Answer::Absent { revision: 0 }, Duration::ZERO),
            Ok(Some(Entry { revision, value: None, .. })) => (Answer::Absent { revision }, Duration::ZERO),
            Ok(Some(Entry { revision, value: Some(value), .. })) => {
                (Answer::Found { revision, value: value.into() }, Duration::ZERO)
            }
            Err(_) => (Answer::Unknown, FAILED_PAUSE),
        },
        (What::Write { value, expected }, Some(bucket)) => {
            performer.of_write(bucket.write(&place.to_string(), value.into(), expected).await)
        }
        (What::Delete { expected }, Some(bucket)) => {
            performer.of_write(bucket.delete(&place.to_string(), expected).await)
        }
        (_, None) => (Answer::Unknown, LOOK_EVERY),
    };
    let left = pause.saturating_sub(began.elapsed());
    // A timer would take up to a millisecond for nothing as well.
    if !left.is_zero() {
        sleep(left).await;
    }
    (serial, answer)
}

/// What an operation of the ledger is performed with.
#[derive(Clone, Copy)]
struct Performer<'l> {
    link: &'l FleetLink,
    lost: &'l Notify,
    rejected: &'l Rejected,
}

impl Performer<'_> {
    /// What the ledger is told of a write, and when at the earliest.
    fn of_write(&self, outcome: Outcome) -> (Answer, Duration) {
        let (counted, told) = match outcome {
            Outcome::Written(revision) => (Counted::Written, (Answer::Stored { revision }, Duration::ZERO)),
            Outcome::Conflict => (Counted::Conflict, (Answer::Refused, Duration::ZERO)),
            Outcome::Unknown => (Counted::Unknown, (Answer::Unknown, FAILED_PAUSE)),
            Outcome::NoStream => {
                self.lost.notify_one();
                (Counted::Unknown, (Answer::Unknown, FAILED_PAUSE))
            }
            Outcome::Rejected(rejection) => {
                self.rejected.tell(rejection, &self.link.subjects.stream(), timer::now());
                (Counted::Rejected, (Answer::Unknown, REJECTED_PAUSE.mul_f64(0.75 + 0.25 * fastrand::f64())))
            }
        };
        self.link.fleet.link().count(counted);
        told
    }
}

/// Writes that the servers have not made, and why.
#[derive(Default)]
struct Rejected(Mutex<HashMap<u64, (Instant, String)>>);

/// A reason that has not come for so long is told when it comes again.
const REJECTED_FORGET: Duration = Duration::from_secs(60);

impl Rejected {
    fn inner(&self) -> MutexGuard<'_, HashMap<u64, (Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, Rejection { code, words }: Rejection, stream: &str, now: Instant) {
        let mut told = self.inner();
        told.retain(|_, (at, _)| now.saturating_duration_since(*at) < REJECTED_FORGET);
        if told.insert(code, (now, words.clone())).is_none() {
            let advice = advice_on_rejections(stream);
            warn!(err = words, advice, "the servers do not make a write to the bucket of the fleet; weir tries again");
        }
    }

    /// Why writes are not made now.
    fn last(&self, now: Instant) -> Option<String> {
        let told = self.inner();
        let of_late = told.values().filter(|(at, _)| now.saturating_duration_since(*at) < 2 * REJECTED_PAUSE);
        of_late.max_by_key(|(at, _)| *at).map(|(_, words)| words.clone())
    }
}

fn advice_on_rejections(stream: &str) -> String {
    format!(
        "look at the limits of the stream, of its account and of the servers' storage (`nats stream info {stream}`)"
    )
}

async fn ask(link: &FleetLink, place: &Place) -> Answer {
    let Place::Member(holder) = place else { return Answer::Unknown };
    match link.probe(holder).await {
        Interest::There => Answer::Responds,
        Interest::Silent => Answer::Silent,
        Interest::Gone => Answer::NoResponders,
        Interest::Unknown => Answer::Unknown,
    }
}

/// What was last told of the leases.
#[derive(Default)]
struct Told {
    /// Since when leases are not in force.
    without_since: Option<Instant>,
    has_said: bool,
}

/// Leases that are not in force for less than this are no news.
const WITHOUT_FOR: Duration = Duration::from_secs(1);

impl Told {
    fn look(&mut self, link: &FleetLink, why_not: Option<(String, String)>, rejected: Option<String>) {
        let (state, now) = (link.fleet.link(), timer::now());
        if !state.wants_leases() {
            if state.set_bucket(Some("the configuration wants the split (fleet.quota)".to_owned()), now)
                || !self.has_said
            {
                info!("quotas are split between the weirs of the fleet");
            }
            (self.without_since, self.has_said) = (None, true);
            return;
        }
        if link.fleet.leases().standing().is_valid(now) {
            self.without_since = None;
            if state.set_bucket(None, now) || !self.has_said {
                info!("leases of the fleet are in force");
                // Others count this weir once they see its membership, and its next beat.
                state.beats().wake();
            }
            self.has_said = true;
            return;
        }
        let since = *self.without_since.get_or_insert(now);
        if now.saturating_duration_since(since) < WITHOUT_FOR && why_not.is_none() {
            return;
        }
        let (why, advice) = why_not.unwrap_or_else(|| match (link.connection.is_up(), rejected) {
            (true, Some(words)) => (
                format!("the servers make no write to the bucket: {words}"),
                advice_on_rejections(&link.subjects.stream()),
            ),
            (true, None) => (
                "no write to the bucket is acknowledged".to_owned(),
                "look whether its stream has a leader (`nats stream info`) and whether weir may write there".to_owned(),
            ),
            (false, _) => ("no connection to the servers".to_owned(), "look at the servers".to_owned()),
        });
        if state.set_bucket(Some(why.clone()), now) || !self.has_said {
            warn!(why, advice, "no leases of the fleet: quotas are split between the weirs until there are");
        }
        self.has_said = true;
    }
}

/// Hands back what is left of this weir, for no longer than `most`.
pub(super) async fn leave(link: &FleetLink, most: Duration) {
    if !link.fleet.leases().standing().is_valid(timer::now()) {
        return;
    }
    link.fleet.ledger().leave();
    link.fleet.link().leases().wake();
    let left = async {
        while !link.fleet.ledger().has_left() {
            sleep(Duration::from_millis(5)).await;
        }
        remove_membership(link).await
    };
    let _ = timeout(most, left).await;
}

/// The word that this weir has left is of no more use than no word, and would stay for ever.
async fn remove_membership(link: &FleetLink) -> Option<Outcome> {
    let bucket = Bucket::open(&link.connection, &link.subjects, None, 1).await.ok()?;
    let key = Place::Member(link.fleet.ledger().me().clone()).to_string();
    let entry = bucket.read(&key).await.ok()??;
    Some(bucket.delete(&key, entry.revision).await)
}
