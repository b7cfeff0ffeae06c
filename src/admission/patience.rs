//! How long a client waits before it gives up, by the `lang` of its CONNECT, and how much of that weir may use.
//!
//! Measured with the official libraries at their defaults: Go, Java and C allow 2 s from TCP connect to PONG, Python and
//! .NET 2 s for each step, Rust 5 s, JavaScript 20 s. A client that has given up often leaves its socket open, and whoever
//! is admitted after that wastes a server's slot; so holding ends well before, and the handshake with the server too.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::returns::Return;

/// The deadlines of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// It may wait for its turn until then.
    pub hold_until: Instant,
    /// It must have its answer by then.
    pub answer_by: Instant,
    /// What it does when it is refused.
    pub returns: Return,
}

/// What is known of the clients' patience.
#[derive(Debug, Clone)]
pub struct Patience {
    max_hold: Duration,
    by_lang: HashMap<String, Duration>,
}

/// Between the end of holding and the client's own deadline at least: the server's handshake takes place there.
const HANDSHAKE_MARGIN: Duration = Duration::from_millis(400);
/// The part of `max_hold` that may pass before a client has seen INFO: 1.2 s of the default 1.5 s.
const BEFORE_INFO: f64 = 0.8;
/// What Python and .NET allow for the step from CONNECT to PONG, less the margin.
const STEP_HOLD: Duration = Duration::from_millis(1500);

impl Patience {
    /// `max_hold` is for clients of unknown kind, from accept; `by_lang` overrides the defaults by `lang`.
    pub fn new(max_hold: Duration, by_lang: HashMap<String, Duration>) -> Self {
        Self { max_hold, by_lang }
    }

    /// Until when a client that was accepted at `accepted` may wait before it has seen INFO. What is left of the time of a
    /// client of unknown kind is for INFO, CONNECT and either an answer or a polite refusal.
    pub fn before_info(&self, accepted: Instant) -> Instant {
        accepted + self.max_hold.mul_f64(BEFORE_INFO)
    }

    /// The deadlines of a client that was accepted at `accepted` and whose CONNECT, with this `lang`, came at `connected`.
    pub fn deadlines(&self, lang: Option<&str>, accepted: Instant, connected: Instant) -> Deadlines {
        let lang = lang.unwrap_or_default();
        let hold_until = match (self.by_lang.get(lang), lang) {
            (Some(&hold), _) => accepted + hold,
            (None, "rust") => accepted + Duration::from_millis(4500),
            (None, "nats.js" | "nats.ws") => accepted + Duration::from_secs(19),
            (None, "python3" | ".NET") => (accepted + self.max_hold).max(connected + STEP_HOLD),
            (None, _) => accepted + self.max_hold,
        };
        Deadlines { hold_until, answer_by: hold_until + HANDSHAKE_MARGIN, returns: Return::of(lang) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_answered_before_it_gives_up() {
        let patience = Patience::new(Duration::from_millis(1500), HashMap::new());
        let accepted = Instant::now();
        let connected = accepted + Duration::from_millis(700);
        let total =
            [("go", 2.0), ("java", 2.0), ("C", 2.0), ("", 2.0), ("newlang", 2.0), ("rust", 5.0), ("nats.js", 20.0)];
        for (lang, seconds) in total {
            let deadlines = patience.deadlines(Some(lang), accepted, connected);
            assert!(deadlines.answer_by < accepted + Duration::from_secs_f64(seconds), "{lang}");
            assert!(deadlines.hold_until < deadlines.answer_by);
        }
        for lang in ["python3", ".NET"] {
            let deadlines = patience.deadlines(Some(lang), accepted, connected);
            assert!(deadlines.answer_by < connected + Duration::from_secs(2), "{lang}");
            assert!(
                deadlines.hold_until > accepted + Duration::from_millis(1500),
                "{lang}: its clock starts anew with CONNECT"
            );
        }
    }

    #[test]
    fn the_operator_knows_better() {
        let by_lang = HashMap::from([("go".to_owned(), Duration::from_secs(9))]);
        let patience = Patience::new(Duration::from_millis(1500), by_lang);
        let now = Instant::now();
        assert_eq!(patience.deadlines(Some("go"), now, now).hold_until, now + Duration::from_secs(9));
    }
}
