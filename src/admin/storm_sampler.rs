//! Samples all counters once a second for the flight recorder, and logs when a storm begins and when it is over.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    admission::WouldHold,
    events::Event,
    net::timer,
    outcome::Refusal,
    session::Shared,
    telemetry::storms::{Change, Group, Sample, Storm},
};

fn sample(shared: &Shared) -> Sample {
    let counters = &shared.counters;
    let admission = &shared.admission;
    let (mut refused, mut would_refuse) = ([0; Refusal::ALL.len()], [0; Refusal::ALL.len()]);
    for reason in Refusal::ALL {
        refused[reason as usize] = counters.refused(reason);
        would_refuse[reason as usize] = admission.warned().of(reason);
    }
    Sample {
        unix_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        // The first session has id 1.
        arrived: shared.next_id.load(Relaxed) - 1,
        admitted: counters.admitted.load(Relaxed),
        held: counters.held.load(Relaxed),
        refused,
        would_hold: WouldHold::REASONS.iter().map(|&reason| admission.would_hold().of(reason)).sum(),
        would_refuse,
        waiting: admission.queued() as u64,
        sessions: shared.sessions.len() as u64,
        pace: admission.pace(timer::now()),
        relayed: counters.totals(),
    }
}

/// Records until `stop`.
pub async fn record(shared: Arc<Shared>, stop: CancellationToken) {
    let mut next = Instant::now();
    loop {
        match shared.flight.second(sample(&shared)) {
            None => {}
            Some(Change::Began) => {
                let held = shared.admission.queued();
                info!(held, "a storm has begun");
                shared.notifier.pass_on(&Event::StormBegan { held });
            }
            Some(Change::Over(storm)) => {
                log(&storm, "a storm is over");
                shared.notifier.pass_on(&Event::StormOver {
                    seconds: storm.seconds.into(),
                    arrived: storm.arrived,
                    admitted: storm.admitted,
                    refused: storm.refused.iter().map(|one| one.count).sum(),
                });
            }
        }
        // After a late sample the next second is a whole one: a shorter one would hold fewer clients.
        next = (next + Duration::from_secs(1)).max(Instant::now());
        tokio::select! {
            () = sleep_until(next) => {}
            () = stop.cancelled() => {
                if let Some(storm) = shared.flight.report().running {
                    log(&storm, "weir stops in a storm");
                }
                return;
            }
        }
    }
}

fn log(storm: &Storm, what: &str) {
    // A field without a value is not shown.
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let refused: Vec<_> = storm.refused.iter().map(|one| format!("{} {}", one.reason, one.count)).collect();
    let groups = |all: &[Group]| {
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
        refused = storm.refused.iter().map(|one| one.count).sum::<u64>(),
        reasons = some(refused.join(", ")),
        would_hold = Some(storm.would_hold).filter(|n| *n > 0),
        would_refuse = Some(storm.would_refuse).filter(|n| *n > 0),
        accounts = some(groups(&storm.accounts)),
        languages = some(groups(&storm.languages)),
        sessions = storm.sessions_after,
        "{what}"
    );
}
