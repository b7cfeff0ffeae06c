//! `weir check`: says all that is wrong with a configuration, or what is in force with it.

use std::{io::Write, num::NonZeroUsize, path::PathBuf, process::ExitCode, thread};

use clap::Args;
use serde::Serialize;

use crate::{
    cli::{BAD_CONFIGURATION, complain},
    config::{Config, Finding, Findings},
    server::file_limit,
};

/// The exit code of `weir check` for a configuration with which weir would not start.
const WRONG: u8 = 1;

#[derive(Debug, Args)]
pub struct Check {
    /// Configuration file; `-` is standard input.
    #[arg(short, long, value_name = "FILE", default_value = "weir.toml")]
    config: PathBuf,
    /// Print the findings as JSON, and nothing else.
    #[arg(long)]
    json: bool,
    /// Print findings only, not what is in force.
    #[arg(short, long)]
    quiet: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    /// Whether weir would start.
    right: bool,
    findings: Vec<&'a Finding>,
}

impl Check {
    pub fn execute(self) -> ExitCode {
        let config = match Config::load(&self.config) {
            Ok(config) => config,
            Err(findings) => {
                self.print(&findings, None);
                // The argument is wrong where it names nothing that can be read.
                return ExitCode::from(if findings.are_of_the_file() { BAD_CONFIGURATION } else { WRONG });
            }
        };
        let warnings = config.warnings().clone().with(of_descriptors(&config));
        self.print(&warnings, Some(&config));
        ExitCode::SUCCESS
    }

    /// Findings go to standard error, what is in force to standard output; JSON goes to standard output.
    fn print(&self, findings: &Findings, config: Option<&Config>) {
        let file = self.config.display();
        let mut stdout = std::io::stdout();
        // A closed stdout (`weir check | head`) is not an error.
        if self.json {
            let findings = findings.iter().collect();
            let report = Report { file: file.to_string(), right: config.is_some(), findings };
            let _ = writeln!(stdout, "{}", serde_json::to_string_pretty(&report).unwrap_or_default());
            return;
        }
        if findings.iter().next().is_some() {
            complain(&findings.to_string());
        }
        if let Some(config) = config.filter(|_| !self.quiet) {
            let _ = write!(stdout, "# {file} is right. In force:\n{}", config.effective());
        }
    }
}

/// Warns of a `max_clients` that the file asks for and this shell's limit of open files does not carry. weir says the
/// same at its start, of the limit that it has then.
fn of_descriptors(config: &Config) -> Option<Finding> {
    if !config.effective().gives("[[listeners]]", "max_clients") {
        return None;
    }
    let workers = config.workers.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let limit = file_limit::hard();
    let max_clients = config.admission.max_clients;
    let short = file_limit::carries(limit, max_clients, config.upstream.servers.len(), workers).err()?;
    let what =
        format!("the limit of {limit} open files that holds here carries {} clients, not {max_clients}", short.carried);
    let remedy =
        format!("raise it to {0} where weir runs (LimitNOFILE={0} in a systemd unit), or write less", short.needed);
    Some(config.warning("listeners[0].max_clients", what, remedy))
}
