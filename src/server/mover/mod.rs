//! Moves clients from server to server: a slot is kept on the new server, the client is closed by a plain FIN, and its
//! return is awaited before more of them go the same way; or its session goes without it, where its account is
//! re-homable. What goes where is decided in [`crate::rebalance`].

mod age;
mod carry_out;
mod evacuate;
mod lost;
mod probes;
mod rebalance;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    admission::moving::Move,
    identity::ClientKey,
    outcome::MoveCause,
    rebalance::{
        history::History,
        plan::{Role, ServerNow},
        run::{Candidate, Run},
        under_way::{Emptied, Status, UnderWay},
    },
    relay::registry::{ListenerKind, SessionHandle},
    session::{Shared, move_orders::Answer},
    telemetry::moment::Moment,
    upstream::{Server, ServerId, Standing},
};

pub use self::rebalance::{Asked, Preview};

/// A client that has not come back after this time does not get the slot any more that was kept for it: the first wait
/// of every library (2 s, docs/explanation/clients.md), a refusal, and another wait.
const RETURN_WITHIN: Duration = Duration::from_secs(10);

/// A session that has not gone by then stays: its login at the new server takes 5 s at most, and the move 8 s. A member
/// of a queue group then has up to two minutes for what the new server has given it, and nobody is to wait for that.
const GOES_WITHIN: Duration = Duration::from_secs(15);

/// What moves clients. One for the process.
#[derive(Clone)]
pub struct Mover(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    history: History,
    /// The rebalance that is under way.
    current: Option<Current>,
    /// How the last one ended.
    last: Option<Status>,
    last_ended: Option<Instant>,
    /// Servers that shut down and whose clients are being moved away.
    evacuated: HashSet<ServerId>,
    /// All servers whose clients are being moved away.
    emptying: Vec<Emptying>,
    /// When the clients of a server that had no room elsewhere are to be moved away again.
    evacuated_again_at: HashMap<ServerId, Instant>,
    /// Servers from which weir has moved clients since they shut down: once they are back, they get their share again.
    emptied: HashSet<ServerId>,
    /// Since when the servers have not been even.
    uneven_since: Option<Instant>,
}

impl State {
    /// These servers are not waited for any more: they have their share again, or do not get it by moves.
    fn forget_emptied(&mut self, servers: &[ServerId]) {
        self.emptied.retain(|id| !servers.contains(id));
    }

    /// How far the rebalance is, or how the last one ended.
    fn status(&self) -> Option<Status> {
        self.current.as_ref().map(Current::status).or_else(|| self.last.clone())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server whose clients are being moved away.
struct Emptying {
    server: Arc<Server>,
    cause: MoveCause,
    /// Those that it had when it began.
    sessions: u32,
    /// When all shall have gone.
    until: Instant,
}

/// A rebalance that is under way.
struct Current {
    run: Run,
    by: String,
    /// The servers that get their share again by it, since they are back.
    returned: Vec<ServerId>,
    began: Instant,
    /// Why it moves nobody any more, and waits for those on their way.
    stopped: Option<String>,
}

/// A client on its way.
struct OnItsWay {
    session: u64,
    to: ServerId,
    way: Way,
    flow: usize,
    /// When it is late.
    until: Instant,
}

/// How a client gets to its new server.
enum Way {
    /// It has been closed, and comes back.
    Returns(Move),
    /// Its session goes, and it notices nothing.
    Asked(Answer),
}

impl Mover {
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::new(Inner { shared: Arc::clone(shared), state: Arc::default() }))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Shows what is under way to who asks for the overview.
    fn show(&self, now: Instant) {
        let state = self.state();
        let emptied = |one: &Emptying| Emptied {
            server: one.server.name().to_owned(),
            cause: one.cause.name().to_owned(),
            sessions: one.sessions,
            left: one.server.load().sessions(),
            seconds_left: one.until.saturating_duration_since(now).as_secs_f64(),
        };
        let emptied = state.emptying.iter().map(emptied).collect();
        let rebalance = state.status();
        drop(state);
        self.shared().moves_under_way.store(Arc::new(UnderWay { rebalance, emptied }));
    }

    /// The pace at which the cluster takes clients, in clients per second.
    fn pace(&self, now: Instant) -> f64 {
        self.shared().servers.pace_of_closes(now, self.shared().admission.pace(now))
    }
}

/// All servers and the sessions that may be moved, at one moment.
struct Census {
    servers: Vec<Arc<Server>>,
    now: Vec<ServerNow>,
    candidates: Vec<Candidate>,
}

impl Census {
    /// Counts. `role` says what each server may do, `is_meant` which sessions may be moved.
    async fn take(
        shared: &Shared,
        role: impl Fn(&Server) -> Role,
        mut is_meant: impl FnMut(&SessionHandle) -> bool,
    ) -> Self {
        let servers: Vec<_> = shared.servers.iter().collect();
        let at: HashMap<ServerId, usize> = servers.iter().enumerate().map(|(at, server)| (server.id(), at)).collect();
        let (mut candidates, now) = (Vec::new(), Moment::now());
        shared
            .sessions
            .for_each(|session| {
                let facts = session.facts();
                let Some((&from, client)) = at.get(&session.server_id()).zip(movable(session)) else { return };
                if is_meant(session) {
                    let idle = now.since(session.traffic().last_activity());
                    candidates.push(Candidate::new(facts.id, client, from, idle));
                }
            })
            .await;
        let mut movable = vec![0_u32; servers.len()];
        candidates.iter().for_each(|candidate| movable[candidate.from] += 1);
        let of = |(server, movable): (&Arc<Server>, u32)| {
            let (load, sessions) = (server.load(), server.load().sessions());
            ServerNow {
                role: role(server),
                sessions,
                movable: movable.min(sessions),
                others: load.projected().saturating_sub(sessions),
                ceiling: load.ceiling(),
            }
        };
        let now = servers.iter().zip(movable).map(of).collect();
        Self { servers, now, candidates }
    }

    /// Lets only so many of a client's sessions go as the history allows; or lets those go last that it does not.
    fn heed(&mut self, history: &History, sessions: &HashMap<ClientKey, u32>, now: Instant, is_strict: bool) {
        let may = |one: &Candidate| history.may_move(one.client, sessions.get(&one.client).copied().unwrap_or(1), now);
        if is_strict {
            self.candidates.retain(may);
            let mut movable = vec![0_u32; self.servers.len()];
            self.candidates.iter().for_each(|candidate| movable[candidate.from] += 1);
            self.now.iter_mut().zip(movable).for_each(|(one, movable)| one.movable = movable.min(one.sessions));
        } else {
            self.candidates.iter_mut().for_each(|one| one.goes_last = !may(one));
        }
    }
}

/// By what weir recognises the client of a session when it comes back, if it can: of TLS that is passed through it
/// knows nothing.
fn movable(session: &SessionHandle) -> Option<ClientKey> {
    let facts = session.facts();
    let is_ending = session.end_requested().is_some();
    facts.client.filter(|_| !is_ending && facts.listener.kind != ListenerKind::Passthrough)
}

/// What a server may do in a rebalance.
fn role(server: &Server, now: Instant) -> Role {
    match server.standing(now).0 {
        Standing::Up | Standing::SlowStart => Role::Shares,
        Standing::Full | Standing::Throttled => Role::Gives,
        // Those that shut down or are drained are evacuated by themselves.
        _ => Role::Stays,
    }
}
