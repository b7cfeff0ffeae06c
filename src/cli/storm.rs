//! `weir storm`: its arguments, and what it prints.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use crate::{
    cli::{BAD_CONFIGURATION, complain},
    client_library::table::Like,
    storm::live::{Storm, Target, Tls},
};

/// Exit code when not every client was connected at the end.
pub(super) const NOT_ALL_IN: u8 = 1;

/// Play clients with the reconnect behaviour of the official libraries against an address.
///
/// All connect at once; whoever fails comes back as its library does after a lost connection, until all are in or --for has
/// passed. Nothing is published. Each client takes a file. It goes to the addresses given and no other, speaks TLS only if
/// told to (JavaScript and .NET would wherever a server offers it), and neither WebSocket, NKeys nor JWTs. Exit code 0: all were in at the end; 1: not all.
#[derive(Debug, Args)]
pub(super) struct StormArgs {
    /// How many clients.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,
    /// Their library: go, rust, python3, nats.js, java, C, dotnet, or mix for equal shares.
    #[arg(long, value_name = "LIBRARY", default_value = "go")]
    like: Like,
    /// Where to: nats://USER:PASS@HOST:PORT or nats://TOKEN@HOST:PORT. Several make a list that each client goes through.
    #[arg(long = "url", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    urls: Vec<Target>,
    /// The end, whatever happens.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    time_limit: Duration,
    /// First tries per second [default: all at once].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate_limit: Option<u32>,
    /// So long after all are in, drop all connections at once and let the clients come back.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    drop_after: Option<Duration>,
    /// Speak TLS once INFO has come; tickets are kept and shown where the library does so.
    #[arg(long)]
    tls: bool,
    /// Speak TLS before INFO.
    #[arg(long)]
    tls_first: bool,
    /// The authorities of the servers' certificates, PEM [default: the system's].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Threads that carry the clients.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Seed of the clients' jitter.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Print the report as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

impl StormArgs {
    pub(super) fn execute(self) -> ExitCode {
        let storm = Storm {
            clients: self.clients as usize,
            like: self.like,
            targets: self.urls,
            time_limit: self.time_limit,
            rate_limit: self.rate_limit,
            drop_after: self.drop_after,
            threads: usize::from(self.threads),
            seed: self.seed,
            tls: (self.tls || self.tls_first || self.ca.is_some())
                .then_some(Tls { first: self.tls_first, ca_file: self.ca }),
        };
        let report = match storm.play(self.json) {
            Ok(report) => report,
            Err(error) => {
                complain(&error.to_string());
                return ExitCode::from(BAD_CONFIGURATION);
            }
        };
        let text = match self.json {
            true => serde_json::to_string_pretty(&report).map(|text| text + "\n"),
            false => Ok(report.to_string()),
        };
        // A reader that has gone is no fault of the storm.
        let _ = std::io::stdout().write_all(text.unwrap_or_default().as_bytes());
        if report.all_in() { ExitCode::SUCCESS } else { ExitCode::from(NOT_ALL_IN) }
    }
}
