//! A line between the clients and a candidate: what one end sends arrives at the other half a round trip later. It is
//! made of threads that wait, since not every kernel has `netem`.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Opens a line to `far` that lasts as long as this process. Returns the address of its near end.
pub(crate) fn open(far: SocketAddr, round_trip: Duration) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let near = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || join(client, far, round_trip));
        }
    });
    Ok(near)
}

fn join(client: TcpStream, far: SocketAddr, round_trip: Duration) -> io::Result<()> {
    // The client's SYN, the answer, and the last packet of the TCP handshake, behind which the far end accepts.
    thread::sleep(round_trip + round_trip / 2);
    let server = TcpStream::connect(far)?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    let (from_client, from_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || pass(from_client, server, round_trip / 2));
    pass(from_server, client, round_trip / 2)
}

/// Passes on what comes, so long after it has come.
fn pass(mut from: TcpStream, mut to: TcpStream, after: Duration) -> io::Result<()> {
    let (sent, on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (due, bytes) in on_the_way {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut bytes = [0; 16 * 1024];
    loop {
        match from.read(&mut bytes)? {
            0 => return Ok(()),
            n if sent.send((Instant::now() + after, bytes[..n].to_vec())).is_ok() => {}
            _ => return Ok(()),
        }
    }
}
