//! A login that weir cannot read: who speaks when shows how far it has come, and what it costs the server.
//!
//! Where TLS records end is not secret. The server cannot answer half of one, so its time begins with the end of a
//! record. Nor is a client that leaves evidence about the server: it may have sent half of a message in a whole record.

use std::{
    pin::pin,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    admission::SourcePermit,
    dispatch,
    net::timer::timeout_at,
    relay::{Ended, Passthrough},
    session::{context::Context, established::Established},
    telemetry::{counters::Totals, storms::Fate},
    worker,
};

/// A session of which weir reads nothing.
pub(super) type UnreadSession = Established<Passthrough, Passthrough>;

/// With its second answer a server has computed what TLS asks of it, in every version. What may be left is the answer
/// to CONNECT.
const ANSWERS: u32 = 2;

/// While the next word takes no longer than this, the handshake is one of those under way on the server. A client can
/// keep its server waiting, and let it seem as if the server kept the client waiting; neither may keep others out.
const PROMPT: Duration = Duration::from_millis(250);

/// An answer may be a no, after which the server closes. What comes behind it, or so long a silence, says that it was
/// none.
const NO_TAKES: Duration = Duration::from_millis(250);

/// What a login begins with.
pub(super) struct Beginning {
    pub login: Login,
    /// Counts the connection to the server for the client's source, until the login is over.
    pub unanswered: Option<SourcePermit>,
}

/// How far a login has come.
#[derive(Debug)]
pub(super) struct Login {
    seen: Totals,
    /// The TLS records of the client that have passed whole.
    records: Arc<AtomicU64>,
    seen_records: u64,
    /// A record of the client has ended then, and the server has not answered.
    asked: Option<Instant>,
    answers: u32,
    /// What the server took for its answers.
    took: Duration,
    /// Until then the login keeps a handshake's place, whoever has to speak.
    prompt_until: Option<Instant>,
}

impl Login {
    pub fn new(now: Instant) -> Self {
        let (seen, took, records) = Default::default();
        Self { seen, records, seen_records: 0, asked: None, answers: 0, took, prompt_until: Some(now + PROMPT) }
    }

    /// Counts the client's TLS records that have passed whole.
    pub fn records(&self) -> &Arc<AtomicU64> {
        &self.records
    }

    pub fn prompt_until(&self) -> Option<Instant> {
        self.prompt_until
    }

    /// The next word takes its time.
    pub fn not_prompt(&mut self) {
        self.prompt_until = None;
    }

    /// So many of the client's TLS records have `ended`, and the server has said nothing. Returns whether it is the
    /// server's turn to speak now.
    pub fn asks(&mut self, ended: u64, now: Instant) -> bool {
        self.records.fetch_add(ended, Relaxed);
        self.saw(Totals::default(), now)
    }

    /// Takes in what has passed in all. Returns whether it is another's turn to speak.
    fn saw(&mut self, totals: Totals, now: Instant) -> bool {
        let records = self.records.load(Relaxed);
        let (answered, asked) = (totals.bytes_down > self.seen.bytes_down, records > self.seen_records);
        (self.seen, self.seen_records) = (totals, records);
        let waited = self.asked.is_some();
        if answered && let Some(asked) = self.asked.take() {
            self.answers += 1;
            self.took += now.saturating_duration_since(asked);
            self.prompt_until = Some(now + PROMPT);
        }
        if asked {
            self.asked = Some(now);
            self.prompt_until = Some(now + PROMPT);
        }
        waited != self.asked.is_some() || answered && waited
    }
}

/// Relays until the login is over, as far as weir can see. Returns the end of the session, if it ends before that.
pub(super) async fn log_in(cx: &Context, session: &mut UnreadSession, beginning: Beginning) -> Option<Ended> {
    let Beginning { mut login, unanswered } = beginning;
    if let Some(ended) = follow(session, &mut login).await {
        return Some(ended);
    }
    drop(unanswered);
    let finished = Instant::now();
    finish(cx, session, &login, finished);
    let answered = login.seen.bytes_down;
    let more = session.relay.run_until(session.registered.handle(), |totals| totals.bytes_down > answered);
    if let Ok(Some(ended)) = timeout_at(finished + NO_TAKES, pin!(more)).await {
        return Some(ended);
    }
    let server = session.server.server();
    server.counters().handshakes.observe(login.took);
    cx.count_admitted(server);
    if cx.waited {
        cx.shared.flight.waited(None, None, Fate::Admitted);
    }
    None
}

/// Relays until the server has given its last answer to a login.
async fn follow(session: &mut UnreadSession, login: &mut Login) -> Option<Ended> {
    let UnreadSession { relay, server, registered, .. } = session;
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
                login.not_prompt();
            }
            Ok(None) => server.resume_handshake(),
            Ok(Some(ended)) => return Some(ended),
        }
    }
    None
}

/// Tells admission what the login has taken, and that the server has room for the next one.
fn finish(cx: &Context, session: &mut UnreadSession, login: &Login, finished: Instant) {
    let server = &mut session.server;
    if let Some(passthrough) = &cx.listener.passthrough {
        let undisturbed = server.server().was_alone(finished.into_std(), login.took);
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
        let records = Arc::clone(login.records());
        let mut saw = |bytes_up, bytes_down, whole, ms| {
            records.store(whole, Relaxed);
            let turned = login.saw(totals(bytes_up, bytes_down), at(ms));
            (turned, login.answers, login.asked, login.prompt_until, login.took)
        };
        let prompt = |ms| Some(at(ms) + PROMPT);
        let zero = Duration::ZERO;
        assert_eq!(saw(0, 0, 0, 10), (false, 0, None, prompt(0), zero), "nobody has spoken");
        assert_eq!(saw(5, 0, 0, 20), (false, 0, None, prompt(0), zero), "half a record is no question");
        assert_eq!(saw(300, 0, 1, 100), (true, 0, Some(at(100)), prompt(100), zero), "ClientHello");
        assert_eq!(saw(350, 0, 2, 101), (false, 0, Some(at(101)), prompt(101), zero), "its rest");
        let five = Duration::from_millis(5);
        assert_eq!(saw(350, 1000, 2, 106), (true, 1, None, prompt(106), five), "the server's part");
        assert_eq!(saw(350, 2000, 2, 107), (false, 1, None, prompt(106), five), "its rest");
        // The answer to what came before, and the next word, in one look.
        assert!(saw(500, 2000, 3, 300).0);
        let took = Duration::from_millis(8);
        assert_eq!(saw(600, 2100, 4, 303), (true, 2, Some(at(303)), prompt(303), took));
    }
}
