//! How long weir may hold a client, by the `lang` of its CONNECT.
//!
//! Measured with the official libraries at their defaults: Go, Java and C allow 2 s from TCP connect to PONG, Python
//! and .NET 2 s for each step, Rust 5 s, JavaScript 20 s. A client that has given up often leaves its socket open, and
//! admitting it then wastes a server's slot. So the hold ends well before the client gives up, and so does the
//! handshake with the server. How long before depends on what is known: how far away the client is, and what a login of
//! its account takes.
//!
//! A deadline is a guess until it has passed. A client that says CONNECT only when the deadline of its library is over
//! has another one, and is in no hurry that weir knows of: its time to wait counts from CONNECT.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::client_library::{lang, library::Deadline, returns::Return};

/// The deadlines of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// It may wait for its turn until then, where its login takes no longer than from then to [`Deadlines::answer_by`];
    /// see [`last_turn`].
    pub hold_until: Instant,
    /// It must have its PONG by then.
    pub answer_by: Instant,
    /// When it comes back once it is refused.
    pub returns: Return,
}

/// How long clients of each library may be held.
#[derive(Debug, Clone)]
pub struct DeadlinePolicy {
    max_hold: Duration,
    by_lang: HashMap<String, Duration>,
}

/// The least time between the end of the hold and the answer, while it is not known what a login takes.
pub const UNKNOWN_LOGIN: Duration = Duration::from_millis(400);
/// From the end of the hold until the client has given up, as far as weir knows.
const GIVES_UP: Duration = UNKNOWN_LOGIN.saturating_add(Duration::from_millis(100));
/// A client that does not have to wait for its turn has at least this long for the dial and the login, counted from its
/// CONNECT, however late that came: with less time a healthy server could not let it in.
pub const FAIR_TIME: Duration = UNKNOWN_LOGIN;
/// Where it is known what a login takes, this many times that is left for it.
const LOGIN_MARGIN: f64 = 1.3;
/// So much is left at least between the last turn and the client's own deadline.
const HOLD_MARGIN: Duration = Duration::from_millis(50);
/// The default of `max_hold`: what [`hold_within`] leaves of the 2 s that Go, Java and C allow in all. Any other value
/// is taken as it is: it comes from an operator who knows the clients.
const USUAL_HOLD: Duration = hold_within(Duration::from_secs(2));
/// The part of `max_hold` that may pass before a client has seen INFO: 1.2 s of the default 1.5 s.
const BEFORE_INFO: f64 = 0.8;

/// A nats-server that connects as a leafnode waits for INFO for 1 s (`DEFAULT_LEAFNODE_INFO_WAIT`, const.go), from when
/// TCP, or TLS before INFO, or the HTTP request of its WebSocket, is done. Of that its turn may take this much.
const LEAFNODE_BEFORE_INFO: Duration = Duration::from_millis(750);
/// A leafnode waits for the answer to its CONNECT for so long (`connectProcessTimeout`, leafnode.go).
const LEAFNODE_ALLOWS: Duration = Duration::from_secs(2);
/// So much of that is left at least for its CONNECT on the way and the answer on the way back: a leafnode counts from
/// when it has sent its CONNECT. One that is farther away has as much as its first round trip took.
const LEAFNODE_ROUND_TRIP: Duration = Duration::from_millis(100);
/// A leafnode that is refused comes back after this (`DEFAULT_LEAF_NODE_RECONNECT`, const.go).
const LEAFNODE_RETURNS: Duration = Duration::from_secs(1);

/// How long weir may hold a client whose library allows this much. The rest is [`UNKNOWN_LOGIN`] for the login, and 100
/// ms; where a library allows more than 10 s, the rest is a twentieth.
const fn hold_within(allowed: Duration) -> Duration {
    let (least, twentieth) = (GIVES_UP, allowed.checked_div(20));
    match twentieth {
        Some(twentieth) if twentieth.as_nanos() > least.as_nanos() => allowed.saturating_sub(twentieth),
        _ => allowed.saturating_sub(least),
    }
}

/// How long clients of this `lang` may be held where the configuration says nothing of it, and whether that counts from
/// their CONNECT; `None`: as long as `max_hold`, from accept.
pub fn usual_hold(lang: &str) -> Option<(Duration, bool)> {
    match lang::deadline(lang)? {
        Deadline::Total(allowed) if hold_within(allowed) > USUAL_HOLD => Some((hold_within(allowed), false)),
        Deadline::Total(_) => None,
        Deadline::PerStep(allowed) => Some((hold_within(allowed), true)),
    }
}

impl DeadlinePolicy {
    /// `max_hold` is for clients of unknown kind, from accept; `by_lang` overrides the defaults by `lang`.
    pub fn new(max_hold: Duration, by_lang: HashMap<String, Duration>) -> Self {
        Self { max_hold, by_lang }
    }

    /// Until when a client that was accepted at `accepted`, and has waited for weir since `heard`, may wait before it
    /// has seen INFO. What is left of the hold of a client of unknown kind is for INFO, for CONNECT, and for the answer
    /// or a refusal that it can read.
    pub fn before_info(&self, accepted: Instant, heard: Instant) -> Instant {
        counts_from(accepted, heard, self.max_hold) + self.max_hold.mul_f64(BEFORE_INFO)
    }

    /// The same for a leafnode, which counts from `heard`, however long what was before that has taken.
    pub fn of_leafnode_before_info(&self, heard: Instant) -> Instant {
        self.before_info(heard, heard).min(heard + LEAFNODE_BEFORE_INFO)
    }

    /// The deadlines of a client that was accepted at `accepted` and whose CONNECT, with this `lang`, came at
    /// `connected`.
    pub fn deadlines(&self, lang: Option<&str>, accepted: Instant, connected: Instant) -> Deadlines {
        let within = |hold| counts_from(accepted, connected, hold) + hold;
        let lang = lang.unwrap_or_default();
        let allowed = lang::deadline(lang);
        let (hold_until, is_usual) = match (self.by_lang.get(lang), allowed) {
            (Some(&hold), _) => (within(hold), false),
            (None, None) => (within(self.max_hold), false),
            (None, Some(Deadline::Total(allowed))) if hold_within(allowed) > USUAL_HOLD => {
                (within(hold_within(allowed)), false)
            }
            (None, Some(Deadline::Total(_))) => (within(self.max_hold), true),
            // The library's deadline starts anew when it sends CONNECT.
            (None, Some(Deadline::PerStep(allowed))) if hold_within(allowed) < USUAL_HOLD => {
                (connected + hold_within(allowed).min(self.max_hold), false)
            }
            (None, Some(Deadline::PerStep(allowed))) => {
                ((accepted + self.max_hold).max(connected + hold_within(allowed)), true)
            }
        };
        let answer_by = (hold_until + UNKNOWN_LOGIN).max(connected + FAIR_TIME);
        // The client began to count half a round trip before weir, and the answer takes the other half. From accept to
        // CONNECT it took at least one round trip: longer on a busy machine, but there it took longer too until the
        // client was accepted.
        let far = connected.saturating_duration_since(accepted);
        let latest = answer_by.checked_sub(HOLD_MARGIN + far).filter(|_| is_usual && self.max_hold == USUAL_HOLD);
        let hold_until = latest.map_or(hold_until, |latest| latest.max(hold_until));
        Deadlines { hold_until, answer_by, returns: lang::returns(lang) }
    }

    /// The deadlines of a nats-server that connects as a leafnode, whose CONNECT came at `connected`, `round_trip`
    /// after weir had sent INFO.
    pub fn of_leafnode(&self, connected: Instant, round_trip: Duration) -> Deadlines {
        // However slow it has been, a login that begins at once has a fair time.
        let left = LEAFNODE_ALLOWS.saturating_sub(round_trip.max(LEAFNODE_ROUND_TRIP)).max(FAIR_TIME);
        let hold = self.max_hold.min(left.saturating_sub(UNKNOWN_LOGIN));
        let answer_by = connected + left;
        Deadlines { hold_until: connected + hold, answer_by, returns: Return::After(LEAFNODE_RETURNS) }
    }
}

/// From when the deadline of a client counts that was accepted at `accepted`, and has waited for weir since `heard`, if
/// its library is taken for one whose clients may be held for `hold`. A client that is still there when it should have
/// given up has a longer deadline than that, of which nothing is known.
fn counts_from(accepted: Instant, heard: Instant, hold: Duration) -> Instant {
    if heard < accepted + hold + GIVES_UP { accepted } else { heard }
}

/// The last moment at which a turn is of use to a client that came at `came`, may be held until `hold_until` and must
/// have its answer by `answer_by`. `login_time` is what logins of its account take, zero while that is unknown.
///
/// Where such a login does not fit into what the client's library allows by default, those who get in allow more: then
/// the hold alone counts.
pub fn last_turn(came: Instant, hold_until: Instant, answer_by: Instant, login_time: Duration) -> Instant {
    let takes = if login_time.is_zero() { UNKNOWN_LOGIN } else { login_time.mul_f64(LOGIN_MARGIN) };
    let latest = answer_by.checked_sub(takes).filter(|&latest| latest >= came);
    latest.map_or(hold_until, |latest| latest.min(hold_until))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TLS before INFO, or the HTTP request, may have taken any part of the time that a client has.
    #[test]
    fn a_leafnode_waits_for_info_as_long_however_late_it_is_heard() {
        let accepted = Instant::now();
        let ms = Duration::from_millis;
        for (max_hold, waits) in [(USUAL_HOLD, 750), (ms(10_000), 750), (ms(500), 400)] {
            let policy = DeadlinePolicy::new(max_hold, HashMap::new());
            for late in [0, 400, 1_100, 1_900, 5_000] {
                let heard = accepted + ms(late);
                assert_eq!(policy.of_leafnode_before_info(heard), heard + ms(waits), "{late}");
            }
        }
        // A client that has not given up yet counts from accept.
        let policy = DeadlinePolicy::new(USUAL_HOLD, HashMap::new());
        assert_eq!(policy.before_info(accepted, accepted + ms(1_100)), accepted + ms(1_200));
    }

    #[test]
    fn what_is_told_of_a_lang_is_what_holds() {
        let policy = DeadlinePolicy::new(USUAL_HOLD, HashMap::new());
        let accepted = Instant::now();
        let connected = accepted + Duration::from_millis(300);
        for lang in lang::known().map(|lang| lang.replace('…', "3.3.0")) {
            let hold_until = policy.deadlines(Some(&lang), accepted, connected).hold_until;
            match usual_hold(&lang) {
                Some((hold, true)) if hold >= USUAL_HOLD => assert!(hold_until >= connected + hold, "{lang}"),
                Some((hold, true)) => assert_eq!(hold_until, connected + hold, "{lang}"),
                Some((hold, false)) => assert_eq!(hold_until, accepted + hold, "{lang}"),
                None => assert!(hold_until >= accepted + USUAL_HOLD, "{lang}"),
            }
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_leafnode_has_its_answer_before_it_gives_up_however_far_it_is() {
        let policy = DeadlinePolicy::new(USUAL_HOLD, HashMap::new());
        let connected = Instant::now();
        for round_trip in [0, 1, 99, 100, 101, 300, 1000, 1600] {
            let Deadlines { hold_until, answer_by, .. } = policy.of_leafnode(connected, round_trip * MS);
            assert!(answer_by + round_trip * MS <= connected + LEAFNODE_ALLOWS, "{round_trip} ms");
            assert!(hold_until >= connected && hold_until + UNKNOWN_LOGIN <= answer_by, "{round_trip} ms");
        }
        let near = policy.of_leafnode(connected, MS);
        assert_eq!((near.hold_until, near.answer_by), (connected + 1500 * MS, connected + 1900 * MS));
        // One that was silent for long between INFO and CONNECT is far, or slow: its login may be tried at once.
        let slow = policy.of_leafnode(connected, 5000 * MS);
        assert_eq!((slow.hold_until, slow.answer_by), (connected, connected + FAIR_TIME));
    }

    #[test]
    fn every_kind_is_answered_before_it_gives_up() {
        let policy = DeadlinePolicy::new(Duration::from_millis(1500), HashMap::new());
        let accepted = Instant::now();
        let connected = accepted + Duration::from_millis(700);
        let total =
            [("go", 2.0), ("java", 2.0), ("C", 2.0), ("", 2.0), ("newlang", 2.0), ("rust", 5.0), ("nats.js", 20.0)];
        for (lang, seconds) in total {
            let deadlines = policy.deadlines(Some(lang), accepted, connected);
            assert!(deadlines.answer_by < accepted + Duration::from_secs_f64(seconds), "{lang}");
            assert!(deadlines.hold_until < deadlines.answer_by);
        }
        for lang in ["go", "java", "C", "python3", ".NET"] {
            // What a session must see to: the login begins in time to end in time.
            let Deadlines { hold_until, answer_by, .. } = policy.deadlines(Some(lang), accepted, accepted);
            let last = |login_time| last_turn(accepted, hold_until, answer_by, login_time) - accepted;
            assert_eq!(last(Duration::ZERO), 1500 * MS, "{lang}");
            assert_eq!(last(MS), 1850 * MS, "{lang}");
            assert_eq!(last(200 * MS), 1640 * MS, "{lang}");
            assert_eq!(last(3000 * MS), hold_until - accepted, "{lang}: who gets in allows more");
        }
        for lang in ["python3", ".NET"] {
            let deadlines = policy.deadlines(Some(lang), accepted, connected);
            assert!(deadlines.answer_by < connected + Duration::from_secs(2), "{lang}");
            assert!(
                deadlines.hold_until > accepted + Duration::from_millis(1500),
                "{lang}: its clock starts anew with CONNECT"
            );
        }
    }

    /// The figures that the reference of the configuration promises.
    #[test]
    fn each_library_is_held_for_its_own_time() {
        let policy = DeadlinePolicy::new(1500 * MS, HashMap::new());
        let accepted = Instant::now();
        for (lang, from_accept) in [
            ("rust", 4500),
            ("nats.js", 19_000),
            ("nats.ws", 19_000),
            ("python3", 700 + 1500),
            (".NET", 700 + 1500),
            ("ruby3.3.0", 700 + 1500),
            ("php", 700 + 500),
            ("zig", 700 + 4500),
            ("dart", 700 + 4500),
            ("nats.deno", 19_000),
            ("go", 1500),
            ("java", 1500),
            ("C", 1500),
            ("newlang", 1500),
        ] {
            let deadlines = policy.deadlines(Some(lang), accepted, accepted + 700 * MS);
            assert_eq!(deadlines.hold_until - accepted, from_accept * MS, "{lang}");
            assert_eq!(deadlines.answer_by - accepted, from_accept * MS + UNKNOWN_LOGIN, "{lang}");
        }
    }

    #[test]
    fn a_client_that_is_far_away_is_answered_sooner() {
        let policy = DeadlinePolicy::new(1500 * MS, HashMap::new());
        let accepted = Instant::now();
        for far in [10, 100, 300, 1000] {
            let hold = policy.deadlines(Some("go"), accepted, accepted + far * MS).hold_until - accepted;
            assert_eq!(hold, (1850 * MS - far * MS).max(1500 * MS));
            let step = policy.deadlines(Some(".NET"), accepted, accepted + far * MS).hold_until - accepted;
            assert_eq!(step, (1850 * MS).max(1500 * MS + far * MS));
        }
    }

    /// Whenever CONNECT comes, there is a fair time from then on. One that comes after the library's deadline begins
    /// the wait anew.
    #[test]
    fn a_late_client_is_not_in_a_hurry() {
        let policy = DeadlinePolicy::new(1500 * MS, HashMap::from([("mine".to_owned(), 300 * MS)]));
        let accepted = Instant::now();
        for (lang, allowed) in [("go", 2000), ("", 2000), ("device", 2000), ("mine", 800), ("rust", 5000)] {
            let hold = policy.deadlines(Some(lang), accepted, accepted).answer_by - accepted - UNKNOWN_LOGIN;
            for came in (0..30_000).step_by(50) {
                let connected = accepted + came * MS;
                let Deadlines { hold_until, answer_by, .. } = policy.deadlines(Some(lang), accepted, connected);
                assert!(answer_by >= connected + FAIR_TIME && answer_by >= hold_until, "{lang} {came}");
                if came >= allowed {
                    assert!(hold_until >= connected + hold, "{lang} {came}");
                    assert!(answer_by < connected + allowed * MS, "{lang} {came}");
                } else {
                    // Its own deadline is near, so it waits for no turn beyond that.
                    assert!(hold_until < accepted + allowed * MS, "{lang} {came}");
                }
            }
        }
    }

    #[test]
    fn a_late_client_hello_begins_the_wait_for_info() {
        let policy = DeadlinePolicy::new(1500 * MS, HashMap::new());
        let accepted = Instant::now();
        for (heard, until) in [(0, 1200), (1700, 1200), (1999, 1200), (2000, 3200), (9000, 10_200)] {
            assert_eq!(policy.before_info(accepted, accepted + heard * MS), accepted + until * MS, "{heard}");
        }
    }

    #[test]
    fn a_hold_that_is_not_the_usual_one_is_taken_by_its_word() {
        let (now, hold) = (Instant::now(), |max_hold| {
            move |lang, now| DeadlinePolicy::new(max_hold, HashMap::new()).deadlines(lang, now, now).hold_until - now
        });
        for lang in [None, Some("go"), Some("java"), Some("C"), Some("newlang")] {
            assert_eq!(hold(800 * MS)(lang, now), 800 * MS, "{lang:?}");
            assert_eq!(hold(1900 * MS)(lang, now), 1900 * MS, "{lang:?}");
        }
    }

    #[test]
    fn the_operator_knows_better() {
        let by_lang = HashMap::from([("go".to_owned(), Duration::from_secs(9))]);
        let policy = DeadlinePolicy::new(Duration::from_millis(1500), by_lang);
        let now = Instant::now();
        assert_eq!(policy.deadlines(Some("go"), now, now).hold_until, now + Duration::from_secs(9));
    }
}
