//! Seeded histories of arrivals and departures, in enforce mode and in observe mode beside each other: what observe
//! mode says that it would have done is what enforce mode does. `WEIR_SIM_SEED=n` replays one history.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::{
        connect_check::{Reservation, Verdict},
        fairness::wide_open,
        params::PatternQuotas,
        *,
    },
    identity::{ClientKey, CredentialKey},
    outcome::Refusal,
    upstream::{self, Reserve, ServerParams, Servers, concurrency::baseline::MeasuredFrom},
};

const SEEDS: u64 = 100;
const STEPS: u32 = 800;

#[derive(Debug)]
struct StayingClient;

impl Waiter for StayingClient {
    fn has_left(&self) -> bool {
        false
    }
}

/// What becomes of a client; the reason to hold it is that of a rate, where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Said {
    Admit,
    Hold,
    Refuse(Refusal),
}

/// One of the two modes.
struct Side {
    admission: Admission<StayingClient>,
    servers: Arc<Servers>,
    limit: Arc<Limit>,
    rng: fastrand::Rng,
    inside: BTreeMap<u64, (AcceptPermit, Pass)>,
    reserved: BTreeMap<u64, (AcceptPermit, Box<Reservation<StayingClient>>)>,
}

#[derive(Debug, Clone)]
struct Arrival {
    id: u64,
    source: IpAddr,
    account: &'static str,
    user: u64,
    name: &'static str,
    is_known: bool,
    hold: Duration,
}

impl Side {
    fn new(mode: Mode, params: &Params, most: Option<u32>, seed: u64) -> Self {
        let servers = servers(most);
        let admission = Admission::new(&Params { mode, ..params.clone() }, Arc::clone(&servers));
        let (limit, rng) = (Limit::new(100_000), fastrand::Rng::with_seed(seed));
        Self { admission, servers, limit, rng, inside: BTreeMap::new(), reserved: BTreeMap::new() }
    }

    /// A client comes; in observe mode it is let in whatever is said of it. Its login takes no time.
    fn comes(&mut self, arrival: &Arrival, now: Instant, logs_in: bool) -> Said {
        let accepted = self.admission.at_accept(None, &self.limit, (arrival.source, false), now);
        let mut entry = match accepted {
            Ok(entry) => entry,
            Err(reason) => return Said::Refuse(reason),
        };
        let claim = Claim { source: arrival.source.into(), credential: CredentialKey::from_raw(arrival.user) };
        let hold_until = now + arrival.hold;
        let client = Client {
            account: arrival.account.into(),
            names_its_account: false,
            is_leafnode: false,
            source: arrival.source.into(),
            key: ClientKey::from_raw(arrival.id),
            proof: if arrival.is_known { Proof::Known } else { Proof::Missing(claim) },
            may_use_reserve: false,
            would_refuse: entry.would_refuse(),
            quota_identity: QuotaIdentity {
                user: Some((format!("u{}", arrival.user).into(), CredentialKey::from_raw(arrival.user))),
                name: Some(arrival.name.into()),
            },
            hold_until,
            answer_by: hold_until + Duration::from_millis(400),
            returns: Return::Unknown,
        };
        match self.admission.at_connect(client, now, &mut self.rng, || StayingClient) {
            Verdict::Admit(mut pass) => {
                let is_observing = self.admission.is_observing();
                if logs_in && let Err(reason) = self.logs_in(&mut pass, now) {
                    assert!(!is_observing, "refused in observe mode: {reason:?}");
                    return Said::Refuse(reason);
                }
                let said = match pass.account.would() {
                    None => Said::Admit,
                    Some(Would::Hold(_)) => Said::Hold,
                    Some(Would::Refuse(reason)) => Said::Refuse(reason),
                };
                if matches!(said, Said::Refuse(_)) {
                    entry.becomes_extra();
                }
                self.inside.insert(arrival.id, (entry, pass));
                said
            }
            Verdict::Reserve(reservation) => {
                self.reserved.insert(arrival.id, (entry, reservation));
                Said::Hold
            }
            Verdict::Hold { .. } => Said::Hold,
            Verdict::Refuse { reason, .. } => Said::Refuse(reason),
        }
    }

    fn logs_in(&self, pass: &mut Pass, now: Instant) -> Result<(), Refusal> {
        pass.server.opened();
        let measured = (MeasuredFrom::Dial, Duration::ZERO);
        self.admission.handshake_finished(pass, Duration::from_millis(1), measured, None, now);
        self.admission.prove(&mut pass.account, now)
    }

    /// Those go on whose token has come.
    fn go_on(&mut self, now: Instant) {
        let due: Vec<u64> = self.reserved.iter().filter(|(_, (_, one))| one.at <= now).map(|(&id, _)| id).collect();
        for id in due {
            let (entry, reservation) = self.reserved.remove(&id).unwrap();
            let verdict = self.admission.at_reserved_time(*reservation, now, &mut self.rng);
            let Verdict::Admit(mut pass) = verdict else { panic!("nothing else limits it: {verdict:?}") };
            if self.logs_in(&mut pass, now).is_ok() {
                self.inside.insert(id, (entry, pass));
            }
        }
    }

    /// Once all have left, nothing is counted any more.
    fn ends_clean(mut self, now: Instant) {
        self.inside.clear();
        self.reserved.clear();
        self.admission.sweep(now + Duration::from_secs(1000));
        assert!(self.admission.accounts().connections().is_empty() && self.admission.sources.is_empty());
        assert_eq!((self.limit.in_use(), self.admission.waiting().all()), (0, 0));
        assert_eq!(self.admission.would_wait.in_use(), 0);
        for server in self.servers.iter() {
            assert_eq!((server.load().held(), server.load().under_way()), (0, 0));
        }
    }
}

/// Two servers, each for `most` connections.
fn servers(most: Option<u32>) -> Arc<Servers> {
    let server = |n: usize| ServerParams {
        name: Some(format!("n{n}")),
        max_connections: most,
        ..ServerParams::bare(format!("n{n}:4222"))
    };
    Arc::new(Servers::new(&upstream::Params {
        system: false,
        poll_interval: Duration::from_secs(1),
        reserve: Reserve::Slots(1),
        warn_at: 0.8,
        slow_start: Duration::ZERO,
        close_spread: Duration::ZERO,
        compatibility: upstream::Compatibility::default(),
        source_addresses: Vec::new(),
        cluster_names: Vec::new(),
        only_websocket: false,
        servers: (0..2).map(server).collect(),
    }))
}

fn rate(per_second: u32, burst: u32) -> Option<Rate> {
    Some(Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() })
}

fn quota(max_connections: Option<u32>, rate: Option<Rate>) -> Quota {
    Quota { max_connections, rate, warn_only: false }
}

/// Quotas of every kind but the rate of accounts, for which clients wait in the queue.
fn quotas(with_rates: bool, rng: &mut fastrand::Rng) -> Params {
    let account = |most| AccountLimits { quota: quota(Some(most), None), ..AccountLimits::default() };
    let pattern = |pattern: &str, quota| PatternQuota { pattern: pattern.into(), quota };
    let (most_of_a, most_of_name) = (rng.u32(2..9), rng.u32(5..15));
    let rate_if = |per_second, burst| rate(per_second, burst).filter(|_| with_rates);
    Params {
        per_source: quota(Some(rng.u32(4..15)), rate(20, rng.u32(2..20))),
        max_leafnodes_per_source: None,
        accounts: HashMap::from([("A".into(), account(most_of_a)), ("B".into(), account(12))]),
        patterns: PatternQuotas {
            users: vec![pattern("u1", quota(Some(3), None)), pattern("u2", quota(None, rate_if(2, 2)))],
            names: vec![pattern("batch", quota(Some(most_of_name), rate_if(5, 3)))],
        },
        ..wide_open()
    }
}

fn arrival(id: u64, rng: &mut fastrand::Rng) -> Arrival {
    let (user, name) = (rng.u64(0..5), ["batch", "web"][rng.usize(0..2)]);
    Arrival {
        id,
        source: [192, 0, 2, rng.u8(0..3)].into(),
        account: ["A", "B", "C"][rng.usize(0..3)],
        user,
        name,
        // Who waits for a token logs in later, and those who only claim to be known may be displaced until then: that
        // is where waiting influences what comes.
        is_known: user == 2 || name == "batch" || rng.bool(),
        hold: Duration::from_millis(rng.u64(0..2000)),
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("WEIR_SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("WEIR_SIM_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    }
}

/// Whole histories without rates of users and names, and others up to the first client that waits for a token. From
/// there on both modes may differ by a token: one that was promised to a client whose name's quota then refuses it is
/// spent in observe mode, and somebody else's later in enforce mode. A client that would have been refused stays for a
/// while in observe mode, and makes no difference.
#[test]
fn quotas_say_the_same_in_both_modes() {
    let mut all = HashSet::new();
    for seed in seeds() {
        let mut rng = fastrand::Rng::with_seed(seed);
        let params = quotas(seed % 2 == 0, &mut rng);
        let [mut enforce, mut observe] =
            [Mode::Enforce, Mode::Observe].map(|mode| Side::new(mode, &params, None, seed));
        let mut now = Instant::now();
        for step in 0..STEPS {
            now += Duration::from_millis(rng.u64(0..200));
            enforce.go_on(now);
            if rng.u8(0..10) < 6 {
                let arrival = arrival(step.into(), &mut rng);
                let (did, would) = (enforce.comes(&arrival, now, true), observe.comes(&arrival, now, true));
                assert_eq!(did, would, "WEIR_SIM_SEED={seed}, step {step}: {arrival:?}");
                all.insert(did);
                if did == Said::Hold {
                    break;
                }
                continue;
            }
            let in_both: Vec<u64> = enforce.inside.keys().copied().collect();
            let only_observed: Vec<u64> = observe.inside.keys().copied().filter(|id| !in_both.contains(id)).collect();
            let only_observed = only_observed.into_iter().filter(|id| !enforce.reserved.contains_key(id));
            if let Some(id) = rng.choice(in_both) {
                enforce.inside.remove(&id);
                observe.inside.remove(&id);
            }
            if let Some(id) = rng.choice(only_observed.collect::<Vec<_>>()) {
                observe.inside.remove(&id);
            }
            enforce.admission.sweep(now);
            observe.admission.sweep(now);
        }
        enforce.ends_clean(now);
        observe.ends_clean(now);
    }
    use Refusal::*;
    for said in [AccountQuota, UserQuota, UserRate, NameQuota, SourceQuota, SourceRate].map(Said::Refuse) {
        assert!(all.contains(&said), "{said:?} does not occur");
    }
    assert!(all.contains(&Said::Hold) && all.contains(&Said::Admit));
}

/// Where servers and rates are what clients wait for, both modes are alike up to the first client that has to.
#[test]
fn both_modes_are_alike_up_to_the_first_client_that_has_to_wait() {
    let mut all = HashMap::<_, u32>::new();
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let limits = |rate, most: Option<u32>, handshakes: Option<u32>| AccountLimits {
            quota: quota(most, rate),
            max_handshakes: handshakes.map(|n| n.try_into().unwrap()),
            ..AccountLimits::default()
        };
        let of_account = match rng.u8(0..3) {
            0 => limits(rate(5, 4), None, None),
            1 => limits(None, Some(6), None),
            _ => limits(None, None, Some(4)),
        };
        let params = Params {
            pace: if rng.u8(0..3) == 0 { rate(20, 6) } else { None },
            accounts: HashMap::from([("A".into(), of_account)]),
            max_held: if rng.u8(0..4) == 0 { 0 } else { 1000 },
            ..wide_open()
        };
        let most = if rng.u8(0..3) == 0 { Some(rng.u32(4..10)) } else { None };
        let mut sides = [Mode::Enforce, Mode::Observe].map(|mode| Side::new(mode, &params, most, seed));
        let (mut now, logs_in) = (Instant::now(), rng.bool());
        for step in 0..200 {
            now += Duration::from_millis(rng.u64(0..30));
            let arrival = arrival(step, &mut rng);
            let [did, would] = sides.each_mut().map(|side| side.comes(&arrival, now, logs_in));
            let is_same = match (did, would) {
                // The queue finds out later whether a client waits in vain.
                (Said::Hold, Said::Refuse(reason)) => reason == Refusal::HoldExpired || reason == Refusal::AccountRate,
                _ => did == would,
            };
            assert!(is_same, "seed {seed}, step {step}: {did:?} and {would:?}, {arrival:?}");
            if did != Said::Admit {
                *all.entry(did).or_default() += 1;
                break;
            }
        }
        let [enforce, observe] = sides;
        assert_eq!(observe.admission.queued(), 0);
        drop(enforce);
        observe.ends_clean(now);
    }
    assert!(all[&Said::Hold] > 50, "{all:?}");
    for reason in [Refusal::AccountQuota, Refusal::QueueFull] {
        assert!(all.contains_key(&Said::Refuse(reason)), "{reason:?}: {all:?}");
    }
}

/// A pace of 10 a second, and 100 clients at once that can wait for 5 s: a good half of them waits in vain.
#[test]
fn a_pace_is_waited_for_one_after_the_other() {
    let params = Params { pace: rate(10, 1), ..wide_open() };
    let mut side = Side::new(Mode::Observe, &params, None, 1);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut now = Instant::now();
    let mut comes = |id, now, hold| {
        let arrival = Arrival { hold: Duration::from_millis(hold), is_known: true, ..arrival(id, &mut rng) };
        side.comes(&arrival, now, true)
    };
    let said: Vec<_> = (0..100).map(|id| comes(id, now, 5000)).collect();
    let count = |what: Said| said.iter().filter(|one| **one == what).count();
    let in_vain = Said::Refuse(Refusal::HoldExpired);
    assert_eq!((said[0], count(Said::Admit)), (Said::Admit, 1));
    assert!((48..=51).contains(&count(Said::Hold)) && count(in_vain) == 99 - count(Said::Hold), "{said:?}");
    // Who comes later waits behind them, and once they would be through there is a token again.
    now += Duration::from_secs(2);
    assert_eq!((comes(200, now, 1000), comes(201, now, 4000)), (in_vain, Said::Hold));
    now += Duration::from_secs(10);
    assert_eq!(comes(202, now, 1000), Said::Admit);
    side.ends_clean(now);
}
