//! How long logins take on one server beside how long they take on others.
//!
//! Login times alone do not tell: accounts have logins of different kinds, and a server that has just had three slow
//! ones is not slow. So each login is compared with the last one of its own account on each other server. A server is
//! slow once several in a row have taken far longer than that.
//!
//! What is known is known for a while only. After that one client finds out anew, since a slow server gets few logins
//! that would show that it is quick again, and one that others are preferred to for its share gets none.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::lapse::Lapse;

/// How long a login takes on a server, beside the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginSpeed {
    /// About as long as elsewhere, or so short that it does not matter.
    Fair,
    /// Nobody has logged in there lately, and nobody is about to.
    Untried,
    /// Long enough to matter, and accounts that log in there have not done so elsewhere lately.
    Uncompared,
    /// Far longer than elsewhere.
    Slow,
}

impl LoginSpeed {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fair, Self::Untried, Self::Uncompared, Self::Slow];

    /// Whether another server may be better.
    pub fn is_long(self) -> bool {
        matches!(self, Self::Uncompared | Self::Slow)
    }

    /// Whether a server with the `other` one is better, or may be and is worth finding out.
    pub fn is_worse_than(self, other: Self) -> bool {
        match self {
            Self::Slow => other != Self::Slow,
            Self::Uncompared => other == Self::Untried,
            Self::Fair | Self::Untried => false,
        }
    }
}

/// A login takes far longer than another if it takes at least so many times as long, and so much longer: what a person
/// or a reconnecting client would not notice does not matter.
const FAR_LONGER_TIMES: u32 = 2;
const FAR_LONGER: Duration = Duration::from_millis(20);
/// So many logins in a row show that a server is slow. A single one may have met a pause of its server.
const IN_A_ROW: u32 = 5;
/// What the last login showed is known for so long. A slow server is tried again after less than that, and after twice
/// as long each time that it still is: a moment of other work on its cores is over soon.
const KNOWN_FOR: Duration = Duration::from_secs(10);
const FIRST_SLOW_FOR: Duration = Duration::from_secs(1);
const LONGEST_SLOW_FOR: Duration = Duration::from_secs(32);

/// A login that ended well, and what it is compared with.
#[derive(Debug, Clone, Copy)]
pub struct ComparedLogin {
    pub took: Duration,
    /// The most logins that were under way on its server meanwhile, itself included, as far as is known. They may have
    /// shared a core.
    pub under_way: u32,
    /// The least that the last logins of its account took on other servers; `None` where there were none lately.
    pub elsewhere: Option<Duration>,
}

impl ComparedLogin {
    /// One of which nothing is known but how long it took.
    pub fn uncompared(took: Duration) -> Self {
        Self { took, under_way: 1, elsewhere: None }
    }
}

/// What the logins on one server have shown.
#[derive(Debug)]
pub struct SpeedComparison {
    speed: LoginSpeed,
    /// Logins in a row that took far longer than elsewhere.
    slow: u32,
    slow_for: Duration,
    known_until: Option<Instant>,
}

impl Default for SpeedComparison {
    fn default() -> Self {
        Self { speed: LoginSpeed::Fair, slow: 0, slow_for: FIRST_SLOW_FOR, known_until: None }
    }
}

/// What is known of it, as another process recalls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RememberedSpeed {
    speed: LoginSpeed,
    #[serde(default)]
    slow: u32,
    #[serde(default)]
    slow_for: Lapse,
    /// For how long yet it is known.
    #[serde(default)]
    known: Lapse,
}

impl SpeedComparison {
    /// What is known, for a process that takes over; `None` where nothing is.
    pub fn remembered(&self, now: Instant) -> Option<RememberedSpeed> {
        let known = Lapse::until(self.known_until?, now);
        Some(RememberedSpeed { speed: self.speed, slow: self.slow, slow_for: self.slow_for.into(), known })
    }

    /// What another process knew at `then`.
    pub fn recalled(remembered: &RememberedSpeed, then: Instant) -> Self {
        Self {
            speed: remembered.speed,
            slow: remembered.slow.min(IN_A_ROW),
            slow_for: remembered.slow_for.duration().clamp(FIRST_SLOW_FOR, LONGEST_SLOW_FOR),
            known_until: Some(then + remembered.known.duration().min(LONGEST_SLOW_FOR)),
        }
    }

    /// A login ended well.
    pub fn login_ended(&mut self, now: Instant, login: ComparedLogin) {
        let is_known = self.known_until.is_some_and(|until| now < until);
        let alone = login.took / login.under_way.max(1);
        match login.elsewhere {
            Some(time) if alone >= time * FAR_LONGER_TIMES && alone >= time + FAR_LONGER => {
                self.slow += 1;
                if self.speed == LoginSpeed::Slow {
                    self.slow_for = if is_known { self.slow_for } else { (self.slow_for * 2).min(LONGEST_SLOW_FOR) };
                } else if self.slow >= IN_A_ROW {
                    self.speed = LoginSpeed::Slow;
                } else {
                    return;
                }
                self.known_until = Some(now + self.slow_for);
                return;
            }
            Some(time) if login.took < time * FAR_LONGER_TIMES => *self = Self::default(),
            // It says nothing of logins that take longer, or were fewer at a time.
            Some(_) => return,
            None if login.took <= FAR_LONGER && !is_known => *self = Self::default(),
            None if !is_known => self.speed = LoginSpeed::Uncompared,
            None if self.speed == LoginSpeed::Slow => return,
            None => {}
        }
        self.known_until = Some(now + KNOWN_FOR);
    }

    /// What they have shown until [`SpeedComparison::known_until`]; after that, as long as somebody finds out anew.
    pub fn speed(&self) -> LoginSpeed {
        self.speed
    }

    pub fn known_until(&self) -> Option<Instant> {
        self.known_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_slow_after_several_logins_in_a_row_that_took_far_longer_than_elsewhere() {
        let (ms, now) = (Duration::from_millis, Instant::now());
        let mut compared = SpeedComparison::default();
        let mut after = |took: u64, elsewhere: Option<u64>, under_way: u32, at: u64| {
            let login = ComparedLogin { took: ms(took), under_way, elsewhere: elsewhere.map(ms) };
            compared.login_ended(now + Duration::from_secs(at), login);
            (compared.speed(), compared.known_until().map(|until| (until - now).as_secs()))
        };
        assert_eq!(after(20, None, 1, 0), (LoginSpeed::Fair, Some(10)));
        assert_eq!(after(21, None, 1, 5), (LoginSpeed::Fair, Some(15)), "it is known");
        assert_eq!(after(21, None, 1, 15), (LoginSpeed::Uncompared, Some(25)));
        assert_eq!(after(59, Some(30), 1, 16), (LoginSpeed::Fair, Some(26)));
        for _ in 1..IN_A_ROW {
            assert_eq!(after(60, Some(30), 1, 17).0, LoginSpeed::Fair);
        }
        assert_eq!(after(60, Some(30), 2, 17).0, LoginSpeed::Fair, "two shared a core");
        assert_eq!(after(21, Some(2), 1, 17).0, LoginSpeed::Fair, "too short to matter");
        assert_eq!(after(180, Some(30), 3, 17), (LoginSpeed::Slow, Some(18)));
        assert_eq!(after(600, None, 1, 17), (LoginSpeed::Slow, Some(18)));
        assert_eq!(after(600, Some(30), 1, 18), (LoginSpeed::Slow, Some(20)), "one that tries it is enough");
        assert_eq!(after(600, Some(30), 1, 19), (LoginSpeed::Slow, Some(21)), "it was not a trial");
        let trials = [21, 30, 40, 60, 100].map(|at| after(600, Some(30), 1, at).1.unwrap() - at);
        assert_eq!(trials, [4, 8, 16, 32, 32]);
        assert_eq!(after(59, Some(30), 1, 200), (LoginSpeed::Fair, Some(210)));
        let slow = [201; IN_A_ROW as usize].map(|at| after(600, Some(30), 1, at));
        assert_eq!(slow.last(), Some(&(LoginSpeed::Slow, Some(202))), "the pauses begin anew");
    }

    #[test]
    fn another_process_knows_it_for_as_long() {
        let (ms, now) = (Duration::from_millis, Instant::now());
        let mut old = SpeedComparison::default();
        assert_eq!(old.remembered(now), None);
        let login = |took| ComparedLogin { took: ms(took), under_way: 1, elsewhere: Some(ms(10)) };
        (0..6).for_each(|_| old.login_ended(now, login(200)));
        assert_eq!(old.speed(), LoginSpeed::Slow);
        let there = now + Duration::from_secs(1000);
        let text = serde_json::to_string(&old.remembered(now + ms(400))).unwrap();
        let new = SpeedComparison::recalled(&serde_json::from_str(&text).unwrap(), there);
        assert_eq!((new.speed(), new.known_until()), (LoginSpeed::Slow, Some(there + ms(600))));
        let made_up = r#"{"speed":"slow","slow":4294967295,"slow_for":18446744073709551615,"known":1e3}"#;
        assert!(serde_json::from_str::<RememberedSpeed>(made_up).is_err());
        let made_up =
            r#"{"speed":"slow","slow":4294967295,"slow_for":18446744073709551615,"known":18446744073709551615}"#;
        let mut new = SpeedComparison::recalled(&serde_json::from_str(made_up).unwrap(), there);
        new.login_ended(there, login(200));
        assert!(new.known_until().unwrap() <= there + LONGEST_SLOW_FOR);
    }
}
