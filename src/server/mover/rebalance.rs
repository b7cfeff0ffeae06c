//! The rebalance that an operator asks for, or that begins by itself. One at a time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{Census, Current, Mover, carry_out::Go, movable, role};
use crate::{
    fleet::{Fleet, rebalancing::Stage},
    identity::ClientKey,
    outcome::MoveCause,
    rebalance::{
        plan::{Plan, Role, plan},
        run::{Manner, Progress, Run, Step},
        under_way::Status,
    },
    relay::registry::SessionHandle,
    upstream::{Server, ServerId},
};

/// In a fleet a rebalance begins so long after its announcement: at least two beats tell of it.
const ANNOUNCED_FOR: Duration = Duration::from_millis(600);

/// So many clients that wait for their turn, beside those that are being moved, are a storm.
const STORM: usize = 16;

/// What is asked for.
pub struct Asked {
    /// Moves per second. `None`: the pace at which the cluster takes clients.
    pub rate: Option<f64>,
    /// Nothing is done while the highest share of a server over the lowest one is no more than this.
    pub to: f64,
    /// Which sessions may be moved.
    pub is_meant: Box<dyn Fn(&SessionHandle) -> bool + Send + Sync>,
    /// Who asks.
    pub by: String,
    /// The servers that are back, where it undoes what weir has done when they shut down: those who have been moved of
    /// late go last, and do go.
    pub returned: Vec<ServerId>,
}

/// What a rebalance does.
#[derive(Debug, Clone)]
pub struct Preview {
    pub plan: Plan,
    /// The servers by position in the plan, with their sessions now.
    pub servers: Vec<(Arc<Server>, u32)>,
    pub rate: f64,
}

impl Preview {
    /// How long it takes at the rate, if all clients land at once.
    pub fn takes(&self) -> Duration {
        Duration::try_from_secs_f64(f64::from(self.plan.clients()) / self.rate).unwrap_or(Duration::MAX)
    }

    fn of(census: &Census, asked: &Asked, pace: f64) -> Self {
        let servers = census.servers.iter().cloned().zip(census.now.iter().map(|one| one.sessions)).collect();
        Self { plan: plan(&census.now, asked.to), servers, rate: asked.rate.unwrap_or(pace) }
    }
}

impl Mover {
    async fn census(&self, asked: &Asked) -> Census {
        let now = Instant::now();
        let mut sessions: HashMap<ClientKey, u32> = HashMap::new();
        let mut census = Census::take(
            self.shared(),
            |server| role(server, now),
            |session| {
                if let Some(client) = movable(session) {
                    *sessions.entry(client).or_default() += 1;
                }
                (asked.is_meant)(session) && self.evens_out(session, now)
            },
        )
        .await;
        census.heed(&self.state().history, &sessions, now, asked.returned.is_empty());
        census
    }

    /// Whether the servers are more even once this session is elsewhere, if it is of a leafnode: whatever slot is kept
    /// for that, it goes to the server with the fewest leafnodes.
    pub(super) fn evens_out(&self, session: &SessionHandle, now: Instant) -> bool {
        let servers = &self.shared().servers;
        !session.is_leafnode()
            || servers.get(session.server_id()).is_some_and(|at| servers.evener_for_leafnode(&at, now).is_some())
    }

    async fn planned(&self, asked: &Asked) -> (Census, Preview) {
        let census = self.census(asked).await;
        let preview = Preview::of(&census, asked, self.pace(Instant::now()));
        (census, preview)
    }

    /// What a rebalance would do now.
    pub async fn preview(&self, asked: &Asked) -> Preview {
        self.planned(asked).await.1
    }

    /// Begins a rebalance, which goes on by itself.
    ///
    /// # Errors
    /// One is under way, or it cannot begin now, and why.
    pub async fn rebalance(&self, asked: Asked) -> Result<Preview, String> {
        if let Some(current) = &self.state().current {
            return Err(format!("a rebalance by {} is under way: see weir rebalance --status", current.by));
        }
        if let Some(why) = self.why_not() {
            return Err(why);
        }
        let (mut census, mut preview) = self.planned(&asked).await;
        let mut turn = None;
        if let Some(fleet) = &self.shared().fleet
            && preview.plan.clients() > 0
        {
            turn = Some(Turn::take(fleet).await?);
            // Another weir may just have moved its clients.
            (census, preview) = self.planned(&asked).await;
        }
        if preview.plan.clients() == 0 {
            return Ok(preview);
        }
        let now = Instant::now();
        let run = Run::new(&preview.plan, census.candidates, preview.rate, Manner::ForBalance, now);
        {
            let mut state = self.state();
            if state.current.is_some() {
                return Err("a rebalance is under way: see weir rebalance --status".to_owned());
            }
            let returned = asked.returned.clone();
            state.current = Some(Current { run, by: asked.by.clone(), returned, began: now, stopped: None });
        }
        info!(by = asked.by, clients = preview.plan.clients(), rate = preview.rate, "rebalance begins");
        let (mover, plan, servers) = (self.clone(), preview.plan.clone(), census.servers);
        tokio::spawn(async move {
            mover.run(&plan, &servers).await;
            drop(turn);
        });
        Ok(preview)
    }

    async fn run(&self, plan: &Plan, servers: &[Arc<Server>]) {
        // Dropped too if this task panics: the next rebalance is not kept out.
        let ends = EndsRun(self);
        let with_run = |step: &mut dyn FnMut(&mut Run) -> Step| match &mut self.state().current {
            Some(current) => step(&mut current.run),
            None => Step::Done,
        };
        let go = || {
            let why = {
                let state = self.state();
                state.current.as_ref().and_then(|current| current.stopped.clone())
            };
            if self.shared().admission.is_draining() {
                return Go::Leave;
            }
            let why = why.or_else(|| self.why_not()).or_else(|| unwell(plan, servers));
            let Some(why) = why else { return Go::On };
            if let Some(current) = &mut self.state().current {
                current.stopped.get_or_insert_with(|| why.clone());
            }
            Go::Stop(why)
        };
        self.carry_out(servers, MoveCause::Rebalance, None, with_run, go).await;
        drop(ends);
    }

    /// Why nobody is moved for the sake of balance now, whichever servers are meant.
    pub(super) fn why_not(&self) -> Option<String> {
        let admission = &self.shared().admission;
        let (queued, moving) = (admission.waiting().queued, admission.moving().len());
        if admission.is_draining() || admission.is_lame_duck() {
            Some("weir is stopping".to_owned())
        } else if admission.is_paused() {
            Some("weir is paused".to_owned())
        } else if queued > moving + STORM {
            Some(format!("{queued} clients wait for their turn: a storm is on"))
        } else {
            let fleet = self.shared().fleet.as_ref();
            fleet
                .and_then(|fleet| fleet.rebalances_first())
                .map(|weir| format!("{weir} of the fleet moves its clients"))
        }
    }

    /// How far the rebalance is, or how the last one ended.
    pub fn status(&self) -> Option<Status> {
        self.state().status()
    }

    /// Pauses the rebalance, or resumes it. `None` where there is none.
    pub fn pause_rebalance(&self, is_paused: bool) -> Option<Status> {
        let mut state = self.state();
        let current = state.current.as_mut()?;
        current.run.pause(is_paused);
        let by = &current.by;
        match is_paused {
            true => info!(by, "rebalance is paused"),
            false => info!(by, "rebalance is resumed"),
        }
        Some(current.status())
    }

    /// Ends the rebalance; those on their way land. `None` where there is none.
    pub fn abort_rebalance(&self, by: &str) -> Option<Status> {
        let mut state = self.state();
        let current = state.current.as_mut()?;
        current.stopped.get_or_insert_with(|| format!("aborted by {by}"));
        current.run.stop();
        let (status, returned) = (current.status(), std::mem::take(&mut current.returned));
        // What an operator has ended does not begin again by itself.
        state.forget_emptied(&returned);
        Some(status)
    }
}

/// That this weir is the one of its fleet that moves clients for balance, until this is dropped.
struct Turn(Arc<Fleet>);

impl Turn {
    /// Announces it, and waits until the others have heard of that.
    ///
    /// # Errors
    /// Another weir goes first, and why.
    async fn take(fleet: &Arc<Fleet>) -> Result<Self, String> {
        if fleet.rebalancing().is_some() {
            return Err("a rebalance is about to begin: see weir rebalance --status".to_owned());
        }
        fleet.set_rebalancing(Some(Stage::Announced));
        let turn = Self(Arc::clone(fleet));
        sleep(ANNOUNCED_FOR).await;
        if let Some(weir) = fleet.rebalances_first() {
            return Err(format!("{weir} of the fleet moves its clients first"));
        }
        fleet.set_rebalancing(Some(Stage::Running));
        Ok(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.set_rebalancing(None);
    }
}

struct EndsRun<'a>(&'a Mover);

impl Drop for EndsRun<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let Some(current) = state.current.take() else { return };
        let status = Status { state: "ended".to_owned(), seconds_left: 0.0, ..current.status() };
        let Status { progress: Progress { landed, elsewhere, late, left, .. }, ref stopped, ref by, .. } = status;
        let took = current.began.elapsed();
        match stopped {
            None => info!(by, landed, elsewhere, late, left, ?took, "rebalance has ended"),
            Some(why) => warn!(by, landed, elsewhere, late, left, ?took, why, "rebalance has stopped"),
        }
        // Those who are left do not go, since they are never idle: to try again would only be heard in the log.
        if landed == 0 && stopped.is_none() {
            state.forget_emptied(&current.returned);
        }
        state.last = Some(status);
        state.last_ended = Some(Instant::now());
    }
}

impl Current {
    pub(super) fn status(&self) -> Status {
        let now = Instant::now();
        let state = match (&self.stopped, self.run.is_paused()) {
            (Some(_), _) => "stopping",
            (None, true) => "paused",
            (None, false) => "running",
        };
        Status {
            state: state.to_owned(),
            by: self.by.clone(),
            progress: self.run.progress(),
            rate: self.run.rate(),
            seconds: now.saturating_duration_since(self.began).as_secs_f64(),
            seconds_left: self.run.time_left(self.began, now).as_secs_f64(),
            stopped: self.stopped.clone(),
        }
    }
}

/// A server of the plan that takes or gives no clients any more, in words.
fn unwell(plan: &Plan, servers: &[Arc<Server>]) -> Option<String> {
    let now = Instant::now();
    let ends = plan.flows.iter().flat_map(|flow| [(flow.from, false), (flow.to, true)]);
    ends.filter_map(|(at, takes)| Some((servers.get(at)?, takes))).find_map(|(server, takes)| {
        let role = role(server, now);
        // One that fills up has its slots kept: only what is not kept is missing.
        let is_unwell =
            role == Role::Stays || takes && role == Role::Gives && server.load().projected() < server.load().ceiling();
        let (standing, why) = server.standing(now);
        is_unwell.then(|| format!("{}: {}", server.name(), why.unwrap_or_else(|| standing.name().to_owned())))
    })
}
