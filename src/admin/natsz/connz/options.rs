//! What a request for connections asks for.

use strum::{EnumString, IntoStaticStr};

use crate::{
    admin::natsz::{
        arguments::{Arguments, BadArgument},
        connz::{Entry, SortKey},
    },
    outcome::{Cause, Refusal},
    relay::registry::Ending,
    tally::shown,
    telemetry::moment::Moment,
};

/// nats-server's `DefaultConnListSize`.
const DEFAULT_LIMIT: usize = 1024;

/// The orders of nats-server. By cid, start, uptime and reason the smallest come first, else the largest.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Sort {
    #[default]
    Cid,
    Start,
    Subs,
    Pending,
    MsgsTo,
    MsgsFrom,
    BytesTo,
    BytesFrom,
    Last,
    Idle,
    Uptime,
    Stop,
    Reason,
    Rtt,
}

/// Which connections: open ones, ended ones, or both.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum State {
    #[default]
    Open,
    Closed,
    Any,
}

/// What a request for connections asks for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Options {
    pub sort: Sort,
    pub state: State,
    /// Users and accounts are shown.
    pub auth: bool,
    pub offset: usize,
    pub limit: usize,
    /// Only the connection with this number; 0 for all.
    pub cid: u64,
    /// Only those of this account, user, server, client name and reason; empty for all.
    pub account: String,
    pub user: String,
    pub server: String,
    pub name: String,
    pub reason: String,
    /// Of the ended ones only clients that were refused.
    pub refused: bool,
    /// Of the open ones only clients that wait for their turn.
    pub held: bool,
    /// There is a condition that no connection of weir's meets.
    pub nobody: bool,
}

impl Options {
    /// Reads the arguments of a request.
    ///
    /// # Errors
    /// One is wrong, in the words of nats-server.
    pub fn of(arguments: &Arguments<'_>) -> Result<Self, BadArgument> {
        let auth = arguments.flag("auth")?;
        if !arguments.text("subs").eq_ignore_ascii_case("detail") {
            arguments.flag("subs")?;
        }
        let (offset, limit) = (arguments.signed("offset")?, arguments.signed("limit")?);
        let cid = arguments.unsigned("cid")?;
        let mut held = false;
        let (state, refused) = match &*arguments.text("state").to_lowercase() {
            "" | "open" => (State::Open, false),
            "closed" => (State::Closed, false),
            "refused" => (State::Closed, true),
            "held" => {
                held = true;
                (State::Open, false)
            }
            "any" | "all" => (State::Any, false),
            _ => return Err(BadArgument(format!("Error decoding state for {}", arguments.text("state")))),
        };
        Self {
            state,
            auth,
            cid,
            account: arguments.text("acc").to_owned(),
            user: shown(arguments.text("user")),
            server: arguments.text("server").to_owned(),
            name: shown(arguments.text("name")),
            reason: reason(arguments.text("reason"))?,
            refused,
            held,
            nobody: !arguments.text("mqtt_client").is_empty(),
            ..Self::default()
        }
        .sorted_by(arguments.text("sort"))
        .map(|options| options.page(offset, limit))
    }

    /// # Errors
    /// There is no such order, or it makes no sense for this state.
    pub fn sorted_by(self, sort: &str) -> Result<Self, BadArgument> {
        let sort = match sort {
            "" => Sort::Cid,
            sort => sort.parse().map_err(|_| BadArgument(format!("invalid sorting option: {sort}")))?,
        };
        if matches!(sort, Sort::Stop | Sort::Reason) && self.state != State::Closed {
            let sort: &str = sort.into();
            return Err(BadArgument(format!("sort by {sort} only valid on closed connections")));
        }
        Ok(Self { sort, ..self })
    }

    /// From the connection at `offset` on, `limit` of them; less than 1 for the default.
    pub fn page(self, offset: i64, limit: i64) -> Self {
        let limit = match usize::try_from(limit) {
            _ if self.cid > 0 => 1,
            Ok(limit @ 1..) => limit,
            _ => DEFAULT_LIMIT,
        };
        Self { offset: usize::try_from(offset).unwrap_or(0), limit, ..self }
    }

    /// Whether it counts in `total`.
    pub fn counts(&self, entry: &Entry) -> bool {
        let is_refused = || matches!(entry.ended.as_ref().map(|ended| ended.ending), Some(Ending::Refused(_)));
        let is_of_account = || entry.session.account().is_some_and(|account| *account == *self.account);
        (!self.refused || is_refused()) && (!self.held || entry.is_held) && (self.account.is_empty() || is_of_account())
    }

    /// Whether it is shown, if it counts.
    pub fn shows(&self, entry: &Entry) -> bool {
        let facts = entry.session.facts();
        let is = |wanted: &str, is: Option<&str>| wanted.is_empty() || is == Some(wanted);
        !self.nobody
            && (self.cid == 0 || self.cid == facts.id)
            && is(&self.user, facts.user_as_shown())
            && is(&self.name, facts.said.name())
            && (self.server.is_empty() || is(&self.server, entry.session.at().name()))
            && is(&self.reason, entry.ended.as_ref().map(|ended| ended.ending.reason()))
    }
}

/// A reason with which a connection can end, or none.
fn reason(text: &str) -> Result<String, BadArgument> {
    let mut names = Refusal::ALL.map(Refusal::name).into_iter().chain(Cause::ALL.map(Cause::name));
    match text.is_empty() || names.any(|name| name == text) {
        true => Ok(text.to_owned()),
        false => Err(BadArgument(format!("there is no reason {text:?}: docs/reference/reasons.md has all"))),
    }
}

impl Sort {
    /// What comes first has the smallest key.
    pub(super) fn key(self, entry: &Entry, now: Moment) -> SortKey {
        let (session, largest_first) = (&entry.session, |number: u64| u64::MAX - number);
        let totals = session.traffic().totals();
        let nanos = |span: std::time::Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        SortKey::Number(match self {
            Self::Cid | Self::Start | Self::Subs | Self::Pending => session.facts().id,
            Self::MsgsTo => largest_first(totals.messages_down),
            Self::MsgsFrom => largest_first(totals.messages_up),
            Self::BytesTo => largest_first(totals.payload_down),
            Self::BytesFrom => largest_first(totals.payload_up),
            Self::Last => largest_first(session.traffic().last_activity().raw()),
            // Who was active longest ago is idle for longest.
            Self::Idle => session.traffic().last_activity().raw(),
            Self::Uptime => nanos(entry.lived(now)),
            Self::Stop => largest_first(entry.ended.as_ref().map_or(0, |ended| ended.stop.raw())),
            Self::Reason => return SortKey::Text(entry.ended.as_ref().map_or("", |ended| ended.ending.reason())),
            Self::Rtt => largest_first(session.traffic().rtt().map_or(0, nanos)),
        })
    }
}
