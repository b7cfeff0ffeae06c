//! `rebalance`: clients are moved from server to server until all are filled to the same share.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use crate::{
    admin::{
        prometheus::by_name,
        socket::{
            Operator, Who,
            answer::{Done, NotDone},
            pause::words_of,
            query::Query,
            selection::Selection,
        },
    },
    rebalance::run::Progress,
    rebalance::under_way::Status,
    server::mover::{Asked, Preview},
    telemetry::moment::Moment,
};

/// Nothing is done while the highest share over the lowest one is no more than this.
const EVEN: f64 = 1.1;

fn parse(mut query: Query, operator: &Operator, by: String) -> Result<Asked, NotDone> {
    let rate = match query.optional("rate")? {
        None => None,
        // As on the command line: 50 and 50/s are the same.
        Some(text) => match text.strip_suffix("/s").unwrap_or(&text).parse::<u32>() {
            Ok(rate @ 1..=1_000_000) => Some(rate.into()),
            _ => return Err(NotDone::Usage("rate: write moves per second, 1 to 1000000, such as 50/s".to_owned())),
        },
    };
    let to = match query.optional("to")? {
        None => EVEN,
        Some(text) => match text.parse::<f64>() {
            Ok(to) if (1.0..=100.0).contains(&to) => to,
            _ => return Err(NotDone::Usage("to: write the highest share over the lowest one, 1 to 100".to_owned())),
        },
    };
    let selection = Selection::parse_any(&mut query, &operator.shared)?;
    query.end()?;
    let is_meant = Box::new(move |session: &_| selection.fits(session, Moment::now()));
    Ok(Asked { rate, to, is_meant, by, returned: Vec::new() })
}

pub async fn begin(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    operator.not_in_a_takeover()?;
    let asked = parse(query, operator, format!("weir rebalance by {}", who.name()))?;
    let preview = operator.members.mover().rebalance(asked).await.map_err(NotDone::Refused)?;
    Ok(answer(operator, &preview, false))
}

/// What a rebalance would do.
pub async fn preview(operator: &Operator, query: Query) -> Result<Done, NotDone> {
    let asked = parse(query, operator, String::new())?;
    Ok(answer(operator, &operator.members.mover().preview(&asked).await, true))
}

fn answer(operator: &Operator, preview: &Preview, is_preview: bool) -> Done {
    let Preview { plan, servers, rate } = preview;
    let names = by_name(operator.shared.servers.iter());
    let name = |at: usize| {
        let server = servers.get(at).map(|(server, _)| server);
        let of = |server: &_| names.iter().find(|(_, other)| Arc::ptr_eq(other, server)).map(|(name, _)| name.clone());
        server.and_then(of).unwrap_or_default()
    };
    let (clients, takes) = (plan.clients(), preview.takes());
    let mut done = match (clients, is_preview) {
        (0, _) => "no client is to be moved: the servers are even enough, or nobody may be moved now".to_owned(),
        (1, true) => "a rebalance would move 1 client".to_owned(),
        (n, true) => {
            format!("a rebalance would move {n} clients, at most {rate:.0} a second: at least {}", words_of(takes))
        }
        (1, false) => "1 client is moved".to_owned(),
        (n, false) => format!("{n} clients are moved, at most {rate:.0} a second: at least {}", words_of(takes)),
    };
    for flow in &plan.flows {
        done += &format!("\n{} from {} to {}", flow.clients, name(flow.from), name(flow.to));
    }
    for (at, ((_, before), after)) in servers.iter().zip(&plan.after).enumerate().filter(|_| clients > 0) {
        done += &format!("\n{}: {before} sessions, then {after}", name(at));
    }
    let flows =
        plan.flows.iter().map(|flow| json!({"from": name(flow.from), "to": name(flow.to), "clients": flow.clients}));
    let after = servers
        .iter()
        .zip(&plan.after)
        .enumerate()
        .map(|(at, ((_, before), after))| json!({"server": name(at), "sessions": before, "after": after}));
    Done::new("rebalance", done)
        .with("clients", clients)
        .with("moves", flows.collect::<Vec<Value>>())
        .with("servers", after.collect::<Vec<Value>>())
        .with("rate", *rate)
        .with("seconds", takes.as_secs_f64())
}

/// How far it is, or how the last one ended.
pub fn status(operator: &Operator) -> Result<Done, NotDone> {
    match operator.members.mover().status() {
        None => Ok(Done::new("rebalance", "there has been no rebalance since weir started").with("state", "none")),
        Some(status) => Ok(shown(status)),
    }
}

pub fn pause(operator: &Operator, query: Query, _: &Who) -> Result<Done, NotDone> {
    query.end()?;
    under_way(operator.members.mover().pause_rebalance(true))
}

pub fn resume(operator: &Operator, query: Query, _: &Who) -> Result<Done, NotDone> {
    query.end()?;
    under_way(operator.members.mover().pause_rebalance(false))
}

pub fn abort(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    query.end()?;
    under_way(operator.members.mover().abort_rebalance(&who.name()))
}

fn under_way(status: Option<Status>) -> Result<Done, NotDone> {
    status.map(shown).ok_or_else(|| NotDone::Refused("no rebalance is under way".to_owned()))
}

fn shown(status: Status) -> Done {
    let seconds = |seconds: f64| words_of(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    let Status { state, by, progress, .. } = &status;
    let Progress { planned, landed, elsewhere, late, on_their_way, left } = progress;
    let mut done =
        format!("{state}, {by}: {landed} of {planned} clients have been moved in {}", seconds(status.seconds));
    done +=
        &format!("; {on_their_way} on their way, {left} left, {elsewhere} went elsewhere, {late} did not come back");
    if state == "running" {
        done += &format!("; about {} to go", seconds(status.seconds_left));
    }
    if let Some(why) = &status.stopped {
        done += &format!("; stopped: {why}");
    }
    let mut answer = Done::new("rebalance", done);
    if let Ok(Value::Object(fields)) = serde_json::to_value(&status) {
        answer.more.extend(fields);
    }
    answer
}
