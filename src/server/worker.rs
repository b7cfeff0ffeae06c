//! A worker: one thread, one runtime, its own listening sockets, its own sessions.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Weak},
    thread::{self, JoinHandle},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    net::TcpStream,
    runtime,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

#[cfg(debug_assertions)]
use crate::server::supervisor::with_test_panic;
use crate::{
    net::{accept, linger, listening_socket::ListeningSocket, timer},
    relay,
    server::{supervisor::Supervisor, takeover::Made},
    session::{
        self, ConnectionPermit, Listener, Shared,
        takeover::{self, Adopted, ClientState, Gone},
    },
    worker::BEAT_EVERY,
};

/// How long the sessions of a worker may take to end after `stop`. Lingering closes take a second at most, and a client
/// that is cut off before it was admitted loses nothing.
const LAST_SESSIONS: Duration = Duration::from_secs(2);

/// A listening socket for a worker.
pub struct NewSocket {
    pub socket: std::net::TcpListener,
    /// What its next client is served by.
    pub listener: Arc<ArcSwap<Listener>>,
    /// Nobody is accepted before that.
    pub begin: CancellationToken,
    /// Ends no later than that of the worker.
    pub stop: CancellationToken,
    /// Hears whether the worker can listen, and how its socket is reached as long as it is open.
    pub registered: oneshot::Sender<io::Result<Weak<ListeningSocket>>>,
}

/// A session of another process that goes on in this one.
pub struct NewSession {
    pub adopted: Adopted,
    /// To the client, and to the server.
    pub connections: [OwnedFd; 2],
    /// Hears whether the session can go on here.
    pub made: oneshot::Sender<Made>,
    /// Says that it goes on here; else it goes on there.
    pub gone: oneshot::Receiver<Gone>,
}

/// What a worker is given to do.
pub enum Work {
    Socket(NewSocket),
    Session(Box<NewSession>),
    /// A client of another process that is not in yet, with what it is served by.
    Client(Arc<Listener>, Box<ClientState>, OwnedFd),
    /// Clients that are not in yet are to look whether they go to another process.
    WakeClients,
}

/// Starts worker `n`, which accepts clients on the sockets that it is given, until `stop`.
pub fn start(
    n: usize,
    work: mpsc::UnboundedReceiver<Work>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(format!("worker-{n}")).spawn(move || runtime.block_on(run(n, work, shared, stop)))
}

/// The sessions of one listener on one worker.
#[derive(Clone)]
struct Sessions {
    shared: Arc<Shared>,
    listener: Arc<ArcSwap<Listener>>,
    tracker: TaskTracker,
}

impl accept::Serve for Sessions {
    type Permit = ConnectionPermit;

    fn permit(&self) -> Option<ConnectionPermit> {
        self.listener.load().permit(&self.shared)
    }

    fn serves_the_last(&self) -> bool {
        !self.shared.admission.is_lame_duck() && !self.shared.takeover.leaves_backlog()
    }

    fn permit_of_last(&self) -> Option<ConnectionPermit> {
        let refusing = &self.shared.descriptors.refusing;
        (!self.shared.admission.is_lame_duck()).then(|| ConnectionPermit::Refusal(refusing.acquire_over()))
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, permit: ConnectionPermit) {
        let (shared, listener) = (Arc::clone(&self.shared), self.listener.load_full());
        // A panic ends its session alone: the runtime catches it, what the session holds is given back as it unwinds,
        // and the panic hook tells and counts it.
        match listener.passthrough {
            None => self.spawn(session::serve(shared, listener, stream, peer, permit)),
            Some(_) => self.spawn(session::serve_passthrough(shared, listener, stream, peer, permit)),
        }
    }
}

impl Sessions {
    fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        // In a release build there is nothing around a session: it would be memory for each idle one.
        #[cfg(debug_assertions)]
        let session = with_test_panic("session", session);
        self.tracker.spawn(session);
    }
}

/// Shows that this worker makes progress, until `stop`.
async fn beat(n: usize, shared: Arc<Shared>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        shared.heartbeats.beat_of_worker(n, timer::now());
        let _ = timeout(BEAT_EVERY, stop.cancelled()).await;
    }
}

pub(super) async fn run(
    n: usize,
    mut work: mpsc::UnboundedReceiver<Work>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let (sessions, tasks) = (TaskTracker::new(), Supervisor::new(stop.clone()));
    relay::set_timeouts_of_servers(shared.servers_tcp);
    let all = Arc::clone(&shared);
    tasks.spawn("heartbeat", move |stop| beat(n, Arc::clone(&all), stop));
    tasks.spawn("late keepalive", |stop| async move {
        tokio::select! {
            () = relay::request_keepalive() => {}
            () = stop.cancelled() => {}
        }
    });
    let all = Arc::clone(&shared);
    tasks.spawn("upstream pool", move |stop| session::upstream_pool::maintain(Arc::clone(&all), stop));
    loop {
        tokio::select! {
            Some(new) = work.recv() => match new {
                Work::Socket(new) => listen(new, &shared, &sessions, &tasks),
                Work::Session(new) => go_on(*new, &shared, &sessions),
                Work::Client(listener, state, connection) => {
                    match session::serve_taken(&shared, listener, *state, connection) {
                        Ok(client) => _ = sessions.spawn(client),
                        Err(err) => warn!(%err, "a client of another process is lost"),
                    }
                }
                Work::WakeClients => timer::wake_all(),
            },
            () = stop.cancelled() => break,
        }
    }
    sessions.close();
    let _ = timeout(LAST_SESSIONS, async {
        tasks.ended().await;
        sessions.wait().await;
        linger::all_closed().await;
    })
    .await;
}

/// Makes a session of another process, and goes on with it once it has gone there.
fn go_on(new: NewSession, shared: &Arc<Shared>, sessions: &TaskTracker) {
    let NewSession { adopted, connections, made, gone } = new;
    let resumed = match takeover::resume(shared, adopted, connections) {
        Ok(resumed) => resumed,
        Err(err) => {
            let _ = made.send(Err(err.to_string()));
            return;
        }
    };
    let _ = made.send(Ok(()));
    sessions.spawn(async move {
        if let Ok(Gone) = gone.await {
            resumed.relay().await;
        }
    });
}

/// Accepts clients on one more socket, until it is told to stop.
fn listen(new: NewSocket, shared: &Arc<Shared>, sessions: &TaskTracker, tasks: &Supervisor) {
    let NewSocket { socket, listener, begin, stop, registered } = new;
    let socket = match ListeningSocket::on_this_runtime(socket) {
        Ok(socket) => Arc::new(socket),
        Err(err) => {
            let _ = registered.send(Err(err));
            return;
        }
    };
    let _ = registered.send(Ok(Arc::downgrade(&socket)));
    let sessions = Sessions { shared: Arc::clone(shared), listener, tracker: sessions.clone() };
    tasks.until(stop).spawn("accept", move |stop| {
        let pauses = Arc::clone(&sessions.shared.descriptors.pauses);
        let (socket, begin, sessions) = (Arc::clone(&socket), begin.clone(), sessions.clone());
        async move {
            tokio::select! {
                () = begin.cancelled() => accept::accept(socket, stop, pauses, sessions).await,
                () = stop.cancelled() => {}
            }
        }
    });
}
