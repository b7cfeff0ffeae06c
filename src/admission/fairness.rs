//! Seeded storms of some accounts, beside a quiet account whose clients come one at a time: how far one account can
//! delay another.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    admission::{connect_check::Verdict, params::PatternQuotas, *},
    identity::{ClientKey, CredentialKey},
    outcome::Refusal,
    upstream::{self, Reserve, ServerParams, Servers, concurrency::baseline::MeasuredFrom},
};

const SEEDS: u64 = 100;
const TURNS: usize = 600;
/// Clients of each storming account: enough that some wait until the end.
const STORM: u64 = TURNS as u64;
const QUIET: usize = usize::MAX;

/// A client that waits, by its account.
#[derive(Debug)]
struct Waits(usize);

impl Waiter for Waits {
    fn has_left(&self) -> bool {
        false
    }
}

type TestAdmission = Admission<Waits>;

/// Servers without a reading.
pub fn unknown_servers(servers: usize) -> Arc<Servers> {
    let server = |n| ServerParams::bare(format!("n{n}:4222"));
    let cluster = upstream::Params {
        system: false,
        poll_interval: Duration::from_secs(1),
        reserve: Reserve::Slots(0),
        warn_at: 0.8,
        slow_start: Duration::ZERO,
        close_spread: Duration::ZERO,
        compatibility: upstream::Compatibility::default(),
        source_addresses: Vec::new(),
        cluster_names: Vec::new(),
        only_websocket: false,
        servers: (0..servers).map(server).collect(),
    };
    Arc::new(Servers::new(&cluster))
}

/// Limits that refuse no client.
pub fn wide_open() -> Params {
    Params {
        mode: Mode::default(),
        pace: None,
        max_held: usize::MAX,
        max_hold: Duration::from_secs(3600),
        max_hold_by_lang: HashMap::new(),
        refusal_spread: Duration::ZERO,
        max_clients: u32::MAX,
        per_source: Quota::default(),
        max_leafnodes_per_source: None,
        default_account: AccountLimits::default(),
        accounts: HashMap::new(),
        rules: Vec::new(),
        patterns: PatternQuotas::default(),
    }
}

fn admission(weights: &[u32], servers: usize) -> TestAdmission {
    let weighted = |(n, weight): (usize, &u32)| {
        let weight = NonZeroU32::new(*weight).unwrap();
        (n.to_string(), AccountLimits { weight, ..AccountLimits::default() })
    };
    let params = Params { accounts: weights.iter().enumerate().map(weighted).collect(), ..wide_open() };
    TestAdmission::new(&params, unknown_servers(servers))
}

/// What has happened in a storm.
struct Storm {
    admission: TestAdmission,
    rng: fastrand::Rng,
    now: Instant,
    clients: u64,
    under_way: Vec<Pass>,
    /// The accounts of the turns, in their order.
    turns: Vec<usize>,
    /// Whether their clients were known.
    were_known: Vec<bool>,
}

/// A known client of this account that may wait for an hour.
pub fn client(account: &str, client: u64, now: Instant) -> Client {
    Client {
        account: account.into(),
        key: ClientKey::from_raw(client),
        names_its_account: false,
        is_leafnode: false,
        source: Source::NOWHERE,
        proof: Proof::Known,
        may_use_reserve: false,
        would_refuse: None,
        quota_identity: QuotaIdentity::default(),
        hold_until: now + Duration::from_secs(3600),
        answer_by: now + Duration::from_secs(3601),
        returns: Return::Unknown,
    }
}

impl Storm {
    fn new(admission: TestAdmission, rng: fastrand::Rng) -> Self {
        Self {
            admission,
            rng,
            now: Instant::now(),
            clients: 0,
            under_way: Vec::new(),
            turns: Vec::new(),
            were_known: Vec::new(),
        }
    }

    fn arrives(&mut self, account: usize) {
        self.arrives_with(account, Proof::Known);
    }

    fn arrives_with(&mut self, account: usize, proof: Proof) {
        self.clients += 1;
        let name = if account == QUIET { "quiet".to_owned() } else { account.to_string() };
        let client = Client { proof, ..client(&name, self.clients, self.now) };
        match self.admission.at_connect(client, self.now, &mut self.rng, || Waits(account)) {
            Verdict::Admit(pass) => self.under_way.push(pass),
            Verdict::Hold { .. } => {}
            Verdict::Refuse { reason, .. } => panic!("{reason:?}"),
            Verdict::Reserve(_) => panic!("no rate is set"),
        }
    }

    /// Some handshake is over, and the next client begins its own.
    fn goes_on(&mut self) {
        self.now += Duration::from_micros(self.rng.u64(100..20_000));
        let mut over = self.under_way.swap_remove(self.rng.usize(0..self.under_way.len()));
        let took = Duration::from_millis(self.rng.u64(2..60));
        self.admission.handshake_finished(&mut over, took, (MeasuredFrom::Dial, Duration::ZERO), None, self.now);
        drop(over);
        self.look();
    }

    /// Whoever can go does.
    fn look(&mut self) {
        let mut turns = Vec::new();
        self.admission.next_turns(self.now, &mut self.rng, &mut turns);
        for (Waits(account), pass) in turns {
            self.turns.push(account);
            self.were_known.push(pass.account.is_known());
            self.under_way.push(pass);
        }
    }
}

#[test]
fn nobody_waits_for_another_accounts_storm() {
    for seed in 0..SEEDS {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weights: Vec<u32> = (0..rng.usize(1..6)).map(|_| rng.u32(1..5)).collect();
        let admission = admission(&weights, rng.usize(1..4));
        let mut storm = Storm::new(admission, rng);
        for _ in 0..STORM {
            (0..weights.len()).for_each(|account| storm.arrives(account));
        }
        // Where a client of the quiet account waits: how many turns there had been when it came.
        let mut came = None;
        while storm.turns.len() < TURNS {
            if came.is_none() && storm.rng.u32(0..4) == 0 {
                came = Some(storm.turns.len());
                storm.arrives(QUIET);
            }
            storm.goes_on();
            if let Some(since) = came {
                let others = storm.turns[since..].iter().take_while(|&&account| account != QUIET).count();
                let one_round = weights.iter().sum::<u32>() as usize;
                assert!(others <= one_round, "seed {seed}: {others} went before it, a round is {one_round}");
                came = came.filter(|_| since + others == storm.turns.len());
            }
        }
        let rounds = |(account, weight): (usize, &u32)| {
            let turns = storm.turns.iter().filter(|&&turn| turn == account).count();
            (turns / *weight as usize, turns.div_ceil(*weight as usize))
        };
        let (least, most): (Vec<_>, Vec<_>) = weights.iter().enumerate().map(rounds).unzip();
        assert!(
            most.iter().max() <= least.iter().min().map(|n| n + 1).as_ref(),
            "seed {seed}: rounds of each {least:?} to {most:?}"
        );
    }
}

/// Weir looks whose turn it is whenever a client comes and at short intervals, mostly while no server takes a login.
#[test]
fn an_account_of_which_a_login_was_overdue_once_keeps_its_turns() {
    for seed in 0..SEEDS {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut storm = Storm::new(admission(&[1], rng.usize(1..4)), rng);
        storm.arrives(QUIET);
        storm.under_way[0].login_is_overdue();
        storm.now += Duration::from_secs(1);
        storm.goes_on();
        (0..STORM).for_each(|_| storm.arrives(0));
        let mut came = None;
        while storm.turns.len() < TURNS / 2 {
            if came.is_none() && storm.rng.u32(0..4) == 0 {
                came = Some(storm.turns.len());
                storm.arrives(QUIET);
            }
            (0..storm.rng.u32(0..4)).for_each(|_| storm.look());
            storm.goes_on();
            if let Some(since) = came {
                let others = storm.turns[since..].iter().take_while(|&&account| account != QUIET).count();
                assert!(others <= 1, "seed {seed}: {others} went before it");
                came = came.filter(|_| since + others == storm.turns.len());
            }
        }
    }
}

/// In a storm of three accounts, clients of a fourth arrive: how many clients of the others had their turn from then to
/// the turn of the fourth's last.
fn went_before_the_last_of(fourth: AccountLimits, seed: u64) -> usize {
    let (storming, clients) = (3, 100);
    let params = Params { accounts: HashMap::from([(storming.to_string(), fourth)]), ..wide_open() };
    let admission = TestAdmission::new(&params, unknown_servers(3));
    let mut storm = Storm::new(admission, fastrand::Rng::with_seed(seed));
    for _ in 0..STORM {
        (0..storming).for_each(|account| storm.arrives(account));
    }
    for _ in 0..50 {
        storm.goes_on();
    }
    let since = storm.turns.len();
    (0..clients).for_each(|_| storm.arrives(storming));
    while storm.turns.len() < since + 2 * clients {
        storm.goes_on();
    }
    let last = storm.turns.iter().rposition(|&turn| turn == storming).unwrap();
    storm.turns[since..last].iter().filter(|&&turn| turn != storming).count()
}

/// As `config/reference.toml` says.
#[test]
fn an_account_with_all_the_weight_goes_almost_first_and_one_with_priority_first() {
    for seed in 0..SEEDS {
        let weighty = AccountLimits { weight: NonZeroU32::new(1000).unwrap(), ..AccountLimits::default() };
        let others = went_before_the_last_of(weighty, seed);
        assert!(others <= 3, "seed {seed}: {others} of others went before its last");
        let priority = AccountLimits { priority: true, ..AccountLimits::default() };
        assert_eq!(went_before_the_last_of(priority, seed), 0, "seed {seed}");
    }
}

/// As one who has not logged in from where it comes.
fn stranger(n: u64) -> Proof {
    Proof::Missing(Claim { source: Source::NOWHERE, credential: CredentialKey::from_raw(n) })
}

/// Clients that are not known come to an account, and known ones after them. How many of these have had their turn
/// before the first of the others has.
fn known_before_strangers(limits: AccountLimits) -> usize {
    let params = Params { accounts: HashMap::from([("0".to_owned(), limits)]), ..wide_open() };
    let mut storm = Storm::new(TestAdmission::new(&params, unknown_servers(1)), fastrand::Rng::with_seed(7));
    storm.arrives(QUIET);
    (0..20).for_each(|n| storm.arrives_with(0, stranger(n)));
    (0..5).for_each(|_| storm.arrives(0));
    while storm.turns.len() < 25 {
        storm.goes_on();
    }
    storm.were_known.iter().take_while(|known| **known).count()
}

#[test]
fn known_clients_go_first_whatever_limits_their_account_has() {
    let one = NonZeroU32::new(1000).unwrap();
    let rate = Some(Rate { per_second: one, burst: one });
    for quota in [
        Quota::default(),
        Quota { max_connections: Some(1000), ..Quota::default() },
        Quota { rate, ..Quota::default() },
    ] {
        assert_eq!(known_before_strangers(AccountLimits { quota, ..AccountLimits::default() }), 5, "{quota:?}");
    }
}

/// Servers lose known clients as fast as they take them back.
#[test]
fn new_clients_get_in_while_a_storm_of_known_ones_does_not_end() {
    for seed in 0..SEEDS {
        let mut storm = Storm::new(admission(&[1], 2), fastrand::Rng::with_seed(seed));
        (0..50).for_each(|_| storm.arrives(0));
        let new = 10;
        (0..new).for_each(|n| storm.arrives_with(0, stranger(n)));
        while storm.turns.len() < 150 {
            let before = storm.turns.len();
            storm.goes_on();
            (before..storm.turns.len()).for_each(|_| storm.arrives(0));
        }
        let had_turn = storm.were_known.iter().filter(|known| !**known).count() as u64;
        assert_eq!(had_turn, new, "seed {seed}");
    }
}

#[test]
fn a_stranger_whose_turn_it_is_and_who_lacks_a_token_keeps_no_known_client_out() {
    let rate = |n| NonZeroU32::new(n).unwrap();
    let quota = Quota { rate: Some(Rate { per_second: rate(1), burst: rate(100) }), ..Quota::default() };
    let limits = AccountLimits { quota, ..AccountLimits::default() };
    let params = Params { accounts: HashMap::from([("0".to_owned(), limits)]), ..wide_open() };
    let mut storm = Storm::new(TestAdmission::new(&params, unknown_servers(1)), fastrand::Rng::with_seed(7));
    storm.arrives(QUIET);
    let account = storm.admission.accounts().of_name("0", storm.now);
    while account.take_token(false, storm.now) {}
    (0..5).for_each(|n| storm.arrives_with(0, stranger(n)));
    (0..60).for_each(|_| storm.arrives(0));
    (0..60).for_each(|_| storm.goes_on());
    assert!(storm.were_known.len() >= 55 && storm.were_known.iter().all(|known| *known), "{:?}", storm.were_known);
}

/// Sends clients of an account until one is refused: how many came before it, and why it was.
fn come_until_refused(admission: &TestAdmission, account: &str) -> (usize, Refusal) {
    let now = Instant::now();
    let mut inside = Vec::new();
    for n in 0.. {
        let client = client(account, n, now);
        match admission.at_connect(client, now, &mut fastrand::Rng::with_seed(n), || Waits(0)) {
            Verdict::Refuse { reason, .. } => return (n as usize, reason),
            Verdict::Admit(pass) => inside.push(pass),
            _ => {}
        }
    }
    unreachable!()
}

#[test]
fn a_storm_leaves_room_to_wait_for_those_with_priority() {
    let accounts = HashMap::from([("first".to_owned(), AccountLimits { priority: true, ..AccountLimits::default() })]);
    let params = Params { max_held: 32, accounts, ..wide_open() };
    let admission = TestAdmission::new(&params, unknown_servers(1));
    assert_eq!(come_until_refused(&admission, "storm").1, Refusal::QueueFull);
    assert_eq!(admission.queued(), 30);
    assert_eq!(come_until_refused(&admission, "first"), (2, Refusal::QueueFull));
    assert_eq!(admission.queued(), 32);
}

/// A login under way.
struct UnderWay {
    account: usize,
    pass: Pass,
    began: Instant,
    is_overdue: bool,
}

/// Two accounts of which as many clients come, to servers that begin with one login at a time. Logins of one take a
/// millisecond; those of the other hang until their clients leave.
#[test]
fn an_account_whose_logins_hang_delays_no_other() {
    const MS: Duration = Duration::from_millis(1);
    let admission = admission(&[1], 2);
    let (mut rng, mut now, mut under_way) = (fastrand::Rng::with_seed(7), Instant::now(), Vec::<UnderWay>::new());
    let (mut waits, mut longest, mut quiet_in, mut turns) = (Vec::new(), Duration::ZERO, 0, Vec::new());
    for ms in 0..20_000u64 {
        now += MS;
        let mut begun = Vec::new();
        if ms % 25 == 0 {
            let account = if ms % 50 == 0 { 0 } else { QUIET };
            let name = if account == QUIET { "quiet" } else { "0" };
            match admission.at_connect(client(name, ms, now), now, &mut rng, || Waits(account)) {
                Verdict::Admit(pass) => begun.push((account, pass)),
                Verdict::Hold { .. } if account == QUIET => waits.push(now),
                Verdict::Hold { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        under_way.retain_mut(|login| {
            let (server, took) = (Arc::clone(login.pass.server.server()), now - login.began);
            if login.account == QUIET && took >= MS {
                let measured = (MeasuredFrom::Dial, Duration::ZERO);
                admission.handshake_finished(&mut login.pass, took, measured, None, now);
                return false;
            }
            if !login.is_overdue && took >= server.overdue_after() {
                login.pass.login_is_overdue();
                login.is_overdue = true;
            }
            if took >= 1900 * MS {
                admission.login_unanswered(login.pass.account.account(), &server, (login.began, true), None, now);
            }
            took < 1900 * MS
        });
        admission.next_turns(now, &mut rng, &mut turns);
        begun.extend(turns.drain(..).map(|(Waits(account), pass)| {
            if account == QUIET {
                longest = longest.max(now - waits.remove(0));
            }
            (account, pass)
        }));
        for (account, mut pass) in begun {
            quiet_in += usize::from(account == QUIET);
            pass.server.opened();
            under_way.push(UnderWay { account, pass, began: now, is_overdue: false });
        }
        let hang = under_way.iter().filter(|login| login.account == 0).count();
        assert!(ms < 10_000 || hang <= 2, "{hang} logins hang at {ms} ms, one on each server is enough");
    }
    assert!(quiet_in >= 399 && longest <= 500 * MS, "{quiet_in} of 400 are in, one after {longest:?}");
    assert!(admission.servers.list().iter().all(|server| server.load().overdue() <= 2));
    drop(under_way);
    assert!(
        admission.servers.list().iter().all(|server| (server.load().overdue(), server.load().handshakes()) == (0, 0))
    );
}

/// Each client is another user, so that no server has named its account before; every other login takes 30 ms, the
/// others a millisecond. How many logins the server is given at a time in the end.
fn limit_after_first_logins(are_named: bool) -> u32 {
    let (admission, mut rng, mut now) = (admission(&[], 1), fastrand::Rng::with_seed(7), Instant::now());
    for n in 0..200 {
        let (name, took) = [("QUICK", 1), ("SLOW", 30)][n as usize % 2];
        let verdict = admission.at_connect(client("default", n, now), now, &mut rng, || Waits(0));
        let Verdict::Admit(mut pass) = verdict else { panic!("{verdict:?}") };
        now += Duration::from_millis(took);
        let measured = (MeasuredFrom::Dial, Duration::ZERO);
        let named = are_named.then_some(name);
        admission.handshake_finished(&mut pass, Duration::from_millis(took), measured, named, now);
    }
    let unknown = admission.accounts().find(&"default".into()).expect("it is in use");
    assert_eq!(unknown.login_time().is_zero(), are_named, "it is no account");
    admission.servers.iter().next().unwrap().view(now).handshake_limit
}

#[test]
fn a_first_login_is_measured_by_the_account_that_the_server_names() {
    let (named, unnamed) = (limit_after_first_logins(true), limit_after_first_logins(false));
    assert!(named > 1 && unnamed == 1, "{named} where servers name accounts, {unnamed} where they do not");
}
