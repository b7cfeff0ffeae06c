//! Reads the configuration again while weir runs, and puts into force what can change without a restart: all of it or,
//! where anything is wrong, nothing.
//!
//! A reload reads and checks the whole configuration first, with every file that it names. Only then does it change
//! anything. What needs a restart is named and holds nothing else back (docs/decisions/0034-what-needs-a-restart.md).

use std::{
    fmt, panic,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use serde::Serialize;
use tokio::{
    sync::{Mutex, Notify},
    task::spawn_blocking,
};
use tracing::{error, info, warn};

use crate::{
    config::{Change, Config, Effective, Findings, LogLevel, Origin, diff},
    events::Event,
    net::timer,
    server::{drain::Drain, logging},
    session::Shared,
    telemetry::reloads::{Outcome, RELOADS},
};

/// At most so many lines of the log tell of the changes of one reload.
const MOST_TOLD: usize = 100;

/// What a reload has done, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What is in force from now on.
    pub changes: Vec<Change>,
    /// What differs from the configuration that weir was started with, and needs a restart.
    pub needs_restart: Vec<Change>,
    /// What is valid, and may not be meant: the warnings of `weir check`.
    pub warnings: Vec<String>,
}

/// Why a reload has changed nothing.
#[derive(Debug)]
pub enum Refused {
    /// The configuration came over standard input, which can be read once only.
    StandardInput,
    /// weir is about to end.
    Draining,
    /// The configuration is wrong.
    Wrong(Findings),
    /// The configuration is right, and the system does not let weir put it into force.
    Failed(String),
}

impl Refused {
    /// All that is wrong, each on one line.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::StandardInput => {
                vec!["the configuration came over standard input: start weir with a file to reload it".to_owned()]
            }
            Self::Draining => vec!["weir is draining".to_owned()],
            Self::Wrong(findings) => findings.iter().filter(|one| one.is_error()).map(ToString::to_string).collect(),
            Self::Failed(why) => vec![why.clone()],
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Refused {}

/// Reads the configuration again. One reload at a time.
pub struct Reloader {
    origin: Origin,
    /// What weir was started with: what needs a restart is compared with this.
    started_with: Effective,
    in_force: ArcSwap<Config>,
    one_at_a_time: Mutex<()>,
    shared: Arc<Shared>,
    /// Has certificates, keys and lists read again.
    certificates: Arc<Notify>,
}

impl Reloader {
    /// For a weir that has started with `config`, which `origin` led to.
    pub fn new(origin: Origin, config: Config, shared: Arc<Shared>, certificates: Arc<Notify>) -> Self {
        RELOADS.begun(digest_of(config.effective()));
        Self {
            origin,
            started_with: config.effective().clone(),
            in_force: ArcSwap::from_pointee(config),
            one_at_a_time: Mutex::default(),
            shared,
            certificates,
        }
    }

    /// What a reload would do now. It changes nothing.
    ///
    /// # Errors
    /// Why a reload would change nothing.
    pub async fn preview(&self) -> Result<Report, Refused> {
        let config = self.read().await?;
        Ok(self.report(&config))
    }

    /// Reads the configuration again and puts it into force; the log says what has changed, and who `asked`.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn reload(&self, asked: &str) -> Result<Report, Refused> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let began = Instant::now();
        match self.replace().await {
            Ok(report) => {
                tell(&report, asked, began.elapsed());
                Ok(report)
            }
            Err(refused) => {
                RELOADS.refused();
                let lines = tell_refused(&refused, asked);
                let first = lines.first().cloned().unwrap_or_default();
                self.shared.notifier.pass_on(&Event::ReloadFailed { errors: lines.len(), first });
                Err(refused)
            }
        }
    }

    async fn replace(&self) -> Result<Report, Refused> {
        if self.shared.admission.is_draining() {
            return Err(Refused::Draining);
        }
        let config = self.read().await?;
        let report = self.report(&config);
        // From here on nothing may fail that comes after a change.
        self.apply(&config)?;
        let outcome = if report.changes.is_empty() { Outcome::Unchanged } else { Outcome::Applied };
        RELOADS.succeeded(outcome, digest_of(config.effective()), report.needs_restart.len());
        self.in_force.store(Arc::new(config));
        self.certificates.notify_one();
        Ok(report)
    }

    /// Reads and checks the configuration. It may be large, and its files slow: the control thread goes on meanwhile.
    async fn read(&self) -> Result<Config, Refused> {
        if !self.origin.can_be_read_again() {
            return Err(Refused::StandardInput);
        }
        let origin = self.origin.clone();
        match spawn_blocking(move || origin.load()).await {
            Ok(read) => read.map_err(Refused::Wrong),
            Err(err) if err.is_panic() => panic::resume_unwind(err.into_panic()),
            Err(_) => Err(Refused::Draining),
        }
    }

    fn report(&self, config: &Config) -> Report {
        let live = diff(self.in_force.load().effective(), config.effective());
        let restart = diff(&self.started_with, config.effective());
        Report {
            changes: live.into_iter().filter(|change| change.restart.is_none()).collect(),
            needs_restart: restart.into_iter().filter(|change| change.restart.is_some()).collect(),
            warnings: config.warnings().iter().map(crate::config::Finding::statement).collect(),
        }
    }

    fn apply(&self, config: &Config) -> Result<(), Refused> {
        let shared = &self.shared;
        let before = self.in_force.load();
        // A pattern that is no glob has been found already.
        shared.directory.set_rules(&config.admission.rules).map_err(|err| Refused::Failed(err.to_string()))?;
        shared.admission.set_params(&config.admission, timer::now());
        // Whoever waits may have a turn by now.
        shared.arrived.notify_one();
        if config.log.level != before.log.level {
            set_level(config.log.level);
        }
        Ok(())
    }

    /// The configuration in force.
    pub fn in_force(&self) -> Arc<Config> {
        self.in_force.load_full()
    }

    /// How a drain that begins now goes.
    pub fn drain(&self) -> Drain {
        let config = self.in_force.load();
        Drain {
            grace: config.lame_duck_grace_period,
            duration: config.lame_duck_duration,
            new_clients: config.lame_duck_new_clients,
        }
    }
}

fn set_level(level: LogLevel) {
    match logging::is_level_of_environment() {
        true => warn!(variable = logging::LEVEL_VARIABLE, "the environment sets the log level, not the configuration"),
        false => logging::set_level(level),
    }
}

/// SHA-256 of what `weir check` prints, which holds no secret.
fn digest_of(effective: &Effective) -> String {
    let digest = digest::digest(&digest::SHA256, effective.to_string().as_bytes());
    data_encoding::HEXLOWER.encode(digest.as_ref())
}

fn tell(report: &Report, asked: &str, took: Duration) {
    for warning in &report.warnings {
        warn!(warning, "the configuration is valid and leaves something to chance");
    }
    for change in report.changes.iter().take(MOST_TOLD) {
        info!(key = change.path(), old = change.old, new = change.new, "configuration changed");
    }
    for change in report.needs_restart.iter().take(MOST_TOLD) {
        warn!(
            key = change.path(),
            running = change.old,
            file = change.new,
            why = change.restart,
            "a change of the configuration needs a restart"
        );
    }
    let (changes, needs_restart) = (report.changes.len(), report.needs_restart.len());
    info!(asked, changes, needs_restart, ?took, "configuration reloaded");
}

/// Returns all that is wrong, which the log has been told.
fn tell_refused(refused: &Refused, asked: &str) -> Vec<String> {
    let lines = refused.lines();
    for err in lines.iter().take(MOST_TOLD) {
        error!(err, "the new configuration cannot be used");
    }
    error!(asked, errors = lines.len(), "configuration not reloaded: nothing has changed");
    lines
}
