//! `/leafz`: the leafnodes that are connected through this weir.

use std::{sync::Arc, time::SystemTime};

use serde::Serialize;

use crate::{admin::natsz::go_text, relay::registry::SessionHandle, session::Shared};

/// What nats-server says of a leafnode with which it has agreed on no compression.
const NO_COMPRESSION: &str = "not supported";

/// `/leafz`.
#[derive(Debug, Serialize)]
pub struct Leafz {
    server_id: String,
    now: String,
    leafnodes: usize,
    leafs: Vec<Leafnode>,
}

#[derive(Debug, Serialize)]
struct Leafnode {
    id: u64,
    name: String,
    /// weir does not read whether the remote says `hub: true`.
    is_spoke: bool,
    account: String,
    ip: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt: Option<String>,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    subscriptions: u32,
    compression: &'static str,
    /// The address of the listener, the name of its hub, and the hub's own number of the connection: weir's own.
    listener: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_cid: Option<u64>,
}

impl Leafnode {
    fn of(session: &SessionHandle) -> Self {
        let (facts, traffic, at) = (session.facts(), session.traffic(), session.at());
        let (totals, rtt) = (traffic.totals(), traffic.rtt());
        Self {
            id: facts.id,
            name: facts.said.name().unwrap_or_default().to_owned(),
            is_spoke: false,
            account: session.account().as_deref().unwrap_or_default().to_owned(),
            ip: facts.peer.ip().to_string(),
            port: facts.peer.port(),
            rtt: rtt.map(|rtt| format!("{rtt:?}")),
            in_msgs: totals.messages_up,
            out_msgs: totals.messages_down,
            in_bytes: totals.payload_up,
            out_bytes: totals.payload_down,
            subscriptions: 0,
            compression: facts.compression.map_or(NO_COMPRESSION, |mode| mode.level(rtt.unwrap_or_default()).into()),
            listener: facts.listener.address.to_string(),
            server: at.name().map(str::to_owned),
            server_cid: (at.client_id > 0).then_some(at.client_id),
        }
    }
}

/// Those of this account, or all where it is empty.
pub async fn of(shared: &Shared, account: &str) -> Leafz {
    let mut leafs = Vec::new();
    let is_asked = |session: &SessionHandle| account.is_empty() || session.account().is_some_and(|of| *of == *account);
    // Without one there is nothing to look for.
    if shared.sessions.leafnodes() > 0 {
        let look = |session: &Arc<SessionHandle>| {
            if session.is_leafnode() && is_asked(session) {
                leafs.push(Leafnode::of(session));
            }
        };
        shared.sessions.for_each(look).await;
    }
    leafs.sort_unstable_by_key(|one| one.id);
    Leafz {
        server_id: shared.advertised_info.own_server_id().to_owned(),
        now: go_text::time(SystemTime::now()),
        leafnodes: leafs.len(),
        leafs,
    }
}
