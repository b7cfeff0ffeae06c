//! `drain` and `undrain`: a server gets no new clients and its sessions end, until it is undrained.

use std::{sync::Arc, time::Instant};

use crate::{
    admin::{
        prometheus::by_name,
        socket::{
            Operator, Who,
            answer::{Done, NotDone},
            query::Query,
        },
    },
    session::Shared,
    upstream::{Drained, Server},
};

pub fn drain(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    operator.not_in_a_takeover()?;
    let (name, server) = chosen(operator, query)?;
    let sessions = server.load().sessions();
    let mut done = match operator.members.drain(server.id(), &format!("weir drain by {}", who.name())) {
        Drained::Unknown => return Err(leaves(&name)),
        Drained::Already(_) => format!("{name} is drained already; {}", left(sessions, "is left", "are left")),
        Drained::Done(_) => {
            let ends = left(sessions, "ends", "end one after another");
            format!("{name} is drained: it gets no new clients until weir undrain {name}; {ends}")
        }
    };
    if operator.shared.servers.can_use_none(Instant::now()) {
        done += "; no other server can be used, so that all clients are refused with reason no_server";
    }
    Ok(Done::new("drain", done).with("server", name).with("drained", true).with("sessions", sessions))
}

pub fn undrain(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    operator.not_in_a_takeover()?;
    let (name, server) = chosen(operator, query)?;
    let sessions = server.load().sessions();
    let done = match operator.members.undrain(server.id(), &format!("weir undrain by {}", who.name())) {
        Drained::Unknown => return Err(leaves(&name)),
        Drained::Already(_) => format!("{name} was not drained"),
        Drained::Done(_) => format!("{name} gets its share of new clients again"),
    };
    Ok(Done::new("undrain", done).with("server", name).with("drained", false).with("sessions", sessions))
}

fn leaves(name: &str) -> NotDone {
    NotDone::Refused(format!("{name} is no server of the configuration any more: it is drained for good"))
}

fn left(sessions: u32, one: &str, more: &str) -> String {
    match sessions {
        0 => "it has no session".to_owned(),
        1 => format!("its one session {one}"),
        n => format!("its {n} sessions {more}"),
    }
}

/// The server that the query names, with the name by which metrics tell it from others.
fn chosen(operator: &Operator, mut query: Query) -> Result<(String, Arc<Server>), NotDone> {
    let wanted = query.required("server")?;
    query.end()?;
    of_name(&operator.shared, &wanted)
}

/// The server with this name or address.
pub fn of_name(shared: &Shared, wanted: &str) -> Result<(String, Arc<Server>), NotDone> {
    let servers = by_name(shared.servers.iter());
    let is_meant = |(name, server): &&(String, Arc<Server>)| name == wanted || server.address() == wanted;
    let mut found = servers.iter().filter(is_meant);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.clone()),
        (Some(_), Some(_)) => Err(NotDone::Refused(format!("{wanted} is the name of several servers"))),
        (None, _) => {
            let names: Vec<_> = servers.iter().map(|(name, _)| &**name).collect();
            Err(NotDone::Unknown(format!("there is no server {wanted}; there are {}", names.join(", "))))
        }
    }
}
