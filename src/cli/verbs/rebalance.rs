//! `weir rebalance`.

use std::process::ExitCode;

use clap::{ArgGroup, Args};

use super::{At, client::Request, words};

/// Move clients from full servers to empty ones until all are filled to the same share.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("instead").args(["status", "pause", "resume", "abort"])))]
pub(in crate::cli) struct Rebalance {
    /// Only show how many clients would move from where to where.
    #[arg(long, conflicts_with = "instead")]
    dry_run: bool,
    /// Moves in a second, at most, such as 50/s. Default: as fast as the cluster takes clients.
    #[arg(long, value_name = "N/s", conflicts_with = "instead")]
    rate: Option<String>,
    /// Only these sessions: account=NAME, server=NAME or idle=TIME; may be there several times, and all must fit.
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "instead")]
    only: Vec<Only>,
    /// Do nothing while the highest share of a server over the lowest one is no more than this. Default: 1.1.
    #[arg(long, value_name = "RATIO", conflicts_with = "instead")]
    to: Option<String>,
    /// Show how far the rebalance is, or how the last one ended.
    #[arg(long)]
    status: bool,
    /// Move nobody until `--resume`.
    #[arg(long)]
    pause: bool,
    /// Go on after `--pause`.
    #[arg(long)]
    resume: bool,
    /// End the rebalance; clients that are on their way land.
    #[arg(long)]
    abort: bool,
    #[command(flatten)]
    at: At,
}

/// One selector.
#[derive(Debug, Clone)]
struct Only {
    key: &'static str,
    value: String,
}

impl std::str::FromStr for Only {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let known = ["account", "server", "idle"].into_iter().find(|known| *known == key);
        match known {
            Some(key) if !value.is_empty() => Ok(Self { key, value: value.to_owned() }),
            _ => Err("write account=NAME, server=NAME or idle=TIME".to_owned()),
        }
    }
}

impl Rebalance {
    pub(in crate::cli) fn execute(self) -> ExitCode {
        let request = match (self.status, self.pause, self.resume, self.abort, self.dry_run) {
            (true, ..) => Request::get("/rebalance/status"),
            (_, true, ..) => Request::post("/rebalance/pause"),
            (_, _, true, ..) => Request::post("/rebalance/resume"),
            (_, _, _, true, _) => Request::post("/rebalance/abort"),
            (.., true) => Request::get("/rebalance"),
            _ => Request::post("/rebalance"),
        };
        let given = [("rate", &self.rate), ("to", &self.to)];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let only = self.only.iter().map(|only| (only.key, &only.value));
        self.at.ask(given.chain(only).fold(request, |request, (name, value)| request.with(name, value)), words)
    }
}
