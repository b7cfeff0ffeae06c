//! A session goes to another process of weir, with its connections and without its client's or server's noticing.
//!
//! Its task stops between two polls of the relay, writes down what the session is ([`SessionState`]) with copies of
//! both descriptors, and waits. The other process makes the same session of it, counts it everywhere that this one
//! does, and waits as well. Then either that one relays and this one forgets the session, or this one goes on. No byte
//! is read or written in between.

mod client;
mod resume;
mod state;
mod stop;

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::{mpsc, oneshot};

pub use self::{
    client::ClientState,
    resume::{Adopted, Keep, KeptPlaces, Places, adopt, resume},
    state::{Kind, SessionState},
};
pub(super) use self::{
    client::{Stage, TakenClient, give, unless_asked},
    stop::{Movable, stop},
};

/// What has stopped.
#[derive(Debug)]
pub enum Stopped {
    Session(StoppedSession),
    Client(StoppedClient),
}

/// A client that is not in yet, and goes on when the verdict is dropped.
#[derive(Debug)]
pub struct StoppedClient {
    pub state: ClientState,
    pub connection: OwnedFd,
    pub verdict: oneshot::Sender<Gone>,
}

/// A session that has stopped.
#[derive(Debug)]
pub struct StoppedSession {
    pub state: Box<SessionState>,
    /// Its connections to the client and to the server.
    pub connections: Result<[OwnedFd; 2], Stays>,
    /// It goes on when this is dropped, and ends without closing anything when this says that another process has it.
    pub verdict: oneshot::Sender<Gone>,
}

/// Another process has the session.
#[derive(Debug, Clone, Copy)]
pub struct Gone;

/// Why a session cannot go to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// Not before something has ended that is under way in it.
    NotNow,
    /// weir itself ends TLS or WebSocket in it, of which only this process knows the state.
    Never,
}

/// A takeover of this process by another one, as its sessions see it.
#[derive(Debug, Default)]
pub struct Takeover {
    /// Where sessions go that have stopped, as long as another process takes over.
    stopped: Mutex<Option<mpsc::UnboundedSender<Stopped>>>,
    /// Another process is there to take over, and has read its configuration.
    has_successor: AtomicBool,
    /// Clients that are not in yet are to go to the other process.
    asks_clients: AtomicBool,
    /// Clients in the kernel's queues are another process's.
    leaves_backlog: AtomicBool,
    /// The process from which this one has taken over is there, and serves again when this one ends.
    may_go_back: AtomicBool,
    /// Sessions of processes before this one, which this one counts.
    elsewhere: Mutex<HashMap<u64, SessionState>>,
}

impl Takeover {
    /// Another process takes over: sessions that are asked to stop come out of here, until it is dropped.
    pub fn begin(&self) -> mpsc::UnboundedReceiver<Stopped> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.stopped() = Some(sender);
        receiver
    }

    /// Nobody stops any more.
    pub fn end(&self) {
        self.asks_clients.store(false, Relaxed);
        *self.stopped() = None;
    }

    /// Whether another process takes over now.
    pub fn is_under_way(&self) -> bool {
        self.stopped().is_some()
    }

    /// Whether another process is there to take over. It has read its configuration: what this one read later would be
    /// lost.
    pub fn has_successor(&self) -> bool {
        self.has_successor.load(Relaxed)
    }

    /// Another process is there to take over. Returns whether there was one already.
    pub fn set_successor(&self, is_there: bool) -> bool {
        self.has_successor.swap(is_there, Relaxed)
    }

    /// From now on clients that are not in yet stop where they wait.
    pub fn ask_clients(&self) {
        self.asks_clients.store(true, Relaxed);
    }

    /// Whether they do. One relaxed load.
    pub(super) fn asks_clients(&self) -> bool {
        self.asks_clients.load(Relaxed)
    }

    /// Tells the takeover of somebody who has stopped. Returns whether one is under way: else nobody knows of it.
    fn stop(&self, stopped: Stopped) -> bool {
        self.stopped().as_ref().is_some_and(|sender| sender.send(stopped).is_ok())
    }

    fn stopped(&self) -> MutexGuard<'_, Option<mpsc::UnboundedSender<Stopped>>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process from which this one has taken over may take the end of this one for a takeover that has gone
    /// wrong, and serve again.
    pub fn may_go_back(&self) -> bool {
        self.may_go_back.load(Relaxed)
    }

    pub fn set_may_go_back(&self, may_go_back: bool) {
        self.may_go_back.store(may_go_back, Relaxed);
    }

    /// Sessions of processes before this one, which this one counts: another one that takes over is to count them too.
    pub fn elsewhere(&self) -> MutexGuard<'_, HashMap<u64, SessionState>> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether clients in the kernel's queues are left there when a listener closes: another process accepts them.
    pub fn set_leaves_backlog(&self, leaves: bool) {
        self.leaves_backlog.store(leaves, Relaxed);
    }

    pub fn leaves_backlog(&self) -> bool {
        self.leaves_backlog.load(Relaxed)
    }
}
