//! The end of a relay: the last bytes arrive where somebody still reads them, for as long as they move.
//!
//! A server that refuses an operation writes `-ERR` and closes. Its connection may be reset by what the client sends
//! meanwhile; what the server wrote before can be read all the same.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{io::AsyncWrite, time::Instant};

use crate::{
    net::{
        linger,
        stream::Stream,
        timer::{sleep_until, timeout_at},
    },
    outcome::{Cause, Party},
    relay::{
        Ended, Relay,
        direction::{DirectionEnd, Side},
        registry::SessionHandle,
    },
    telemetry::counters::Totals,
};

/// How long a server may take to close once it has read the end of its client's stream. nats-server closes at once.
const SERVER_CLOSES: Duration = Duration::from_secs(2);

/// How long a side that takes none of its last bytes is waited for.
const STALLED: Duration = Duration::from_secs(10);

/// How long the last bytes may take in all: a link of 2 KiB a second gets 256 KiB through. Where the server has gone
/// the session has no place any more that another client could have meanwhile.
const LONGEST: Duration = Duration::from_secs(128);

/// How often it is looked whether bytes have moved. The kernel says that a socket takes more only when a third of its
/// buffer is free, which takes minutes on a slow link.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl<C: Side, S: Side> Relay<C, S> {
    /// Keeps the client connected until `until` after its server has gone. The server's last bytes reach the client,
    /// which notices nothing else. Returns sooner when the client sends anything, since that would be lost, when it
    /// leaves, and when `handle` requests the end.
    pub async fn outlive_server(&mut self, until: Instant, handle: &SessionHandle) {
        if self.to_server.holds_bytes() {
            return;
        }
        let (to_client, up, down) = (&mut self.to_client, &mut self.up, &mut self.down);
        let mut is_shut = false;
        let quiet = async {
            let rest = poll_fn(|cx| {
                // Over TLS or WebSocket the server has to take what waits there before, which it may never do.
                is_shut = is_shut || Pin::new(&mut *up).poll_shutdown(cx).is_ready();
                to_client.poll(cx, up, down)
            });
            if rest.await != DirectionEnd::WriteFailed {
                let _ = down.tcp().peek(&mut [0]).await;
            }
        };
        let end_requested = poll_fn(|cx| {
            handle.set_waker(cx.waker());
            if handle.end_requested().is_some() { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            () = quiet => {}
            () = end_requested => {}
            () = sleep_until(until) => {}
        }
    }

    /// Closes both connections with a plain FIN, after the bytes on their way have arrived where somebody still reads
    /// them. When this returns, the connection to the server is closed, and a server that answers has seen it closed.
    /// Once `session` is to end, nothing is waited for any more but the closes.
    pub async fn finish(mut self, ended: Ended, session: &SessionHandle) -> Totals {
        let (mut down_is_over, mut up_is_over) = match ended.cause {
            // A WebSocket ends with a frame. The close_notify of TLS and the FIN are still to come, and this side sends
            // them first.
            Cause::Eof if matches!(self.down, Stream::WebSocket(_)) => (false, ended.party == Party::Upstream),
            // Nobody is there to read an end, and the session's places are wanted.
            Cause::Ghost => (true, false),
            Cause::Eof | Cause::SocketError => (ended.party == Party::Downstream, ended.party == Party::Upstream),
            _ => (false, false),
        };
        match ended.party {
            Party::Downstream => {
                // The client's last bytes reach the server, then the FIN does, and the server's last words reach the
                // client.
                self.while_bytes_move(STALLED, session, Self::poll_rest_to_server).await;
                self.while_bytes_move(SERVER_CLOSES, session, Self::poll_end_to_server).await;
                let last_words = self.while_bytes_move(SERVER_CLOSES, session, Self::poll_rest_to_client).await;
                up_is_over = last_words == Some(DirectionEnd::Eof);
            }
            Party::Upstream => {
                let rest = self.while_bytes_move(STALLED, session, Self::poll_rest_to_client).await;
                down_is_over = rest == Some(DirectionEnd::WriteFailed);
            }
            Party::Weir => {}
        }
        let totals = self.count(session);
        self.down.set_closing(self.to_client.side().closing());
        // Both at once, so that the slot is free as soon as the server has seen the end. A side whose end has been read
        // needs no lingering close.
        let close = async |stream: Stream, is_over: bool| {
            if !is_over {
                linger::close_with(stream, b"").await;
            }
        };
        tokio::join!(close(self.up, up_is_over), close(self.down, down_is_over));
        totals
    }

    /// Delivers what the client has sent, and meanwhile what the server says. Over, too, when the server has closed.
    fn poll_rest_to_server(&mut self, cx: &mut Context<'_>) -> Poll<DirectionEnd> {
        self.to_server.push(&self.up);
        if let Poll::Ready(end) = self.to_server.poll(cx, &mut self.down, &mut self.up) {
            return Poll::Ready(end);
        }
        match self.poll_rest_to_client(cx) {
            // The client is not there to read it: what it has sent counts all the same.
            Poll::Ready(DirectionEnd::WriteFailed) => Poll::Pending,
            polled => polled,
        }
    }

    fn poll_rest_to_client(&mut self, cx: &mut Context<'_>) -> Poll<DirectionEnd> {
        self.to_client.push(&self.down);
        self.to_client.poll(cx, &mut self.up, &mut self.down)
    }

    /// Tells the server that nothing more comes, behind what waits in TLS or in a WebSocket.
    fn poll_end_to_server(&mut self, cx: &mut Context<'_>) -> Poll<DirectionEnd> {
        Pin::new(&mut self.up).poll_shutdown(cx).map(|_| DirectionEnd::Eof)
    }

    /// Polls to the end, for as long as one of the sides takes bytes, and `patience` longer. `None` when it had to
    /// stop, or `session` is to end.
    #[expect(clippy::arithmetic_side_effects, reason = "a time some seconds from now is a time")]
    async fn while_bytes_move(
        &mut self,
        patience: Duration,
        session: &SessionHandle,
        mut poll: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<DirectionEnd>,
    ) -> Option<DirectionEnd> {
        let began = Instant::now();
        let (mut moved_at, mut moved) = (began, None);
        loop {
            let now = Instant::now();
            let so_far = Some((self.to_server.delivered(), self.to_client.delivered()));
            if so_far != moved {
                (moved_at, moved) = (now, so_far);
            }
            let until = (moved_at + patience).min(began + LONGEST);
            if now >= until {
                return None;
            }
            let look_at = until.min(now + LOOK_INTERVAL);
            let polled = poll_fn(|cx| {
                session.set_waker(cx.waker());
                match poll(self, cx) {
                    Poll::Pending if session.end_requested().is_some() => Poll::Ready(None),
                    polled => polled.map(Some),
                }
            });
            if let Ok(end) = timeout_at(look_at, polled).await {
                return end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        net::socket::connected_pair,
        relay::{
            Passthrough,
            registry::{AtServer, SessionFacts, SessionRegistry},
        },
        telemetry::counters::Counters,
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    fn byte(at: usize) -> u8 {
        u8::try_from(at / 7919 % 251).unwrap()
    }

    /// A client that reads nothing for longer than a server may take to close, and then everything.
    #[tokio::test]
    async fn a_slow_client_gets_everything_that_its_server_has_sent() {
        let ((mut client, down), (mut server, up)) = (connected_pair().await, connected_pair().await);
        let side = (Passthrough::default(), Passthrough::default());
        let counters = Arc::new(Counters::default());
        let mut relay = Relay::new((down.into(), side.0, b""), (up.into(), side.1, b""), counters).unwrap();
        let registered = Arc::<SessionRegistry>::default().register(SessionFacts::default(), None, AtServer::default());
        const ALL: usize = 16 * 1024 * 1024;
        let serve = async move {
            let bytes: Vec<u8> = (0..ALL).map(byte).collect();
            server.write_all(&bytes).await.unwrap();
        };
        let read = async move {
            tokio::time::sleep(SERVER_CLOSES + Duration::from_secs(1)).await;
            let mut all = Vec::new();
            while all.len() < ALL / 2 {
                client.read_buf(&mut all).await.unwrap();
            }
            tokio::time::sleep(SERVER_CLOSES + Duration::from_secs(1)).await;
            client.read_to_end(&mut all).await.unwrap();
            all
        };
        let relay = async move {
            let ended = relay.run(&registered).await;
            assert!(ended.by_server(), "{ended:?}");
            relay.finish(ended, registered.handle()).await
        };
        let ((), all, totals) = tokio::join!(serve, read, relay);
        assert_eq!((all.len(), totals.bytes_down), (ALL, ALL as u64));
        assert!(all.iter().enumerate().all(|(i, one)| *one == byte(i)));
    }

    /// Its last bytes take minutes, for which a drain does not wait.
    #[tokio::test]
    async fn a_slow_client_that_has_lost_its_server_is_let_go_once_its_session_is_to_end() {
        let ((mut client, down), (mut server, up)) = (connected_pair().await, connected_pair().await);
        let side = (Passthrough::default(), Passthrough::default());
        let counters = Arc::new(Counters::default());
        let mut relay = Relay::new((down.into(), side.0, b""), (up.into(), side.1, b""), counters).unwrap();
        let registered = Arc::<SessionRegistry>::default().register(SessionFacts::default(), None, AtServer::default());
        let chunk = vec![0; 1024 * 1024];
        let writes =
            async { while tokio::time::timeout(Duration::from_millis(500), server.write_all(&chunk)).await.is_ok() {} };
        tokio::select! {
            ended = relay.run(&registered) => panic!("{ended:?}"),
            () = writes => {}
        }
        drop(server);
        let (handle, reads) = (Arc::clone(registered.handle()), async move {
            let mut some = vec![0; 1024];
            while client.read(&mut some).await.is_ok_and(|n| n > 0) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let reads = tokio::spawn(reads);
        let finish = tokio::spawn(async move {
            relay.finish(Ended { party: Party::Upstream, cause: Cause::Eof }, registered.handle()).await
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!finish.is_finished(), "its client has some of them to read");
        handle.end(Cause::Draining);
        assert!(tokio::time::timeout(PATIENCE, finish).await.is_ok(), "it still waits");
        assert!(!reads.is_finished(), "it is slow");
        reads.abort();
    }
}
