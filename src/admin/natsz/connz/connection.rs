//! One connection, as `/connz` shows it.

use serde::Serialize;

use crate::{
    admin::natsz::{connz::Entry, go_text},
    outcome::{Party, Phase},
    relay::registry::{Ending, ListenerKind},
    telemetry::moment::Moment,
};

/// The account of a nats-server without accounts, which nats-server does not show.
const GLOBAL_ACCOUNT: &str = "$G";

/// One connection. What nats-server has comes first.
#[derive(Debug, Serialize)]
pub struct Connection<'a> {
    cid: u64,
    kind: &'static str,
    r#type: &'static str,
    ip: String,
    port: u16,
    start: String,
    last_activity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt: Option<String>,
    uptime: String,
    idle: String,
    pending_bytes: u64,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    subscriptions: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lang: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cipher_suite: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorized_user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    /// The address of the listener.
    listener: String,
    listener_kind: &'static str,
    /// The name of its server, and the server's own number of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_cid: Option<u64>,
    /// Whether it goes on with another server when its own is lost or emptied, and how often it has done so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rehomable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    moves: Option<u16>,
    /// `refused` or `closed`; by whom it was closed, and how far it had come then, or where it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    party: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'static str>,
}

impl<'a> Connection<'a> {
    /// As it is at `now`; with `auth` its user and account are shown.
    pub fn new(entry: &'a Entry, now: Moment, auth: bool) -> Self {
        let (facts, traffic) = (entry.session.facts(), entry.session.traffic());
        let (totals, last) = (traffic.totals(), traffic.last_activity());
        let (account, at) = (entry.session.account(), entry.session.at());
        let ending = entry.ended.as_ref().map(|ended| ended.ending);
        let is_read = facts.listener.kind != ListenerKind::Passthrough;
        Self {
            cid: facts.id,
            kind: if facts.listener.kind == ListenerKind::Leafnode { "Leafnode" } else { "Client" },
            r#type: if facts.listener.is_websocket { "websocket" } else { "nats" },
            ip: facts.peer.ip().to_string(),
            port: facts.peer.port(),
            start: go_text::time(facts.accepted.time_of_day()),
            last_activity: go_text::time(last.time_of_day()),
            stop: entry.ended.as_ref().map(|ended| go_text::time(ended.stop.time_of_day())),
            reason: ending.map(Ending::reason),
            rtt: traffic.rtt().map(|rtt| format!("{rtt:?}")),
            uptime: go_text::uptime(entry.lived(now)),
            idle: go_text::uptime(entry.ended.as_ref().map_or(now, |ended| ended.stop).since(last)),
            pending_bytes: 0,
            in_msgs: totals.messages_up,
            out_msgs: totals.messages_down,
            in_bytes: if is_read { totals.payload_up } else { totals.bytes_up },
            out_bytes: if is_read { totals.payload_down } else { totals.bytes_down },
            subscriptions: 0,
            name: facts.said.name(),
            lang: facts.said.lang(),
            version: facts.said.version(),
            tls_version: facts.tls.map(|tls| tls.version()),
            tls_cipher_suite: facts.tls.map(|tls| tls.cipher()),
            authorized_user: facts.user_as_shown().filter(|_| auth),
            account: account.filter(|account| auth && **account != *GLOBAL_ACCOUNT).map(|account| account.to_string()),
            listener: facts.listener.address.to_string(),
            listener_kind: facts.listener.configured_kind().into(),
            server: at.name().map(str::to_owned),
            server_cid: (at.client_id > 0).then_some(at.client_id),
            rehomable: entry.session.is_rehomable(),
            moves: Some(entry.session.moves()).filter(|moves| *moves > 0),
            outcome: ending.map(|ending| if matches!(ending, Ending::Refused(_)) { "refused" } else { "closed" }),
            party: ending.map(|ending| match ending {
                Ending::Refused(_) => Party::Weir.name(),
                Ending::Closed(close) => close.party.name(),
            }),
            phase: match ending {
                None => entry.is_held.then(|| Phase::Hold.name()),
                Some(Ending::Refused(_)) => None,
                Some(Ending::Closed(close)) => Some(close.phase.name()),
            },
        }
    }
}
