//! The last word to a client, and closing so that it can be read.
//!
//! Closing a socket with unread bytes in it makes the kernel send RST, which may destroy what was sent just before. So:
//! write, shut down the write side, read until the client's own end or a short timeout, close. The words and the FIN behind
//! them are one packet.

use std::{
    cell::{Cell, RefCell},
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
};

/// How long a client may take to close after it has been told to. Every official client closes within milliseconds.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes that are read and thrown away meanwhile, at most.
const MOST_DISCARDED: usize = 1024 * 1024;

/// Writes `last_word` (which may be empty), ends the stream with FIN, and waits for the client's end.
pub async fn close_with(mut stream: Stream, last_word: &[u8]) {
    let deadline = Instant::now() + LINGER;
    let spoken = async {
        let sent = match &stream {
            Stream::Plain(tcp) if !last_word.is_empty() => socket::send_before_the_end(tcp, last_word)?,
            _ => 0,
        };
        stream.write_all(&last_word[sent..]).await?;
        stream.shutdown().await
    };
    if !matches!(timeout_at(deadline, pin!(spoken)).await, Ok(Ok(()))) {
        return;
    }
    let mut discarded = 0;
    while discarded < MOST_DISCARDED {
        match timeout_at(deadline, stream.read_once::<512, _>(|bytes| Ok(bytes.len()))).await {
            Ok(Ok(n)) if n > 0 => discarded += n,
            _ => return,
        }
    }
}

/// The same for a client of whom nothing more is to be known: returns once the words are on their way. The socket, and the
/// `slot` that it has under the limit of open files, are kept until the client's end.
///
/// No wake for that end, and no task: the socket is not watched any more but looked at, among others, when it should be over.
pub async fn close_detached(stream: Stream, last_word: &[u8], slot: Permit) {
    let Stream::Plain(tcp) = stream else { return close_with(stream, last_word).await };
    match socket::send_before_the_end(&tcp, last_word) {
        Ok(sent) if sent < last_word.len() => close_with(tcp.into(), &last_word[sent..]).await,
        Ok(_) => {
            if let Ok(socket) = tcp.into_std()
                && socket.shutdown(Shutdown::Write).is_ok()
            {
                let now = Instant::now();
                linger(Parted { socket, look: now + TICK, wait: TICK, until: now + LINGER, discarded: 0, _slot: slot });
            }
        }
        // It has left.
        Err(_) => {}
    }
}

/// A client that has been told, and has not closed yet.
struct Parted {
    socket: TcpStream,
    /// When to look at it, and how long after that again.
    look: Instant,
    wait: Duration,
    until: Instant,
    discarded: usize,
    _slot: Permit,
}

impl Parted {
    /// Whether there is nothing more to wait for.
    fn is_over(&mut self, now: Instant) -> bool {
        if now < self.look {
            return false;
        }
        let mut rest = [0; 512];
        while self.discarded < MOST_DISCARDED {
            match self.socket.read(&mut rest) {
                Ok(n) if n > 0 => self.discarded += n,
                Err(err) if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    self.wait *= 2;
                    self.look = self.until.min(now + self.wait);
                    return now >= self.until;
                }
                _ => return true,
            }
        }
        true
    }
}

thread_local! {
    /// This worker's.
    static PARTED: RefCell<Vec<Parted>> = const { RefCell::new(Vec::new()) };
    /// Whether a task looks at them.
    static LOOKED_AFTER: Cell<bool> = const { Cell::new(false) };
}

fn linger(one: Parted) {
    PARTED.with_borrow_mut(|parted| parted.push(one));
    if !LOOKED_AFTER.replace(true) {
        tokio::spawn(look_after(Looking));
    }
}

/// A runtime that stops drops the task that has it, and closes what is left.
struct Looking;

impl Drop for Looking {
    fn drop(&mut self) {
        let _ = PARTED.try_with(RefCell::take);
        let _ = LOOKED_AFTER.try_with(|looked_after| looked_after.set(false));
    }
}

async fn look_after(_looking: Looking) {
    while parted() > 0 {
        let now = Instant::now();
        PARTED.with_borrow_mut(|parted| parted.retain_mut(|one| !one.is_over(now)));
        sleep_until(now + TICK).await;
    }
}

/// How many clients of this worker have been told and have not closed yet.
pub fn parted() -> usize {
    PARTED.with_borrow(Vec::len)
}

/// Waits until there is none.
pub async fn all_over() {
    while parted() > 0 {
        sleep_until(Instant::now() + TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net};

    use super::*;
    use crate::admission::Limit;

    #[tokio::test]
    async fn who_is_told_can_read_it_and_keeps_its_slot_until_it_has_closed() {
        let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Limit::new(2);
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (told, _) = listener.accept().await.unwrap();
            // Unread words at the time of a close would make it a reset.
            client.write_all(b"PING\r\n").await.unwrap();
            close_detached(told.into(), b"-ERR 'no'\r\n", gate.try_acquire().unwrap()).await;
            clients.push(client);
        }
        assert_eq!((parted(), gate.in_use()), (2, 2));
        for mut client in clients {
            client.write_all(b"PING\r\n").await.unwrap();
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, b"-ERR 'no'\r\n");
        }
        all_over().await;
        assert_eq!(gate.in_use(), 0);
    }
}
