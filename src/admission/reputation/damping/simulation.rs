//! Clients behind one address, whose logins one server refuses or accepts, in simulated time: compared with the rule
//! that only counts refused logins, and lets in whoever comes while fewer than 100 are not forgiven.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    ops::Range,
};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    admission::{
        client::Claim,
        reputation::sources::{LoginTry, SourceReputation},
    },
    identity::CredentialKey,
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn address() -> IpAddr {
    [192, 0, 2, 1].into()
}

/// Who may log in.
trait Rule {
    type Try;
    fn may_try(&self, credential: CredentialKey, now: Instant) -> Option<Self::Try>;
    fn failed(&self, credential: CredentialKey, login_try: Self::Try, now: Instant);
    fn succeeded(&self, credential: CredentialKey);
}

impl Rule for SourceReputation {
    type Try = LoginTry;

    fn may_try(&self, credential: CredentialKey, now: Instant) -> Option<LoginTry> {
        self.may_try(Claim { source: address().into(), credential }, now)
    }

    fn failed(&self, credential: CredentialKey, login_try: LoginTry, now: Instant) {
        self.failed(address(), credential, login_try, now);
    }

    fn succeeded(&self, credential: CredentialKey) {
        self.succeeded(address(), credential);
    }
}

/// The rule to compare with: nobody takes a try, and each refused login adds to a debt without a limit.
#[derive(Default)]
struct RefusedOnly {
    refused: Cell<LeakyBucket>,
    known: RefCell<HashSet<CredentialKey>>,
}

impl Rule for RefusedOnly {
    type Try = ();

    fn may_try(&self, credential: CredentialKey, now: Instant) -> Option<()> {
        let may = self.refused.get().level(now) < most() || self.known.borrow().contains(&credential);
        may.then_some(())
    }

    fn failed(&self, credential: CredentialKey, (): (), now: Instant) {
        self.known.borrow_mut().remove(&credential);
        self.refused.set(self.refused.get().add(now, FORGIVEN_IN));
    }

    fn succeeded(&self, credential: CredentialKey) {
        self.known.borrow_mut().insert(credential);
    }
}

/// A client that comes again and again until it is in, or for ever.
#[derive(Debug, Clone, Copy)]
struct Client {
    first: Duration,
    /// How long after its refusal it comes again, give or take a quarter.
    again: Duration,
    /// What its login takes.
    login: Duration,
    is_good: bool,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Comes,
    Answered,
}

/// What has become of the clients.
#[derive(Debug, Default)]
struct Outcome {
    /// When each good client got in, and how often it was kept out before.
    good: BTreeMap<usize, (Option<Duration>, u32)>,
    /// When the server refused a login.
    guesses: Vec<Duration>,
}

impl Outcome {
    fn last_in(&self) -> Option<Duration> {
        self.good.values().map(|(at, _)| *at).collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    fn most_kept_out(&self) -> u32 {
        self.good.values().map(|(_, kept_out)| *kept_out).max().unwrap_or_default()
    }

    fn mean_kept_out(&self) -> f64 {
        f64::from(self.good.values().map(|(_, kept_out)| kept_out).sum::<u32>()) / self.good.len().max(1) as f64
    }

    fn guesses_in(&self, time: Range<Duration>) -> usize {
        self.guesses.iter().filter(|&at| time.contains(at)).count()
    }

    /// The most guesses in any time of this length that begins in `time`.
    fn most_guesses(&self, length: Duration, time: Range<Duration>) -> usize {
        let begins = self.guesses.iter().filter(|&at| time.contains(at));
        begins.map(|&at| self.guesses_in(at..at + length)).max().unwrap_or_default()
    }
}

/// The server refuses everybody during `outage`.
fn simulate<R: Rule>(rule: &R, clients: &[Client], outage: Range<Duration>, until: Duration, seed: u64) -> Outcome {
    let (mut rng, began) = (fastrand::Rng::with_seed(seed), Instant::now());
    let mut events = BTreeMap::new();
    let mut tries: BTreeMap<usize, R::Try> = BTreeMap::new();
    let mut outcome = Outcome::default();
    let mut n = 0_u64;
    for (client, one) in clients.iter().enumerate() {
        n += 1;
        events.insert((one.first, n), (client, Event::Comes));
        if one.is_good {
            outcome.good.insert(client, (None, 0));
        }
    }
    while let Some(((at, _), (client, event))) = events.pop_first() {
        if at >= until {
            break;
        }
        let (one, now) = (&clients[client], began + at);
        let again = at + one.again.mul_f64(0.75 + rng.f64() / 2.0);
        n += 1;
        // Who guesses does so with another password each time.
        let credential = |n: u64| CredentialKey::from_raw(if one.is_good { client as u64 } else { (1 << 32) + n });
        match event {
            Event::Comes => match rule.may_try(credential(n), now) {
                Some(login_try) => {
                    tries.insert(client, login_try);
                    events.insert((at + one.login, n), (client, Event::Answered));
                }
                None => {
                    if let Some((_, kept_out)) = outcome.good.get_mut(&client) {
                        *kept_out += 1;
                    }
                    events.insert((again, n), (client, Event::Comes));
                }
            },
            Event::Answered => {
                let login_try = tries.remove(&client).unwrap();
                if one.is_good && !outage.contains(&at) {
                    rule.succeeded(credential(n));
                    drop(login_try);
                    outcome.good.get_mut(&client).unwrap().0 = Some(at);
                } else {
                    rule.failed(credential(n), login_try, now);
                    if !one.is_good {
                        outcome.guesses.push(at);
                    }
                    events.insert((again, n), (client, Event::Comes));
                }
            }
        }
    }
    outcome
}

/// So many of a kind, that come within a time.
fn clients(count: usize, within: Duration, again: Duration, login: Duration, is_good: bool) -> Vec<Client> {
    let first = |n: usize| within.mul_f64(n as f64 / count as f64);
    (0..count).map(|n| Client { first: first(n), again, login, is_good }).collect()
}

const NO_OUTAGE: Range<Duration> = Duration::ZERO..Duration::ZERO;

/// What nearly all libraries wait for before they come again.
const AGAIN: Duration = Duration::from_secs(2);

/// All are on their way to the server when it begins to refuse everybody, and none is known.
#[test]
fn thousands_that_fail_once_each_are_back_soon() {
    for (login, within) in [(10 * MS, 20 * SECOND), (2 * SECOND, 120 * SECOND)] {
        let all = clients(3000, login, AGAIN, login, true);
        let outcome = simulate(&SourceReputation::default(), &all, Duration::ZERO..2 * login, 900 * SECOND, 1);
        let last = outcome.last_in().unwrap();
        assert!(last < within && outcome.most_kept_out() < 60, "{last:?}, {}", outcome.most_kept_out());
    }
}

#[test]
fn a_first_failure_of_each_known_client_keeps_nobody_out() {
    let (reputation, now) = (SourceReputation::default(), Instant::now());
    let all: Vec<_> = (0..5000).map(CredentialKey::from_raw).collect();
    for credential in &all {
        Rule::succeeded(&reputation, *credential);
        Rule::failed(&reputation, *credential, LoginTry::default(), now);
    }
    let tries: Vec<_> = all.iter().map(|credential| Rule::may_try(&reputation, *credential, now)).collect();
    assert!(tries.iter().all(Option::is_some) && !reputation.is_damped(address(), now));
}

/// At the end of its damping too, and whatever comes between.
#[test]
fn who_guesses_without_pause_has_no_burst() {
    for (guessers, login) in [(1, 5 * MS), (50, 5 * MS), (300, 200 * MS)] {
        let all = clients(guessers, MS, SECOND / 4, login, false);
        let outcome = simulate(&SourceReputation::default(), &all, NO_OUTAGE, 200 * SECOND, 2);
        // By then the first hundred have failed, with those that were under way beside them.
        let damped = 40 * SECOND..198 * SECOND;
        let most = outcome.most_guesses(SECOND, damped.clone());
        assert!(most <= 7, "{most} in a second");
        assert!(outcome.guesses_in(damped) <= 5 * 158 + 5);
    }
}

/// Some clients of the address fail all the time, at more than 5 a second; then good ones come that are not known.
/// Where these come at once every other one has to come once more: without tries all or none get in.
#[test]
fn good_clients_are_kept_out_about_as_often_as_by_refused_logins_alone() {
    for (bad, good, within) in [(0, 5000, SECOND), (12, 200, SECOND), (20, 300, SECOND), (20, 100, 100 * SECOND)] {
        let mut all = clients(bad, AGAIN, AGAIN, 20 * MS, false);
        let mut others = clients(good, within, AGAIN, 20 * MS, true);
        others.iter_mut().for_each(|one| one.first += 60 * SECOND);
        all.extend(others);
        let kept_out = |seed| {
            let with_tries = simulate(&SourceReputation::default(), &all, NO_OUTAGE, 400 * SECOND, seed);
            let without = simulate(&RefusedOnly::default(), &all, NO_OUTAGE, 400 * SECOND, seed);
            assert!(with_tries.last_in().is_some() && without.last_in().is_some());
            (with_tries.mean_kept_out(), without.mean_kept_out())
        };
        let (with_tries, without): (Vec<f64>, Vec<f64>) = (0..8).map(kept_out).unzip();
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
        let (with_tries, without) = (mean(&with_tries), mean(&without));
        assert!(with_tries <= without + 0.5, "{bad} bad, {good} good: {with_tries} times, and {without} without tries");
    }
}

#[test]
fn a_try_comes_back_once_and_only_while_it_is_missing() {
    let (reputation, began) = (SourceReputation::default(), Instant::now());
    let claim = Claim { source: address().into(), credential: CredentialKey::from_raw(1) };
    for n in 0..300 {
        reputation.failed(address(), CredentialKey::from_raw(n), LoginTry::default(), began);
    }
    assert!(reputation.may_try(claim, began).is_none(), "there are none at first");
    let now = began + 2 * SECOND;
    let take_all = |now| (0..1000).map_while(|_| reputation.may_try(claim, now)).collect::<Vec<_>>();
    let mut taken = take_all(now);
    assert_eq!(taken.len(), 10);
    taken.truncate(7);
    assert_eq!(take_all(now).len(), 3, "three came back, and come back again");
    taken.pop().unwrap().use_up();
    let more = take_all(now);
    assert_eq!(more.len(), 3, "one is used");
    drop((more, taken));
    assert_eq!(take_all(now).len(), 9);
    // All tries are there again: those that were taken long before are among them.
    let long_ago = take_all(now);
    let now = began + 25 * SECOND;
    let used = take_all(now);
    assert_eq!(used.len(), 100, "no more are kept");
    used.into_iter().for_each(LoginTry::use_up);
    drop(long_ago);
    assert!(reputation.may_try(claim, now).is_none());
    assert!(reputation.may_try(claim, now + FORGIVEN_IN).is_some());
    assert!(!reputation.fails(address(), began + 60 * SECOND), "all is forgiven");
    let all = take_all(began + 60 * SECOND);
    assert_eq!(all.len(), 1000, "and nobody needs a try");
}

proptest! {
    #[test]
    fn after_any_number_of_failures_the_next_try_comes_at_once(
        failures in vec((0..10_000_u64, any::<bool>()), 1..3000),
    ) {
        let (mut damping, began) = (Damping::default(), Instant::now());
        let mut failures = failures;
        failures.sort_unstable();
        let mut now = began;
        for (after, wants_try) in failures {
            now = began + Duration::from_millis(after);
            let took_try = wants_try && damping.may_try(now) == Some(true);
            damping.refused(took_try, now);
        }
        prop_assert!(!damping.has_no_try(now + FORGIVEN_IN));
        prop_assert!(damping.may_try(now + FORGIVEN_IN).is_some());
    }

    /// However many guess, however often, and whatever pauses they make.
    #[test]
    fn no_more_guesses_than_are_forgiven(
        guessers in vec((0..100_000_u64, 10..60_000_u64, 1..3000_u64), 1..60),
        seed in any::<u64>(),
    ) {
        let guesser = |&(first, again, login): &(u64, u64, u64)| {
            let [first, again, login] = [first, again, login].map(Duration::from_millis);
            Client { first, again, login, is_good: false }
        };
        let (count, until) = (guessers.len(), 200 * SECOND);
        let all: Vec<_> = guessers.iter().map(guesser).collect();
        let outcome = simulate(&SourceReputation::default(), &all, NO_OUTAGE, until, seed);
        let most = 5 * 200 + 2 * TOLERATED as usize + count;
        prop_assert!(outcome.guesses.len() <= most, "{} of {most}", outcome.guesses.len());
    }
}
