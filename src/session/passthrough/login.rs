//! A login that weir cannot read: who speaks when shows how far it has come, and what it costs the server.

use std::{
    pin::pin,
    sync::{PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    dispatch,
    net::timer::timeout_at,
    relay::{Ended, Passthrough},
    session::{context::Context, established::Established},
    telemetry::{counters::Totals, storms::Fate},
    worker,
};

/// A session of which weir reads nothing.
pub(super) type Unread = Established<Passthrough, Passthrough>;

/// With its second answer a server has computed what TLS asks of it, in every version. What may be left is the answer
/// to CONNECT.
const ANSWERS: u32 = 2;

/// While a client takes no longer than this for its next word, its handshake is one of those under way on the server.
const PROMPT: Duration = Duration::from_millis(250);

/// An answer may be a no, after which the server closes. What comes behind it, or so long a silence, says that it was
/// none.
const NO_TAKES: Duration = Duration::from_millis(250);

/// How far a login has come.
#[derive(Debug)]
struct Login {
    seen: Totals,
    /// The client has spoken then, and the server has not answered.
    asked: Option<Instant>,
    answers: u32,
    /// What the server took for its answers.
    took: Duration,
    /// Until then a client that has to speak keeps a handshake's place.
    prompt_until: Option<Instant>,
}

impl Login {
    fn new(now: Instant) -> Self {
        let (seen, took) = (Totals::default(), Duration::ZERO);
        Self { seen, asked: None, answers: 0, took, prompt_until: Some(now + PROMPT) }
    }

    /// Takes in what has passed in all. Returns whether it is another's turn to speak.
    fn saw(&mut self, totals: Totals, now: Instant) -> bool {
        let (answered, asked) = (totals.bytes_down > self.seen.bytes_down, totals.bytes_up > self.seen.bytes_up);
        self.seen = totals;
        let waited = self.asked.is_some();
        if answered && let Some(asked) = self.asked.take() {
            self.answers += 1;
            self.took += now.saturating_duration_since(asked);
            self.prompt_until = Some(now + PROMPT);
        }
        if asked {
            self.asked = Some(now);
            self.prompt_until = None;
        }
        waited != self.asked.is_some() || answered && waited
    }
}

/// Relays until the login is over, as far as weir can see. Returns the end of the session, if it ends before that.
pub(super) async fn log_in(cx: &Context, session: &mut Unread) -> Option<Ended> {
    let mut login = Login::new(Instant::now());
    if let Some(ended) = follow(session, &mut login).await {
        return Some(ended);
    }
    let finished = Instant::now();
    finish(cx, session, &login, finished);
    let answered = login.seen.bytes_down;
    let more = session.relay.run_until(session.registered.handle(), |totals| totals.bytes_down > answered);
    if let Ok(Some(ended)) = timeout_at(finished + NO_TAKES, pin!(more)).await {
        return Some(ended);
    }
    let counters = &cx.shared.counters.servers[session.server.server().index()];
    counters.handshake_seconds.observe(login.took.as_secs_f64());
    counters.admitted.fetch_add(1, Relaxed);
    if cx.waited {
        cx.shared.flight.waited(None, None, Fate::Admitted);
    }
    None
}

/// Relays until the server has given its last answer to a login.
async fn follow(session: &mut Unread, login: &mut Login) -> Option<Ended> {
    let Unread { relay, server, registered, .. } = session;
    while login.answers < ANSWERS {
        let prompt_until = login.prompt_until;
        let turns = relay.run_until(registered.handle(), |totals| login.saw(totals, Instant::now()));
        let turned = match prompt_until {
            Some(until) => timeout_at(until, pin!(turns)).await,
            None => Ok(turns.await),
        };
        match turned {
            Err(_) => {
                server.await_connect();
                login.prompt_until = None;
            }
            Ok(None) => server.resume_handshake(),
            Ok(Some(ended)) => {
                if login.asked.is_some_and(|asked| !ended.by_server() && asked.elapsed() > PROMPT) {
                    server.server().handshake_timed_out();
                }
                return Some(ended);
            }
        }
    }
    None
}

/// Tells admission what the login has taken, and that the server has room for the next one.
fn finish(cx: &Context, session: &mut Unread, login: &Login, finished: Instant) {
    let server = &mut session.server;
    if let Some(passthrough) = &cx.listener.passthrough {
        let undisturbed = server.server().is_uncontended();
        let mut baseline = passthrough.baseline.lock().unwrap_or_else(PoisonError::into_inner);
        let should = baseline.record(finished.into_std(), login.took, worker::lag(), undisturbed);
        cx.shared.admission.passthrough_handshake_finished(server, login.took, should, finished.into_std());
    }
    server.session_began();
    dispatch::run_now(&cx.shared.admission);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(bytes_up: u64, bytes_down: u64) -> Totals {
        Totals { bytes_up, bytes_down, ..Totals::default() }
    }

    #[test]
    fn only_the_servers_time_counts() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut login = Login::new(began);
        assert!(!login.saw(totals(0, 0), at(10)), "nobody has spoken");
        assert!(login.saw(totals(300, 0), at(100)), "ClientHello");
        assert!(!login.saw(totals(350, 0), at(101)), "its rest");
        assert!(login.saw(totals(350, 1000), at(105)), "the server's part");
        assert!(!login.saw(totals(350, 2000), at(106)), "its rest");
        assert_eq!((login.answers, login.prompt_until), (1, Some(at(105) + PROMPT)));
        // The answer to what came before, and the next word, in one look.
        assert!(login.saw(totals(500, 2000), at(300)));
        assert!(login.saw(totals(600, 2100), at(303)));
        assert_eq!((login.answers, login.took), (2, Duration::from_millis(7)));
        assert_eq!(login.asked, Some(at(303)));
    }
}
