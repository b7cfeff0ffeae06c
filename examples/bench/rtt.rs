//! Request and reply, and handshakes, at a low rate. They run on plain threads and blocking sockets, so that they
//! measure the path and not a runtime.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use memchr::memmem;

use crate::{
    Outcome,
    nats::{Counter, HELLO, PONG, publish},
};

const PATIENCE: Duration = Duration::from_secs(10);
const SIZE: usize = 16;

/// Begins a handshake in every interval of `every`, and returns how long each took, from TCP's connect to PONG.
pub(crate) fn handshakes(address: SocketAddr, count: u64, every: Duration) -> io::Result<Vec<Duration>> {
    let mut due = Instant::now();
    let mut took = Vec::with_capacity(count as usize);
    for _ in 0..count {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += every;
        let began = Instant::now();
        let _client = handshake(address)?;
        took.push(began.elapsed());
    }
    Ok(took)
}

/// Logs a client in and subscribes it to `subject`.
fn connect(address: SocketAddr, subject: &str) -> io::Result<TcpStream> {
    let mut stream = handshake(address)?;
    // This PONG comes behind what follows the first PONG, so that is read here too.
    stream.write_all(format!("SUB {subject} 1\r\nPING\r\n").as_bytes())?;
    read_until(&mut stream, PONG)?;
    Ok(stream)
}

fn handshake(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    read_until(&mut stream, b"\n")?;
    stream.write_all(HELLO)?;
    read_until(&mut stream, PONG)?;
    Ok(stream)
}

fn read_until(stream: &mut TcpStream, end: &[u8]) -> io::Result<()> {
    let mut words = Vec::new();
    while memmem::find(&words, end).is_none() {
        let mut bytes = [0; 2048];
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => words.extend_from_slice(&bytes[..n]),
        }
    }
    Ok(())
}

/// Sends `count` requests, one every millisecond or as soon as the one before is answered, and returns how long each
/// took.
pub(crate) fn run(address: SocketAddr, count: u64) -> Outcome<Vec<Duration>> {
    const EVERY: Duration = Duration::from_millis(1);
    let (service, inbox) = ("bench.service", "_INBOX.bench");
    let mut responder = connect(address, service)?;
    let mut requester = connect(address, inbox)?;
    let answering = thread::spawn(move || -> io::Result<()> {
        let reply = publish(inbox, "", SIZE);
        // A request carries its reply subject, which is part of the line.
        let mut requests = Counter::new(&format!("{service} {inbox}"), SIZE);
        let (mut bytes, mut answered) = ([0; 4096], 0);
        while answered < count {
            let n = responder.read(&mut bytes)?;
            for _ in 0..requests.count(&bytes[..n])? {
                responder.write_all(&reply)?;
                answered += 1;
            }
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    });
    let request = publish(service, inbox, SIZE);
    let mut replies = Counter::new(inbox, SIZE);
    let mut took = Vec::new();
    let mut bytes = [0; 4096];
    for _ in 0..count {
        let began = Instant::now();
        requester.write_all(&request)?;
        loop {
            let n = requester.read(&mut bytes)?;
            if n == 0 {
                return Err("closed by the other side".into());
            }
            if replies.count(&bytes[..n])? > 0 {
                break;
            }
        }
        let elapsed = began.elapsed();
        took.push(elapsed);
        thread::sleep(EVERY.saturating_sub(elapsed));
    }
    answering.join().map_err(|_| "the responder panicked")??;
    Ok(took)
}
