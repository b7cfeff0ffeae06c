//! What the decisions cost: placement over few and many servers, the accept door, the connect door.
//!
//! `cargo bench --bench doors`

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use divan::{Bencher, black_box};
use weir::internals::{
    admission::{self, AccountLimits, Admission, Client, Limit, Pass, Quota, Rate, Return, Verdict, Waiter},
    identity::{ClientKey, Credential, Keys},
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

/// Who waits, where nobody is told.
struct Nobody;

impl Waiter for Nobody {
    fn has_left(&self) -> bool {
        false
    }
}

type Doors = Admission<Nobody>;

fn no_limit() -> Quota {
    Quota::default()
}

fn doors(per_source: Quota, of_account: Quota, servers: Arc<Servers>) -> Doors {
    let params = admission::Params {
        patterns: Default::default(),
        pace: None,
        max_held: 100_000,
        max_hold: Duration::from_millis(1500),
        max_hold_by_lang: HashMap::new(),
        refusal_spread: Duration::from_millis(1500),
        max_clients: 65_536,
        per_source,
        default_account: AccountLimits { quota: of_account, ..AccountLimits::default() },
        accounts: HashMap::new(),
        rules: Vec::new(),
    };
    Admission::new(&params, servers)
}

fn client() -> ClientKey {
    let keys = Keys::default();
    keys.client(SOURCE, keys.credential(Credential::User("alice")), Some("orders"))
}

fn applicant(account: &Arc<str>, client: ClientKey, now: Instant) -> Client {
    Client {
        quota_identity: Default::default(),
        account: Arc::clone(account),
        key: client,
        hold_until: now + Duration::from_millis(1500),
        answer_by: now + Duration::from_millis(1900),
        returns: Return::Unknown,
    }
}

#[divan::bench]
fn accept_door_admits(bencher: Bencher<'_, '_>) {
    let (doors, limit, now) = (doors(no_limit(), no_limit(), servers(3, 10_000)), Limit::new(65_536), Instant::now());
    bencher.bench_local(|| doors.at_accept(&limit, black_box(SOURCE), now).is_ok());
}

#[divan::bench]
fn accept_door_admits_by_source(bencher: Bencher<'_, '_>) {
    let quota = Quota {
        warn_only: false,
        max_connections: Some(1000),
        rate: NonZeroU32::new(1_000_000).map(|most| Rate { per_second: most, burst: most }),
    };
    let (doors, limit, now) = (doors(quota, no_limit(), servers(3, 10_000)), Limit::new(65_536), Instant::now());
    bencher.bench_local(|| doors.at_accept(&limit, black_box(SOURCE), now).is_ok());
}

#[divan::bench]
fn accept_door_refuses(bencher: Bencher<'_, '_>) {
    let (doors, limit, now) = (doors(no_limit(), no_limit(), servers(3, 10_000)), Limit::new(0), Instant::now());
    bencher.bench_local(|| doors.at_accept(&limit, black_box(SOURCE), now).is_err());
}

/// A pass taken and given back.
#[divan::bench(args = [3, 100])]
fn connect_door_admits(bencher: Bencher<'_, '_>, count: usize) {
    let doors = doors(no_limit(), no_limit(), servers(count, 10_000));
    let (account, client, now) = (Arc::from("ORDERS"), client(), Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| {
        let verdict = doors.at_connect(applicant(&account, black_box(client), now), now, &mut rng, || Nobody);
        matches!(verdict, Ok(Verdict::Admit(Pass { .. })))
    });
}

/// The account has all it may have.
#[divan::bench]
fn connect_door_refuses(bencher: Bencher<'_, '_>) {
    let quota = Quota { max_connections: Some(0), ..Quota::default() };
    let doors = doors(no_limit(), quota, servers(3, 10_000));
    let (account, client, now) = (Arc::from("ORDERS"), client(), Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| {
        let verdict = doors.at_connect(applicant(&account, black_box(client), now), now, &mut rng, || Nobody);
        matches!(verdict, Ok(Verdict::Refuse { .. }))
    });
}

/// Every server is full: into the queue, and out of it again unserved.
#[divan::bench(args = [3, 100])]
fn connect_door_holds_in_vain(bencher: Bencher<'_, '_>, count: usize) {
    let doors = doors(no_limit(), no_limit(), servers(count, 0));
    let (account, client, now) = (Arc::from("ORDERS"), client(), Instant::now());
    let mut rng = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| {
        let verdict = doors.at_connect(applicant(&account, black_box(client), now), now, &mut rng, || Nobody);
        match verdict {
            Ok(Verdict::Hold { ticket, .. }) => doors.leave(&ticket, now).is_some(),
            _ => false,
        }
    });
}
