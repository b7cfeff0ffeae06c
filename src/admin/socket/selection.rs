//! Which sessions `kick` and `rebalance` are about: those that fit every selector that is given.

use std::time::Duration;

use globset::{Glob, GlobMatcher};
use ipnet::IpNet;

use crate::{
    admin::socket::{answer::NotDone, query::Query},
    relay::registry::{ListenerKind, SessionHandle},
    session::Shared,
    telemetry::moment::Moment,
    upstream::ServerId,
};

/// A pattern in which `*` and `?` are wildcards.
#[derive(Debug)]
struct Pattern(GlobMatcher);

/// The selectors, each of which a session must fit.
#[derive(Debug)]
pub struct Selection {
    account: Option<Pattern>,
    user: Option<Pattern>,
    name: Option<Pattern>,
    source: Option<IpNet>,
    server: Option<ServerId>,
    idle: Option<Duration>,
    older_than: Option<Duration>,
}

impl Selection {
    /// Reads the selectors of a request.
    ///
    /// # Errors
    /// One is not what it should be, or there is none.
    pub fn parse(query: &mut Query, shared: &Shared) -> Result<Self, NotDone> {
        let all = Self::parse_any(query, shared)?;
        let Self { account, user, name, source, server, idle, older_than } = &all;
        let patterns = [account, user, name].iter().any(|one| one.is_some());
        if !patterns && source.is_none() && server.is_none() && idle.is_none() && older_than.is_none() {
            let remedy = "write at least one of account, user, name, source, server, idle and older_than";
            return Err(NotDone::Usage(format!("nothing says which sessions are meant; {remedy}")));
        }
        Ok(all)
    }

    /// Reads the selectors of a request; without any all sessions are meant.
    ///
    /// # Errors
    /// One is not what it should be.
    pub fn parse_any(query: &mut Query, shared: &Shared) -> Result<Self, NotDone> {
        Ok(Self {
            account: pattern(query, "account")?,
            user: pattern(query, "user")?,
            name: pattern(query, "name")?,
            source: query.optional("source")?.map(|text| source(&text)).transpose()?,
            server: match query.optional("server")? {
                None => None,
                Some(wanted) => Some(super::drain::of_name(shared, &wanted)?.1.id()),
            },
            idle: duration(query, "idle")?,
            older_than: duration(query, "older_than")?,
        })
    }

    /// Whether a session fits all of them.
    pub fn fits(&self, session: &SessionHandle, now: Moment) -> bool {
        let facts = session.facts();
        let fits = |pattern: &Option<Pattern>, text: Option<&str>| {
            pattern.as_ref().is_none_or(|pattern| pattern.0.is_match(text.unwrap_or_default()))
        };
        // A token is a secret and no user.
        let user = facts.said.user().filter(|_| !facts.by_token);
        let is_idle_for = |least: Duration| {
            // Of TLS that is passed through weir does not know what is a message.
            facts.listener.kind != ListenerKind::Passthrough && now.since(session.traffic().last_activity()) >= least
        };
        fits(&self.user, user)
            && fits(&self.name, facts.said.name())
            && self.source.is_none_or(|source| source.contains(&facts.peer.ip()))
            && self.server.is_none_or(|server| session.server_id() == server)
            && self.older_than.is_none_or(|least| now.since(facts.accepted) >= least)
            && self.idle.is_none_or(is_idle_for)
            && (self.account.is_none() || fits(&self.account, session.account().as_deref()))
    }
}

/// An empty pattern is for those who have said nothing.
fn pattern(query: &mut Query, key: &str) -> Result<Option<Pattern>, NotDone> {
    let Some(text) = query.optional(key)? else { return Ok(None) };
    let glob = Glob::new(&text).map_err(|err| NotDone::Usage(format!("{key}: {err}; * and ? are wildcards")))?;
    Ok(Some(Pattern(glob.compile_matcher())))
}

fn source(text: &str) -> Result<IpNet, NotDone> {
    let address = || text.parse().map(|address: std::net::IpAddr| IpNet::from(address.to_canonical()));
    let wrong = |_| NotDone::Usage(format!("source: {text:?} is neither; write an address or a network in CIDR form"));
    text.parse().or_else(|_| address()).map_err(wrong)
}

/// A length of time, such as `90s` or `5m`.
pub fn duration(query: &mut Query, key: &str) -> Result<Option<Duration>, NotDone> {
    let Some(text) = query.optional(key)? else { return Ok(None) };
    let wrong = |err| NotDone::Usage(format!("{key}: {text:?}: {err}; write a number with a unit, such as 90s or 5m"));
    humantime::parse_duration(&text).map(Some).map_err(wrong)
}
