//! Many clients that connect, answer PING, and reconnect as a client library does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::End;
use crate::{Attempt, Login, PATIENCE, RawClient, eventually};

/// When a client tries to connect, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Habit {
    /// From dial to PONG.
    pub timeout: Duration,
    /// The wait before each attempt after the first; `None` for a single attempt.
    pub retry: Option<Duration>,
    /// The most that is added to `retry`, uniformly distributed.
    pub jitter: Duration,
}

impl Habit {
    /// nats.go's defaults: 2 s for the whole handshake, then a wait of 2 s + 0–100 ms. Unlike nats.go it never gives
    /// up.
    pub const NATS_GO: Self = Self {
        timeout: Duration::from_secs(2),
        retry: Some(Duration::from_secs(2)),
        jitter: Duration::from_millis(100),
    };
    /// nats.go's waits, with a timeout that is long enough for a slow machine.
    pub const PATIENT: Self = Self { timeout: PATIENCE, ..Self::NATS_GO };
    /// A single attempt.
    pub const ONCE: Self = Self { timeout: PATIENCE, retry: None, jitter: Duration::ZERO };

    async fn pause(&self, retry: Duration) {
        let jitter = self.jitter.mul_f64(fastrand::f64());
        tokio::time::sleep(retry + jitter).await;
    }
}

/// What the clients of a crowd have counted so far.
#[derive(Debug, Default)]
pub struct Seen {
    connected: AtomicUsize,
    most: AtomicUsize,
    attempts: AtomicUsize,
    lost: AtomicUsize,
    ends: Mutex<BTreeMap<String, u64>>,
}

impl Seen {
    fn note(&self, what: String) {
        *self.ends.lock().expect("ends").entry(what).or_default() += 1;
    }
}

/// A number of clients, each in a task of its own. All end when this is dropped.
pub struct Crowd {
    seen: Arc<Seen>,
    all: CancellationToken,
    members: Vec<CancellationToken>,
    tasks: JoinSet<()>,
}

impl Crowd {
    /// Starts `n` clients at once, all with the same login.
    pub fn start(address: &str, n: usize, login: &Login, habit: Habit) -> Self {
        Self::start_each(address, n, habit, |_| login.clone())
    }

    /// Starts `n` clients at once, each with a login of its own.
    pub fn start_each(address: &str, n: usize, habit: Habit, login: impl Fn(usize) -> Login) -> Self {
        Self::spread(&[address.to_owned()], n, habit, login)
    }

    /// Starts `n` clients at once that know all of these addresses, each with a login of its own. The first client
    /// begins with the first address, the next one with the next, and whoever is refused or disconnected tries the
    /// address behind the one where it was.
    pub fn spread(addresses: &[String], n: usize, habit: Habit, login: impl Fn(usize) -> Login) -> Self {
        crate::process::raise_file_limit();
        let seen = Arc::new(Seen::default());
        let all = CancellationToken::new();
        let members: Vec<_> = (0..n).map(|_| all.child_token()).collect();
        let mut tasks = JoinSet::new();
        for (i, stop) in members.iter().enumerate() {
            let first = i % addresses.len();
            let addresses = [&addresses[first..], &addresses[..first]].concat();
            tasks.spawn(run_client(addresses, login(i), habit, seen.clone(), stop.clone()));
        }
        Self { seen, all, members, tasks }
    }

    /// How many clients there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// How many clients are connected now.
    pub fn connected(&self) -> usize {
        self.seen.connected.load(SeqCst)
    }

    /// The most clients that have been connected at the same time.
    pub fn most_connected(&self) -> usize {
        self.seen.most.load(SeqCst)
    }

    /// How many attempts the clients have made.
    pub fn attempts(&self) -> usize {
        self.seen.attempts.load(SeqCst)
    }

    /// How many established connections have ended.
    pub fn lost(&self) -> usize {
        self.seen.lost.load(SeqCst)
    }

    /// How attempts and connections ended, with their numbers: the text of a refusal, or a description of what
    /// happened.
    pub fn ends(&self) -> BTreeMap<String, u64> {
        self.seen.ends.lock().expect("ends").clone()
    }

    /// How many attempts were refused with `text`.
    pub fn refused(&self, text: &str) -> u64 {
        self.ends().get(text).copied().unwrap_or(0)
    }

    /// Waits until exactly `n` clients are connected.
    pub async fn settles_at(&self, n: usize) {
        let what = format!("{n} clients are connected");
        eventually(2 * PATIENCE, &what, async || match self.connected() {
            now if now == n => Ok(()),
            now => Err((now, self.ends())),
        })
        .await;
    }

    /// Waits until every client is connected or has ended. With [`Habit::ONCE`] a client ends when it is refused or
    /// disconnected.
    pub async fn decided(&self) {
        eventually(2 * PATIENCE, "every client is decided", async || {
            let decided = self.connected() as u64 + self.ends().values().sum::<u64>();
            if decided >= self.members.len() as u64 { Ok(()) } else { Err(decided) }
        })
        .await;
    }

    /// Ends the first `n` clients. They do not come back.
    pub fn end_some(&self, n: usize) {
        self.members.iter().take(n).for_each(CancellationToken::cancel);
    }

    /// Ends all clients, which closes their sockets, and waits until they have ended.
    pub async fn end(mut self) {
        self.all.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a client panicked");
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.all.cancel();
    }
}

async fn run_client(addresses: Vec<String>, login: Login, habit: Habit, seen: Arc<Seen>, stop: CancellationToken) {
    let attempts = async {
        for address in addresses.iter().cycle() {
            seen.attempts.fetch_add(1, SeqCst);
            match RawClient::attempt(address, &login, habit.timeout).await {
                Attempt::In(client) => {
                    let end = stay_connected(client, &seen).await;
                    seen.note(format!("established, then {end}"));
                }
                Attempt::Refused { text, end: End::Eof, .. } => seen.note(text),
                Attempt::Refused { text, end, .. } => seen.note(format!("{text}, then {end:?}")),
                // `StillOpen`: not even the kernel has answered the dial.
                Attempt::TimedOut(_) | Attempt::Ended(End::StillOpen) => seen.note("timed out".into()),
                Attempt::Broken(what) => seen.note(format!("broken: {what}")),
                Attempt::Ended(end) => seen.note(format!("no word, {end:?}")),
            }
            match habit.retry {
                Some(retry) => habit.pause(retry).await,
                None => return,
            }
        }
    };
    stop.run_until_cancelled(attempts).await;
}

/// Stays connected until the connection ends; returns how it ended, with the `-ERR` texts of the other side.
async fn stay_connected(mut client: RawClient, seen: &Seen) -> String {
    struct Here<'a>(&'a Seen);
    impl Drop for Here<'_> {
        fn drop(&mut self) {
            self.0.connected.fetch_sub(1, SeqCst);
        }
    }
    let now = seen.connected.fetch_add(1, SeqCst) + 1;
    let _here = Here(seen);
    seen.most.fetch_max(now, SeqCst);
    let end = client.stay().await;
    // Counted before `connected` goes down: a test that sees no client connected may ask at once how many were lost.
    seen.lost.fetch_add(1, SeqCst);
    if client.errors.is_empty() { format!("{end:?}") } else { format!("{:?} and {end:?}", client.errors) }
}
