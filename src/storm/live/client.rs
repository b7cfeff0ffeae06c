//! The life of one client: it tries, is in or waits, and comes back, as its library does.

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
        table::Library,
    },
    net::stream::Stream,
    storm::live::{
        attempt::{self, Caller, Outcome, What},
        security::OwnTls,
        seen::Seen,
    },
};

/// What all clients share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) seen: Seen,
    /// Where to go, in order.
    pub(super) addresses: Vec<SocketAddr>,
    /// Cancelled when all connected clients are to drop their connections.
    pub(super) drop: CancellationToken,
    /// How many sockets may be kept open as ghosts.
    pub(super) ghosts_allowed: u64,
}

/// One client.
pub(super) struct Client {
    pub(super) library: Arc<Library>,
    /// Where it speaks TLS.
    pub(super) tls: Option<OwnTls>,
    /// Its CONNECT line for each address.
    pub(super) connect: Vec<Vec<u8>>,
    pub(super) source: Option<IpAddr>,
    pub(super) rng: fastrand::Rng,
    /// Before the first try.
    pub(super) starts_after: Duration,
}

/// How a stay ends.
enum End {
    /// Its stream ended, or the library ended it to reconnect.
    Cut,
    /// All were told to drop.
    OnPurpose,
    /// The library closes for good.
    ForGood,
}

/// Counts while it lives.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, AcqRel);
    }
}

impl Client {
    /// Lives until it gives up for good; else for ever.
    pub(super) async fn live(mut self, shared: Arc<Shared>) {
        let (library, seen) = (&*self.library, &shared.seen);
        let pool = u16::try_from(shared.addresses.len()).unwrap_or(u16::MAX);
        let mut memory = Memory::default();
        let mut turn = self.rng.usize(0..shared.addresses.len());
        let (mut tries, mut counted) = (0, false);
        sleep(self.starts_after).await;
        loop {
            let phase = seen.phase();
            phase.attempts.fetch_add(1, Relaxed);
            tries += 1;
            let began = Instant::now();
            // What is needed only until the client is in lives on the heap until then.
            let caller =
                Caller { library, source: self.source, tls: self.tls.as_ref(), connect: &self.connect[turn], seen };
            let attempt = attempt::make(caller, turn, shared.addresses[turn]);
            let outcome = Box::pin(attempt).await;
            turn = (turn + 1) % shared.addresses.len();
            let wait = match outcome {
                Outcome::In(stream, rest) => {
                    library.connected(&mut memory);
                    if !std::mem::replace(&mut counted, true) {
                        phase.came_in(tries);
                    }
                    let connected = Counted::new(&seen.connected);
                    let end = reside(stream, rest, library, &mut memory, &shared.drop).await;
                    drop(connected);
                    match end {
                        End::Cut => _ = seen.cut.fetch_add(1, Relaxed),
                        End::OnPurpose => (tries, counted) = (0, false),
                        End::ForGood => return seen.lost_one(),
                    }
                    library.dropped(&mut memory, pool, began.elapsed(), &mut self.rng)
                }
                Outcome::Failed(failure) => {
                    seen.phase().failed(failure.what);
                    if let Some(socket) = failure.ghost {
                        haunt(&shared, socket, library.ghost);
                    }
                    match library.failed(&mut memory, pool, failure.ending, began.elapsed(), &mut self.rng) {
                        Next::TryAfter(wait) => wait,
                        Next::GivesUpAfter(wait) => {
                            sleep(wait).await;
                            return seen.lost_one();
                        }
                    }
                }
                Outcome::Hangs => {
                    seen.phase().failed(What::Error("neither connected nor trying any more".into()));
                    return seen.lost_one();
                }
            };
            sleep(wait).await;
        }
    }
}

/// Keeps the socket of an attempt that was given up open, as the library does, if files allow.
fn haunt(shared: &Arc<Shared>, socket: Socket, time: Duration) {
    if shared.seen.ghosts.load(Relaxed) >= shared.ghosts_allowed {
        shared.seen.ghosts_closed.fetch_add(1, Relaxed);
        return;
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let _one = Counted::new(&shared.seen.ghosts);
        sleep(time).await;
        drop(socket);
    });
}

/// Answers PING until the connection ends.
async fn reside(
    mut stream: Stream,
    mut rest: Vec<u8>,
    library: &Library,
    memory: &mut Memory,
    drop: &CancellationToken,
) -> End {
    // Whoever was dropped once is not dropped again.
    let was_dropped = drop.is_cancelled();
    loop {
        while let Some(at) = memchr::memchr(b'\n', &rest) {
            let line = String::from_utf8_lossy(&rest[..at]).trim_end().to_owned();
            rest.drain(..=at);
            if line.starts_with("PING") && stream.send(b"PONG\r\n").await.is_err() {
                return End::Cut;
            }
            match attempt::error_text(&line).map(|text| library.told(memory, text)) {
                None | Some(Reaction::Waits) => {}
                Some(Reaction::Reconnects) => return End::Cut,
                Some(Reaction::Closes) => return End::ForGood,
            }
        }
        if rest.is_empty() {
            rest = Vec::new();
        }
        tokio::select! {
            read = read_some(&mut stream, &mut rest) => {
                if !matches!(read, Ok(1..)) {
                    return End::Cut;
                }
            }
            () = drop.cancelled(), if !was_dropped => return End::OnPurpose,
        }
    }
}

/// Reads what there is. The buffer is the stack's, not the idle client's.
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
