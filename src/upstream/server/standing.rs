//! Whether a server gets new clients now, and why not, in the words that people read.

use std::{fmt::Write, time::Instant};

use strum::{EnumCount, IntoStaticStr, VariantArray};

use crate::{
    tally::shown,
    upstream::{
        Port,
        health::HealthStatus,
        server::{Server, State, drain::Drain},
    },
};

/// What a server is to new clients now, the worst first: the first one that is true of it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Standing {
    /// It has been removed, and is forgotten once its last session has ended.
    Leaving,
    /// Its operator drains it.
    Draining,
    /// It belongs to another cluster than the others, and gets nobody.
    OtherCluster,
    /// It has said that it shuts down.
    LameDuck,
    /// It does not answer dials.
    Ejected,
    /// It fails logins that other servers let in: those go first.
    LoginsFailing,
    /// It has no fresh reading, though it should: others go first.
    Stale,
    /// All its slots below the reserve are taken, or it has said so.
    Full,
    /// It has reached its own `connection_rate_limit`.
    Throttled,
    /// It has just started, and gets its share gradually.
    SlowStart,
    /// It gets its share.
    Up,
}

impl Standing {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl Server {
    /// What it is to new clients now, and why in words; no words for one that gets its share.
    pub fn standing(&self, now: Instant) -> (Standing, Option<String>) {
        let state = self.state();
        let standing = self.standing_by(&state, now);
        (standing, self.why(standing, &state, now))
    }

    fn standing_by(&self, state: &State, now: Instant) -> Standing {
        let is_before = |at: Option<Instant>| at.is_some_and(|at| now < at);
        let is_stale = || {
            let age = state.read_at.map(|at| now.saturating_duration_since(at));
            self.has_readings() && !state.is_several && age.is_none_or(|age| age > self.stale_after)
        };
        if state.drain == Drain::Leaves {
            Standing::Leaving
        } else if state.drain == Drain::Drained {
            Standing::Draining
        } else if state.membership.is_stranger() {
            Standing::OtherCluster
        } else if is_before(state.lame_duck_until) {
            Standing::LameDuck
        } else if state.health.status(now) != HealthStatus::Up {
            Standing::Ejected
        } else if state.login_health.failing_until().is_some() {
            Standing::LoginsFailing
        } else if is_stale() {
            Standing::Stale
        } else if is_before(state.full_until) || self.load.projected() >= self.load.ceiling() {
            Standing::Full
        } else if is_before(state.throttled_until) {
            Standing::Throttled
        } else if is_before(self.slow_start_until(state)) {
            Standing::SlowStart
        } else {
            Standing::Up
        }
    }

    fn why(&self, standing: Standing, state: &State, now: Instant) -> Option<String> {
        let after = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now).as_secs_f64());
        let try_again = |at| match after(at) {
            Some(seconds) if seconds > 0.0 => format!("one client tries it again in {seconds:.1} s"),
            _ => "the next client tries it".to_owned(),
        };
        Some(match standing {
            Standing::Leaving => format!("it has been removed; {} sessions are left", self.load.sessions()),
            Standing::Draining => format!("its operator drains it; {} sessions are left", self.load.sessions()),
            Standing::OtherCluster => {
                let name = state.membership.name().and_then(|name| name.as_deref()).unwrap_or("without a name");
                format!("it belongs to another cluster: {}", shown(name))
            }
            Standing::LameDuck => "it shuts down (lame duck mode)".to_owned(),
            Standing::Ejected => {
                let what = match self.refuses_proxy_header() {
                    true => "it refuses PROXY headers (cluster.proxy_protocol)",
                    false => "it does not answer",
                };
                format!("{what}; {}", try_again(state.health.ejected_until()))
            }
            Standing::LoginsFailing => {
                let again = try_again(state.login_health.failing_until());
                format!("it fails logins that other servers let in; {again}")
            }
            Standing::Stale => {
                let mut why = "others go first: ".to_owned();
                let _ = match state.read_at {
                    None => write!(why, "it gives no reading"),
                    Some(at) => {
                        let age = now.saturating_duration_since(at).as_secs();
                        write!(why, "its last reading is {age} s old")
                    }
                };
                why
            }
            Standing::Full if self.load.projected() < self.load.ceiling() => {
                "it said `maximum connections exceeded`".to_owned()
            }
            Standing::Full => format!("all {} slots below the reserve are taken", self.load.ceiling()),
            Standing::Throttled => "it has reached its connection_rate_limit for this second".to_owned(),
            Standing::SlowStart => {
                let left = after(self.slow_start_until(state)).unwrap_or_default();
                format!("it has just started: its share comes gradually, for {left:.0} s more")
            }
            Standing::Up => return None,
        })
    }

    /// Whether clients may be sent here, and this port is known and has answered the last dials.
    pub fn port_answers(&self, port: Port, now: Instant) -> bool {
        let is_known = port != Port::Leafnode || self.leafnode.endpoint().is_some();
        let mut state = self.state();
        let answers = self.health_of(&mut state, port).status(now) == HealthStatus::Up;
        drop(state);
        is_known && answers && self.is_reachable(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::upstream::{Params, Port, ServerParams, Servers};

    #[test]
    fn a_server_says_why_it_gets_nobody() {
        let n1 = ServerParams { max_connections: Some(10), ..ServerParams::bare("n1:4222") };
        let (servers, now) = (Servers::new(&Params::bare(vec![n1])), Instant::now());
        let server = servers.iter().next().unwrap();
        let standing = |after: u64| server.standing(now + Duration::from_millis(after));
        assert_eq!(standing(0), (Standing::Up, None));
        while server.begin_handshake(now) {
            server.load().opened();
            server.load().handshake_over();
        }
        let ceiling = server.load().ceiling();
        assert_eq!(standing(0), (Standing::Full, Some(format!("all {ceiling} slots below the reserve are taken"))));
        server.said_throttled(now);
        assert_eq!(standing(0).0, Standing::Full, "the worse of two is told");
        server.load().release(true);
        assert_eq!((standing(0).0, standing(1001).0), (Standing::Throttled, Standing::Up));
        server.said_full(now);
        let said = Some("it said `maximum connections exceeded`".to_owned());
        assert_eq!((standing(0), standing(1001).0), ((Standing::Full, said), Standing::Up));
        server.dial_failed(Port::Client, now, &mut fastrand::Rng::with_seed(1));
        let (standing_now, why) = standing(0);
        assert_eq!(standing_now, Standing::Ejected);
        assert!(why.is_some_and(|why| why.starts_with("it does not answer; one client tries it again in 0.")));
        server.set_refuses_proxy_header(true);
        assert!(
            standing(0).1.is_some_and(|why| why.starts_with("it refuses PROXY headers (cluster.proxy_protocol); "))
        );
        assert!(standing(60_000).1.is_some_and(|why| why.ends_with("the next client tries it")));
        server.dial_answered();
        assert_eq!(standing(2000).0, Standing::Up);
    }
}
