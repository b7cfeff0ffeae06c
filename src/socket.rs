//! Socket options, the same on both sides of a session.

use std::{io, net::SocketAddr, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;

/// Keepalive: a peer that vanished without a word is noticed after about 60 + 3 × 15 s, well under the two missed NATS
/// pings (4 min) that it takes a server.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(3);
/// Unacknowledged bytes for this long end the connection: as long as keepalive takes on an idle one.
const USER_TIMEOUT: Duration = Duration::from_secs(105);
/// Connections that may wait for `accept`. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Sets what every connection of weir has: no delay, keepalive, user timeout. Those that are accepted inherit it from their
/// listener (tcp(7)), which saves six system calls a client.
///
/// # Errors
/// The kernel's; a connection that is gone already, mostly.
pub fn tune<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // "[::]" serves both families, as nats-server's own listener does.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// One listening socket per worker on the same address; the kernel spreads connections over them. Port 0 takes a free port,
/// the same for all.
///
/// # Errors
/// The address is in use by another process, not of this machine, or not allowed.
pub fn listeners(address: SocketAddr, workers: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // SO_REUSEPORT would silently share the port with another weir of the same user. A bind without it says so.
    if address.port() != 0 {
        drop(bound(address, false)?);
    }
    let mut all: Vec<std::net::TcpListener> = Vec::with_capacity(workers);
    for _ in 0..workers {
        let address = all.first().map_or(Ok(address), std::net::TcpListener::local_addr)?;
        let socket = bound(address, true)?;
        tune(&socket)?;
        socket.listen(BACKLOG)?;
        all.push(socket.into());
    }
    Ok(all)
}

/// Hands a bound socket to this thread's runtime.
///
/// # Errors
/// The runtime cannot watch it.
pub fn on_this_runtime(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn accepted_connections_inherit_the_options() {
        let all = listeners("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = all[0].local_addr().unwrap();
        assert_eq!(all[1].local_addr().unwrap(), address);
        let clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut seen = 0;
        for listener in &all {
            // Accept is nonblocking: what the kernel gave to the other worker's socket is not here.
            while let Ok((accepted, _)) = listener.accept() {
                let socket = SockRef::from(&accepted);
                assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
                assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
                assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
                seen += 1;
            }
        }
        assert_eq!(seen, clients.len());
    }

    #[test]
    fn a_port_that_is_taken_is_not_shared() {
        let first = listeners("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let err = listeners(first[0].local_addr().unwrap(), 2).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::AddrInUse);
    }
}
