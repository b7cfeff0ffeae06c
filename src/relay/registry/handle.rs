//! How others see one session, and reach it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
};

use crate::{
    outcome::Cause,
    relay::registry::{
        facts::{AtServer, ListenerKind, SessionFacts},
        traffic::Traffic,
    },
    telemetry::moment::Moment,
    upstream::ServerId,
};

/// How others see one session, and reach it.
#[derive(Debug, Default)]
pub struct SessionHandle {
    /// The position of the cause in [`Cause::ALL`], counted from 1; 0 while nobody has asked for the end.
    end_requested: AtomicU8,
    keepalive_requested: AtomicBool,
    info_requested: AtomicBool,
    /// Whether it can go on with another server.
    is_rehomable: AtomicBool,
    probe_requested: AtomicBool,
    move_requested: AtomicBool,
    /// How often it has gone on with another server, up to the most that fits.
    moves: AtomicU16,
    stop_requested: AtomicBool,
    no_operation_requested: AtomicBool,
    sign_of_life_requested: AtomicBool,
    /// When that was requested last, a [`Moment`]; 0 where it never was.
    sign_of_life_requested_at: AtomicU64,
    /// A [`ServerSays`].
    server_says: AtomicU8,
    changing: Mutex<Changing>,
    traffic: Traffic,
    facts: SessionFacts,
}

#[derive(Debug, Default)]
struct Changing {
    waker: Option<Waker>,
    account: Option<Arc<str>>,
    at: AtServer,
}

/// What the server of a session has answered when it was asked whether it has closed the session's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ServerSays {
    /// It has not been asked, or knows nothing of it.
    Nothing,
    /// It cannot be asked.
    NoAnswer,
    Closed,
}

/// Whether this has been requested since the last call. One relaxed load where it has not.
fn take(requested: &AtomicBool) -> bool {
    requested.load(Relaxed) && requested.swap(false, Relaxed)
}

impl SessionHandle {
    /// `account` is that of the client, as far as is known, and `at` is where it is connected.
    pub fn new(facts: SessionFacts, account: Option<Arc<str>>, at: AtServer) -> Self {
        let handle = Self { facts, changing: Mutex::new(Changing { waker: None, account, at }), ..Self::default() };
        handle.traffic.set_last_activity(handle.facts.accepted);
        handle.traffic.set_last_heard(handle.facts.accepted);
        handle
    }

    #[cfg(test)]
    pub fn of_id(id: u64) -> Self {
        Self::new(SessionFacts { id, ..SessionFacts::default() }, None, AtServer::default())
    }

    fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn facts(&self) -> &SessionFacts {
        &self.facts
    }

    pub fn is_leafnode(&self) -> bool {
        self.facts.listener.kind == ListenerKind::Leafnode
    }

    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The account that the client is in, as the server names it; before that, as weir takes it to be.
    pub fn account(&self) -> Option<Arc<str>> {
        self.changing().account.clone()
    }

    /// The server has named another account.
    pub fn set_account(&self, account: &Arc<str>) {
        self.changing().account = Some(Arc::clone(account));
    }

    /// Where it is connected.
    pub fn at(&self) -> AtServer {
        self.changing().at.clone()
    }

    /// It goes on with another server.
    pub fn moved_to(&self, at: AtServer) {
        self.changing().at = at;
        self.moves.store(self.moves().saturating_add(1), Relaxed);
        self.server_says.store(ServerSays::Nothing as u8, Relaxed);
    }

    /// The id of its server. A session has one.
    pub fn server_id(&self) -> ServerId {
        self.changing().at.server_id()
    }

    /// Asks the session to end with a plain FIN, for this cause. The first cause counts: returns whether this is it.
    pub fn end(&self, cause: Cause) -> bool {
        let cause = u8::try_from(cause as usize).unwrap_or(u8::MAX).saturating_add(1);
        let is_first = self.end_requested.compare_exchange(0, cause, Relaxed, Relaxed).is_ok();
        let waker = self.changing().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
        is_first
    }

    /// Why the session is to end, if it is. One relaxed load: cheap enough for every poll of a relay.
    pub fn end_requested(&self) -> Option<Cause> {
        let at = self.end_requested.load(Relaxed).checked_sub(1)?;
        Cause::ALL.get(usize::from(at)).copied()
    }

    /// Asks the session to set keepalive on its connection to the server.
    pub fn request_keepalive(&self) {
        self.keepalive_requested.store(true, Relaxed);
        self.wake();
    }

    /// Asks the session to tell its client by an INFO what its listener says now.
    pub fn request_info(&self) {
        self.info_requested.store(true, Relaxed);
        self.wake();
    }

    /// Whether an INFO has been asked for since the last call. One relaxed load where none has.
    pub fn take_info_requested(&self) -> bool {
        take(&self.info_requested)
    }

    /// It can go on with another server.
    pub fn set_rehomable(&self) {
        self.is_rehomable.store(true, Relaxed);
    }

    /// Whether it can go on with another server.
    pub fn is_rehomable(&self) -> bool {
        self.is_rehomable.load(Relaxed)
    }

    /// How often it has gone on with another server.
    pub fn moves(&self) -> u16 {
        self.moves.load(Relaxed)
    }

    /// It has gone on with another server so often before, in another process.
    pub fn set_moves(&self, moves: u16) {
        self.moves.store(moves, Relaxed);
    }

    /// Asks the session to look for an order to go to another server.
    pub fn request_move(&self) {
        self.move_requested.store(true, Relaxed);
        self.wake();
    }

    /// Whether that has been asked since the last call. One relaxed load where it has not.
    pub fn take_move_requested(&self) -> bool {
        take(&self.move_requested)
    }

    /// Asks the session to stop, so that it can go to another process.
    pub fn request_stop(&self) {
        self.stop_requested.store(true, Relaxed);
        self.wake();
    }

    /// Whether that has been asked since the last call. One relaxed load where it has not.
    pub fn take_stop_requested(&self) -> bool {
        take(&self.stop_requested)
    }

    /// Asks a session that can go on with another server to find out whether its own still answers.
    pub fn request_probe(&self) {
        if self.is_rehomable.load(Relaxed) && !self.probe_requested.swap(true, Relaxed) {
            self.wake();
        }
    }

    /// Whether that has been asked since the last call. One relaxed load where it has not.
    pub fn take_probe_requested(&self) -> bool {
        take(&self.probe_requested)
    }

    /// Asks the session to send its server an operation that does nothing. Where the server's process has ended without
    /// a FIN, its machine answers with a reset.
    pub fn request_no_operation(&self) {
        self.no_operation_requested.store(true, Relaxed);
        self.wake();
    }

    /// Whether that has been asked since the last call. One relaxed load where it has not.
    pub fn take_no_operation_requested(&self) -> bool {
        take(&self.no_operation_requested)
    }

    /// Asks the session to ask its client for a sign of life, and to end where none comes.
    pub fn request_sign_of_life(&self, now: Moment) {
        self.sign_of_life_requested_at.store(now.raw().max(1), Relaxed);
        self.sign_of_life_requested.store(true, Relaxed);
        self.wake();
    }

    /// Whether that has been asked and not been [dealt with](Self::sign_of_life_dealt_with). One relaxed load.
    pub fn sign_of_life_requested(&self) -> bool {
        self.sign_of_life_requested.load(Relaxed)
    }

    /// The client has been asked, or need not be.
    pub fn sign_of_life_dealt_with(&self) {
        self.sign_of_life_requested.store(false, Relaxed);
    }

    /// When a sign of life was requested last.
    pub fn sign_of_life_requested_at(&self) -> Option<Moment> {
        let at = self.sign_of_life_requested_at.load(Relaxed);
        (at > 0).then(|| Moment::from_raw(at))
    }

    /// The server has answered whether it has closed the connection, or cannot be asked.
    pub fn server_said(&self, says: ServerSays) {
        self.server_says.store(says as u8, Relaxed);
        if says == ServerSays::Closed {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &self.changing().waker {
            waker.wake_by_ref();
        }
    }

    pub fn server_says(&self) -> ServerSays {
        match self.server_says.load(Relaxed) {
            says if says == ServerSays::Closed as u8 => ServerSays::Closed,
            says if says == ServerSays::NoAnswer as u8 => ServerSays::NoAnswer,
            _ => ServerSays::Nothing,
        }
    }

    pub fn keepalive_requested(&self) -> bool {
        self.keepalive_requested.load(Relaxed)
    }

    /// Sets what to wake when there is something to tell. Once per session: a task keeps its waker.
    pub fn set_waker(&self, waker: &Waker) {
        self.changing().waker = Some(waker.clone());
    }

    /// The session has ended. A waker keeps the memory of its task allocated, and others may hold the handle for a
    /// while.
    pub(super) fn forget_waker(&self) {
        self.changing().waker = None;
    }
}
