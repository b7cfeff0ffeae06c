//! `weir storm`: its arguments and its output.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use crate::{
    cli::{BAD_CONFIGURATION, complain},
    storm::{
        client_mix::ClientMix,
        live::{LoadRun, Target, TlsOptions},
    },
};

/// The exit code if not every client is connected at the end.
const NOT_ALL_IN: u8 = 1;

/// Run many clients with the reconnect behaviour of the official libraries against an address.
///
/// All clients connect at once. A client that fails tries again as its library does after a lost connection, until all
/// are connected or --for has passed. The clients publish nothing. Each needs one file descriptor. They connect only to
/// the given addresses. They speak TLS only with --tls or --tls-first, whereas JavaScript and .NET would speak it
/// wherever a server offers it. They speak no WebSocket and use no NKeys or JWTs. Exit code 0: all clients were
/// connected at the end; 1: some were not.
#[derive(Debug, Args)]
pub(super) struct StormArgs {
    /// Number of clients.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    clients: u32,
    /// The clients' library: go, rust, python3, nats.js, java, C, dotnet, or mix for equal shares of all.
    #[arg(long, value_name = "LIBRARY", default_value = "go")]
    like: ClientMix,
    /// Address: nats://USER:PASS@HOST:PORT or nats://TOKEN@HOST:PORT. Repeat it to give each client a list of servers.
    #[arg(long = "url", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    urls: Vec<Target>,
    /// Time after which the run stops at the latest.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    time_limit: Duration,
    /// First attempts per second [default: all at once].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate_limit: Option<u32>,
    /// Once all clients have been connected for this time, drop all connections at once and let the clients come back.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    drop_after: Option<Duration>,
    /// Speak TLS after INFO. Clients resume with session tickets if their library does.
    #[arg(long)]
    tls: bool,
    /// Speak TLS before INFO.
    #[arg(long)]
    tls_first: bool,
    /// PEM file with the authorities of the servers' certificates [default: those of the system].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Number of threads for the clients.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Seed of the clients' jitter.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Print the report as JSON, without progress.
    #[arg(long)]
    json: bool,
}

impl StormArgs {
    pub(super) fn execute(self) -> ExitCode {
        let run = LoadRun {
            clients: self.clients as usize,
            mix: self.like,
            targets: self.urls,
            time_limit: self.time_limit,
            rate_limit: self.rate_limit,
            drop_after: self.drop_after,
            threads: usize::from(self.threads),
            seed: self.seed,
            tls: (self.tls || self.tls_first || self.ca.is_some())
                .then_some(TlsOptions { first: self.tls_first, ca_file: self.ca }),
        };
        let report = match run.run(self.json) {
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
        // A closed stdout (`weir storm | head`) is not an error.
        let _ = std::io::stdout().write_all(text.unwrap_or_default().as_bytes());
        if report.all_connected() { ExitCode::SUCCESS } else { ExitCode::from(NOT_ALL_IN) }
    }
}
