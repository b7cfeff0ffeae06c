//! Reads the configuration again while weir runs, and puts into force what can change without a restart: all of it or,
//! where anything is wrong, nothing.
//!
//! A reload reads and checks the whole configuration first, with every file that it names. Only then does it change
//! anything. What needs a restart is named and holds nothing else back (docs/decisions/0034-what-needs-a-restart.md).

use std::{
    fmt, panic,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use serde::Serialize;
use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    task::spawn_blocking,
};
use tracing::{error, info, warn};

use crate::{
    config::{Change, Config, Effective, Findings, LogLevel, Origin, SharedBy, diff},
    events::Event,
    identity::Directory,
    net::timer,
    server::{
        ServerError, drain::Drain, file_limit::ClientBudget, listeners::Listeners, logging, members::Members,
        monitor::Monitor, ports_file, service_manager::ServiceManager,
    },
    session::Shared,
    telemetry::reloads::{Outcome, RELOADS},
    upstream::{Drain as ServerDrain, Server, ServerParams, Servers},
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
    /// Another process takes over, or has done so, and has read the configuration already.
    TakenOver,
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
            Self::TakenOver => vec![
                "another process takes over, and has read the configuration already: reload once the takeover is over"
                    .to_owned(),
            ],
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

/// The parts of weir that come and go with a configuration.
pub struct Parts {
    pub listeners: Listeners,
    pub monitor: Monitor,
    pub members: Members,
}

/// Reads the configuration again. One reload at a time.
pub struct Reloader {
    origin: Origin,
    /// What weir was started with: what needs a restart is compared with this.
    started_with: Effective,
    /// With the keys that need a restart as weir was started with them; it is shown as the file has it.
    in_force: ArcSwap<Config>,
    /// Locked for the time of a reload.
    parts: Mutex<Parts>,
    shared: Arc<Shared>,
    /// Has certificates, keys and lists read again.
    certificates: Arc<Notify>,
    service_manager: ServiceManager,
}

impl Reloader {
    /// For a weir that starts with `config`, which `origin` led to.
    pub fn new(
        origin: Origin,
        config: Config,
        shared: Arc<Shared>,
        parts: Parts,
        certificates: Arc<Notify>,
        service_manager: ServiceManager,
    ) -> Self {
        RELOADS.begun(digest_of(config.effective()));
        Self {
            origin,
            started_with: config.effective().clone(),
            in_force: ArcSwap::from_pointee(config),
            parts: Mutex::new(parts),
            shared,
            certificates,
            service_manager,
        }
    }

    /// The parts. No reload begins while they are locked.
    pub async fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().await
    }

    /// What a reload would do now. It changes nothing.
    ///
    /// # Errors
    /// Why a reload would change nothing.
    pub async fn preview(&self) -> Result<Report, Refused> {
        let config = self.read(Origin::load).await?;
        self.with_what_stays(&config)?;
        Ok(self.report(&config))
    }

    /// What a reload would do if `text` were in weir's file. It changes nothing. `name` is what errors call the text.
    ///
    /// # Errors
    /// Why a reload would change nothing.
    pub async fn preview_of(&self, name: String, text: String) -> Result<Report, Refused> {
        let config = self.read(move |origin| Config::load_instead(origin, &name, &text)).await?;
        self.with_what_stays(&config)?;
        Ok(self.report(&config))
    }

    /// Reads the configuration again and puts it into force; the log says what has changed, and who `asked`.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn reload(&self, asked: &str) -> Result<Report, Refused> {
        let mut parts = self.parts.lock().await;
        let began = Instant::now();
        self.service_manager.reloading(&self.shared);
        let done = self.reload_with(&mut parts, asked, began).await;
        self.service_manager.ready(&self.shared);
        done
    }

    async fn reload_with(&self, parts: &mut Parts, asked: &str, began: Instant) -> Result<Report, Refused> {
        match self.replace(parts, asked).await {
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

    async fn replace(&self, parts: &mut Parts, asked: &str) -> Result<Report, Refused> {
        if self.is_taken_over() {
            return Err(Refused::TakenOver);
        }
        if self.shared.admission.is_draining() {
            return Err(Refused::Draining);
        }
        let config = self.read(Origin::load).await?;
        let config = self.with_what_stays(&config)?;
        let report = self.report(&config);
        self.apply(&config, parts, asked).await.map_err(|err| Refused::Failed(err.to_string()))?;
        let outcome = if report.changes.is_empty() { Outcome::Unchanged } else { Outcome::Applied };
        RELOADS.succeeded(outcome, digest_of(config.effective()), report.needs_restart.len());
        self.in_force.store(Arc::new(config));
        self.certificates.notify_one();
        Ok(report)
    }

    /// Reads and checks the configuration. It may be large, and its files slow: the control thread goes on meanwhile.
    async fn read(
        &self,
        load: impl FnOnce(&Origin) -> Result<Config, Findings> + Send + 'static,
    ) -> Result<Config, Refused> {
        if !self.origin.can_be_read_again() {
            return Err(Refused::StandardInput);
        }
        let origin = self.origin.clone();
        match spawn_blocking(move || load(&origin)).await {
            Ok(read) => read.map_err(Refused::Wrong),
            Err(err) if err.is_panic() => panic::resume_unwind(err.into_panic()),
            Err(_) => Err(Refused::Draining),
        }
    }

    /// What is in force once `config` is: with it what needs a restart, as weir runs with it.
    fn with_what_stays(&self, config: &Config) -> Result<Config, Refused> {
        config.reloaded_into(&self.in_force.load(), &self.started_with).map_err(Refused::Wrong)
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

    /// First all that may fail, each of it undone where the next fails; then the rest, of which nothing can.
    async fn apply(&self, config: &Config, parts: &mut Parts, asked: &str) -> Result<(), ServerError> {
        let shared = &self.shared;
        let before = self.in_force.load_full();
        let rules = Directory::compile(&config.admission.rules)?;
        let takes = |config: &Config| (config.admission.max_clients, config.most_servers());
        let budget = match takes(config) == takes(&before) {
            true => None,
            false => Some(ClientBudget::of(config, parts.listeners.workers())?),
        };
        let bound = parts.listeners.prepare(&config.listeners)?;
        let opened = parts.listeners.open(bound).await?;
        if let Err(err) = parts.monitor.change(config.monitor, &config.http_base_path).await {
            opened.undo();
            return Err(err);
        }

        if let Some(budget) = budget {
            shared.descriptors.set(budget.clients, budget.refusals);
        }
        parts.listeners.put(opened).await;
        parts.members.follow(config);
        change_servers(&shared.servers, &parts.members, [&before, config], asked);
        shared.sessions.closed().set_most(config.max_closed_clients);
        shared.directory.set_rules(rules);
        shared.admission.set_params(&config.admission, timer::now());
        shared.policies.store(Arc::new(config.policies.clone()));
        if let Some((fleet, configured)) = shared.fleet.as_ref().zip(config.fleet.as_ref()) {
            fleet.link().want_leases(configured.quota == SharedBy::Lease);
        }
        // Whoever waits may have a turn by now.
        shared.arrived.notify_one();
        if config.log.level != before.log.level {
            set_level(config.log.level);
        }
        write_ports_file(config, parts);
        Ok(())
    }

    /// The file that is read again, if there is one.
    pub fn file(&self) -> Option<&Path> {
        self.origin.file.as_deref().filter(|_| self.origin.can_be_read_again())
    }

    /// Whether another process takes over, or has done so: it has read the configuration, and what this process reads
    /// would be lost.
    pub fn is_taken_over(&self) -> bool {
        self.shared.takeover.has_successor()
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

/// Adds, changes and removes servers, in this order, so that there is always one that clients may go to. A server is
/// known by its address. Those that a name has led to are not of the configuration, and stay.
fn change_servers(servers: &Servers, members: &Members, [before, after]: [&Config; 2], asked: &str) {
    let [before, after] = [before, after].map(|config| &config.upstream.servers);
    let find = |all: &[ServerParams], one: &ServerParams| all.iter().position(|other| other.address == one.address);
    let running = |address: &str| {
        let list = servers.list();
        let stays = |server: &Server| server.address() == address && server.drain() != ServerDrain::Leaves;
        list.iter().find(|server| stays(server)).map(|server| server.id())
    };
    for new in after {
        match find(before, new).map(|at| &before[at]) {
            None => drop(members.add(new.clone(), asked)),
            Some(old) if old != new => {
                if let Some(id) = running(&new.address) {
                    members.update(id, new);
                }
            }
            Some(_) => {}
        }
    }
    for gone in before.iter().filter(|old| find(after, old).is_none()) {
        if let Some(id) = running(&gone.address) {
            members.remove(id, asked);
        }
    }
}

/// The listeners may be others by now.
fn write_ports_file(config: &Config, parts: &Parts) {
    let Some(path) = &config.ports_file else { return };
    if let Err(err) = ports_file::write(path, &parts.listeners.addresses(), parts.monitor.address()) {
        warn!(path = %path.display(), %err, "the ports file is not written");
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
