//! The cheapest program that refuses correctly: INFO, the client's CONNECT, `-ERR`, the end of both sides. It parses
//! nothing and delays nobody. `scripts/bench` compares weir's refusals with it.
//!
//! `rejector HOST:PORT`

use std::{
    error::Error,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    thread,
};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use socket2::{Domain, Protocol, Socket, Type};

/// As many threads as weir is measured with.
const THREADS: usize = 2;
const LISTENER: Token = Token(usize::MAX);
const INFO: &[u8] = b"INFO {\"server_id\":\"REJECTOR\",\"server_name\":\"rejector\",\"version\":\"2.15.1\",\"proto\":1,\"host\":\"127.0.0.1\",\"port\":4222,\"headers\":true,\"max_payload\":1048576}\r\n";
const FULL: &[u8] = b"-ERR 'maximum connections exceeded'\r\n";

struct Client {
    stream: TcpStream,
    is_told: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args().nth(1).ok_or("rejector HOST:PORT")?.parse()?;
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let listener = listener(address)?;
            Ok(thread::spawn(move || reject(listener)))
        })
        .collect::<io::Result<_>>()?;
    for thread in threads {
        thread.join().map_err(|_| "a thread has panicked")??;
    }
    Ok(())
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(65_535)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn reject(mut listener: TcpListener) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let (mut clients, mut free) = (Vec::<Option<Client>>::new(), Vec::new());
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let at = free.pop().unwrap_or_else(|| {
                        clients.push(None);
                        clients.len() - 1
                    });
                    if stream.write(INFO).is_ok()
                        && poll.registry().register(&mut stream, Token(at), Interest::READABLE).is_ok()
                    {
                        clients[at] = Some(Client { stream, is_told: false });
                    } else {
                        free.push(at);
                    }
                }
                continue;
            }
            let client = &mut clients[event.token().0];
            if client.as_mut().is_some_and(|client| client.is_over()) {
                // Dropping the stream also removes it from the poll.
                *client = None;
                free.push(event.token().0);
            }
        }
    }
}

impl Client {
    /// Reads what has come, and answers CONNECT. Returns whether the client has gone.
    fn is_over(&mut self) -> bool {
        let mut bytes = [0; 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(n) => {
                    // The load generator writes CONNECT and PING at once.
                    if !std::mem::replace(&mut self.is_told, true) {
                        let told = self.stream.write(FULL).and_then(|_| self.stream.shutdown(Shutdown::Write));
                        if told.is_err() {
                            return true;
                        }
                    }
                    if n < bytes.len() {
                        return false;
                    }
                }
                Err(err) => return err.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}
