//! A socket that clients connect to, on the runtime of one worker.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use tokio::{io::Interest, net::TcpStream};

/// Accepts connections of which each is registered with the runtime.
///
/// tokio's own listener asks for the next connection until `accept4` finds none, and that takes ten times as long as
/// asking whether there is one (3.4 and 0.3 µs): the kernel makes a socket first. It has no way to say that nobody
/// waits, so the socket stands as a `TcpStream`, which the runtime watches in the same manner.
#[derive(Debug)]
pub struct ListeningSocket(TcpStream);

impl ListeningSocket {
    /// Registers a bound socket with the runtime of this thread.
    ///
    /// # Errors
    /// The runtime cannot watch the socket.
    pub fn on_this_runtime(listener: std::net::TcpListener) -> io::Result<Self> {
        TcpStream::from_std(OwnedFd::from(listener).into()).map(Self)
    }

    /// Waits for a connection. Cancel-safe.
    ///
    /// # Errors
    /// Those of `accept4`, and the runtime's when it cannot watch the connection.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accepted = self.0.async_io(Interest::READABLE, || accept_now(&self.0)).await?;
        if !has_waiting(&self.0) {
            // The runtime waits for the kernel's next word. One who has come since then is told of with that.
            let _: io::Result<()> = self.0.try_io(Interest::READABLE, || Err(io::ErrorKind::WouldBlock.into()));
        }
        register(accepted)
    }

    /// The connections that wait in the kernel's queue, and come no more once there is none.
    pub fn backlog(&self) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
        std::iter::from_fn(|| {
            loop {
                match accept_now(&self.0).and_then(register) {
                    Ok(accepted) => return Some(accepted),
                    Err(err) if concerns_one_connection(&err) => {}
                    Err(_) => return None,
                }
            }
        })
    }
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether an accept error concerns one connection that ended in the backlog (accept(2)), and not the listener.
pub fn concerns_one_connection(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn accept_now(listener: impl AsFd) -> io::Result<(OwnedFd, SocketAddr)> {
    loop {
        match acceptfrom_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((connection, Some(peer))) => return Ok((connection, peer.try_into()?)),
            // It has ended already.
            Ok((_, None)) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

fn register((connection, peer): (OwnedFd, SocketAddr)) -> io::Result<(TcpStream, SocketAddr)> {
    Ok((TcpStream::from_std(connection.into())?, peer))
}

/// Whether a connection waits. Where the kernel does not say, one may.
fn has_waiting(listener: impl AsFd) -> bool {
    let mut asked = [PollFd::new(&listener, PollFlags::IN)];
    !matches!(poll(&mut asked, Some(&Timespec::default())), Ok(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::socket::{TcpTimeouts, listeners};

    /// Clients come one by one, and several at once, also between two looks.
    #[tokio::test]
    async fn everybody_who_comes_is_accepted() {
        let all = listeners("127.0.0.1:0".parse().unwrap(), 1, TcpTimeouts::default()).unwrap();
        let listener = ListeningSocket::on_this_runtime(all.into_iter().next().unwrap()).unwrap();
        let address = listener.0.local_addr().unwrap();
        for round in [1, 1, 5, 1, 300, 2, 1] {
            let clients: Vec<_> = (0..round).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            for client in &clients {
                let accepted = tokio::time::timeout(Duration::from_secs(60), listener.accept()).await;
                assert_eq!(accepted.expect("nobody was told of").unwrap().1, client.local_addr().unwrap());
            }
            // Nobody is there now. One comes while the runtime waits.
            let late = tokio::task::spawn_blocking(move || std::net::TcpStream::connect(address).unwrap());
            let accepted = tokio::time::timeout(Duration::from_secs(60), listener.accept()).await;
            assert_eq!(accepted.expect("the late one").unwrap().1, late.await.unwrap().local_addr().unwrap());
        }
        assert_eq!(listener.backlog().count(), 0);
    }
}
