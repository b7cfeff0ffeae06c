//! Up to when a server has delivered all that was published, as far as its answers to PINGs tell.
//!
//! A server that stands still, or whose path does, delivers nothing, and is not therefore without something to deliver:
//! messages wait for it at the other servers. It answers no PING either, so silence counts only while it answers. Its
//! answer does not stand behind what waits for it at other servers: those have some time more, also after it stood
//! still.

use std::time::{Duration, Instant};

/// How often a server is asked.
const ASKED_EVERY: Duration = Duration::from_millis(200);

/// A server that takes longer for an answer has stood still.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// What was published so long before a server was asked that now answers has come, or does not come any more.
const COMES_WITHIN: Duration = Duration::from_secs(1);

/// What one server has answered.
#[derive(Debug, Default)]
pub(super) struct CaughtUp {
    /// When it was sent the PING that it has not answered.
    asked: Option<Instant>,
    /// When it was sent the last one that it has answered.
    answered: Option<Instant>,
    /// Since when it has answered each in time.
    since: Option<Instant>,
}

impl CaughtUp {
    /// Whether it is time for a PING, which is to be sent then.
    pub fn ask(&mut self, now: Instant) -> bool {
        let is_time = self.answered.is_none_or(|last| now.saturating_duration_since(last) >= ASKED_EVERY);
        let asks = self.asked.is_none() && is_time;
        if asks {
            self.asked = Some(now);
        }
        asks
    }

    /// Whether a PING is not answered.
    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// A PONG has come, and what came before it is read.
    pub fn answer(&mut self, now: Instant) {
        let Some(asked) = self.asked.take() else { return };
        self.answered = Some(asked);
        if self.since.is_none() || now.saturating_duration_since(asked) > ANSWERS_WITHIN {
            self.since = Some(now);
        }
    }

    /// What other servers have delivered before this does not come from this one any more.
    pub fn until(&self) -> Option<Instant> {
        let (answered, since) = (self.answered?, self.since?);
        let until = answered.checked_sub(COMES_WITHIN)?;
        (since <= until).then_some(until)
    }

    /// Whether it has not stood still for a while: what it has delivered is known from before that on.
    pub fn is_prompt(&self, now: Instant) -> bool {
        let is_asked_long = self.asked.is_some_and(|asked| now.saturating_duration_since(asked) > ANSWERS_WITHIN);
        !is_asked_long && self.until().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_while_a_server_answers() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut server = CaughtUp::default();
        assert!(server.ask(at(0)) && !server.ask(at(300)) && server.is_asked());
        server.answer(at(10));
        assert!(!server.ask(at(100)), "every 200 ms");
        for ms in (200..=1200).step_by(200) {
            assert_eq!((server.until(), server.is_prompt(at(ms))), (None, false));
            assert!(server.ask(at(ms)));
            server.answer(at(ms + 1));
        }
        assert_eq!((server.until(), server.is_prompt(at(1201))), (Some(at(200)), true));
        // It stands still for five seconds.
        assert!(server.ask(at(1400)) && server.is_prompt(at(1800)) && !server.is_prompt(at(2000)));
        assert_eq!(server.until(), Some(at(200)), "what came later may still come");
        server.answer(at(6400));
        for ms in (6400..=7400).step_by(200) {
            assert_eq!((server.until(), server.is_prompt(at(ms))), (None, false), "as after the beginning");
            assert!(server.ask(at(ms)));
            server.answer(at(ms + 1));
        }
        assert_eq!(server.until(), Some(at(6400)));
        server.answer(at(9000));
        assert_eq!(server.until(), Some(at(6400)), "an answer to nothing");
    }
}
