//! The verbs with which an operator asks a running weir to do something, over its admin socket.

pub(super) mod client;
mod rebalance;
mod status;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{ArgGroup, Args};
use serde_json::Value;

use self::client::{Answer, Request};
pub(super) use self::rebalance::Rebalance;
use crate::{
    admin::socket::{Done, Status, Why},
    cli::{BAD_CONFIGURATION, RUN_FAILED, complain},
    config::Config,
};

/// A process that does not take over is given up after 95 s.
const LONGEST_UPGRADE: Duration = Duration::from_secs(100);

/// Where weir is to be asked, and how its answer is printed.
#[derive(Debug, Args)]
struct At {
    /// Configuration file, which names the admin socket; `-` is standard input.
    #[arg(short, long, value_name = "FILE", default_value = "weir.toml")]
    config: PathBuf,
    /// The admin socket, instead of a configuration file.
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Show at a glance what weir does: servers, sessions, who waits, what is wrong.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    at: At,
}

/// Hold everybody: who comes waits until `weir resume`, as long as its library does. Sessions go on.
#[derive(Debug, Args)]
pub(super) struct Pause {
    #[command(flatten)]
    at: At,
}

/// Let clients in again after `weir pause`.
#[derive(Debug, Args)]
pub(super) struct Resume {
    #[command(flatten)]
    at: At,
}

/// Show the level of the log, or set it until weir ends.
#[derive(Debug, Args)]
pub(super) struct Loglevel {
    /// error, warn, info, debug or trace; or a filter such as weir=debug,warn.
    level: Option<String>,
    #[command(flatten)]
    at: At,
}

/// Give a server no new clients, and end its sessions one after another; their clients go to the other servers.
#[derive(Debug, Args)]
pub(super) struct Drain {
    /// Its name, or its address.
    server: String,
    #[command(flatten)]
    at: At,
}

/// Give a server that was drained its share of clients again.
#[derive(Debug, Args)]
pub(super) struct Undrain {
    /// Its name, or its address.
    server: String,
    #[command(flatten)]
    at: At,
}

/// End the sessions that fit all selectors, one after another; their clients come back unless `--for` keeps them away.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("selectors").required(true).multiple(true)
    .args(["account", "user", "name", "source", "server", "idle", "older_than", "forgive"])))]
pub(super) struct Kick {
    /// Sessions of this account; * and ? are wildcards, here and below.
    #[arg(long)]
    account: Option<String>,
    /// Sessions of this user.
    #[arg(long)]
    user: Option<String>,
    /// Sessions of clients of this name; "" is for those without a name.
    #[arg(long)]
    name: Option<String>,
    /// Sessions from this address or network.
    #[arg(long, value_name = "ADDRESS[/BITS]")]
    source: Option<String>,
    /// Sessions with this server.
    #[arg(long)]
    server: Option<String>,
    /// Sessions without a message for so long, such as 10m.
    #[arg(long, value_name = "TIME")]
    idle: Option<String>,
    /// Sessions that have lived for so long.
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// Sessions to end in a second. Default: as fast as the cluster takes their clients back.
    #[arg(long, value_name = "N")]
    rate: Option<String>,
    /// Refuse their clients for so long when they come back.
    #[arg(long = "for", value_name = "PENALTY")]
    penalty: Option<String>,
    /// Only show how many sessions fit.
    #[arg(long)]
    dry_run: bool,
    /// End nothing, and let all clients come back that `--for` keeps away.
    #[arg(long, conflicts_with_all = ["account", "user", "name", "source", "server", "idle", "older_than", "rate",
        "penalty", "dry_run"])]
    forgive: bool,
    #[command(flatten)]
    at: At,
}

/// Read the configuration again, as at SIGHUP: all of it, or nothing.
#[derive(Debug, Args)]
pub(super) struct Reload {
    /// Only show what a reload would change.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    at: At,
}

/// Have weir start its executable as it is by now, which takes over without a client's noticing. Returns when it has.
#[derive(Debug, Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    at: At,
}

impl StatusArgs {
    pub(super) fn execute(self) -> ExitCode {
        self.at.ask(Request::get("/status"), |body| {
            let status: Status = serde_json::from_slice(body).ok()?;
            Some(status::table(&status))
        })
    }
}

impl Pause {
    pub(super) fn execute(self) -> ExitCode {
        self.at.ask(Request::post("/pause"), words)
    }
}

impl Resume {
    pub(super) fn execute(self) -> ExitCode {
        self.at.ask(Request::post("/resume"), words)
    }
}

impl Loglevel {
    pub(super) fn execute(self) -> ExitCode {
        let request = match &self.level {
            None => Request::get("/loglevel"),
            Some(level) => Request::post("/loglevel").with("level", level),
        };
        self.at.ask(request, words)
    }
}

impl Kick {
    pub(super) fn execute(self) -> ExitCode {
        if self.forgive {
            return self.at.ask(Request::delete("/kick"), words);
        }
        let request = if self.dry_run { Request::get("/kick") } else { Request::post("/kick") };
        let arguments = [
            ("account", &self.account),
            ("user", &self.user),
            ("name", &self.name),
            ("source", &self.source),
            ("server", &self.server),
            ("idle", &self.idle),
            ("older_than", &self.older_than),
            ("rate", &self.rate),
            ("for", &self.penalty),
        ];
        let given = arguments.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        self.at.ask(given.fold(request, |request, (name, value)| request.with(name, value)), words)
    }
}

impl Drain {
    pub(super) fn execute(self) -> ExitCode {
        self.at.ask(Request::post("/drain").with("server", &self.server), words)
    }
}

impl Undrain {
    pub(super) fn execute(self) -> ExitCode {
        self.at.ask(Request::post("/undrain").with("server", &self.server), words)
    }
}

impl Reload {
    pub(super) fn execute(self) -> ExitCode {
        let request = if self.dry_run { Request::get("/reload") } else { Request::post("/reload") };
        self.at.ask(request, words)
    }
}

impl Upgrade {
    pub(super) fn execute(self) -> ExitCode {
        self.at.ask(Request::post("/upgrade").within(LONGEST_UPGRADE), words)
    }
}

/// Prints what a reload of the weir at this socket would change if its file had this `text`, that of the file `name`.
pub(super) fn preview(socket: &Path, json: bool, name: &str, text: String) -> ExitCode {
    let at = At { config: PathBuf::new(), socket: Some(socket.to_owned()), json };
    at.ask(Request::post("/reload/preview").with("name", name).with_body(text), words)
}

/// What a verb has done, in its own words.
fn words(body: &[u8]) -> Option<String> {
    let done: Done = serde_json::from_slice(body).ok()?;
    Some(done.done + "\n")
}

impl At {
    /// Asks, and prints the answer: as JSON, or as `shown` makes it of the body.
    fn ask(&self, request: Request, shown: impl FnOnce(&[u8]) -> Option<String>) -> ExitCode {
        let socket = match self.path() {
            Ok(socket) => socket,
            Err(code) => return code,
        };
        let Answer { status, body } = match client::ask(&socket, request) {
            Ok(answer) => answer,
            Err(err) => return self.fails(RUN_FAILED, &unreachable(&socket, &err)),
        };
        if status != 200 {
            let why = serde_json::from_slice::<Why>(&body).unwrap_or_default().error;
            let why = if why.is_empty() { format!("weir answers with status {status}") } else { why };
            return self.fails(if status == 400 { BAD_CONFIGURATION } else { RUN_FAILED }, &why);
        }
        let text = if self.json {
            serde_json::from_slice::<Value>(&body).ok().and_then(|all| serde_json::to_string_pretty(&all).ok())
        } else {
            shown(&body)
        };
        let Some(text) = text else {
            return self.fails(RUN_FAILED, "what answers is no weir, or another version of it");
        };
        // A closed stdout (`weir status | head`) is not an error.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
        ExitCode::SUCCESS
    }

    /// The path of the socket. The error is the exit code, and has been told.
    fn path(&self) -> Result<PathBuf, ExitCode> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        match Config::admin_socket(&self.config) {
            Ok(Some(path)) => Ok(path),
            Ok(None) => {
                let file = self.config.display();
                let why =
                    format!("{file} has no admin socket: write [admin], start weir again, or name one by --socket");
                Err(self.fails(BAD_CONFIGURATION, &why))
            }
            Err(findings) => {
                let why = format!("{findings}\nthe admin socket is not known: name it by --socket");
                Err(self.fails(BAD_CONFIGURATION, &why))
            }
        }
    }

    fn fails(&self, code: u8, why: &str) -> ExitCode {
        if self.json {
            let why = serde_json::to_string_pretty(&Why { error: why.to_owned() }).unwrap_or_default();
            let _ = writeln!(std::io::stdout(), "{why}");
        } else {
            complain(why);
        }
        ExitCode::from(code)
    }
}

/// Why weir cannot be asked at this socket: the error, and what may be behind it.
pub(super) fn unreachable(socket: &Path, err: &io::Error) -> String {
    let here = std::env::current_dir().ok().filter(|_| socket.is_relative());
    let behind = match (err.kind(), here) {
        (io::ErrorKind::PermissionDenied, _) => " (only the user that weir runs as, and root, may ask here)".to_owned(),
        (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, Some(here)) => format!(
            " (in {}: was weir started there? A relative path is relative to where weir was started)",
            here.display()
        ),
        _ => String::new(),
    };
    format!("{}: {err}{behind}", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_behind_an_error_is_told() {
        let said = |path: &str, kind: io::ErrorKind| unreachable(Path::new(path), &kind.into());
        for path in ["weir.sock", "/run/weir.sock"] {
            let denied = said(path, io::ErrorKind::PermissionDenied);
            assert!(denied.ends_with("(only the user that weir runs as, and root, may ask here)"), "{denied}");
        }
        assert!(said("weir.sock", io::ErrorKind::NotFound).contains("was weir started there?"));
        assert_eq!(said("/run/weir.sock", io::ErrorKind::NotFound), "/run/weir.sock: entity not found");
        assert_eq!(said("weir.sock", io::ErrorKind::TimedOut), "weir.sock: timed out");
    }
}
