//! Connections to servers whose client left before it said anything, kept on this worker for the next client that
//! signs.
//!
//! Nobody has answered the nonce of such a connection, so the next client's signature is the first for it. A health
//! check that opens and closes a connection thus costs a server one connection now and then, and not one per check.

use std::{cell::RefCell, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{OperatorPermit, SourcePermit},
    dial::{DialError, ServerConnection},
    net::{
        linger,
        timer::{now, sleep_until},
    },
    protocol::info::Info,
    session::shared::Shared,
    upstream::{Slot, placement::Tier},
    worker,
};

/// A connection is useful only if a client that has yet to be greeted has at least this long to send its CONNECT.
const LEAST_TIME_LEFT: Duration = Duration::from_millis(500);
/// Most connections in a worker's pool. Probes come one by one, so there are rarely more.
const MOST_POOLED: usize = 16;
/// How soon a drain, a lame duck or a full server is noticed while nobody asks for a connection.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// A connection to a server that waits for a CONNECT.
pub(super) struct DialledServer {
    pub dialled: ServerConnection,
    pub slot: Slot,
    /// CONNECT must have come by then.
    pub expires: Instant,
    /// Counts it for its client's source, until it has been answered.
    pub unanswered: Option<SourcePermit>,
    /// Its client may be an operator.
    pub operator: Option<OperatorPermit>,
}

impl DialledServer {
    pub fn info(&self) -> &Info {
        self.dialled.info()
    }

    /// Closes the connection. The slot is given back once the server has seen the end.
    pub async fn close(self) {
        linger::close_with(self.dialled.into_stream(), b"").await;
        drop(self.slot);
    }
}

/// The pool of one worker.
#[derive(Default)]
pub struct Pool {
    /// The oldest first.
    idle: RefCell<Vec<DialledServer>>,
    /// Notified when a connection comes in, so that `maintain` looks after it.
    grown: Arc<Notify>,
}

impl worker::State for Pool {
    const PLACE: worker::Place = worker::Place::UpstreamPool;
}

/// Keeps a connection until a client takes it, its server ends it, or its time is up. Returns it when it is not worth
/// keeping.
pub(super) fn put(mut server: Box<DialledServer>) -> Option<Box<DialledServer>> {
    if server.slot.is_from_reserve() || server.expires < Instant::now() + 2 * LEAST_TIME_LEFT {
        return Some(server);
    }
    worker::with(|pool: &Pool| {
        let mut idle = pool.idle.borrow_mut();
        if idle.len() >= MOST_POOLED {
            return Some(server);
        }
        server.slot.await_connect();
        server.unanswered = None;
        server.expires -= LEAST_TIME_LEFT;
        idle.push(*server);
        pool.grown.notify_one();
        None
    })
}

/// Takes the connection with the most time left.
pub(super) fn take() -> Option<Box<DialledServer>> {
    worker::with(|pool: &Pool| {
        let mut idle = pool.idle.borrow_mut();
        let now = Instant::now();
        while let Some(at) = idle.iter().rposition(|one| is_usable(one, now)) {
            let mut taken = idle.remove(at);
            if !is_lost(&mut taken) {
                taken.expires += LEAST_TIME_LEFT;
                taken.slot.resume_handshake();
                return Some(Box::new(taken));
            }
        }
        None
    })
}

/// Looks after the pool of the worker on which it runs, until `stop`: closes the connections that may not wait any
/// longer.
pub async fn maintain(shared: Arc<Shared>, stop: CancellationToken) {
    let _clear = ClearOnDrop;
    let grown = worker::with(|pool: &Pool| Arc::clone(&pool.grown));
    loop {
        for over in take_unusable(&shared) {
            tokio::spawn(over.close());
        }
        let is_empty = worker::with(|pool: &Pool| pool.idle.borrow().is_empty());
        let next_check = Instant::now() + CHECK_INTERVAL;
        tokio::select! {
            () = grown.notified() => {}
            () = sleep_until(next_check), if !is_empty => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Takes out what may not wait any longer. Connections that their servers have ended are dropped.
fn take_unusable(shared: &Shared) -> Vec<DialledServer> {
    worker::with(|pool: &Pool| {
        let mut idle = pool.idle.borrow_mut();
        let now = Instant::now();
        idle.retain_mut(|one| !is_lost(one));
        let is_closing = shared.admission.is_draining();
        idle.extract_if(.., |one| is_closing || !is_usable(one, now)).collect()
    })
}

/// Closes everything that waits, when `maintain` ends.
struct ClearOnDrop;

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        worker::with(|pool: &Pool| pool.idle.take());
    }
}

fn is_usable(one: &DialledServer, now: Instant) -> bool {
    now < one.expires && one.slot.server().view(now.into_std()).tier == Tier::Eligible
}

/// Whether the server has ended the connection, as far as weir has read.
fn is_lost(one: &mut DialledServer) -> bool {
    let Some(lost) = one.dialled.closed().now_or_never() else { return false };
    if matches!(lost, DialError::Full) {
        one.slot.server().said_full(now());
    }
    true
}
