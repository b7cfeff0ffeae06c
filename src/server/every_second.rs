//! The work of every second: admission forgets what has expired, and the log tells who did not get in and why, in one
//! line for the clients that weir refused and one for failed logins beyond those that have lines of their own.

use std::{sync::Arc, time::Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admission::WouldHold,
    events::Event,
    net::timer,
    outcome::Refusal,
    server::usage::Lookout,
    session::Shared,
    tally::{Taken, Tally},
    telemetry::process::{LOG_LINES_UNQUEUED, LOG_LINES_UNWRITTEN},
    worker::BEAT_EVERY,
};

/// Works until `stop`. `warn_at` takes over what a reload has changed, and says from which part of a limit (0.0 to 1.0)
/// on the log warns.
pub async fn run(shared: Arc<Shared>, warn_at: impl Fn() -> f64, stop: CancellationToken) {
    let (mut dropped_before, mut warned_before, mut held_before) = (0, [0; Refusal::ALL.len()], 0_u64);
    let (mut outage, mut unserved_before, mut clusters) = (None, 0, Clusters::default());
    let mut lookout = Lookout::default();
    let work = async {
        loop {
            shared.heartbeats.beat_of_control(timer::now());
            sleep(BEAT_EVERY).await;
            let dropped = LOG_LINES_UNQUEUED.get() + LOG_LINES_UNWRITTEN.get();
            if dropped > dropped_before {
                warn!(lines = dropped - dropped_before, "log lines are lost: standard error cannot take them");
            }
            dropped_before = dropped;
            shared.admission.sweep(timer::now());
            shared.servers.judge_cluster_names(timer::now());
            clusters.tell(&shared);
            lookout.look(&shared, warn_at());
            let unserved = shared.counters.refused(Refusal::NoServer);
            tell_outage(&shared, &mut outage, std::mem::replace(&mut unserved_before, unserved));
            let Taken { refused, failed_logins, left_out, would_refuse } = shared.tallies.take();
            if refused.total() > 0 {
                tell_refused(&shared, &refused);
            }
            if left_out > 0 {
                tell_failed_logins(&failed_logins, left_out);
            }
            let warned = Refusal::ALL.map(|reason| shared.admission.warned().of(reason));
            let would_hold = WouldHold::REASONS.map(|reason| shared.admission.would_hold().of(reason)).iter().sum();
            if shared.admission.is_observing() {
                let refused = warned.iter().sum::<u64>() - warned_before.iter().sum::<u64>();
                tell_observed(&would_refuse, refused, would_hold - held_before);
            } else {
                tell_warned(&warned, &warned_before);
            }
            held_before = would_hold;
            warned_before = warned;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// The clusters that the servers belong to, where there are several and the configuration names none.
#[derive(Default)]
struct Clusters {
    now: Option<String>,
    told: Option<String>,
}

impl Clusters {
    /// Tells of a change that has lasted for a second: servers without a configured name take on that of another one
    /// right after their start.
    fn tell(&mut self, shared: &Shared) {
        let before = std::mem::replace(&mut self.now, shared.servers.several_clusters());
        if before != self.now || self.told == self.now {
            return;
        }
        if let Some(clusters) = &self.now {
            warn!(%clusters, "the servers belong to several clusters: if that is right, name them all in cluster.names");
        }
        self.told.clone_from(&self.now);
    }
}

/// A time in which no server can be used.
struct Outage {
    began: Instant,
    /// Clients that had been refused for it before.
    refused_before: u64,
}

/// Tells when no server can be used any more, and when one can be again. `refused_before` is how many clients had been
/// refused for that a second ago: an outage begins between two looks.
fn tell_outage(shared: &Shared, outage: &mut Option<Outage>, refused_before: u64) {
    let (now, refused) = (timer::now(), shared.counters.refused(Refusal::NoServer));
    match (shared.servers.can_use_none(now), &*outage) {
        (true, None) => {
            shared.notifier.tell(&Event::NoServer {
                servers: shared.servers.len(),
                lame_ducks: shared.servers.iter().filter(|server| server.is_lame_duck(now)).count(),
                drained: shared.servers.iter().filter(|server| server.is_draining()).count(),
            });
            *outage = Some(Outage { began: now, refused_before });
        }
        (false, Some(Outage { began, refused_before })) => {
            let (lasted, refused) = (now.saturating_duration_since(*began), refused - refused_before);
            shared.notifier.tell(&Event::ServerUsableAgain { lasted, refused });
            *outage = None;
        }
        _ => {}
    }
}

fn tell_refused(shared: &Shared, refused: &Tally) {
    info!(
        refused = refused.total(),
        reasons = refused.reasons(),
        accounts = refused.accounts(),
        users = refused.users(),
        names = refused.names(),
        sources = refused.sources(),
        held = shared.admission.queued(),
        sessions = shared.sessions.len(),
        advice = refused.main_reason().and_then(Refusal::named).map(Refusal::advice),
        "refusing"
    );
}

/// Tells whom quotas and policies that only warn would have refused.
fn tell_warned(warned: &[u64; Refusal::ALL.len()], before: &[u64; Refusal::ALL.len()]) {
    for (reason, (now, before)) in Refusal::ALL.into_iter().zip(warned.iter().zip(before)) {
        if now > before {
            warn!(clients = now - before, reason = reason.name(), "let in over a quota or policy that only warns");
        }
    }
}

/// Tells whom enforce mode would have refused or held in the last second, where weir only observes.
fn tell_observed(tally: &Tally, would_refuse: u64, would_hold: u64) {
    if would_refuse + would_hold > 0 {
        info!(
            would_refuse,
            would_hold,
            reasons = tally.reasons(),
            accounts = tally.accounts(),
            users = tally.users(),
            names = tally.names(),
            sources = tally.sources(),
            "observing: these clients are in, and would have been refused or held"
        );
    }
}

fn tell_failed_logins(failed: &Tally, left_out: u64) {
    info!(
        failed = failed.total(),
        left_out,
        reasons = failed.reasons(),
        accounts = failed.accounts(),
        users = failed.users(),
        names = failed.names(),
        sources = failed.sources(),
        "more logins have failed than have a line of their own"
    );
}
