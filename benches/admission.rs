//! What the decisions cost: placement over few and many servers, the accept check, the connect check.
//!
//! `cargo bench --bench admission`

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use divan::{Bencher, black_box};
use weir::internals::{
    admission::{self, AccountLimits, Admission, Client, Limit, Proof, Quota, Rate, Return, Step, Wait, Waiter},
    identity::{ClientKey, Credential, CredentialKey, Keys},
    upstream::{Placement, Servers, Urgency, placement},
};

#[path = "samples/servers.rs"]
mod samples;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

use samples::servers;

fn main() {
    divan::main();
}

/// The pure choice, without the servers' own locks and counters.
#[divan::bench(args = [3, 100])]
fn choose(bencher: Bencher<'_, '_>, count: u32) {
    let views = samples::views(count);
    let mut rng = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| placement::choose(black_box(&views).iter().copied(), Urgency::CanWait(1), &mut rng));
}

/// A slot taken and given back.
#[divan::bench(args = [3, 100])]
fn place(bencher: Bencher<'_, '_>, count: usize) {
    let servers = servers(count, 10_000);
    let mut rng = fastrand::Rng::with_seed(1);
    let now = Instant::now();
    bencher.bench_local(|| {
        matches!(servers.place(black_box(now), &[], Urgency::CanWait(1), &mut rng), Placement::Placed(_))
    });
}

/// A client in the queue that is never told of its turn.
#[derive(Default)]
struct Nobody {
    credential: Option<CredentialKey>,
}

impl Waiter for Nobody {
    fn has_left(&self) -> bool {
        false
    }

    fn credential(&self) -> Option<CredentialKey> {
        self.credential
    }
}

type TestAdmission = Admission<Nobody>;

fn no_limit() -> Quota {
    Quota::default()
}

fn admission(per_source: Quota, of_account: Quota, servers: Arc<Servers>) -> TestAdmission {
    let params = admission::Params {
        mode: admission::Mode::default(),
        patterns: Default::default(),
        pace: None,
        max_held: 100_000,
        max_hold: Duration::from_millis(1500),
        max_hold_by_lang: HashMap::new(),
        refusal_spread: Duration::from_millis(1500),
        max_clients: 65_536,
        per_source,
        max_leafnodes_per_source: None,
        default_account: AccountLimits { quota: of_account, ..AccountLimits::default() },
        accounts: HashMap::new(),
        rules: Vec::new(),
    };
    Admission::new(&params, servers)
}

fn client_key() -> ClientKey {
    let keys = Keys::default();
    keys.client(SOURCE, keys.credential(Credential::User("alice")), Some("orders"))
}

fn client_of(account: &Arc<str>, key: ClientKey, now: Instant) -> Client {
    Client {
        names_its_account: false,
        is_leafnode: false,
        source: SOURCE.into(),
        proof: Proof::Known,
        may_use_reserve: false,
        would_refuse: None,
        quota_identity: Default::default(),
        account: Arc::clone(account),
        key,
        hold_until: now + Duration::from_millis(1500),
        answer_by: now + Duration::from_millis(1900),
        returns: Return::Unknown,
    }
}

#[divan::bench]
fn accept_check_admits(bencher: Bencher<'_, '_>) {
    let (admission, limit, now) =
        (admission(no_limit(), no_limit(), servers(3, 10_000)), Limit::new(65_536), Instant::now());
    bencher.bench_local(|| admission.at_accept(None, &limit, black_box((SOURCE, false)), now).is_ok());
}

#[divan::bench]
fn accept_check_admits_by_source(bencher: Bencher<'_, '_>) {
    let quota = Quota {
        warn_only: false,
        max_connections: Some(1000),
        rate: NonZeroU32::new(1_000_000).map(|most| Rate { per_second: most, burst: most }),
    };
    let (admission, limit, now) =
        (admission(quota, no_limit(), servers(3, 10_000)), Limit::new(65_536), Instant::now());
    bencher.bench_local(|| admission.at_accept(None, &limit, black_box((SOURCE, false)), now).is_ok());
}

#[divan::bench]
fn accept_check_refuses(bencher: Bencher<'_, '_>) {
    let (admission, limit, now) =
        (admission(no_limit(), no_limit(), servers(3, 10_000)), Limit::new(0), Instant::now());
    bencher.bench_local(|| admission.at_accept(None, &limit, black_box((SOURCE, false)), now).is_err());
}

/// A pass taken and given back.
#[divan::bench(args = [3, 100])]
fn connect_check_admits(bencher: Bencher<'_, '_>, count: usize) {
    let admission = admission(no_limit(), no_limit(), servers(count, 10_000));
    let (account, key, now) = (Arc::from("ORDERS"), client_key(), Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| {
        let client = client_of(&account, black_box(key), now);
        let (_, step) = Wait::at_connect(&admission, client, now, &mut rng, Nobody::default);
        matches!(step, Step::Dial(_))
    });
}

/// The account has all it may have.
#[divan::bench]
fn connect_check_refuses(bencher: Bencher<'_, '_>) {
    let quota = Quota { max_connections: Some(0), ..Quota::default() };
    let admission = admission(no_limit(), quota, servers(3, 10_000));
    let (account, key, now) = (Arc::from("ORDERS"), client_key(), Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| {
        let client = client_of(&account, black_box(key), now);
        let (_, step) = Wait::at_connect(&admission, client, now, &mut rng, Nobody::default);
        matches!(step, Step::Refuse(_) | Step::Wait(_))
    });
}

/// Every server is full: into the queue, and out of it again unserved.
#[divan::bench(args = [3, 100])]
fn connect_check_holds_and_gives_up(bencher: Bencher<'_, '_>, count: usize) {
    let admission = admission(no_limit(), no_limit(), servers(count, 0));
    let (account, key, now) = (Arc::from("ORDERS"), client_key(), Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| {
        let client = client_of(&account, black_box(key), now);
        let (mut wait, step) = Wait::at_connect(&admission, client, now, &mut rng, Nobody::default);
        wait.leave(&admission, now);
        matches!(step, Step::Wait(_))
    });
}

/// Every server is full and 20,000 clients wait, with as many credentials as told: one more into the queue, and out of
/// it again unserved. `default` is the lane of those whose account nobody knows, where credentials take turns.
#[divan::bench(args = [("ORDERS", 1), ("default", 1), ("default", 20_000)])]
fn connect_check_holds_behind_20_000(bencher: Bencher<'_, '_>, (account, credentials): (&str, u64)) {
    let admission = admission(no_limit(), no_limit(), servers(3, 0));
    let (account, key, now) = (Arc::from(account), client_key(), Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    let mut hold = |n: u64| {
        let client = client_of(&account, black_box(key), now);
        Wait::at_connect(&admission, client, now, &mut rng, || Nobody {
            credential: Some(CredentialKey::from_raw(n % credentials)),
        })
    };
    let waiting: Vec<_> = (0..20_000).map(&mut hold).map(|(wait, _)| wait).collect();
    assert_eq!(admission.queued(), waiting.len());
    let mut n = 0;
    bencher.bench_local(|| {
        n += 1;
        let (mut wait, step) = hold(n);
        wait.leave(&admission, now);
        matches!(step, Step::Wait(_))
    });
}
