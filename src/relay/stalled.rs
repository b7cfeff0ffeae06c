//! A session whose client takes nothing, and which asks whether its server has closed it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    net::stream::Stream,
    relay::registry::{ServerSays, SessionHandle},
};

/// A session whose client takes nothing.
#[derive(Debug)]
pub struct Stalled {
    handle: Arc<SessionHandle>,
    /// weir's end of the connection to the server, and the client's end of its own: by one of them the server knows the
    /// connection, by the second where PROXY headers tell it.
    ends: [Option<SocketAddr>; 2],
    /// Since when at the earliest, but not before the session began.
    since: Instant,
}

impl Stalled {
    pub(super) fn new(handle: &Arc<SessionHandle>, up: &Stream, down: &Stream, since: Instant) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let ends = [up.tcp().local_addr(), down.tcp().peer_addr()].map(|end| end.ok().map(canonical));
        Self { handle: Arc::clone(handle), ends, since }
    }

    /// How long it has taken nothing, at most.
    pub fn stalled_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Takes in how long ago the server has closed a connection of these ends. Another connection with the same ends
    /// was closed before this session began, and so before it stalled.
    pub fn note_closed(&self, closed: impl Fn(SocketAddr) -> Option<Duration>, asked: Instant) {
        let longest = self.stalled_for(asked);
        let is_closed = self.ends.into_iter().flatten().filter_map(closed).any(|age| age <= longest);
        self.handle.server_said(if is_closed { ServerSays::Closed } else { ServerSays::Nothing });
    }

    /// The server cannot be asked.
    pub fn note_unanswered(&self) {
        self.handle.server_said(ServerSays::NoAnswer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::socket::connected_pair;

    #[tokio::test]
    async fn only_what_was_closed_since_the_client_stalled_is_this_session() {
        let (near, far) = connected_pair().await;
        let (near, far): (Stream, Stream) = (near.into(), far.into());
        let (up_end, down_end) = (near.tcp().local_addr().unwrap(), far.tcp().peer_addr().unwrap());
        assert_eq!(up_end, down_end, "one connection stands for both");
        let (handle, now) = (Arc::<SessionHandle>::default(), Instant::now());
        let asked = now.checked_add(Duration::from_secs(10)).unwrap();
        let says = |address: SocketAddr, closed_before: u64| {
            let stalled = Stalled::new(&handle, &near, &far, now);
            let closed = |end| (end == address).then(|| Duration::from_secs(closed_before));
            stalled.note_closed(closed, asked);
            handle.server_says()
        };
        let other = SocketAddr::new(up_end.ip(), up_end.port() ^ 1);
        assert_eq!(says(up_end, 10), ServerSays::Closed);
        assert_eq!(says(up_end, 11), ServerSays::Nothing, "that was another connection before this one");
        assert_eq!(says(other, 5), ServerSays::Nothing);
    }
}
