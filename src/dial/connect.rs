//! A TCP connection to the first of a server's addresses that answers (RFC 8305, "happy eyeballs"): an address that
//! swallows packets costs its successor 250 ms, and only once, since the one that has answered goes first from then on.
//!
//! Own code, since no crate binds each attempt to one of several addresses of this machine and tries the next when that
//! has no port left.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpStream, lookup_host},
    time::Instant,
};

use crate::{
    dial::{DialError, in_time},
    net::{socket, timer::timeout_at},
    upstream::{Endpoint, by_turns},
};

/// An address has this long until the next one is tried as well (RFC 8305, section 5); less where the time for all of
/// them is short.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the server at `endpoint` and sends `first_bytes`, which may be empty.
///
/// # Errors
/// [`DialError::Io`] and [`DialError::TimedOut`].
pub async fn connect(endpoint: &Endpoint, first_bytes: &[u8], deadline: Instant) -> Result<TcpStream, DialError> {
    let connected = match &endpoint.resolved()[..] {
        [only] => in_time(deadline, pin!(connect_to(endpoint, *only, first_bytes))).await,
        // Boxed, so that the future of a dial to the one address that most servers have stays small.
        known => Box::pin(connect_any(endpoint, known, first_bytes, deadline)).await,
    };
    if connected.is_err() {
        endpoint.want_lookup();
    }
    connected
}

/// Connects and goes on. Where that fails on one of several addresses, another one is tried first at the next dial.
pub(super) async fn connect_then<T>(
    endpoint: &Endpoint,
    first_bytes: &[u8],
    deadline: Instant,
    go_on: impl AsyncFnOnce(TcpStream) -> Result<T, DialError>,
) -> Result<T, DialError> {
    let tcp = connect(endpoint, first_bytes, deadline).await?;
    let address = if endpoint.resolved().len() > 1 { tcp.peer_addr().ok() } else { None };
    let opened = go_on(tcp).await;
    if let (Err(err), Some(address)) = (&opened, address)
        && !matches!(err, DialError::Full | DialError::Throttled)
    {
        endpoint.avoid(address);
    }
    opened
}

async fn connect_any(
    endpoint: &Endpoint,
    known: &[SocketAddr],
    first_bytes: &[u8],
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let stream = match known {
        // Only until the server's name has been resolved for the first time (see `cluster`): a look-up takes a thread.
        [] => {
            let found = in_time(deadline, pin!(lookup_host(endpoint.address()))).await?;
            race(endpoint, &by_turns(found), deadline).await?
        }
        known => race(endpoint, known, deadline).await?,
    };
    // Not before there is a winner: it may be a CONNECT, which is to be seen by one server only.
    in_time(deadline, pin!(send_all(&stream, first_bytes, 0))).await?;
    Ok(stream)
}

/// Connects to the first of `addresses` that answers. The next one is tried when one fails, or after a delay.
async fn race(endpoint: &Endpoint, addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, DialError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let delay = ATTEMPT_DELAY.min(left / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1));
    let mut waiting = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let (mut failed, mut next_at) = (None::<io::Error>, Instant::now());
    loop {
        if Instant::now() >= next_at
            && let Some(address) = waiting.next()
        {
            attempts.push(async move { (address, connect_to(endpoint, address, b"").await) });
            next_at = Instant::now() + delay;
        }
        let until = if waiting.len() == 0 { deadline } else { next_at.min(deadline) };
        match timeout_at(until, pin!(attempts.next())).await {
            Ok(Some((address, Ok(stream)))) => {
                endpoint.prefer(address);
                return Ok(stream);
            }
            Ok(Some((_, Err(err)))) => {
                // Refused is the dial that all of them have refused: one that cannot be reached may have a process.
                if !matches!(&failed, Some(before) if is_refused(&err) && !is_refused(before)) {
                    failed = Some(err);
                }
                next_at = Instant::now();
            }
            Ok(None) if waiting.len() == 0 => {
                return Err(failed.unwrap_or_else(|| io::ErrorKind::NotFound.into()).into());
            }
            Err(_) if Instant::now() >= deadline => return Err(DialError::TimedOut),
            Ok(None) | Err(_) => {}
        }
    }
}

fn is_refused(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::ConnectionRefused
}

/// Begins to connect, from the first of weir's own addresses that has a free port.
fn begin_connect(endpoint: &Endpoint, address: SocketAddr, speaks: bool) -> io::Result<std::net::TcpStream> {
    let mut sources = endpoint.sources(address);
    let mut source = sources.next();
    loop {
        match socket::connect(address, source, speaks) {
            Err(err) if err.kind() == io::ErrorKind::AddrNotAvailable => {
                source = Some(sources.next().ok_or(err)?);
            }
            begun => return begun,
        }
    }
}

async fn connect_to(endpoint: &Endpoint, address: SocketAddr, first_bytes: &[u8]) -> io::Result<TcpStream> {
    let stream = begin_connect(endpoint, address, !first_bytes.is_empty())?;
    // On the same machine, and often in the same rack, the connection is established by now.
    let sent = match first_bytes {
        [] => 0,
        first_bytes => socket::send_now(&stream, first_bytes)?,
    };
    let stream = TcpStream::from_std(stream)?;
    if first_bytes.is_empty() || sent < first_bytes.len() {
        stream.writable().await?;
        if let Some(err) = stream.take_error()? {
            return Err(err);
        }
    }
    send_all(&stream, first_bytes, sent).await?;
    Ok(stream)
}

/// Sends what is left of `bytes`, of which the first are `sent`.
async fn send_all(stream: &TcpStream, bytes: &[u8], mut sent: usize) -> io::Result<()> {
    while sent < bytes.len() {
        stream.writable().await?;
        sent += socket::send_now(stream, &bytes[sent..])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;

    /// An address whose every SYN is dropped, since its queue of connections is full. It lives as long as the sockets.
    async fn swallows() -> (SocketAddr, Vec<Box<dyn std::any::Any + Send>>) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut kept: Vec<Box<dyn std::any::Any + Send>> = vec![Box::new(socket)];
        // Those that find room in the queue, until one does not.
        loop {
            match tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
                Ok(stream) => kept.push(Box::new(stream.unwrap())),
                Err(_) => return (address, kept),
            }
        }
    }

    fn endpoint(addresses: &[SocketAddr]) -> Endpoint {
        let endpoint = Endpoint::new("server.example.com:4222".into(), Vec::new());
        endpoint.set_resolved(addresses.to_vec());
        endpoint
    }

    async fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn an_address_that_swallows_packets_costs_its_successor_little_and_only_once() {
        let (dead, _kept) = swallows().await;
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = endpoint(&[dead, good.local_addr().unwrap()]);
        let stream = connect(&endpoint, b"first", soon().await).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good.local_addr().unwrap());
        let mut said = [0; 5];
        good.accept().await.unwrap().0.read_exact(&mut said).await.unwrap();
        assert_eq!(
            (&said, endpoint.resolved()[0]),
            (b"first", good.local_addr().unwrap()),
            "it goes first from now on"
        );
        endpoint.set_resolved(vec![dead, good.local_addr().unwrap()]);
        assert_eq!(endpoint.resolved()[0], good.local_addr().unwrap(), "the same look-up again");
        endpoint.avoid(good.local_addr().unwrap());
        assert_eq!(endpoint.resolved()[0], dead, "it takes connections and does not answer");
        assert!(!endpoint.takes_lookup(), "nothing has failed");
    }

    #[tokio::test]
    async fn a_refused_address_costs_nothing_and_the_end_comes_in_time() {
        let (dead, _kept) = swallows().await;
        let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = endpoint(&[refused, good.local_addr().unwrap()]);
        assert!(connect(&to, b"", soon().await).await.is_ok());
        let to = endpoint(&[dead, refused]);
        let late = connect(&to, b"", Instant::now() + Duration::from_millis(300)).await;
        assert!(matches!(late, Err(DialError::TimedOut)), "{late:?}");
        let to = endpoint(&[refused, refused]);
        assert!(matches!(connect(&to, b"", soon().await).await, Err(DialError::Io(_))));
        assert!(to.takes_lookup() && !to.takes_lookup());
    }
}
