//! Messages from a publisher over nats-server to a subscriber, both connected through the candidate: as fast as
//! possible, or at a fixed rate.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    Outcome,
    nats::{Client, Counter, publish},
};

/// No run takes this long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(120);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// One publisher and one subscriber, on a subject of their own.
struct Pair {
    publisher: TcpStream,
    subscriber: Client,
    counter: Counter,
    message: Vec<u8>,
}

impl Pair {
    async fn open(address: SocketAddr, number: usize, size: usize) -> io::Result<Self> {
        let subject = format!("bench.{number:04}");
        let mut subscriber = Client::connect(address).await?;
        subscriber.say(format!("SUB {subject} 1\r\nPING\r\n").as_bytes()).await?;
        let publisher = Client::connect(address).await?.stream;
        Ok(Self { publisher, counter: Counter::new(&subject, size), message: publish(&subject, "", size), subscriber })
    }
}

async fn pairs(address: SocketAddr, count: usize, size: usize) -> Outcome<Vec<Pair>> {
    let mut all = Vec::with_capacity(count);
    for number in 0..count {
        all.push(Pair::open(address, number, size).await?);
    }
    Ok(all)
}

/// Reads until `expected` messages have come, and gives one permit back for each `per_permit` of them.
async fn receive(
    client: Client,
    mut counter: Counter,
    expected: u64,
    window: Arc<Semaphore>,
    per_permit: u64,
) -> io::Result<TcpStream> {
    let mut received = counter.count(&client.rest)?;
    while received < expected {
        client.stream.readable().await?;
        let before = received / per_permit;
        let read = BUFFER.with_borrow_mut(|buffer| {
            let n = client.stream.try_read(buffer)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            counter.count(&buffer[..n])
        });
        match read {
            Ok(n) => received += n,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            Err(err) => return Err(err),
        }
        window.add_permits((received / per_permit - before) as usize);
    }
    Ok(client.stream)
}

/// The load of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) size: usize,
    pub(crate) pairs: usize,
    /// Messages in all, rounded up to whole writes.
    pub(crate) messages: u64,
}

/// A run whose connections are open.
pub(crate) struct Ready {
    pairs: Vec<Pair>,
    load: Load,
}

/// The result of a run: how many messages went through, and how long that took.
pub(crate) struct Ran {
    pub(crate) messages: u64,
    pub(crate) took: Duration,
    /// Kept open until the candidate's CPU time has been read: closing is not relaying.
    _connections: Vec<TcpStream>,
}

impl Ready {
    pub(crate) async fn open(address: SocketAddr, load: Load) -> Outcome<Self> {
        Ok(Self { pairs: pairs(address, load.pairs, load.size).await?, load })
    }

    /// Runs as fast as possible. Each publisher writes whole chunks, and has at most a window of them on the way.
    pub(crate) async fn run(self) -> Outcome<Ran> {
        // As much as a client library gathers into one write; less for many publishers, none of which would be that
        // busy.
        let (chunk, window) = if self.load.pairs > 100 { (4 * 1024, 8) } else { (32 * 1024, 32) };
        let began = Instant::now();
        let mut messages = 0;
        let mut tasks = JoinSet::new();
        for pair in self.pairs {
            let Pair { mut publisher, subscriber, counter, message } = pair;
            let per_chunk = (chunk / message.len()).max(1);
            let window = (chunk * window / (per_chunk * message.len())).max(4);
            let chunk = message.repeat(per_chunk);
            let chunks = self.load.messages.div_ceil((self.load.pairs * per_chunk) as u64);
            let expected = chunks * per_chunk as u64;
            messages += expected;
            let window = Arc::new(Semaphore::new(window));
            tasks.spawn(receive(subscriber, counter, expected, Arc::clone(&window), per_chunk as u64));
            tasks.spawn(async move {
                for _ in 0..chunks {
                    window.acquire().await.map_err(io::Error::other)?.forget();
                    publisher.write_all(&chunk).await?;
                }
                Ok(publisher)
            });
        }
        let _connections = finish(tasks).await?;
        Ok(Ran { messages, took: began.elapsed(), _connections })
    }

    /// Runs at a fixed rate of `per_second` messages in all for about `duration`: one message per write, from one
    /// publisher after the other.
    pub(crate) async fn run_paced(self, per_second: u64, duration: Duration) -> Outcome<Ran> {
        let ticks = duration.as_millis() as u64;
        let per_tick = (per_second / 1000) as usize;
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        let mut publishers = Vec::new();
        let (count, messages) = (self.pairs.len() as u64, ticks * per_tick as u64);
        for (number, pair) in self.pairs.into_iter().enumerate() {
            let expected = messages / count + u64::from((number as u64) < messages % count);
            tasks.spawn(receive(pair.subscriber, pair.counter, expected, Arc::new(Semaphore::new(0)), u64::MAX));
            publishers.push((pair.publisher, pair.message));
        }
        let pace = async {
            let mut tick = interval(Duration::from_millis(1));
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut next = 0;
            for _ in 0..ticks {
                tick.tick().await;
                for _ in 0..per_tick {
                    let (stream, message) = &mut publishers[next];
                    stream.write_all(message).await?;
                    next = (next + 1) % publishers.len();
                }
            }
            Ok::<_, io::Error>(())
        };
        pace.await?;
        let _connections = finish(tasks).await?;
        Ok(Ran { messages, took: began.elapsed(), _connections })
    }
}

async fn finish(mut tasks: JoinSet<io::Result<TcpStream>>) -> Outcome<Vec<TcpStream>> {
    let all = async {
        let mut connections = Vec::new();
        while let Some(done) = tasks.join_next().await {
            connections.push(done??);
        }
        Ok(connections)
    };
    timeout(PATIENCE, all).await.map_err(|_| "messages are missing")?
}
