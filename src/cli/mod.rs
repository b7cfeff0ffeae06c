//! The command line: the arguments, the output of `weir check`, and the exit codes.

mod ask_monitor;
mod check;
mod fleet;
mod nkey;
mod plan;
mod report;
mod storm;
mod table;
mod top;
mod verbs;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tracing::{error, info};

use crate::{
    config::{Findings, Origin, ServerArg},
    server::{self, Inherited, ReadyLine, logging},
};

/// The exit code for a bad configuration or command line: `EX_USAGE` of sysexits.h. No port has been bound by then.
pub const BAD_CONFIGURATION: u8 = 64;

/// The exit code if running fails, for example because a port cannot be bound.
pub const RUN_FAILED: u8 = 1;

/// One address in front of a NATS cluster that keeps it alive.
#[derive(Debug, Parser)]
#[command(name = "weir", version = env!("WEIR_VERSION"), arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT.
    Run(Run),
    /// Validate a configuration and print it with all defaults. Binds no port.
    Check(check::Check),
    /// Make the key of a trusted proxy and print the configuration for it.
    Nkey(nkey::Nkey),
    Status(verbs::StatusArgs),
    Pause(verbs::Pause),
    Resume(verbs::Resume),
    Kick(verbs::Kick),
    Drain(verbs::Drain),
    Undrain(verbs::Undrain),
    Rebalance(verbs::Rebalance),
    Reload(verbs::Reload),
    Upgrade(verbs::Upgrade),
    Loglevel(verbs::Loglevel),
    Storm(storm::StormArgs),
    Plan(plan::PlanArgs),
    Report(report::Report),
    Fleet(fleet::Fleet),
    Top(top::Top),
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// Write a line to this descriptor once weir serves clients, and close it. 3 or more: a pipe, for example.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    ready_fd: Option<i32>,
    /// Take over from the weir that runs: its listening sockets and its sessions, without a client's noticing. It is
    /// found by the configuration's `[admin] socket`, and ends once nothing is left to it.
    #[arg(long)]
    takeover: bool,
}

/// What the configuration is. An argument wins over the file.
#[derive(Debug, Args)]
struct ConfigurationArgs {
    /// Configuration file; `-` is standard input. Default: weir.toml, and none with --server.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A server of the cluster, instead of those of the file. May be repeated. Keys: websocket=URL, leafnode=HOST:PORT,
    /// monitor=URL, name=NAME, max_connections=N.
    #[arg(long = "server", value_name = "HOST:PORT[,KEY=VALUE]...")]
    servers: Vec<ServerArg>,
    /// Address of the first listener. Without one here and in a file: port 4222 of all addresses.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Address of the endpoints, /metrics and the others. Without one here and `[monitor]` in a file there are none.
    #[arg(long, value_name = "IP:PORT")]
    monitor: Option<String>,
}

impl ConfigurationArgs {
    fn origin(&self) -> Origin {
        let Self { config, servers, listen, monitor } = self;
        let default = || servers.is_empty().then(|| PathBuf::from(DEFAULT_FILE));
        let file = config.clone().or_else(default);
        Origin { file, servers: servers.clone(), listen: listen.clone(), monitor: monitor.clone() }
    }
}

/// The configuration where the command line names none.
const DEFAULT_FILE: &str = "weir.toml";

/// Parses the arguments of this process and runs the command.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli.execute(),
        Err(error) => {
            let code = if error.use_stderr() { BAD_CONFIGURATION } else { 0 };
            // If stderr is closed, there is no other place for the message.
            let _ = error.print();
            ExitCode::from(code)
        }
    }
}

impl Cli {
    fn execute(self) -> ExitCode {
        match self.command {
            Command::Run(run) => run.execute(),
            Command::Check(check) => check.execute(),
            Command::Nkey(nkey) => nkey.execute(),
            Command::Status(status) => status.execute(),
            Command::Pause(pause) => pause.execute(),
            Command::Resume(resume) => resume.execute(),
            Command::Kick(kick) => kick.execute(),
            Command::Drain(drain) => drain.execute(),
            Command::Undrain(undrain) => undrain.execute(),
            Command::Rebalance(rebalance) => rebalance.execute(),
            Command::Reload(reload) => reload.execute(),
            Command::Upgrade(upgrade) => upgrade.execute(),
            Command::Loglevel(loglevel) => loglevel.execute(),
            Command::Storm(storm) => storm.execute(),
            Command::Plan(plan) => plan.execute(),
            Command::Report(report) => report.execute(),
            Command::Fleet(fleet) => fleet.execute(),
            Command::Top(top) => top.execute(),
        }
    }
}

impl Run {
    fn execute(self) -> ExitCode {
        // First of all, since the numbers of descriptors that are not open are soon those of others.
        let inherited = match self.inherited() {
            Ok(inherited) => inherited,
            Err(why) => {
                complain(&why);
                return ExitCode::from(BAD_CONFIGURATION);
            }
        };
        let origin = self.configuration.origin();
        let config = match origin.load() {
            Ok(config) => config,
            Err(errors) => return refuse(&errors),
        };
        let _logging = match logging::init(config.log) {
            Ok(logging) => logging,
            Err(error) => {
                complain(&error.to_string());
                return ExitCode::from(BAD_CONFIGURATION);
            }
        };
        let (version, commit) = (env!("CARGO_PKG_VERSION"), option_env!("WEIR_COMMIT"));
        info!(version, commit, configuration = origin.to_string(), "weir starts");
        match server::run(config, origin, inherited) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                error!(err = %error, "weir cannot run");
                ExitCode::from(RUN_FAILED)
            }
        }
    }

    /// What whoever has started weir has left open for it.
    fn inherited(&self) -> Result<Inherited, String> {
        let sockets = server::take_passed_sockets().map_err(|err| err.to_string())?;
        let adopt = |n| ReadyLine::into_descriptor(n).map_err(|err| format!("--ready-fd {n}: {err}"));
        let ready = self.ready_fd.map(adopt).transpose()?;
        Ok(Inherited { sockets, ready, takes_over: self.takeover })
    }
}

fn refuse(errors: &Findings) -> ExitCode {
    complain(&errors.to_string());
    ExitCode::from(BAD_CONFIGURATION)
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
