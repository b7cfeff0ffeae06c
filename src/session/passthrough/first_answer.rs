//! A client's first bytes go to its server while they stay in the client's socket, until the server has begun to
//! answer. A server that is full or limits its rate says so where TLS should begin, and another one can then have the
//! same bytes: the client notices nothing.
//!
//! How a client cuts its ClientHello does not matter, nor how long it is: what has come of it goes on as it comes.

use std::{future::pending, io, mem::MaybeUninit, pin::pin};

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    dial::{self, Busy},
    net::{socket, timer::sleep_until},
    protocol::tls_records::TlsRecords,
    session::passthrough::login::Login,
    upstream::Slot,
};

/// The most bytes of a client that wait in its socket: the longest record of plain text (RFC 8446, 5.1). A ClientHello
/// has 200 to 2000 bytes, some KiB with a ticket that holds a certificate. Who sends more before the server answers is
/// relayed without another try.
const MOST: usize = 16 * 1024 + 5;

/// The longest that says that a server is busy.
const LONGEST_WORD: usize = 64;

/// What a server did first.
#[derive(Debug)]
pub(super) enum FirstAnswer {
    /// It answers, or has ended: what it sent is still to be read, and the client's bytes that it has are read.
    Begun,
    /// It said that it is busy. The client's bytes are still to be read.
    Busy(Busy),
    /// The client has left meanwhile.
    ClientLeft,
}

/// The client's bytes that its server has.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// How many. They are still to be read from the client's socket.
    sent: usize,
    records: TlsRecords,
}

impl Unread {
    /// How many bytes the server has had, and where the TLS records end that they are.
    pub fn into_parts(self) -> (u64, TlsRecords) {
        (self.sent as u64, self.records)
    }

    /// Whether the client has sent any.
    pub fn is_silent(&self) -> bool {
        self.sent == 0
    }
}

/// Passes on what the client sends, without reading it, until the server has begun to answer. Tells `login` and the
/// `slot` whose turn it is to speak.
pub(super) async fn first_answer(
    client: &TcpStream,
    server: &TcpStream,
    (unread, login, slot): (&mut Unread, &mut Login, &mut Slot),
) -> FirstAnswer {
    loop {
        let prompt = async {
            match login.prompt_until() {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            word = first_word(server) => match word {
                Some(busy) => return FirstAnswer::Busy(busy),
                None => break,
            },
            passed = unread.pass_on(client, server) => match passed {
                Passed::Records(ended) => {
                    if login.asks(ended, Instant::now()) {
                        slot.resume_handshake();
                    }
                }
                Passed::Much => break,
                Passed::Left => return FirstAnswer::ClientLeft,
            },
            () = prompt => {
                slot.await_connect();
                login.not_prompt();
            }
        }
    }
    discard(client, unread.sent);
    FirstAnswer::Begun
}

/// Whether a server that has sent INFO says behind it that it is busy, `within` this time.
pub(super) async fn busy_behind_info(server: &TcpStream, within: Duration) -> Option<Busy> {
    if within.is_zero() {
        return look(server).ok().flatten();
    }
    // The client waits for INFO meanwhile, so this uses tokio's timer, which is finer than the ticks of weir's own.
    tokio::time::timeout(within, pin!(first_word(server))).await.ok().flatten()
}

/// Waits until the server says something or ends. Returns whether it says that it is busy. Reads nothing.
async fn first_word(server: &TcpStream) -> Option<Busy> {
    loop {
        let is_closed = server.ready(Interest::READABLE).await.ok()?.is_read_closed();
        // An answer that bytes are missing makes tokio wait for the next ones, although there are unread bytes.
        match server.try_io(Interest::READABLE, || look(server)) {
            Ok(word) => return word,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock && !is_closed => {}
            Err(_) => return None,
        }
    }
}

/// What the unread bytes of a server say; an error while they are too few to tell.
fn look(server: &TcpStream) -> io::Result<Option<Busy>> {
    let mut bytes = [0; LONGEST_WORD];
    let (_, n) = recv(server, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
    let word = &bytes[..n];
    match dial::busy(word) {
        None if n > 0 && dial::may_be_busy(word) => Err(io::ErrorKind::WouldBlock.into()),
        said => Ok(said),
    }
}

/// How the client's bytes have gone on.
enum Passed {
    /// So many of its TLS records have ended with them.
    Records(u64),
    /// They are too many to be left unread.
    Much,
    /// It has left.
    Left,
}

impl Unread {
    /// Waits for bytes that the server has not had, and passes them on. Cancel-safe.
    async fn pass_on(&mut self, client: &TcpStream, server: &TcpStream) -> Passed {
        // Not by the runtime's word, which tells of new bytes: these may have come for another server.
        if let Ok(passed) = self.peek_and_send(client, server) {
            return passed;
        }
        loop {
            let Ok(ready) = client.ready(Interest::READABLE).await else { return Passed::Left };
            match client.try_io(Interest::READABLE, || self.peek_and_send(client, server)) {
                Ok(passed) => return passed,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
                Err(_) => return Passed::Left,
            }
        }
    }

    fn peek_and_send(&mut self, client: &TcpStream, server: &TcpStream) -> io::Result<Passed> {
        // On the stack, so that a waiting session takes no memory for it.
        let mut bytes = [MaybeUninit::uninit(); MOST];
        let ((bytes, _), _) = recv(client, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        let new = bytes.get(self.sent..).unwrap_or_default();
        if new.is_empty() {
            return if self.sent < MOST { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(Passed::Much) };
        }
        // A server that has gone takes nothing. Its last word is looked at next.
        let taken = socket::send_now(server, new).unwrap_or(new.len());
        if taken == 0 {
            return Ok(Passed::Much);
        }
        self.sent += taken;
        Ok(Passed::Records(self.records.advance(&new[..taken])))
    }
}

/// Reads `unread` bytes, which have come, and forgets them.
fn discard(client: &TcpStream, mut unread: usize) {
    let mut bytes = [MaybeUninit::uninit(); 4096];
    while unread > 0 {
        let most = unread.min(bytes.len());
        match recv(client, &mut bytes[..most], RecvFlags::DONTWAIT) {
            Ok((_, n)) if n > 0 => unread -= n,
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::yield_now,
    };

    use super::*;
    use crate::net::socket::connected_pair;

    /// Passes a client's bytes on until the server says `word`.
    async fn pass_until(unread: &mut Unread, client: &TcpStream, to_server: &TcpStream) -> Result<Option<Busy>, ()> {
        loop {
            tokio::select! {
                biased;
                word = first_word(to_server) => return Ok(word),
                passed = unread.pass_on(client, to_server) => match passed {
                    Passed::Records(_) => {}
                    Passed::Much | Passed::Left => return Err(()),
                },
            }
        }
    }

    #[tokio::test]
    async fn another_server_gets_the_same_bytes_however_they_came() {
        let hello: Vec<u8> = [&[22, 3, 1, 0x1f, 0x40][..], &[7; 8000]].concat();
        for piece in [1, 3, 700, 8005] {
            let (mut client, accepted) = connected_pair().await;
            let sends = async {
                for piece in hello.chunks(piece.max(hello.len() / 50)) {
                    client.write_all(piece).await.unwrap();
                    yield_now().await;
                }
            };
            let first = async {
                let (to_server, mut server) = connected_pair().await;
                let mut unread = Unread::default();
                let serve = async {
                    server.read_exact(&mut [0; 100]).await.unwrap();
                    server.write_all(b"-ERR 'Connection thr").await.unwrap();
                    yield_now().await;
                    server.write_all(b"ottling is active. Please try again later.'\r\n").await.unwrap();
                };
                let (word, ()) = tokio::join!(pass_until(&mut unread, &accepted, &to_server), serve);
                assert_eq!(word, Ok(Some(Busy::Throttled)));
            };
            tokio::join!(sends, first);
            let (to_server, mut server) = connected_pair().await;
            let mut unread = Unread::default();
            let serve = async {
                let mut got = vec![0; hello.len()];
                server.read_exact(&mut got).await.unwrap();
                server.write_all(&[22]).await.unwrap();
                got
            };
            let (word, got) = tokio::join!(pass_until(&mut unread, &accepted, &to_server), serve);
            assert_eq!((word, got == hello), (Ok(None), true), "in pieces of {piece}");
            let (sent, mut records) = unread.into_parts();
            discard(&accepted, sent as usize);
            client.write_all(b"more").await.unwrap();
            let (mut accepted, mut more) = (accepted, [0; 4]);
            accepted.read_exact(&mut more).await.unwrap();
            assert_eq!((&more, sent), (b"more", 8005), "read no more than was sent");
            assert_eq!(records.advance(&[23, 3, 3, 0, 0]), 1, "the next record begins behind it");
        }
    }

    #[tokio::test]
    async fn the_end_of_either_side_is_seen() {
        let (client, accepted) = connected_pair().await;
        let (to_server, server) = connected_pair().await;
        drop(client);
        assert_eq!(pass_until(&mut Unread::default(), &accepted, &to_server).await, Err(()));
        let (_client, accepted) = connected_pair().await;
        drop(server);
        assert_eq!(pass_until(&mut Unread::default(), &accepted, &to_server).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_too_much_is_not_left_unread() {
        let (mut client, accepted) = connected_pair().await;
        let (to_server, _server) = connected_pair().await;
        client.write_all(&[7; MOST + 1]).await.unwrap();
        assert_eq!(pass_until(&mut Unread::default(), &accepted, &to_server).await, Err(()));
    }
}
