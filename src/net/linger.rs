//! Closing a connection so that the client can read the last words sent to it (nginx's `lingering_close`).
//!
//! When a socket is closed with unread bytes in it, the kernel sends RST, which may destroy what was sent just before.
//! So weir writes the last words, shuts down the write side, reads until the client closes or a short timeout passes,
//! and closes. The last words and the FIN behind them are one packet.

use std::{
    cell::RefCell,
    io::{self, Read},
    net::{Shutdown, TcpStream},
    pin::pin,
    time::Duration,
};

use tokio::{io::AsyncWriteExt, time::Instant};

use crate::{
    admission::Permit,
    net::{
        socket,
        stream::Stream,
        timer::{TICK, sleep_until, timeout_at},
    },
    protocol::websocket::closing::Closing,
    worker::{self, OneTask},
};

/// How long a client may take to close after the last words. Every official client closes within milliseconds.
const LINGER: Duration = Duration::from_secs(1);
/// The most bytes that are read and discarded meanwhile.
const MAX_DISCARDED: usize = 1024 * 1024;

/// Writes `last_words` (which may be empty), sends FIN, and waits until the client closes.
pub async fn close_with(mut stream: Stream, last_words: &[u8]) {
    let deadline = Instant::now() + LINGER;
    stream.set_closing(Closing::after(last_words));
    let written = async {
        let sent = match &stream {
            Stream::Plain(tcp) if !last_words.is_empty() => socket::send_before_fin(tcp, last_words)?,
            _ => 0,
        };
        stream.write_all(&last_words[sent..]).await?;
        stream.shutdown().await
    };
    if !matches!(timeout_at(deadline, pin!(written)).await, Ok(Ok(()))) {
        return;
    }
    let mut discarded = 0;
    while discarded < MAX_DISCARDED {
        match timeout_at(deadline, stream.read_once::<512, _>(|bytes| Ok(bytes.len()))).await {
            Ok(Ok(n)) if n > 0 => discarded += n,
            _ => return,
        }
    }
}

/// Like [`close_with`], but returns as soon as the last words are on their way, for a session that has nothing left to
/// do. The socket, and its `slot` under the limit of open files, are kept until the client closes.
///
/// This takes neither a task nor a wake for each client: the runtime does not watch the socket any more, and one task
/// of the worker reads from all such sockets when they are likely to be over.
pub async fn close_detached(stream: Stream, last_words: &[u8], slot: Permit) {
    let Stream::Plain(tcp) = stream else { return close_with(stream, last_words).await };
    match socket::send_before_fin(&tcp, last_words) {
        Ok(sent) if sent < last_words.len() => close_with(tcp.into(), &last_words[sent..]).await,
        Ok(_) => {
            if let Ok(socket) = tcp.into_std()
                && socket.shutdown(Shutdown::Write).is_ok()
            {
                let now = Instant::now();
                let (next_look, until) = (now + TICK, now + LINGER);
                let one = LingeringSocket { socket, next_look, wait: TICK, until, discarded: 0, _slot: slot };
                worker::with(|lingering: &Lingering| {
                    lingering.sockets.borrow_mut().push(one);
                    lingering.watcher.ensure_running(watch);
                });
            }
        }
        // The client has left.
        Err(_) => {}
    }
}

/// The sockets of one worker that wait for their clients to close.
#[derive(Debug, Default)]
pub struct Lingering {
    sockets: RefCell<Vec<LingeringSocket>>,
    watcher: OneTask,
}

impl worker::State for Lingering {
    const PLACE: worker::Place = worker::Place::Lingering;
}

/// The socket of a client that has been told everything, and has not closed yet.
#[derive(Debug)]
struct LingeringSocket {
    socket: TcpStream,
    /// When to read from it next, and how long after that again.
    next_look: Instant,
    wait: Duration,
    until: Instant,
    discarded: usize,
    _slot: Permit,
}

impl LingeringSocket {
    /// Whether the client has closed, or has had its time.
    fn is_over(&mut self, now: Instant) -> bool {
        if now < self.next_look {
            return false;
        }
        let mut rest = [0; 512];
        while self.discarded < MAX_DISCARDED {
            match self.socket.read(&mut rest) {
                Ok(n) if n > 0 => self.discarded += n,
                Err(err) if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    self.wait *= 2;
                    self.next_look = self.until.min(now + self.wait);
                    return now >= self.until;
                }
                _ => return true,
            }
        }
        true
    }
}

/// Looks at the lingering sockets of this worker until there are none.
async fn watch() {
    while count() > 0 {
        let now = Instant::now();
        worker::with(|lingering: &Lingering| lingering.sockets.borrow_mut().retain_mut(|one| !one.is_over(now)));
        sleep_until(now + TICK).await;
    }
}

/// How many sockets of this worker linger.
pub fn count() -> usize {
    worker::with(|lingering: &Lingering| lingering.sockets.borrow().len())
}

/// Waits until no socket of this worker lingers.
pub async fn all_closed() {
    while count() > 0 {
        sleep_until(Instant::now() + TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net};

    use super::*;
    use crate::admission::Limit;

    #[tokio::test]
    async fn a_refused_client_can_read_why_and_keeps_its_slot_until_it_closes() {
        let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let limit = Limit::new(2);
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            // Without lingering, these unread bytes would make the close a reset.
            client.write_all(b"PING\r\n").await.unwrap();
            close_detached(accepted.into(), b"-ERR 'no'\r\n", limit.try_acquire().unwrap()).await;
            clients.push(client);
        }
        assert_eq!((count(), limit.in_use()), (2, 2));
        for mut client in clients {
            client.write_all(b"PING\r\n").await.unwrap();
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"-ERR 'no'\r\n");
        }
        all_closed().await;
        assert_eq!(limit.in_use(), 0);
    }
}
