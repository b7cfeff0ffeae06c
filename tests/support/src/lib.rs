//! The harness of weir's integration tests, of its tests of faults and of two examples: real nats-servers, a real weir,
//! raw clients.
//!
//! Rules: loopback only; no fixed ports; every wait has a deadline; every child process is killed, by its own pid, when
//! its value is dropped; nothing here asserts how fast a machine is.

pub mod admin;
pub mod callout;
pub mod client;
pub mod cluster;
pub mod crowd;
pub mod descriptors;
pub mod fleet;
pub mod history;
pub mod http;
pub mod installs;
pub mod metrics;
pub mod nats;
pub mod network;
pub mod operator;
pub mod ports;
pub mod process;
pub mod skip;
pub mod takeover;
pub mod tls;
pub mod websocket;
pub mod weir;

use std::fmt::Debug;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub use client::{Attempt, Login, RawClient, connect_from};
pub use cluster::Cluster;
pub use crowd::{Crowd, Habit};
pub use fleet::Fleet;
pub use nats::{NatsServer, ServerOptions};
pub use skip::{skip, skip_part};
pub use weir::{Weir, WeirConfig};

/// How long a test waits for something that must come, even on a slow and busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `ask` again and again, with short pauses, until it returns `Ok`. Panics with its last `Err` after `deadline`.
pub async fn eventually<T, E: Debug>(deadline: Duration, what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let began = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match ask().await {
            Ok(value) => return value,
            Err(last) if began.elapsed() >= deadline => panic!("not within {deadline:?}: {what}; last: {last:?}"),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Waits until the server has processed everything that a client has sent so far, such as a SUB. async-nats' `flush` is
/// not enough: it only empties the client's buffer.
pub async fn seen_by_server(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut back = client.subscribe(inbox.clone()).await.expect("subscribe");
    client.publish(inbox, "".into()).await.expect("publish");
    let message = tokio::time::timeout(PATIENCE, futures::StreamExt::next(&mut back)).await;
    message.expect("a round trip in time").expect("still subscribed");
}

/// Runs `n` futures at the same time, each in a task of its own, and returns their results in order.
pub async fn at_once<T, F>(n: usize, mut make: impl FnMut(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..n).map(|i| tokio::spawn(make(i))).collect();
    let mut results = Vec::with_capacity(n);
    for task in tasks {
        results.push(task.await.expect("a task of at_once panicked"));
    }
    results
}

/// Prints a line that the test runner does not capture.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The root folder of the repository.
pub fn project() -> PathBuf {
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    harness.ancestors().nth(2).expect("tests/support is two folders below it").to_owned()
}

/// One of the repository's scripts, ready to run, with no input.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(project().join("scripts").join(name));
    command.stdin(Stdio::null());
    command
}

/// `max / min` of the servers' numbers of connections; infinite if a server has none.
pub fn unevenness(counts: &[u64]) -> f64 {
    let max = counts.iter().max().copied().unwrap_or(0);
    match counts.iter().min().copied().unwrap_or(0) {
        0 => f64::INFINITY,
        min => max as f64 / min as f64,
    }
}
