//! `pause` and `resume`: everybody who comes is held, as by PgBouncer's PAUSE.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::{
    admin::socket::{
        Operator, Who,
        answer::{Done, NotDone},
        query::Query,
    },
    events::Event,
    session::Shared,
    telemetry::moment::Moment,
};

/// The pause that an operator has asked for, as long as it goes on.
#[derive(Debug, Clone, Default)]
pub struct OperatorPause(Arc<Mutex<Option<Paused>>>);

/// A pause that goes on.
#[derive(Debug, Clone)]
pub(super) struct Paused {
    pub since: Instant,
    pub by: Who,
}

/// A pause, as one process of weir tells another: since which moment, and who has asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseState {
    since: u64,
    #[serde(flatten)]
    by: Who,
}

impl OperatorPause {
    pub(super) fn now(&self) -> MutexGuard<'_, Option<Paused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For another process.
    pub fn state(&self) -> Option<PauseState> {
        self.now().as_ref().map(|Paused { since, by }| PauseState { since: Moment::from(*since).raw(), by: by.clone() })
    }

    /// Goes on with the pause of another process, or with none. One of which nothing is known begins now.
    pub fn adopt(&self, shared: &Shared, is_paused: bool, state: Option<PauseState>) {
        let mut pause = self.now();
        *pause = is_paused.then(|| match state {
            Some(PauseState { since, by }) => Paused { since: Moment::from_raw(since).into(), by },
            None => Paused { since: Instant::now(), by: Who::default() },
        });
        match is_paused {
            true => shared.admission.pause(),
            false => shared.admission.resume(),
        };
    }

    /// A takeover is off, for which weir was paused: it is not any more, unless an operator has asked for it.
    pub fn takeover_is_off(&self, shared: &Shared) {
        let pause = self.now();
        if pause.is_none() {
            shared.admission.resume();
            shared.arrived.notify_one();
        }
    }
}

pub fn pause(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    query.end()?;
    let shared = &operator.shared;
    let sessions = shared.sessions.len();
    let mut paused = operator.pause.now();
    let done = if paused.is_none() {
        shared.admission.pause();
        *paused = Some(Paused { since: Instant::now(), by: who.clone() });
        shared.notifier.pass_on(&Event::Paused { by: who.name() });
        format!(
            "paused: who comes now is held, each as long as its library waits, and then refused with reason paused; {}. \
             weir resume lets clients in again",
            sessions_go_on(sessions)
        )
    } else {
        format!("paused already, {}: weir resume lets clients in again", paused.as_ref().map(since).unwrap_or_default())
    };
    Ok(Done::new("pause", done).with("paused", true).with("sessions", sessions))
}

pub fn resume(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    query.end()?;
    let shared = &operator.shared;
    let mut paused = operator.pause.now();
    let held = shared.admission.waiting().held();
    let done = if let Some(before) = paused.take() {
        // Else whoever takes over resumes, or this process when that is off.
        if !shared.takeover.is_under_way() {
            shared.admission.resume();
            shared.arrived.notify_one();
        }
        shared.notifier.pass_on(&Event::Resumed { by: who.name(), lasted: before.since.elapsed() });
        format!("resumed: it was paused {}; {held} held clients go on", since(&before))
    } else {
        "it was not paused".to_owned()
    };
    Ok(Done::new("resume", done).with("paused", false).with("held", held))
}

fn sessions_go_on(sessions: usize) -> String {
    match sessions {
        0 => "there are no sessions".to_owned(),
        1 => "the one session goes on".to_owned(),
        n => format!("the {n} sessions go on"),
    }
}

/// Since when, and by whom.
fn since(Paused { since, by }: &Paused) -> String {
    format!("for {} by {}", words_of(since.elapsed()), by.name())
}

/// A time as people say it: in whole seconds from one second on.
pub fn words_of(time: std::time::Duration) -> String {
    let whole = if time.as_secs() > 0 { std::time::Duration::from_secs(time.as_secs()) } else { time };
    let shown = std::time::Duration::from_millis(whole.as_millis() as u64);
    humantime::format_duration(shown).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(words_of(Duration::from_micros(1_500)), "1ms");
        assert_eq!(words_of(Duration::from_millis(3_999)), "3s");
        assert_eq!(words_of(Duration::from_secs(3_700)), "1h 1m 40s");
    }
}
