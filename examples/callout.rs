//! An auth callout for `scripts/storm-bench`: logins whose time passes outside of the servers. A server's own logins,
//! bcrypt above all, keep the cores busy that the clients and proxies of a benchmark on one machine need too. These
//! logins do not.
//!
//! `callout MICROSECONDS` prints the configuration that servers need, and an empty line. Then it reads one server's
//! address per line, prints `ready`, and answers each server's requests one at a time, for as long as its input lasts.

use std::{process::ExitCode, time::Duration};

use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use weir_testkit::callout::Callout;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(takes) = std::env::args().nth(1).and_then(|text| text.parse().ok()).map(Duration::from_micros) else {
        eprintln!("usage: callout MICROSECONDS");
        return ExitCode::from(2);
    };
    let callout = Callout::new().at_a_time(1).account_of(str::to_uppercase);
    println!("{}\n", callout.server_config_for("A {}, B {}"));
    let mut running = Vec::new();
    let mut addresses = BufReader::new(stdin()).lines();
    while let Ok(Some(address)) = addresses.next_line().await {
        running.push(callout.run(&address, takes).await);
        println!("ready");
    }
    ExitCode::SUCCESS
}
