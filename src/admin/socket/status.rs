//! `status`: what an operator wants to see at a glance.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{
    admin::{
        health,
        socket::{Operator, pause::Paused},
    },
    overview::{self, Overview},
    server::logging::{self, Level},
    session::Shared,
};

/// The status: the overview of this moment, and what only whoever operates this weir asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// `serving`, `paused`, `lame_duck` or `draining`.
    pub state: String,
    pub paused: Option<PausedStatus>,
    pub pid: u32,
    /// The configuration file as weir was given it, or `the command line`.
    pub configuration: String,
    pub log_level: String,
    /// By the configuration, or by `WEIR_LOG`.
    pub log_level_configured: String,
    /// As `/overviewz` has it, without its past.
    #[serde(flatten)]
    pub overview: Overview,
}

/// A pause that goes on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PausedStatus {
    pub seconds: u64,
    /// The user who asked for it.
    pub by: String,
}

pub fn of(operator: &Operator) -> Status {
    let (shared, now) = (&operator.shared, Instant::now());
    let Level { in_force, configured } = logging::level();
    let paused = operator
        .pause
        .now()
        .as_ref()
        .map(|Paused { since, by }| PausedStatus { seconds: since.elapsed().as_secs(), by: by.name() });
    Status {
        state: state(shared).to_owned(),
        paused,
        pid: std::process::id(),
        configuration: operator.configuration.clone(),
        log_level: in_force,
        log_level_configured: configured,
        overview: overview::of(shared, health::not_ready(shared, now), u64::MAX, now),
    }
}

fn state(shared: &Shared) -> &'static str {
    let admission = &shared.admission;
    match () {
        () if admission.is_draining() => "draining",
        () if admission.is_paused() => "paused",
        () if admission.is_lame_duck() => "lame_duck",
        () => "serving",
    }
}
