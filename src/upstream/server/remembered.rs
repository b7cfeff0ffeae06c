//! What is known of a server, for a process that takes over.
//!
//! | goes along | why |
//! |---|---|
//! | whether its operator drains it | he has not taken it back |
//! | its health, its WebSocket port's, its logins' | a server that is down is not tried by each client |
//! | full, throttled, in lame duck mode: for how long yet | it has said so, and does not say it again by itself |
//! | `concurrency_limit`, `speed`, what its dials take | without them a storm begins with one login at a time |
//! | which process it is | all but the drain is true of that process only |
//! | `auth_mode` | whose claims it checks |
//!
//! | stays | why |
//! |---|---|
//! | `load`, `slots`, readings, capacity, timeouts | sessions that go along take slots; a reading says the rest |
//! | names, system account, INFO, its cluster's name | the first reading and the first dial say them |
//! | `plain_info_seen` | that a server asks for no TLS is not believed from before |
//! | `refuses_proxy_header` | the first dial shows it |
//! | `counters`, `restarts`, `info_errors` | counters begin at 0, as with any start |
//! | what the fleet shares | each process tells and hears it as a weir of its own |

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{Drain, FULL_FOR, LAME_DUCK_FOR, Server, State, THROTTLED_FOR};
use crate::{
    lapse::{self, Lapse},
    upstream::{
        auth_mode::RememberedAuthMode,
        concurrency::{
            limit::{ConcurrencyLimit, RememberedLimit},
            login_speed::{RememberedSpeed, SpeedComparison},
        },
        dial_time::DialTime,
        health::RememberedHealth,
        login_health::RememberedLoginHealth,
    },
};

/// No dial is known to take longer.
const LONGEST_DIAL: Duration = Duration::from_secs(10);

/// A server as another process recalls it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RememberedServer {
    /// `host:port` of its client port, as configured.
    pub(in crate::upstream) address: String,
    /// The `server_id` of the process that answered last.
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    process: Option<String>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "std::ops::Not::not")]
    is_drained: bool,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    health: Option<RememberedHealth>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    websocket_health: Option<RememberedHealth>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    login_health: Option<RememberedLoginHealth>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    full: Option<Lapse>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    throttled: Option<Lapse>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "std::ops::Not::not")]
    has_throttled: bool,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    lame_duck: Option<Lapse>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    concurrency_limit: Option<RememberedLimit>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    speed: Option<RememberedSpeed>,
    /// Of the client port and of the WebSocket port.
    #[serde(default, deserialize_with = "lapse::or_default")]
    dial_times: [Lapse; 2],
    #[serde(default, deserialize_with = "lapse::or_default")]
    auth_mode: RememberedAuthMode,
}

impl Server {
    /// What is known of it; `None` where it has been removed.
    pub(in crate::upstream) fn remembered(&self, now: Instant) -> Option<RememberedServer> {
        let state = self.state();
        (state.drain != Drain::Leaves).then(|| RememberedServer {
            address: self.address().to_owned(),
            process: state.process.id().map(str::to_owned),
            is_drained: state.drain == Drain::Drained,
            health: state.health.remembered(now),
            websocket_health: state.websocket_health.remembered(now),
            login_health: state.login_health.remembered(now),
            full: Lapse::until_any(state.full_until, now),
            throttled: Lapse::until_any(state.throttled_until, now),
            has_throttled: self.has_throttled.load(Relaxed),
            lame_duck: Lapse::until_any(state.lame_duck_until, now),
            concurrency_limit: state.concurrency_limit.remembered(now),
            speed: state.speed.remembered(now),
            dial_times: [0, 1].map(|port| self.dial_times.get(port).map(DialTime::usual).unwrap_or_default().into()),
            auth_mode: self.auth_mode.remembered(),
        })
    }

    /// Recalls what another process knew of it at `then`.
    pub(in crate::upstream) fn recall(&self, remembered: &RememberedServer, then: Instant) {
        self.change(|state| {
            if remembered.is_drained && state.drain == Drain::Off {
                state.drain = Drain::Drained;
            }
            let is_another = state.process.id().zip(remembered.process.as_deref()).is_some_and(|(is, was)| is != was);
            if !is_another {
                self.recall_process(state, remembered, then);
            }
        });
    }

    /// What is true of the process that answered last, which is the same by now or may be.
    fn recall_process(&self, state: &mut State, remembered: &RememberedServer, then: Instant) {
        if let (Some(process), None) = (&remembered.process, state.process.id()) {
            state.process.answered(then, process);
        }
        if let Some(health) = &remembered.health {
            state.health.recall(health, then);
        }
        if let Some(health) = &remembered.websocket_health {
            state.websocket_health.recall(health, then);
        }
        if let Some(health) = &remembered.login_health {
            state.login_health.recall(health, then);
        }
        let until = |left: Option<Lapse>, most: Duration| left.map(|left| then + left.duration().min(most));
        state.full_until = state.full_until.max(until(remembered.full, FULL_FOR));
        state.throttled_until = state.throttled_until.max(until(remembered.throttled, THROTTLED_FOR));
        state.lame_duck_until = state.lame_duck_until.max(until(remembered.lame_duck, LAME_DUCK_FOR));
        self.has_throttled.fetch_or(remembered.has_throttled, Relaxed);
        if let (Some(limit), false) = (&remembered.concurrency_limit, state.concurrency_limit.has_finished_any()) {
            state.concurrency_limit = ConcurrencyLimit::recalled(limit, then);
        }
        if let (Some(speed), None) = (&remembered.speed, state.speed.known_until()) {
            state.speed = SpeedComparison::recalled(speed, then);
        }
        for (time, remembered) in self.dial_times.iter().zip(remembered.dial_times) {
            time.recall(remembered.duration().min(LONGEST_DIAL));
        }
        self.auth_mode.recall(remembered.auth_mode);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{
        Params, Port, Reading, ServerParams, Servers, concurrency::login_speed::ComparedLogin, endpoint::Monitor,
    };

    fn servers(addresses: &[&str]) -> Servers {
        let one = |address: &&str| ServerParams { max_connections: Some(100), ..ServerParams::bare(*address) };
        Servers::new(&Params { servers: addresses.iter().map(one).collect(), ..Params::bare(Vec::new()) })
    }

    fn reading(server_id: &str) -> Reading {
        Reading {
            server_name: "n1".into(),
            version: "2.15.1".into(),
            connections: 1,
            max_connections: Some(100),
            max_control_line: None,
            auth_timeout: None,
            websocket_auth_timeout: None,
            leafnodes: 0,
            leafnode_port: None,
            leafnode_auth_timeout: None,
            server_id: server_id.into(),
            uptime: Duration::from_secs(1000),
            system_account: None,
            requires_tls: false,
            trusts_operator: false,
            config: String::new(),
            cpu: 0.0,
            cores: 0,
        }
    }

    proptest! {
        /// Where another process places clients, and how many at a time, is where this one would, at any later time;
        /// whatever the order of the servers in its configuration.
        #[test]
        fn another_process_places_as_this_one(
            events in prop::collection::vec((0..2_usize, 0..8_u8, 1..3000_u64), 0..40),
            looks in prop::collection::vec(0..150_000_u64, 1..8),
            seed in any::<u64>(),
        ) {
            let ms = Duration::from_millis;
            let (old, new) = (servers(&["a:1", "b:1", "c:1"]), servers(&["d:1", "b:1", "a:1"]));
            let (mut now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(seed));
            for (n, event, after) in events {
                now += ms(after);
                let server = &old.list()[n];
                match event {
                    0 => server.said_full(now),
                    1 => server.said_lame_duck(now, "x"),
                    2 => drop(server.dial_failed(Port::Client, now, &mut rng)),
                    3 => server.dial_answered_in(Port::Client, ms(after)),
                    4 => drop(server.login_failed(now, &mut rng)),
                    5 => server.handshake_timed_out(),
                    6 => drop(server.set_drain(if after % 2 == 0 { Drain::Drained } else { Drain::Off })),
                    _ => server.handshake_finished(now, ComparedLogin::uncompared(ms(after)), ms(1000)),
                }
            }
            let there = now + ms(1_000_000);
            let text = serde_json::to_string(&old.remembered(now)).unwrap();
            new.recall(&serde_json::from_str(&text).unwrap(), there);
            for (was, is) in [(0, 2), (1, 1)] {
                let (was, is) = (&old.list()[was], &new.list()[is]);
                for look in looks.iter().map(|&after| ms(after) + Duration::from_micros(333)) {
                    let (was, is) = (was.view(now + look), is.view(there + look));
                    prop_assert_eq!((was.tier, was.handshake_limit), (is.tier, is.handshake_limit));
                    prop_assert_eq!(was.login_speed, is.login_speed);
                }
                prop_assert_eq!((was.drain(), was.has_logged_in_any()), (is.drain(), is.has_logged_in_any()));
                let [was, is] = [was, is].map(|server| server.time_for_dial(Port::Client, ms(2000)));
                prop_assert!(was.abs_diff(is) <= Duration::from_micros(2), "{was:?} and {is:?}");
            }
            prop_assert_eq!(new.list()[0].drain(), Drain::Off);
        }
    }

    #[test]
    fn what_was_true_of_another_nats_server_process_is_not_recalled() {
        let (old, now) = (servers(&["a:1"]), Instant::now());
        let was = &old.list()[0];
        was.monitor.store(Some(std::sync::Arc::new(Monitor::new("http://a:8222".into()))));
        was.read(now, was.load().begin_reading(now), reading("FIRST"));
        was.handshake_finished(now, ComparedLogin::uncompared(Duration::from_millis(5)), Duration::from_millis(9));
        was.said_lame_duck(now, "FIRST");
        was.set_drain(Drain::Drained);
        let text = serde_json::to_string(&old.remembered(now)).unwrap();
        assert!(text.contains("FIRST"), "{text}");
        for (id, has_logged_in) in [(None, true), (Some("FIRST"), true), (Some("SECOND"), false)] {
            let new = servers(&["a:1"]);
            let is = &new.list()[0];
            if let Some(id) = id {
                is.read(now, is.load().begin_reading(now), reading(id));
            }
            new.recall(&serde_json::from_str(&text).unwrap(), now);
            assert_eq!(is.has_logged_in_any(), has_logged_in, "{id:?}");
            assert_eq!(is.drain(), Drain::Drained, "that is of the address");
            // The process that is recalled is replaced as any other.
            is.read(now, is.load().begin_reading(now), reading("THIRD"));
            assert_eq!((is.has_logged_in_any(), is.restarts()), (false, 1));
        }
    }

    #[test]
    fn a_server_that_has_been_removed_is_none_of_another_process() {
        let (old, now) = (servers(&["a:1", "b:1"]), Instant::now());
        old.remove(old.list()[0].id());
        let text = serde_json::to_string(&old.remembered(now)).unwrap();
        assert!(!text.contains("a:1") && text.contains("b:1"));
    }
}
