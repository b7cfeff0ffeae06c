//! `weir top`: its arguments.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

use crate::{
    cli::{
        BAD_CONFIGURATION, RUN_FAILED,
        ask_monitor::{Place, place},
        complain,
    },
    top::{self, Source},
};

/// Show in this terminal what a running weir does: servers, who waits, who is refused, accounts, storms.
///
/// Where standard output is no terminal, and with --once, prints one frame as text.
#[derive(Debug, Args)]
pub struct Top {
    /// Configuration file, whose `[monitor]`, or else `[admin]`, says where weir is; `-` is standard input.
    #[arg(short, long, value_name = "FILE", default_value = "weir.toml")]
    config: PathBuf,
    /// The monitor port instead, such as http://127.0.0.1:8222.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    monitor: Option<String>,
    /// The admin socket instead.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["config", "monitor"])]
    socket: Option<PathBuf>,
    /// Print one frame as text, and end.
    #[arg(long)]
    once: bool,
    /// How often weir is asked.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|err| err.to_string())?;
    let range = Duration::from_millis(100)..=Duration::from_secs(60);
    if range.contains(&interval) { Ok(interval) } else { Err("write 100ms to 60s".to_owned()) }
}

impl Top {
    pub fn execute(self) -> ExitCode {
        let source = match (&self.monitor, &self.socket) {
            (Some(url), _) => Source::at(url),
            (None, Some(path)) => Ok(Source::socket(path)),
            (None, None) => place(&self.config).map(|place| match place {
                Place::Monitor(address, base_path) => Source::configured(address, &base_path),
                Place::AdminSocket(path) => Source::socket(&path),
            }),
        };
        let source = match source {
            Ok(source) => source,
            Err(why) => {
                complain(&format!("weir top: {why}"));
                return ExitCode::from(BAD_CONFIGURATION);
            }
        };
        match top::run(&source, self.interval, self.once) {
            Ok(()) => ExitCode::SUCCESS,
            Err(err) => {
                complain(&format!("weir top: {err}"));
                ExitCode::from(RUN_FAILED)
            }
        }
    }
}
