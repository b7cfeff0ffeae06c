//! `weir check`: says all that is wrong with a configuration, or what is in force with it.

use std::{io::Write, num::NonZeroUsize, path::PathBuf, process::ExitCode, sync::Arc, thread};

use arc_swap::ArcSwap;
use clap::Args;
use serde::Serialize;

use crate::{
    cli::{BAD_CONFIGURATION, ConfigurationArgs, RUN_FAILED, complain, verbs},
    cluster::{ClusterAccess, examine},
    config::{Change, Config, Finding, Findings, ListenerConfig, Origin, Severity, SharedBy, diff},
    fleet_link::{Subjects, permissions},
    server::{file_limit, plain_info},
    tls::{Connector, ServersTls},
    upstream::Servers,
};

/// The exit code of `weir check` for a configuration with which weir would not start.
const WRONG: u8 = 1;

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// Print the findings as JSON, and nothing else.
    #[arg(long)]
    json: bool,
    /// Print findings only, not what is in force.
    #[arg(short, long)]
    quiet: bool,
    /// Connect to each server too: read its INFO and its monitoring port, and say what will not work.
    #[arg(long)]
    connect: bool,
    /// Print what changes from OLD to this configuration. Without OLD: what a reload would change if the weir that runs
    /// had this configuration in its file; it is asked over the admin socket that this configuration names.
    #[arg(long, value_name = "OLD", num_args = 0..=1)]
    diff: Option<Option<PathBuf>>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    /// Whether there is no error.
    right: bool,
    findings: Vec<&'a Finding>,
    /// With `--diff`.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Change>>,
}

impl Check {
    pub fn execute(self) -> ExitCode {
        let origin = self.configuration.origin();
        // Standard input can be read once.
        let loaded = origin.text().and_then(|text| Ok((Config::load_text(&origin, text.as_deref())?, text)));
        let (config, text) = match loaded {
            Ok(loaded) => loaded,
            Err(findings) => {
                self.print(&origin, &findings, None);
                // The argument is wrong where it names nothing that can be read.
                return ExitCode::from(if findings.are_of_the_file() { BAD_CONFIGURATION } else { WRONG });
            }
        };
        let mut findings = config.warnings().clone().with(of_descriptors(&config));
        if self.connect {
            findings = match of_servers(&config) {
                Ok(of_servers) => findings.with(of_servers),
                Err(err) => {
                    complain(&format!("cannot connect: {err}"));
                    return ExitCode::from(RUN_FAILED);
                }
            };
        }
        if findings.have_errors() {
            self.print(&origin, &findings, None);
            return ExitCode::from(WRONG);
        }
        match &self.diff {
            None => self.print(&origin, &findings, Some(&config)),
            Some(None) => return self.print_reload(&origin, &findings, &config, text),
            Some(Some(old)) => match Config::load_to_compare(old) {
                Ok((old, unread)) => {
                    let changes = diff(old.effective(), config.effective());
                    self.print_changes(&origin, &findings.with(unread), changes);
                }
                Err(wrong) => {
                    complain(&wrong.to_string());
                    return ExitCode::from(if wrong.are_of_the_file() { BAD_CONFIGURATION } else { WRONG });
                }
            },
        }
        ExitCode::SUCCESS
    }

    /// What a reload of the weir that runs would change if its file had this text, by its own word: it knows what it
    /// was started with, whichever its file is.
    fn print_reload(&self, origin: &Origin, findings: &Findings, config: &Config, text: Option<String>) -> ExitCode {
        let (Some(admin), Some(text)) = (&config.admin, text) else {
            complain(&format!("{origin} has no [admin] socket to ask a running weir: name the old file, --diff OLD"));
            return ExitCode::from(BAD_CONFIGURATION);
        };
        if !self.json && findings.iter().next().is_some() {
            complain(&findings.to_string());
        }
        verbs::preview(&admin.socket, self.json, &origin.to_string(), text)
    }

    fn print_changes(&self, origin: &Origin, findings: &Findings, changes: Vec<Change>) {
        if self.json {
            let findings = findings.iter().collect();
            let report = Report { file: origin.to_string(), right: true, findings, changes: Some(changes) };
            let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report).unwrap_or_default());
            return;
        }
        if findings.iter().next().is_some() {
            complain(&findings.to_string());
        }
        let lines: String = changes.iter().map(|change| format!("{change}\n")).collect();
        let lines = if lines.is_empty() { "nothing changes\n" } else { &lines };
        let _ = write!(std::io::stdout(), "{lines}");
    }

    /// Findings go to standard error, what is in force to standard output; JSON goes to standard output.
    fn print(&self, origin: &Origin, findings: &Findings, config: Option<&Config>) {
        let mut stdout = std::io::stdout();
        // A closed stdout (`weir check | head`) is not an error.
        if self.json {
            let findings = findings.iter().collect();
            let report = Report { file: origin.to_string(), right: config.is_some(), findings, changes: None };
            let _ = writeln!(stdout, "{}", serde_json::to_string_pretty(&report).unwrap_or_default());
            return;
        }
        if findings.iter().next().is_some() {
            complain(&findings.to_string());
        }
        if let Some(config) = config.filter(|_| !self.quiet) {
            let _ = write!(stdout, "# {origin} is right. In force:\n{}{}", config.effective(), permissions_of(config));
        }
    }
}

/// What the login of `[fleet]` needs, as `authorization` of nats-server takes it.
fn permissions_of(config: &Config) -> String {
    let Some(fleet) = &config.fleet else { return String::new() };
    let subjects = Subjects::of(&fleet.name);
    let list = |verb: &str, all: Vec<String>| format!("#   {verb}: [{}]\n", all.join(", "));
    let has_leases = fleet.quota == SharedBy::Lease;
    let first = if has_leases { "three" } else { "two" };
    format!(
        "\n# The login of [fleet] needs these permissions, and no other user of its account should have the first \
         {first} to publish:\n{}{}",
        list("publish", subjects.to_publish(has_leases)),
        list("subscribe", subjects.to_subscribe())
    )
}

/// Warns of a `max_clients` that the file asks for and this shell's limit of open files does not carry. weir says the
/// same at its start, of the limit that it has then.
fn of_descriptors(config: &Config) -> Option<Finding> {
    if !config.chooses_max_clients() {
        return None;
    }
    let workers = config.workers.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    let limit = file_limit::hard();
    let max_clients = config.admission.max_clients;
    let short = file_limit::carries(limit, max_clients, config.most_servers(), workers).err()?;
    let what =
        format!("the limit of {limit} open files that holds here carries {} clients, not {max_clients}", short.carried);
    let remedy =
        format!("raise it to {0} where weir runs (LimitNOFILE={0} in a systemd unit), or write less", short.needed);
    Some(config.finding(Severity::Warning, "listeners[0].max_clients", what, remedy))
}

/// Connects to the servers.
fn of_servers(config: &Config) -> std::io::Result<Vec<Finding>> {
    // The files have just been read; one that is gone by now shows as a server that cannot be reached.
    let connector = |tls: &ServersTls| Connector::load(tls.clone()).ok().map(Arc::new);
    let tls = config.servers_tls.as_ref().and_then(connector);
    let websocket_tls = config.websocket_tls.as_ref().and_then(connector).or_else(|| tls.clone());
    let access = ClusterAccess {
        system: None,
        tls,
        websocket_tls,
        plain_info: Arc::new(ArcSwap::from_pointee(plain_info(config))),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = runtime.block_on(async {
        let (mut upstream, mut seen) = (config.upstream.clone(), Vec::new());
        let named = upstream.servers.len();
        if let Some(discover) = &config.discover
            && let Some(from) = &discover.from
        {
            match examine::look_up_servers(from).await {
                Ok(found) => upstream.servers.extend(found.iter().map(|address| discover.server_at(address))),
                Err(wrong) => seen.push(wrong),
            }
        }
        let servers = Arc::new(Servers::new(&upstream));
        let first = |needs: &dyn Fn(&ListenerConfig) -> bool| config.listeners.iter().position(needs);
        let needs = examine::Needs {
            tls: first(&|listener| listener.passes_through.is_some()),
            leafnode_port: first(&ListenerConfig::takes_leafnodes),
        };
        seen.extend(examine::examine(&servers, (&upstream, named), needs, &access).await);
        if let Some(fleet) = &config.fleet {
            let needs_leases = fleet.quota == SharedBy::Lease;
            let (login, replicas) = (fleet.login.as_ref(), fleet.replicas);
            let tls = access.tls.as_deref();
            let of_fleet = permissions::examine(&fleet.name, login, needs_leases, replicas, &servers, tls);
            seen.extend(of_fleet.await);
        }
        if let Some(login) = &config.system_login {
            seen.extend(examine::examine_login(login, &servers, &access).await);
        }
        // Another table's login has been looked at.
        if let Some(publish) = config.notify.publish.as_ref().filter(|publish| publish.table == "warnings.login") {
            seen.extend(examine::examine_events_login(publish.table, &publish.login, &servers, &access).await);
        }
        seen
    });
    let finding = |one: examine::Observation| {
        let severity = if one.is_wrong { Severity::Error } else { Severity::Warning };
        config.finding(severity, &one.key, one.what, one.remedy)
    };
    Ok(seen.into_iter().map(finding).collect())
}
