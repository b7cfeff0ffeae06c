//! The life of one client: it connects as its library does, stays connected, and comes back.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Duration,
};

use socket2::Socket;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client_library::{
        behaviour::{Memory, Next, Reaction},
        library::Library,
    },
    net::stream::Stream,
    storm::live::{
        attempt::{self, Attempt, AttemptEnd, Failure, FailureText},
        stats::Stats,
        tls::ClientTls,
    },
};

/// What all clients of a run share.
#[derive(Debug)]
pub(super) struct RunState {
    pub(super) stats: Stats,
    /// The addresses that each client goes through.
    pub(super) addresses: Vec<SocketAddr>,
    /// Cancelled when all connected clients are to drop their connections.
    pub(super) drop: CancellationToken,
    /// How many abandoned sockets may be open at once.
    pub(super) abandoned_allowed: u64,
}

impl RunState {
    /// The number of servers in a client's list.
    fn pool(&self) -> u16 {
        u16::try_from(self.addresses.len()).unwrap_or(u16::MAX)
    }
}

pub(super) struct Client {
    pub(super) library: Arc<Library>,
    /// `None`: it speaks no TLS.
    pub(super) tls: Option<ClientTls>,
    /// Its CONNECT line for each address.
    pub(super) connect: Vec<Vec<u8>>,
    /// The address that it binds to; `None`: the operating system chooses.
    pub(super) source: Option<IpAddr>,
    pub(super) rng: fastrand::Rng,
    /// The time before its first attempt.
    pub(super) starts_after: Duration,
    pub(super) memory: Memory,
}

/// How a connection ended.
enum ConnectionEnd {
    /// The stream ended, or the library ended it to reconnect.
    Lost,
    /// The run told all clients to drop their connections.
    Dropped,
    /// The library has closed the client for good.
    Closed,
}

/// Adds one to a gauge until it is dropped.
struct GaugeGuard<'a>(&'a AtomicU64);

impl<'a> GaugeGuard<'a> {
    fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, AcqRel);
        Self(gauge)
    }
}

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

/// A client's attempts in the current phase.
#[derive(Default)]
struct PhaseTries {
    tries: u64,
    /// Whether the phase has counted this client as connected.
    is_counted: bool,
}

impl Client {
    /// Connects and reconnects until the client gives up for good, or until the run ends.
    pub(super) async fn run(mut self, run: Arc<RunState>) {
        let mut position = self.rng.usize(0..run.addresses.len());
        let mut phase_tries = PhaseTries::default();
        sleep(self.starts_after).await;
        loop {
            let (phase, began) = (run.stats.phase(), Instant::now());
            phase.attempts.fetch_add(1, Relaxed);
            phase_tries.tries += 1;
            // Boxed: an attempt needs much memory, and a connected client should keep none of it.
            let end = Box::pin(self.attempt(&run, position)).await;
            position = (position + 1) % run.addresses.len();
            let next = match end {
                AttemptEnd::Connected(stream, rest) => {
                    self.library.connected(&mut self.memory);
                    if !std::mem::replace(&mut phase_tries.is_counted, true) {
                        phase.connected(phase_tries.tries);
                    }
                    let gauge = GaugeGuard::new(&run.stats.connected);
                    let end = stay_connected(stream, rest, &self.library, &mut self.memory, &run.drop).await;
                    drop(gauge);
                    self.disconnected(&run, end, began.elapsed(), &mut phase_tries)
                }
                AttemptEnd::Failed(failure) => self.failed(&run, failure, began.elapsed()),
                AttemptEnd::Hangs => {
                    let text = "neither connected nor trying any more";
                    run.stats.phase().failed(FailureText::Error(text.into()));
                    Next::GivesUpAfter(Duration::ZERO)
                }
            };
            match next {
                Next::TryAfter(wait) => sleep(wait).await,
                Next::GivesUpAfter(wait) => {
                    sleep(wait).await;
                    return run.stats.gave_up();
                }
            }
        }
    }

    async fn attempt(&self, run: &RunState, position: usize) -> AttemptEnd {
        let attempt = Attempt {
            library: &self.library,
            source: self.source,
            tls: self.tls.as_ref(),
            connect: &self.connect[position],
            tls_stats: &run.stats.tls,
        };
        attempt.make(position, run.addresses[position]).await
    }

    /// The client's connection has ended, `lived` after its attempt began.
    fn disconnected(
        &mut self,
        run: &RunState,
        end: ConnectionEnd,
        lived: Duration,
        phase_tries: &mut PhaseTries,
    ) -> Next {
        match end {
            ConnectionEnd::Lost => _ = run.stats.lost.fetch_add(1, Relaxed),
            ConnectionEnd::Dropped => *phase_tries = PhaseTries::default(),
            ConnectionEnd::Closed => return Next::GivesUpAfter(Duration::ZERO),
        }
        Next::TryAfter(self.library.dropped(&mut self.memory, run.pool(), lived, &mut self.rng))
    }

    /// The client's attempt has failed, `took` after it began.
    fn failed(&mut self, run: &Arc<RunState>, failure: Failure, took: Duration) -> Next {
        run.stats.phase().failed(failure.text);
        if let Some(socket) = failure.abandoned_socket {
            keep_abandoned_socket(run, socket, self.library.keeps_abandoned_socket);
        }
        self.library.failed(&mut self.memory, run.pool(), failure.ending, took, &mut self.rng)
    }
}

/// Keeps the socket of an abandoned attempt open for as long as the library does, if the limit of open files allows it.
fn keep_abandoned_socket(run: &Arc<RunState>, socket: Socket, time: Duration) {
    if run.stats.abandoned.load(Relaxed) >= run.abandoned_allowed {
        run.stats.abandoned_closed.fetch_add(1, Relaxed);
        return;
    }
    let run = Arc::clone(run);
    tokio::spawn(async move {
        let _gauge = GaugeGuard::new(&run.stats.abandoned);
        sleep(time).await;
        drop(socket);
    });
}

/// Answers PING until the connection ends.
async fn stay_connected(
    mut stream: Stream,
    mut rest: Vec<u8>,
    library: &Library,
    memory: &mut Memory,
    drop: &CancellationToken,
) -> ConnectionEnd {
    // The run drops the connections once. A client that has come back since then stays.
    let was_dropped = drop.is_cancelled();
    loop {
        while let Some(at) = memchr::memchr(b'\n', &rest) {
            let line = String::from_utf8_lossy(&rest[..at]).trim_end().to_owned();
            rest.drain(..=at);
            if line.starts_with("PING") && stream.send(b"PONG\r\n").await.is_err() {
                return ConnectionEnd::Lost;
            }
            match attempt::error_text(&line).map(|text| library.reaction_to(memory, text)) {
                None | Some(Reaction::Waits) => {}
                Some(Reaction::Reconnects) => return ConnectionEnd::Lost,
                Some(Reaction::Closes) => return ConnectionEnd::Closed,
            }
        }
        if rest.is_empty() {
            // An idle client keeps no buffer.
            rest = Vec::new();
        }
        tokio::select! {
            read = read_some(&mut stream, &mut rest) => {
                if !matches!(read, Ok(1..)) {
                    return ConnectionEnd::Lost;
                }
            }
            () = drop.cancelled(), if !was_dropped => return ConnectionEnd::Dropped,
        }
    }
}

/// Reads what there is. The buffer is on the stack while it reads, so an idle client needs none.
async fn read_some(stream: &mut Stream, rest: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut bytes = [0; 1024];
        let mut bytes = ReadBuf::new(&mut bytes);
        Pin::new(&mut *stream).poll_read(cx, &mut bytes).map_ok(|()| {
            rest.extend_from_slice(bytes.filled());
            bytes.filled().len()
        })
    })
    .await
}
