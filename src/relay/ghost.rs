//! Whether a session's client is there at all. A machine or a path that vanishes sends no FIN, and its session stays
//! until the server misses answers to its PINGs, for minutes. Where somebody wants the session's places weir asks the
//! client itself: by a PING, or by the bytes that wait for it already. A client that shows no sign of life is a ghost.
//!
//! The client's PONG goes on to the server, where one that was not asked for does nothing but reset the count of missed
//! ones (nats-server: client.go, `processPong`).

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    net::{
        socket,
        timer::{Sleep, sleep_until},
    },
    outcome::{Cause, Party},
    relay::{Ended, Relay, direction::Side, registry::SessionHandle},
    telemetry::moment::Moment,
};

/// How long a client may take for a sign of life. The answer of one that runs is there within a round trip and what its
/// kernel needs to deliver the PING once more, 0.2 to 1 s behind the first one.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// A request that could not be put to the client for so long, in the middle of an operation or without a server, is
/// dropped: whoever wanted the place has had its answer.
const ASKED_WITHIN: Duration = Duration::from_secs(2);

/// A client to which so many bytes have gone meanwhile takes what it is sent, and its PONG is still to come: the PING
/// is behind other bytes.
const TAKES: u64 = 64 * 1024;

/// A client has been asked for a sign of life. On the heap and only while an answer is awaited.
#[derive(Debug)]
pub(super) struct Question {
    /// When the answer must have come.
    due: Sleep,
    asked: Seen,
    /// Bytes waited for the client.
    waited: bool,
}

/// What has been seen of a client at a moment.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// How often something was read from it, modulo 2^32.
    reads: u32,
    /// The bytes that it has taken.
    taken: u64,
}

/// Whether a client has shown a sign of life since it was asked. While bytes `waited` for it, its kernel was full: that
/// takes more only when the client does.
fn has_shown_life(asked: Seen, now: Seen, waited: bool) -> bool {
    let taken = now.taken.saturating_sub(asked.taken);
    now.reads != asked.reads || taken >= if waited { 1 } else { TAKES }
}

impl<C: Side, S: Side> Relay<C, S> {
    fn seen(&self) -> Seen {
        Seen { reads: self.to_server.reads(), taken: self.to_client.delivered() }
    }

    /// Asks the client for a sign of life as soon as something can be written between two operations.
    #[expect(clippy::arithmetic_side_effects, reason = "a time some seconds from now is a time")]
    pub(super) fn ask_for_sign_of_life(&mut self, cx: &mut Context<'_>, handle: &SessionHandle) {
        let requested = handle.sign_of_life_requested_at().unwrap_or_default();
        if self.question.is_some() || Moment::now().since(requested) >= ASKED_WITHIN {
            handle.sign_of_life_dealt_with();
            return;
        }
        // Whatever of these the kernel takes was not waiting for the client.
        self.to_client.push(&self.down);
        let waited = !self.client_takes();
        if waited || self.to_client.ask(cx, &mut self.down) {
            handle.sign_of_life_dealt_with();
            let due = sleep_until(Instant::now() + ANSWERS_WITHIN);
            self.question = Some(Box::new(Question { due, asked: self.seen(), waited }));
        }
    }

    /// Ready when the client has shown no sign of life in time.
    pub(super) fn poll_question(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let Some(mut question) = self.question.take() else { return Poll::Pending };
        if has_shown_life(question.asked, self.seen(), question.waited) {
            return Poll::Pending;
        }
        if Pin::new(&mut question.due).poll(cx).is_pending() {
            self.question = Some(question);
            return Poll::Pending;
        }
        self.to_client.push(&self.down);
        let shows_life = has_shown_life(question.asked, self.seen(), question.waited);
        // While the server takes nothing nothing is read of the client. And a worker that was late may not have been
        // told yet of what has come in time.
        let may_have_answered = self.to_server.holds_bytes() || socket::has_news(self.down.tcp());
        match shows_life || may_have_answered {
            true => Poll::Pending,
            false => Poll::Ready(Ended { party: Party::Weir, cause: Cause::Ghost }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::{advance, timeout},
    };

    use super::*;
    use crate::{
        net::socket::connected_pair,
        protocol::{PING, PONG},
        relay::{
            direction::Outlet,
            registry::{AtServer, Registration, SessionFacts, SessionRegistry},
        },
        telemetry::counters::Counters,
    };

    const GHOST: Ended = Ended { party: Party::Weir, cause: Cause::Ghost };

    /// Passes everything, and can be asked where `asks` says so.
    #[derive(Debug)]
    struct Simple {
        asks: bool,
    }

    impl Side for Simple {
        fn pass(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
            out.put(chunk);
            Ok(())
        }

        fn messages(&self) -> u64 {
            0
        }

        fn payload(&self) -> u64 {
            0
        }

        fn question(&self) -> Option<&'static [u8]> {
            self.asks.then_some(PING)
        }
    }

    struct Test {
        client: TcpStream,
        server: TcpStream,
        relay: Relay<Simple, Simple>,
        registered: Registration,
    }

    impl Test {
        async fn new(asks: bool) -> Self {
            let ((client, down), (server, up)) = (connected_pair().await, connected_pair().await);
            let (down, up) = ((down.into(), Simple { asks }, &b""[..]), (up.into(), Simple { asks }, &b""[..]));
            let relay = Relay::new(down, up, Arc::new(Counters::default())).unwrap();
            let sessions = Arc::<SessionRegistry>::default();
            let registered = sessions.register(SessionFacts::default(), None, AtServer::default());
            Self { client, server, relay, registered }
        }

        /// How it ends within a minute in which `work` is done on the client's and the server's side.
        async fn ends(self, work: impl AsyncFnOnce(TcpStream, TcpStream, &SessionHandle)) -> Option<Ended> {
            let Self { client, server, mut relay, registered } = self;
            let all = async { tokio::join!(work(client, server, registered.handle()), std::future::pending::<()>()) };
            tokio::select! {
                ended = timeout(Duration::from_secs(60), relay.run(&registered)) => ended.ok(),
                _ = all => None,
            }
        }
    }

    fn asks(handle: &SessionHandle) {
        handle.request_sign_of_life(Moment::now());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_a_ghost_and_who_answers_is_none() {
        let read_and_say = async |says: &'static [u8], client: &mut TcpStream| {
            let mut read = [0; PING.len()];
            client.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, PING);
            client.write_all(says).await.unwrap();
        };
        for (says, ends) in [(&b""[..], Some(GHOST)), (PONG, None), (b"P", None)] {
            let ended = Test::new(true).await.ends(async |mut client, _server, handle| {
                asks(handle);
                read_and_say(says, &mut client).await;
                std::future::pending().await
            });
            assert_eq!(ended.await, ends, "{says:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_cannot_be_asked_is_left_alone() {
        let ended = Test::new(false).await.ends(async |_client, _server, handle| {
            asks(handle);
            std::future::pending().await
        });
        assert_eq!(ended.await, None);
    }

    /// The bytes that wait for a client ask it: behind them a PING would come too late.
    #[tokio::test(start_paused = true)]
    async fn a_client_for_which_bytes_wait_shows_that_it_is_there_by_taking_some() {
        for (takes, ends) in [(false, Some(GHOST)), (true, None)] {
            let ended = Test::new(true).await.ends(async |mut client, mut server, handle| {
                let much = vec![0; 64 * 1024 * 1024];
                let (_, ()) = tokio::join!(server.write_all(&much), async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    asks(handle);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if takes {
                        client.read_exact(&mut vec![0; 8 * 1024 * 1024]).await.unwrap();
                    }
                    std::future::pending().await
                });
            });
            assert_eq!(ended.await, ends);
        }
    }

    /// Its answer cannot be read: nothing is read of it while its server takes nothing.
    #[tokio::test(start_paused = true)]
    async fn a_client_whose_server_takes_nothing_is_left_alone() {
        let ended = Test::new(true).await.ends(async |mut client, _server, handle| {
            let much = vec![0; 64 * 1024 * 1024];
            let (_, ()) = tokio::join!(client.write_all(&much), async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                asks(handle);
                std::future::pending().await
            });
        });
        assert_eq!(ended.await, None);
    }

    /// A worker that stood still judges by what has come, and not by what it has read.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_has_not_been_read_yet_counts() {
        for answers in [true, false] {
            let Test { mut client, server: _server, mut relay, registered } = Test::new(true).await;
            let mut cx = Context::from_waker(std::task::Waker::noop());
            asks(registered.handle());
            relay.ask_for_sign_of_life(&mut cx, registered.handle());
            assert!(relay.poll_question(&mut cx).is_pending());
            if answers {
                client.write_all(PONG).await.unwrap();
            }
            advance(2 * ANSWERS_WITHIN).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(relay.poll_question(&mut cx), if answers { Poll::Pending } else { Poll::Ready(GHOST) });
        }
    }
}
