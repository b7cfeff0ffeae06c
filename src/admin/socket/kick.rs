//! `kick`: ends sessions, one after another, and keeps their clients away for a time where that is asked for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep_until;
use tracing::info;

use crate::{
    admin::socket::{
        Operator, Who,
        answer::{Done, NotDone},
        pause::words_of,
        query::Query,
        selection::{Selection, duration},
    },
    net::timer,
    outcome::Cause,
    relay::registry::SessionHandle,
    session::Shared,
    telemetry::moment::Moment,
};

/// Kicks that are under way at a time.
const MOST_AT_A_TIME: usize = 16;
/// A client is kept away no longer than this: weir remembers it all the time.
const LONGEST_PENALTY: Duration = Duration::from_secs(24 * 3600);

/// What is asked for.
struct Kick {
    selection: Selection,
    /// Sessions per second.
    rate: f64,
    penalty: Option<Duration>,
}

impl Kick {
    fn parse(mut query: Query, shared: &Shared) -> Result<Self, NotDone> {
        let penalty = duration(&mut query, "for")?;
        if penalty.is_some_and(|penalty| penalty.is_zero() || penalty > LONGEST_PENALTY) {
            return Err(NotDone::Usage("for: write a time from 1ms to 24h".to_owned()));
        }
        let wrong = || NotDone::Usage("rate: write sessions per second, 1 to 1000000".to_owned());
        let rate = match query.optional("rate")? {
            // As fast as the cluster takes their clients back.
            None => shared.servers.pace_of_closes(timer::now(), shared.admission.pace(timer::now())),
            Some(text) => match text.parse::<u32>() {
                Ok(rate @ 1..=1_000_000) => rate.into(),
                _ => return Err(wrong()),
            },
        };
        let selection = Selection::parse(&mut query, shared)?;
        query.end()?;
        Ok(Self { selection, rate, penalty })
    }

    /// The sessions that are meant now.
    async fn meant(&self, shared: &Shared) -> Vec<Arc<SessionHandle>> {
        let (now, mut meant) = (Moment::now(), Vec::new());
        shared
            .sessions
            .for_each(|session| meant.extend(self.selection.fits(session, now).then(|| Arc::clone(session))))
            .await;
        meant
    }

    fn answer(&self, sessions: usize, is_preview: bool) -> Done {
        let takes = Duration::try_from_secs_f64(sessions.saturating_sub(1) as f64 / self.rate).unwrap_or(Duration::MAX);
        let what = match (is_preview, sessions) {
            (true, n) => format!("a kick would end {n} of the sessions"),
            (false, 0) => "no session fits: nobody is kicked".to_owned(),
            (false, 1) => "1 session ends".to_owned(),
            (false, n) => format!("{n} sessions end, at {:.0} a second: it takes {}", self.rate, words_of(takes)),
        };
        let done = match self.penalty {
            Some(penalty) if sessions > 0 => {
                format!("{what}; their clients are refused with reason kicked for {}", words_of(penalty))
            }
            _ => what,
        };
        Done::new("kick", done)
            .with("sessions", sessions)
            .with("rate", self.rate)
            .with("seconds", takes.as_secs_f64())
            .with("penalty_seconds", self.penalty.map(|penalty| penalty.as_secs_f64()))
    }
}

pub async fn kick(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    let kick = Kick::parse(query, &operator.shared)?;
    let Ok(permit) = Arc::clone(&operator.kicks).try_acquire_owned() else {
        return Err(NotDone::Refused(format!("{MOST_AT_A_TIME} kicks are under way: wait for one to end")));
    };
    let meant = kick.meant(&operator.shared).await;
    operator.not_in_a_takeover()?;
    let answer = kick.answer(meant.len(), false);
    if !meant.is_empty() {
        let (shared, by) = (Arc::clone(&operator.shared), who.name());
        tokio::spawn(async move {
            end(&shared, &kick, meant, &by).await;
            drop(permit);
        });
    }
    Ok(answer)
}

/// What a kick would do.
pub async fn preview(operator: &Operator, query: Query) -> Result<Done, NotDone> {
    let kick = Kick::parse(query, &operator.shared)?;
    Ok(kick.answer(kick.meant(&operator.shared).await.len(), true))
}

/// Lets all clients come back that kicks keep away.
pub fn forgive(operator: &Operator, query: Query) -> Result<Done, NotDone> {
    query.end().and_then(|()| operator.not_in_a_takeover())?;
    let clients = operator.shared.admission.kicked().forgive();
    let done = match clients {
        0 => "no client was kept away".to_owned(),
        1 => "1 client may come back".to_owned(),
        n => format!("{n} clients may come back"),
    };
    Ok(Done::new("kick", done).with("clients", clients))
}

/// Ends the sessions that still fit when it is their turn.
async fn end(shared: &Shared, kick: &Kick, sessions: Vec<Arc<SessionHandle>>, by: &str) {
    let (began, each) = (tokio::time::Instant::now(), Duration::from_secs_f64(1.0 / kick.rate));
    let (mut ended, mut kept_away, mut unknown) = (0_u64, 0_u64, 0_u64);
    for (n, session) in (0_u32..).zip(sessions) {
        sleep_until(began + each.saturating_mul(n)).await;
        if session.end_requested().is_some() || !kick.selection.fits(&session, Moment::now()) {
            continue;
        }
        if let Some(penalty) = kick.penalty {
            let is_kept = |client| shared.admission.kicked().keep_away(client, Instant::now() + penalty);
            *(if session.facts().client.is_some_and(is_kept) { &mut kept_away } else { &mut unknown }) += 1;
        }
        session.end(Cause::Kicked);
        ended += 1;
    }
    let (took, not_kept_away) = (began.elapsed(), (unknown > 0).then_some(unknown));
    info!(by, ended, kept_away, not_kept_away, ?took, "sessions have been kicked");
}

/// How many kicks may be under way.
pub fn permits() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(MOST_AT_A_TIME))
}
