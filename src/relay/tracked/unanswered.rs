//! SUBs of the client that its server may still refuse, and which of them an error is about.
//!
//! nats-server (`processSubEx` in its client.go, 2.9 to 2.15) refuses a SUB in three ways:
//!
//! | error | says which |
//! |---|---|
//! | `Permissions Violation for Subscription to "SUBJECT"` | by its subject |
//! | `Invalid Subject` | nothing, but the subject tells it: [`Subscriptions`] takes no such SUB |
//! | `maximum subscriptions exceeded` | nothing |
//!
//! Errors, PONGs and messages come in the order in which the server has read what they are about. Once a connection has
//! as many subscriptions as it may have, each further SUB is refused until a subscription ends. So as long as none has
//! ended, those refused are the last ones: each error takes out the newest. Where all SUBs that are not answered are
//! refused, all of them go. What cannot be told is which of several SUBs was refused where a subscription has ended
//! since the last PONG behind a SUB: an error that comes then may be about a SUB before that end or behind it. Such a
//! session goes to no other server: a subscription too many would end it there, and one too few would lose messages
//! without a word.
//!
//! [`Subscriptions`]: crate::protocol::subscriptions::Subscriptions

use super::{Bound, State};
use crate::protocol::subscriptions::Subscribed;

/// What the server has not answered, by no PONG behind it and by no error.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// SUBs that it may refuse.
    subs: u32,
    /// Of those, the ones that it has refused without saying which.
    refused: u32,
    /// Of those, the ones with an invalid subject: an error that says so is about the next of them.
    invalid: u32,
    /// Whether one of them changes nothing where it is accepted, or a subscription has ended since the first of them.
    is_mixed: bool,
    /// So many PONGs are still to come until the server has answered all of them. `None` while no PING stands behind.
    pongs_until: Option<u32>,
}

impl Unanswered {
    /// What another process has sent is not known.
    pub(super) fn of_another_process() -> Self {
        Self { subs: u32::MAX, is_mixed: true, ..Self::default() }
    }

    pub(super) fn sub(&mut self, subscribed: Subscribed) {
        self.subs = self.subs.saturating_add(1);
        match subscribed {
            Subscribed::New => {}
            Subscribed::InUse => self.is_mixed = true,
            Subscribed::Invalid => self.invalid = self.invalid.saturating_add(1),
        }
        self.pongs_until = None;
    }

    /// A subscription has ended.
    pub(super) fn ended(&mut self) {
        self.is_mixed |= self.subs > 0;
    }

    /// A PING goes to the server, which has so many to answer by that.
    pub(super) fn ping(&mut self, outstanding: u32) {
        if self.subs > 0 {
            self.pongs_until.get_or_insert(outstanding);
        }
    }

    /// The PINGs so far were for another server. This one, too, has had all SUBs so far.
    pub(super) fn asked_elsewhere(&mut self) {
        self.pongs_until = None;
    }

    fn are_all_refused(&self) -> bool {
        self.refused >= self.subs
    }

    /// Whether it cannot be told which are refused while others are not answered.
    fn is_unclear(&self) -> bool {
        self.is_mixed || self.invalid > 0
    }
}

impl State {
    /// The server has refused a SUB since the connection has as many subscriptions as it may have.
    pub(super) fn one_too_many(&mut self) {
        self.unanswered.refused = self.unanswered.refused.saturating_add(1);
        if self.unanswered.are_all_refused() {
            self.subscriptions.end_unconfirmed();
            self.unanswered = Unanswered::default();
        } else if !self.unanswered.is_unclear() {
            self.subscriptions.end_newest_unconfirmed();
        }
    }

    /// The server has refused a SUB for its subject.
    pub(super) fn invalid_subject(&mut self) {
        match self.unanswered.invalid.checked_sub(1) {
            Some(left) => {
                self.unanswered.invalid = left;
                self.unanswered.subs = self.unanswered.subs.saturating_sub(1);
            }
            // The server knows other rules than weir.
            None => {
                self.unanswered.is_mixed = true;
                self.one_too_many();
            }
        }
    }

    /// The server has answered a PING.
    pub(super) fn pong_for_subs(&mut self) {
        let Some(left) = &mut self.unanswered.pongs_until else { return };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return;
        }
        let unclear = self.unanswered.is_unclear() && self.unanswered.refused > 0;
        self.all_answered();
        if unclear {
            self.bind(Bound::Refused);
        }
    }

    /// What is not refused by now is subscribed.
    pub(super) fn all_answered(&mut self) {
        self.subscriptions.confirm();
        self.unanswered = Unanswered::default();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Known, Unanswered};

    /// What the client sends, and what the server answers: `+7` is SUB 7, `-7` UNSUB 7, `!` a refusal, `?` one for an
    /// invalid subject, `p` PING and `P` PONG. At `T` another process takes over.
    fn after(words: &str) -> Option<Vec<String>> {
        let known = Known::new(64 * 1024);
        for word in words.split(' ') {
            let mut state = known.state();
            match word.split_at(1) {
                ("+", sid) => state.subscribe(format!("subject.{sid} {sid}").as_bytes()),
                ("~", sid) => state.subscribe(format!("subject..{sid} {sid}").as_bytes()),
                ("-", sid) => state.unsubscribe(sid.as_bytes()),
                ("!", _) => state.one_too_many(),
                ("?", _) => state.invalid_subject(),
                ("p", _) => state.ping(),
                ("P", _) => assert!(state.pong()),
                ("T", _) => {
                    state.subscriptions.confirm();
                    state.unanswered = Unanswered::of_another_process();
                }
                _ => panic!("{word}"),
            }
        }
        let state = known.state();
        let sid = |(arguments, ..): (Vec<u8>, u32, u32)| {
            String::from_utf8(arguments).unwrap().rsplit(' ').next().unwrap().to_owned()
        };
        let mut sids: Vec<_> = state.subscriptions.all().map(sid).collect();
        sids.sort();
        state.bound.is_none().then_some(sids)
    }

    fn has(words: &str, sids: &str) {
        let expected: Vec<_> = sids.split_whitespace().map(str::to_owned).collect();
        assert_eq!(after(words), Some(expected), "{words}");
    }

    #[test]
    fn the_newest_are_those_beyond_the_maximum() {
        has("+1 +2 +3 !", "1 2");
        has("+1 +2 +3 +4 ! !", "1 2");
        has("+1 +2 +3 ! +4 !", "1 2");
        has("+1 +2 p P +3 +4 ! ! +5 !", "1 2");
        has("+1 +2 p +3 P ! p P", "1 2");
        // One that was refused in time of one that ended before it came.
        has("+1 +2 p P -1 +3 +4 ! p P", "2 3");
        has("+1 +2 +3 +4 ! ! p P -1 +5 p P", "2 5");
    }

    #[test]
    fn all_that_are_not_answered_are_refused() {
        has("+1 +2 p P +3 -1 ! +4 p P", "2 4");
        has("+1 +2 p P +3 +4 -3 -1 ! !", "2");
        // Its client takes it back before it hears of it.
        has("+1 +2 p P +3 -3 !", "1 2");
    }

    #[test]
    fn what_cannot_be_told_is_not_guessed() {
        // At a maximum of 2, 3 is refused and 4 is not; at one of 3, 4 is refused if the server has read it first.
        assert_eq!(after("+1 +2 p P +3 -1 +4 ! p P"), None);
        // The second SUB 2 is refused, or 3.
        assert_eq!(after("+1 +2 p P +3 +2 ! p P"), None);
        has("+1 +2 p P +3 -1 +4 p P", "2 3 4");
        // SUB 2 is refused, or one that its client has taken back.
        assert_eq!(after("+1 +2 T ! p P"), None);
        has("+1 +2 T p P +3 !", "1 2");
    }

    #[test]
    fn an_invalid_subject_is_no_subscription() {
        has("+1 ~2 +3", "1 3");
        has("+1 ~2 +3 ? p P", "1 3");
        has("+1 ~2 ? +3 !", "1");
        has("+1 ~2 +3 ? !", "1");
        // A server with other rules.
        has("+1 p P +2 ?", "1");
        assert_eq!(after("+1 +2 +3 ? p P"), None);
    }
}
