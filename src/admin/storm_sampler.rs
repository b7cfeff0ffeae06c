//! The flight recorder at work: a sample of all counters each second, and a line in the log when a storm begins and when it is over.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    client_library::returns,
    identity::UNKNOWN_ACCOUNT,
    outcome::Refusal,
    session::Shared,
    telemetry::storms::{Fate, Parties, Party, Recorder, Sample, Storm, Told},
};

/// What is known of storms.
#[derive(Debug, Default)]
pub struct Flight {
    parties: Parties,
    recorder: Mutex<Recorder>,
}

/// The storm that goes on, and the last ones.
#[derive(Debug, Serialize)]
pub struct Report {
    /// So far; `None` in calm weather.
    pub running: Option<Storm>,
    /// The latest first.
    pub storms: Vec<Storm>,
}

impl Flight {
    /// A client that had to wait has got in, or has left.
    pub fn waited(&self, account: Option<&str>, lang: Option<&str>, fate: Fate) {
        self.parties.note(account.unwrap_or(UNKNOWN_ACCOUNT), lang.unwrap_or("unknown"), fate);
    }

    /// A client was refused, for the `refusals`th time since it last got in.
    pub fn refused(&self, account: Option<&str>, lang: Option<&str>, refusals: u32) {
        self.waited(account, lang, Fate::Refused);
        if let Some(most) = returns::max_attempts(lang.unwrap_or_default()) {
            self.parties.used_up(refusals, most);
        }
    }

    /// For the endpoint.
    pub fn report(&self) -> Report {
        let recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        Report { running: recorder.running(&self.parties), storms: recorder.over() }
    }

    fn second(&self, sample: Sample) -> Option<Told> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner).second(sample, &self.parties)
    }
}

fn sample(shared: &Shared) -> Sample {
    let counters = &shared.counters;
    let mut refused = [0; Refusal::ALL.len()];
    for reason in Refusal::ALL {
        refused[reason as usize] = counters.refused(reason);
    }
    Sample {
        unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        // Ids begin with 1.
        arrived: shared.next_id.load(Relaxed) - 1,
        admitted: counters.servers.iter().map(|server| server.admitted.load(Relaxed)).sum(),
        held: counters.held.load(Relaxed),
        refused,
        waiting: (shared.admission.held() + shared.admission.delayed()) as u64,
        sessions: shared.sessions.len() as u64,
        pace: shared.admission.pace(Instant::now().into_std()),
    }
}

/// Records until `stop`.
pub async fn record(shared: Arc<Shared>, stop: CancellationToken) {
    let mut next = Instant::now();
    loop {
        match shared.flight.second(sample(&shared)) {
            None => {}
            Some(Told::Began) => info!(held = shared.admission.held(), "a storm has begun"),
            Some(Told::Over(storm)) => tell(&storm, "a storm is over"),
        }
        // A second that began late is not made up for by shorter ones.
        next = (next + Duration::from_secs(1)).max(Instant::now());
        tokio::select! {
            () = sleep_until(next) => {}
            () = stop.cancelled() => {
                if let Some(storm) = shared.flight.report().running {
                    tell(&storm, "weir stops in a storm");
                }
                return;
            }
        }
    }
}

fn tell(storm: &Storm, what: &str) {
    let refused: Vec<_> = storm.refused.iter().map(|one| format!("{} {}", one.reason, one.count)).collect();
    let parties = |all: &[Party]| {
        let all = all.iter().map(|one| format!("{} {}", one.name, one.admitted + one.refused + one.left));
        all.collect::<Vec<_>>().join(", ")
    };
    info!(
        seconds = storm.seconds,
        arrived = storm.arrived,
        peak_arrivals = storm.peak_arrivals,
        pace = storm.pace.map(|pace| (pace * 10.0).round() / 10.0),
        admitted = storm.admitted,
        held = storm.held,
        most_waiting = storm.most_waiting,
        refused = refused.join(", "),
        accounts = parties(&storm.accounts),
        languages = parties(&storm.languages),
        in_danger = storm.in_danger,
        lost = storm.lost,
        sessions = storm.sessions_after,
        "{what}"
    );
}
