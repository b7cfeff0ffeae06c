//! The command line: the arguments, the output of `weir check`, and the exit codes.

mod check;
mod nkey;
mod plan;
mod storm;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tracing::{error, info};

use crate::{
    config::{Findings, Origin, ServerArg},
    server::{self, logging},
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
    Storm(storm::StormArgs),
    Plan(plan::PlanArgs),
}

#[derive(Debug, Args)]
struct Run {
    /// Configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "weir.toml")]
    config: PathBuf,
    /// A server of the cluster, instead of a configuration file. May be repeated. weir then listens on port 4222 of all
    /// addresses.
    #[arg(
        long = "server",
        value_name = "HOST:PORT[,websocket=URL][,monitor=URL][,name=NAME][,max_connections=N]",
        conflicts_with = "config"
    )]
    servers: Vec<ServerArg>,
}

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
            Command::Storm(storm) => storm.execute(),
            Command::Plan(plan) => plan.execute(),
        }
    }
}

impl Run {
    fn execute(self) -> ExitCode {
        let origin = match self.servers.is_empty() {
            true => Origin::File(self.config),
            false => Origin::Servers(self.servers),
        };
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
        info!(version, commit, configuration = %origin, "weir starts");
        match server::run(config, origin) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                error!(err = %error, "weir cannot run");
                ExitCode::from(RUN_FAILED)
            }
        }
    }
}

fn refuse(errors: &Findings) -> ExitCode {
    complain(&errors.to_string());
    ExitCode::from(BAD_CONFIGURATION)
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
