//! `weir plan`: its arguments and its output.

use std::{fs, io::Write, num::NonZeroU32, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use crate::{
    admission::Rate,
    cli::{BAD_CONFIGURATION, RUN_FAILED, complain, refuse},
    config::{Config, ServerArg},
    storm::{
        client_mix::ClientMix,
        plan::{AccountClients, Discipline, MOST_ACCOUNTS, MOST_CLIENTS, MOST_WEIRS, Plan},
    },
};

/// The value of `--queue`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum QueueArg {
    Fifo,
    Shared,
}

/// The value of `--rate`.
#[derive(Debug, Clone, Copy)]
enum RateArg {
    Adaptive,
    PerSecond(NonZeroU32),
}

impl std::str::FromStr for RateArg {
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

/// Predict a storm: simulate the clients of `weir storm` against weir's admission code, in virtual time.
///
/// The plan compares three cases: clients that connect to the servers directly, a plain token bucket that refuses at
/// once, and weir. The same seed gives the same storm. The simulation leaves out weir's own CPU time, the kernel's
/// backlogs, traffic beside the storm, and servers whose nonce the clients sign.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Number of clients.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_CLIENTS)))]
    #[arg(required_unless_present = "accounts")]
    clients: Option<u32>,
    /// Number of clients of an account, instead of --clients; repeatable. Its limits are those of --config. What became
    /// of the clients is told for each account.
    #[arg(long = "account", value_name = "NAME=N", conflicts_with = "clients")]
    accounts: Vec<AccountClients>,
    /// The clients' library: go, rust, python3, nats.js, java, C, dotnet, or mix for equal shares of all.
    #[arg(long, value_name = "LIBRARY", default_value = "go")]
    like: ClientMix,
    /// Number of servers.
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=250))]
    servers: u16,
    /// Handshakes per second of all servers together.
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    handshakes: f64,
    /// Time of one handshake on an idle server [default: as if each server had two cores].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    handshake_time: Option<Duration>,
    /// How a server works on handshakes: one after another (fifo) or on all at once (shared) [default: fifo; shared if
    /// one handshake takes over 10 ms, because Go preempts it then].
    #[arg(long, value_name = "fifo|shared")]
    queue: Option<QueueArg>,
    /// max_connections of each server [default: 65536, or more if the clients need more].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// Number of weirs of a fleet, each with an equal part of the clients.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_WEIRS)))]
    weirs: u16,
    /// How often each weir of a fleet tells the others what it holds.
    #[arg(long, value_name = "TIME", default_value = "250ms", value_parser = beat_interval)]
    beat_interval: Duration,
    /// How long what a weir tells takes to the others.
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = humantime::parse_duration)]
    beat_delay: Duration,
    /// weir's `rate`: new clients per second, or adaptive [default: the rate of --config; adaptive if it sets none].
    #[arg(long, value_name = "N|adaptive")]
    rate: Option<RateArg>,
    /// weir's `burst` [default: a tenth of the rate, at least 10].
    #[arg(long, value_name = "N")]
    burst: Option<NonZeroU32>,
    /// Configuration from which to take `[admission]`, accounts and reserve [default: weir's defaults].
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Mean round trip time between a client and the servers.
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = humantime::parse_duration)]
    round_trip: Duration,
    /// All clients connect for the first time, at once. Without this flag they have lost their connections.
    #[arg(long)]
    at_once: bool,
    /// The clients lost their connections because the servers died. weir then closes them one after another.
    #[arg(long, conflicts_with = "at_once")]
    servers_died: bool,
    /// Virtual time at which the simulation stops at the latest.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    time_limit: Duration,
    /// Seed of everything random.
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Write a chart of connected clients over time to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| *n >= 0.001 && *n <= 1e9).ok_or_else(|| "write a number above 0".into())
}

fn beat_interval(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|err| err.to_string())?;
    Some(time).filter(|time| *time >= Duration::from_millis(5)).ok_or_else(|| "write 5ms or more".into())
}

impl PlanArgs {
    pub(super) fn execute(self) -> ExitCode {
        // A configuration must name a server. The plan does not use it.
        let config = match &self.config {
            Some(file) => Config::load_to_plan(file),
            None => Config::from_servers(&[ServerArg("n1:4222".into())]),
        };
        let config = match config {
            Ok(config) => config,
            Err(errors) => return refuse(&errors),
        };
        if let Err(problem) = self.check_accounts() {
            complain(&problem);
            return ExitCode::from(BAD_CONFIGURATION);
        }
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
        // A closed stdout (`weir plan | head`) is not an error.
        let _ = std::io::stdout().write_all(text.as_bytes());
        ExitCode::SUCCESS
    }

    fn clients(&self) -> u32 {
        let of_accounts = || self.accounts.iter().fold(0, |all: u32, account| all.saturating_add(account.clients));
        self.clients.unwrap_or_else(of_accounts)
    }

    /// Whether the accounts are few enough, have few enough clients, and are named once.
    fn check_accounts(&self) -> Result<(), String> {
        let mut names: Vec<_> = self.accounts.iter().map(|account| &account.name).collect();
        names.sort_unstable();
        if let Some([name, _]) = names.array_windows().find(|[name, next]| name == next) {
            return Err(format!("--account {name} stands twice"));
        }
        if names.len() > MOST_ACCOUNTS {
            return Err(format!("{} accounts: the most are {MOST_ACCOUNTS}", names.len()));
        }
        if self.clients() > MOST_CLIENTS {
            return Err(format!("{} clients of all accounts: the most are {MOST_CLIENTS}", self.clients()));
        }
        Ok(())
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
            Some(RateArg::Adaptive) => None,
            Some(RateArg::PerSecond(per_second)) => Some(rate(per_second)),
            None => admission.pace,
        };
        Plan {
            clients: self.clients(),
            accounts: self.accounts.clone(),
            mix: self.like,
            servers: self.servers,
            handshakes: self.handshakes,
            handshake_time: self.handshake_time,
            discipline: self.queue.map(|queue| match queue {
                QueueArg::Fifo => Discipline::Fifo,
                QueueArg::Shared => Discipline::ProcessorSharing,
            }),
            max_connections: self.max_connections,
            weirs: self.weirs,
            beat_interval: self.beat_interval,
            beat_delay: self.beat_delay,
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
        assert!(matches!("adaptive".parse(), Ok(RateArg::Adaptive)));
        assert!(matches!("900".parse(), Ok(RateArg::PerSecond(n)) if n.get() == 900));
        assert!("0".parse::<RateArg>().is_err() && "none".parse::<RateArg>().is_err());
        assert!(positive("0").is_err() && positive("nan").is_err() && positive("inf").is_err());
        assert_eq!(positive("8.5"), Ok(8.5));
    }
}
