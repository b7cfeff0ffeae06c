//! A client that is not in yet goes to another process: one that waits for INFO or for its turn, or that has not sent
//! all of its CONNECT. What it was shown and what it has said goes along, so that it notices nothing.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    net::{socket, stream::Stream, timer::now},
    protocol::{client_preface::Preface, connect::Connect},
    relay::Base64,
    session::{
        arrive::Accepted,
        context::Context,
        listener::Listener,
        shared::Shared,
        takeover::{Gone, Stopped, StoppedClient, Takeover},
    },
    telemetry::moment::Moment,
};

/// A client that is not in yet, as one process of weir tells another. Moments are in nanoseconds, counted from where
/// both processes count. `said` may hold its password.
#[derive(Serialize, Deserialize)]
pub struct ClientState {
    pub id: u64,
    pub peer: SocketAddr,
    /// Where the client has come to.
    pub listener: SocketAddr,
    accepted: u64,
    #[serde(default)]
    heard_after_ms: u32,
    /// It was held in the queue.
    #[serde(default)]
    waited: bool,
    /// What it has said; `None` before it has seen INFO.
    #[serde(default)]
    said: Option<Said>,
}

/// What a client has said that has seen INFO.
#[derive(Serialize, Deserialize)]
struct Said {
    bytes: Base64,
    /// When its CONNECT was complete; `None` while it is not.
    #[serde(default)]
    connected: Option<u64>,
}

impl fmt::Debug for ClientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientState").field("id", &self.id).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// How far a client has come.
pub(in crate::session) enum Stage<'a> {
    /// It has seen and said nothing.
    BeforeInfo,
    /// It has seen INFO, and said this so far.
    Preface(&'a Preface),
    /// Its CONNECT was complete at this time.
    Connected(&'a Connect, &'a Preface, Instant),
}

/// Does `work` until it is done, or a client that `may_go` is to go to another process: `None`. Whoever waits by the
/// timer of its worker is polled when that begins.
pub(in crate::session) fn unless_asked<T>(
    (takeover, may_go): (&Takeover, bool),
    mut work: impl Future<Output = T> + Unpin,
) -> impl Future<Output = Option<T>> + Unpin {
    poll_fn(move |cx| match Pin::new(&mut work).poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if may_go && takeover.asks_clients() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
}

/// Gives a client to the other process, and waits. Returns whether that one has it now.
pub(in crate::session) async fn give(cx: &Context, stream: &Stream, stage: Stage<'_>) -> bool {
    let Stream::Plain(tcp) = stream else { return false };
    // Without a descriptor left it goes on here.
    let Ok(connection) = tcp.as_fd().try_clone_to_owned() else { return false };
    let (verdict, told) = oneshot::channel();
    let said = match stage {
        Stage::BeforeInfo => None,
        Stage::Preface(preface) => Some(Said { bytes: Base64(preface.said(None)), connected: None }),
        Stage::Connected(connect, preface, at) => {
            let connected = Some(Moment::from(at.into_std()).raw());
            Some(Said { bytes: Base64(preface.said(Some(connect))), connected })
        }
    };
    let state = ClientState {
        id: cx.id,
        peer: cx.peer,
        listener: cx.listener.name.address,
        accepted: Moment::from(cx.accepted.into_std()).raw(),
        heard_after_ms: cx.heard_after_ms(),
        waited: cx.waited,
        said,
    };
    let stopped = Stopped::Client(StoppedClient { state, connection, verdict });
    cx.shared.takeover.stop(stopped) && matches!(told.await, Ok(Gone))
}

/// A client of another process that goes on here.
pub(in crate::session) struct TakenClient {
    pub accepted: Accepted,
    /// What it has said after INFO, and when its CONNECT was complete.
    pub said: Option<(Vec<u8>, Option<Instant>)>,
}

impl TakenClient {
    /// Makes what a client is here. It counts over all limits: it has come before.
    ///
    /// # Errors
    /// Those of the runtime.
    pub fn new(
        shared: Arc<Shared>,
        listener: Arc<Listener>,
        state: ClientState,
        connection: OwnedFd,
    ) -> io::Result<(Context, Self)> {
        let stream = socket::adopted(connection)?;
        let ClientState { id, peer, accepted, heard_after_ms, waited, said, .. } = state;
        let instant = |moment| Instant::from_std(Moment::from_raw(moment).into());
        let entry = shared.admission.adopt_accepted(&listener.max_clients, (peer.ip(), false), now());
        let cx = Context::taken(shared, listener, id, peer, (instant(accepted), heard_after_ms, waited));
        let proxy_header = cx.proxy_header(&stream);
        let accepted =
            Accepted { stream: stream.into(), upgrade: None, entry: Ok(entry), refusing: None, proxy_header };
        let said = said.map(|said| (said.bytes.0, said.connected.map(instant)));
        Ok((cx, Self { accepted, said }))
    }
}
