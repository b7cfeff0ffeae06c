//! Socket options, the same on both sides of a session.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{SendFlags, send},
};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpListener;

#[cfg(any(target_os = "linux", target_os = "android"))]
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};

/// Keepalive: a peer that vanished without a word is noticed after about 60 + 3 × 15 s, well under the two missed NATS
/// pings (4 min) that it takes a server.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(3);
/// Unacknowledged bytes for this long end the connection: as long as keepalive takes on an idle one.
const USER_TIMEOUT: Duration = Duration::from_secs(105);
/// Connections that may wait for `accept`. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Sets what a connection of weir has that lives: keepalive and user timeout. Those that are accepted inherit it from their
/// listener (tcp(7)); those to servers get it once they have lived for a moment ([`crate::relay`]), since it takes five system
/// calls.
///
/// # Errors
/// The kernel's; a connection that is gone already, mostly.
pub fn keep_alive<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Whether connections can come from `source`: it is an address of this machine.
///
/// # Errors
/// Why not.
pub fn can_come_from(source: IpAddr) -> io::Result<()> {
    let address = SocketAddr::new(source, 0);
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?.bind(&address.into())
}

/// Binds to an address and leaves the port to `connect`, which needs one that is free towards that one peer only: else the ports
/// would have to last for all servers together.
fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    setsockopt(socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Begins to connect; whether that goes well is seen when the connection is used.
///
/// With `speaks` something is sent as soon as the connection is there: the last packet of TCP's handshake then waits for it,
/// and the two are one.
///
/// # Errors
/// No route, no port (`AddrNotAvailable`), no descriptor left.
pub fn connect(address: SocketAddr, source: Option<IpAddr>, speaks: bool) -> io::Result<std::net::TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if let Some(source) = source {
        bind_source(&socket, source)?;
    }
    socket.set_tcp_nodelay(true)?;
    if speaks {
        socket.set_tcp_quickack(false)?;
    }
    match socket.connect(&address.into()) {
        Err(err) if err.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(err),
        _ => Ok(socket.into()),
    }
}

/// Writes as much of `bytes` as the socket takes at once, which may be nothing. There is room in a new connection: asking the
/// runtime first whether there is would take one turn of its loop.
///
/// # Errors
/// The connection's.
pub fn send_now(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    send_with(socket, bytes, SendFlags::empty())
}

/// The same for the last words of a connection whose end follows at once: they wait in the kernel for it, for 200 ms at most
/// (tcp(7), `TCP_CORK`).
///
/// # Errors
/// The connection's.
pub fn send_before_the_end(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    send_with(socket, bytes, SendFlags::MORE)
}

fn send_with(socket: impl AsFd, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
    match send(socket, bytes, flags | SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        sent => Ok(sent?),
    }
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
        socket.set_tcp_nodelay(true)?;
        keep_alive(&socket)?;
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
    fn connections_come_from_where_they_are_told_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        for source in ["127.0.0.2", "127.0.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
            can_come_from(source).unwrap();
            let _client = connect(address, Some(source), false).unwrap();
            assert_eq!(listener.accept().unwrap().1.ip(), source);
        }
        // TEST-NET-1 is nobody's.
        assert_eq!(can_come_from([192, 0, 2, 1].into()).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn a_port_that_is_taken_is_not_shared() {
        let first = listeners("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let err = listeners(first[0].local_addr().unwrap(), 2).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::AddrInUse);
    }
}
