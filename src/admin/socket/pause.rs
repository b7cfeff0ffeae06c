//! `pause` and `resume`: everybody who comes is held, as by PgBouncer's PAUSE.

use std::time::Instant;

use crate::{
    admin::socket::{
        Operator, Paused, Who,
        answer::{Done, NotDone},
        query::Query,
    },
    events::Event,
};

pub fn pause(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    query.end()?;
    let shared = &operator.shared;
    let sessions = shared.sessions.len();
    let mut paused = operator.paused();
    let done = if shared.admission.pause() {
        *paused = Some(Paused { since: Instant::now(), by: who.clone() });
        shared.notifier.pass_on(&Event::Paused { by: who.name() });
        format!(
            "paused: who comes now is held, each as long as its library waits, and then refused with reason paused; {}. \
             weir resume lets clients in again",
            sessions_go_on(sessions)
        )
    } else {
        format!("paused already, {}: weir resume lets clients in again", since(paused.as_ref()))
    };
    Ok(Done::new("pause", done).with("paused", true).with("sessions", sessions))
}

pub fn resume(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    query.end()?;
    let shared = &operator.shared;
    let mut paused = operator.paused();
    let held = shared.admission.waiting().held();
    let done = if shared.admission.resume() {
        shared.arrived.notify_one();
        let before = paused.take();
        let lasted = before.as_ref().map_or_else(Default::default, |paused| paused.since.elapsed());
        shared.notifier.pass_on(&Event::Resumed { by: who.name(), lasted });
        format!("resumed: it was paused {}; {held} held clients go on", since(before.as_ref()))
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
fn since(paused: Option<&Paused>) -> String {
    let Some(Paused { since, by }) = paused else { return "for a moment".to_owned() };
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
