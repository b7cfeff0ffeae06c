//! Socket options, which are the same on both sides of a session, and the system calls that tokio has no name for.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use crate::net::listening_socket::ListeningSocket;

#[cfg(any(target_os = "linux", target_os = "android"))]
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};

/// The most connections that wait for `accept`. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// When the kernel gives up a connection whose peer does not answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpTimeouts {
    /// After a silence of so many seconds the kernel sends keepalive probes; 0 for none.
    keepalive: u32,
    /// The connection ends when bytes are not acknowledged, or not taken, for so many seconds; 0 for the kernel's own
    /// time.
    user_timeout: u32,
}

impl TcpTimeouts {
    /// The time between two keepalive probes, and how many remain unanswered before the connection ends: those of Go
    /// programs. Where a user timeout is set, the kernel asks it and not the number (tcp(7)).
    const INTERVAL: u32 = 15;
    const PROBES: u32 = 9;

    /// Of these whole seconds; zero is off.
    pub const fn of_seconds(keepalive: u32, user_timeout: u32) -> Self {
        Self { keepalive, user_timeout }
    }

    /// Silence before the first keepalive probe; zero for none.
    pub fn keepalive(self) -> Duration {
        Duration::from_secs(self.keepalive.into())
    }

    /// Time without an acknowledgement after which the connection ends; zero for the kernel's own.
    pub fn user_timeout(self) -> Duration {
        Duration::from_secs(self.user_timeout.into())
    }

    /// Whether the kernel's own behaviour is wanted, so that there is nothing to set.
    pub fn is_off(self) -> bool {
        self == Self::default()
    }

    /// Sets them. Accepted connections inherit both from their listener (tcp(7)). Connections to servers get them once
    /// they have lived for a second or more ([`crate::relay`]), since this takes up to five system calls.
    ///
    /// # Errors
    /// Those of the kernel, mostly because the connection is gone already.
    pub fn set_on<'s>(self, socket: impl Into<SockRef<'s>>) -> io::Result<()> {
        let socket = socket.into();
        if self.keepalive > 0 {
            let interval = Duration::from_secs(Self::INTERVAL.min(self.keepalive).into());
            let probes = TcpKeepalive::new().with_time(self.keepalive()).with_interval(interval);
            socket.set_tcp_keepalive(&probes.with_retries(Self::PROBES))?;
        }
        if self.user_timeout > 0 {
            socket.set_tcp_user_timeout(Some(self.user_timeout()))?;
        }
        Ok(())
    }
}

impl TcpTimeouts {
    /// Sets them on a listener that had others: connections that it accepts from now on have these.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn replace_on(self, listener: &ListeningSocket) -> io::Result<()> {
        let socket = SockRef::from(listener);
        socket.set_keepalive(self.keepalive > 0)?;
        socket.set_tcp_user_timeout(Some(self.user_timeout()))?;
        self.set_on(socket)
    }
}

/// Checks that weir can connect from `source`, which has to be an address of this machine.
///
/// # Errors
/// Those of `bind`.
pub fn can_come_from(source: IpAddr) -> io::Result<()> {
    let address = SocketAddr::new(source, 0);
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?.bind(&address.into())
}

/// Binds to an address and leaves the choice of the port to `connect`, which needs a port that is free towards one
/// server only. Otherwise the ports of one address would have to last for all servers together.
fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    setsockopt(socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Begins to connect. A failure to do so shows when the connection is used.
///
/// With `sends_first`, weir sends bytes as soon as the connection is established: the last packet of the TCP handshake
/// then waits for them, and the two are one packet.
///
/// # Errors
/// No route, no port (`AddrNotAvailable`), or no descriptor left.
pub fn connect(address: SocketAddr, source: Option<IpAddr>, sends_first: bool) -> io::Result<std::net::TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if let Some(source) = source {
        bind_source(&socket, source)?;
    }
    socket.set_tcp_nodelay(true)?;
    if sends_first {
        socket.set_tcp_quickack(false)?;
    }
    match socket.connect(&address.into()) {
        Err(err) if err.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(err),
        _ => Ok(socket.into()),
    }
}

/// Writes as many of `bytes` as the socket takes at once, which may be none. It does not ask the runtime first whether
/// the socket is writable: a new connection is, and asking would take one turn of the event loop.
///
/// # Errors
/// Those of the connection.
pub fn send_now(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    send_with(socket, bytes, SendFlags::empty())
}

/// Like [`send_now`], for the last bytes before a FIN that follows at once: the kernel keeps them back so that both are
/// one packet, for 200 ms at most (tcp(7), `TCP_CORK`).
///
/// # Errors
/// Those of the connection.
pub fn send_before_fin(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    send_with(socket, bytes, SendFlags::MORE)
}

/// Whether reading would find anything now: bytes, an end of stream, or an error. The runtime, which may not have been
/// told yet of what has come, is not asked.
pub fn has_news(socket: impl AsFd) -> bool {
    !matches!(recv(socket, &mut [0_u8], RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN | Errno::INTR))
}

fn send_with(socket: impl AsFd, bytes: &[u8], flags: SendFlags) -> io::Result<usize> {
    match send(socket, bytes, flags | SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        sent => Ok(sent?),
    }
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // "[::]" serves IPv4 and IPv6, as nats-server's own listener does.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether this error of a socket for IPv6 says that the machine has none.
fn is_without_ipv6(err: &io::Error) -> bool {
    let without = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL, Errno::PROTONOSUPPORT];
    without.iter().any(|errno| err.raw_os_error() == Some(errno.raw_os_error()))
}

/// Opens one listening socket per worker on the same address; the kernel spreads connections over them. With port 0 all
/// get the same free port. `[::]` is for IPv4 and IPv6, and for IPv4 alone on a machine without IPv6. Accepted
/// connections inherit `timeouts`.
///
/// # Errors
/// The address is in use by another process, is not of this machine, or is not allowed.
pub fn listeners(address: SocketAddr, workers: usize, timeouts: TcpTimeouts) -> io::Result<Vec<std::net::TcpListener>> {
    // With SO_REUSEPORT, weir would silently share the port with another weir of the same user. Without it, bind fails.
    let address = match (address, bind(address, false)) {
        (_, Ok(_)) => address,
        (SocketAddr::V6(any), Err(err)) if any.ip().is_unspecified() && is_without_ipv6(&err) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, any.port()));
            drop(bind(address, false)?);
            address
        }
        (_, Err(err)) => return Err(err),
    };
    let mut all: Vec<std::net::TcpListener> = Vec::with_capacity(workers);
    for _ in 0..workers {
        let address = all.first().map_or(Ok(address), std::net::TcpListener::local_addr)?;
        let socket = bind(address, true)?;
        socket.set_tcp_nodelay(true)?;
        timeouts.set_on(&socket)?;
        socket.listen(BACKLOG)?;
        all.push(socket.into());
    }
    Ok(all)
}

/// A connection of another process, registered with the runtime of this thread.
///
/// # Errors
/// The runtime cannot watch it.
pub fn adopted(connection: OwnedFd) -> io::Result<TcpStream> {
    let connection = std::net::TcpStream::from(connection);
    connection.set_nonblocking(true)?;
    TcpStream::from_std(connection)
}

/// Both ends of a new connection over loopback.
#[cfg(test)]
pub async fn connected_pair() -> (tokio::net::TcpStream, tokio::net::TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn accepted_connections_inherit_the_options() {
        for (keepalive, user_timeout) in [(300, 40), (2, 0), (0, 3), (0, 0)] {
            let timeouts = TcpTimeouts::of_seconds(keepalive, user_timeout);
            let all = listeners("127.0.0.1:0".parse().unwrap(), 2, timeouts).unwrap();
            let address = all[0].local_addr().unwrap();
            assert_eq!(all[1].local_addr().unwrap(), address);
            let clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
            let mut seen = 0;
            for listener in &all {
                // Accept does not block: the other connections are on the other worker's socket.
                while let Ok((accepted, _)) = listener.accept() {
                    assert!(SockRef::from(&accepted).tcp_nodelay().unwrap());
                    assert_has(&accepted, timeouts);
                    seen += 1;
                }
            }
            assert_eq!(seen, clients.len());
        }
    }

    #[tokio::test]
    async fn a_listener_takes_other_timeouts_and_gives_up_its_backlog() {
        let all = listeners("127.0.0.1:0".parse().unwrap(), 1, TcpTimeouts::of_seconds(300, 40)).unwrap();
        let address = all[0].local_addr().unwrap();
        let listener = ListeningSocket::on_this_runtime(all.into_iter().next().unwrap()).unwrap();
        for timeouts in [TcpTimeouts::of_seconds(20, 30), TcpTimeouts::default()] {
            timeouts.replace_on(&listener).unwrap();
            let clients = [(); 3].map(|()| TcpStream::connect(address).unwrap());
            let accepted: Vec<_> = listener.backlog().collect();
            for (client, (accepted, peer)) in clients.iter().zip(&accepted) {
                assert_eq!(client.local_addr().unwrap(), *peer);
                let socket = SockRef::from(accepted);
                assert_eq!(socket.keepalive().unwrap(), timeouts.keepalive > 0);
                assert_eq!(socket.tcp_user_timeout().unwrap().unwrap_or_default(), timeouts.user_timeout());
            }
            assert_eq!(accepted.len(), clients.len());
        }
    }

    fn assert_has(connection: &TcpStream, timeouts: TcpTimeouts) {
        let socket = SockRef::from(connection);
        assert_eq!(socket.keepalive().unwrap(), !timeouts.keepalive().is_zero(), "{timeouts:?}");
        if !timeouts.keepalive().is_zero() {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), timeouts.keepalive());
            let interval = timeouts.keepalive().min(Duration::from_secs(15));
            assert_eq!(
                (socket.tcp_keepalive_interval().unwrap(), socket.tcp_keepalive_retries().unwrap()),
                (interval, 9)
            );
        }
        assert_eq!(socket.tcp_user_timeout().unwrap().unwrap_or_default(), timeouts.user_timeout(), "{timeouts:?}");
    }

    #[test]
    fn connections_to_servers_get_the_options() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (keepalive, user_timeout) in [(60, 150), (0, 3), (2, 0), (0, 0)] {
            let timeouts = TcpTimeouts::of_seconds(keepalive, user_timeout);
            let connection = connect(listener.local_addr().unwrap(), None, false).unwrap();
            timeouts.set_on(&connection).unwrap();
            assert_has(&connection, timeouts);
        }
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
        // TEST-NET-1 is no address of any machine.
        assert_eq!(can_come_from([192, 0, 2, 1].into()).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn both_families_come_to_the_unspecified_address() {
        let all = listeners("[::]:0".parse().unwrap(), 2, TcpTimeouts::default()).unwrap();
        let port = all[0].local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        if all[0].local_addr().unwrap().is_ipv6() {
            TcpStream::connect(("::1", port)).unwrap();
        }
    }

    #[test]
    fn a_machine_without_ipv6_is_told_from_a_port_that_is_taken() {
        for (errno, without) in [(Errno::AFNOSUPPORT, true), (Errno::ADDRINUSE, false), (Errno::ACCESS, false)] {
            assert_eq!(is_without_ipv6(&io::Error::from_raw_os_error(errno.raw_os_error())), without, "{errno:?}");
        }
    }

    #[test]
    fn a_port_that_is_taken_is_not_shared() {
        let first = listeners("127.0.0.1:0".parse().unwrap(), 2, TcpTimeouts::default()).unwrap();
        let err = listeners(first[0].local_addr().unwrap(), 2, TcpTimeouts::default()).unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::AddrInUse);
    }
}
