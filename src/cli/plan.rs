//! `weir plan`: its arguments, and what it prints.

use std::{fs, io::Write, num::NonZeroU32, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use crate::{
    admission::Rate,
    cli::{RUN_FAILED, complain, refuse},
    client_library::table::Like,
    config::{Config, ServerArg},
    storm::plan::{Discipline, Plan},
};

/// What may stand behind `--queue`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Queue {
    Fifo,
    Shared,
}

/// What may stand behind `--rate`.
#[derive(Debug, Clone, Copy)]
enum Pace {
    Adaptive,
    PerSecond(NonZeroU32),
}

impl std::str::FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "adaptive" => Ok(Self::Adaptive),
            _ => {
                text.parse().map(Self::PerSecond).map_err(|_| "write a number of clients a second, or adaptive".into())
            }
        }
    }
}

/// Foretell a storm: the clients of `weir storm` against weir's own admission code, in virtual time.
///
/// Three cases are compared: clients that go to the servers directly, a plain token bucket that refuses at once, and weir. The
/// same seed gives the same storm. Not in the picture: weir's own CPU, the kernel's backlogs, traffic beside the storm,
/// servers whose nonce clients sign, several accounts.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// How many clients.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    clients: u32,
    /// Their library: go, rust, python3, nats.js, java, C, dotnet, or mix for equal shares.
    #[arg(long, value_name = "LIBRARY", default_value = "go")]
    like: Like,
    /// How many servers.
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=250))]
    servers: u16,
    /// Handshakes that the servers finish in a second, all together.
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    handshakes: f64,
    /// What one handshake takes on an idle server [default: as on two cores].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    handshake_time: Option<Duration>,
    /// Whether a server works on handshakes one after another or on all at once [default: fifo, or shared where one takes
    /// over 10 ms, since Go preempts it then].
    #[arg(long, value_name = "fifo|shared")]
    queue: Option<Queue>,
    /// Limit of each server [default: 65536, or what the clients need].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// weir's `rate`: new clients per second, or adaptive [default: that of --config, which is adaptive unless it says so].
    #[arg(long, value_name = "N|adaptive")]
    rate: Option<Pace>,
    /// weir's `burst` [default: a tenth of the rate, at least 10].
    #[arg(long, value_name = "N")]
    burst: Option<NonZeroU32>,
    /// Take weir's [admission], accounts and reserve from this configuration [default: weir's defaults].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// From a client to the servers and back.
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = humantime::parse_duration)]
    round_trip: Duration,
    /// The clients connect for the first time, all at once, instead of having lost their connections.
    #[arg(long)]
    at_once: bool,
    /// The clients have lost their connections since their servers died: weir then lets them go one after another.
    #[arg(long, conflicts_with = "at_once")]
    servers_died: bool,
    /// The end of virtual time, whatever happens.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    time_limit: Duration,
    /// For everything that is random.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Draw connected clients over time into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| *n >= 0.001 && *n <= 1e9).ok_or_else(|| "write a number above 0".into())
}

impl PlanArgs {
    pub(super) fn execute(self) -> ExitCode {
        // Any server will do for the defaults of the rest.
        let config = match &self.config {
            Some(file) => Config::load(file),
            None => Config::from_servers(&[ServerArg("n1:4222".into())]),
        };
        let config = match config {
            Ok(config) => config,
            Err(errors) => return refuse(&errors),
        };
        let forecast = self.plan(&config).forecast();
        if let Some(file) = &self.svg
            && let Err(err) = fs::write(file, forecast.svg())
        {
            complain(&format!("{} cannot be written: {err}", file.display()));
            return ExitCode::from(RUN_FAILED);
        }
        let text = match self.json {
            true => serde_json::to_string_pretty(&forecast).map(|text| text + "\n").unwrap_or_default(),
            false => forecast.to_string(),
        };
        // A reader that has gone is no fault of the plan.
        let _ = std::io::stdout().write_all(text.as_bytes());
        ExitCode::SUCCESS
    }

    fn plan(&self, config: &Config) -> Plan {
        let capacity = NonZeroU32::new(self.handshakes.round() as u32).unwrap_or(NonZeroU32::MIN);
        let rate = |per_second: NonZeroU32| {
            let tenth = NonZeroU32::new(per_second.get() / 10).unwrap_or(NonZeroU32::MIN);
            let least = const { NonZeroU32::new(10).unwrap() };
            Rate { per_second, burst: self.burst.unwrap_or(tenth.max(least)) }
        };
        let mut admission = config.admission.clone();
        admission.pace = match self.rate {
            Some(Pace::Adaptive) => None,
            Some(Pace::PerSecond(per_second)) => Some(rate(per_second)),
            None => admission.pace,
        };
        Plan {
            clients: self.clients,
            like: self.like,
            servers: self.servers,
            handshakes: self.handshakes,
            handshake_time: self.handshake_time,
            discipline: self.queue.map(|queue| match queue {
                Queue::Fifo => Discipline::Fifo,
                Queue::Shared => Discipline::Shared,
            }),
            max_connections: self.max_connections,
            reserve: config.upstream.reserve,
            round_trip: self.round_trip,
            at_once: self.at_once,
            servers_died: self.servers_died,
            close_spread: config.upstream.close_spread,
            bucket: admission.pace.unwrap_or(rate(capacity)),
            admission,
            time_limit: self.time_limit,
            seed: self.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert!(matches!("adaptive".parse(), Ok(Pace::Adaptive)));
        assert!(matches!("900".parse(), Ok(Pace::PerSecond(n)) if n.get() == 900));
        assert!("0".parse::<Pace>().is_err() && "none".parse::<Pace>().is_err());
        assert!(positive("0").is_err() && positive("nan").is_err() && positive("inf").is_err());
        assert_eq!(positive("8.5"), Ok(8.5));
    }
}
