//! What a session is, as one process of weir tells another.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{
    relay::{
        RelayState,
        registry::{ListenerKind, SessionFacts, SessionHandle, TrafficState},
    },
    session::rehome::TermsState,
};

/// The kinds of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Plain,
    Rehomable,
    Passthrough,
}

/// What a session is, as one process of weir tells another. Moments are in nanoseconds, counted from where both
/// processes count.
#[derive(Debug, Serialize, Deserialize)]
pub struct SessionState {
    pub id: u64,
    pub kind: Kind,
    /// Where the client comes from.
    pub peer: SocketAddr,
    /// Where the client has come to.
    pub listener: SocketAddr,
    /// Whether it is a leafnode. A version that does not say so leaves it to what the listener is for.
    #[serde(default)]
    pub is_leafnode: Option<bool>,
    pub accepted: u64,
    /// When its client was let in.
    pub began: u64,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub lang: Option<String>,
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub by_token: bool,
    /// By what weir recognises the client when it comes back.
    #[serde(default)]
    pub client: Option<u64>,
    /// The account for which it counts; `None` where it counts for none.
    #[serde(default)]
    pub account: Option<String>,
    /// The user for whom it counts in quotas by user.
    #[serde(default)]
    pub user_key: Option<u64>,
    /// The address of its server in the configuration.
    pub server: String,
    /// The server's number of the connection.
    #[serde(default)]
    pub server_client_id: u64,
    /// How often it has gone on with another server.
    #[serde(default)]
    pub moves: u16,
    #[serde(default)]
    pub traffic: TrafficState,
    /// What it takes to log in again at another server.
    #[serde(default)]
    pub rehome: Option<TermsState>,
    /// `None` for one that stays where it is, and is only to be counted.
    #[serde(default)]
    pub relay: Option<RelayState>,
}

impl SessionState {
    /// One that is only to be counted.
    pub fn counted(id: u64, listener: SocketAddr, is_leafnode: bool, account: String, server: String) -> Self {
        let (account, is_leafnode) = (Some(account), Some(is_leafnode));
        Self { id, account, server, listener, is_leafnode, ..Self::of(&SessionHandle::default()) }
    }

    /// The same session, to be counted only.
    pub fn to_count(&self) -> Self {
        Self {
            id: self.id,
            kind: self.kind,
            peer: self.peer,
            listener: self.listener,
            is_leafnode: self.is_leafnode,
            accepted: self.accepted,
            began: self.began,
            user: self.user.clone(),
            name: self.name.clone(),
            lang: self.lang.clone(),
            version: self.version.clone(),
            by_token: self.by_token,
            client: self.client,
            account: self.account.clone(),
            user_key: self.user_key,
            server: self.server.clone(),
            server_client_id: self.server_client_id,
            moves: self.moves,
            traffic: TrafficState::default(),
            rehome: None,
            relay: None,
        }
    }

    /// All but what only the session itself knows.
    pub fn of(handle: &SessionHandle) -> Self {
        let SessionFacts { id, accepted, peer, listener, said, by_token, client, .. } = handle.facts();
        let at = handle.at();
        let text = |text: Option<&str>| text.map(str::to_owned);
        Self {
            id: *id,
            kind: Kind::Plain,
            peer: (*peer).into(),
            listener: listener.address,
            is_leafnode: Some(listener.kind == ListenerKind::Leafnode),
            accepted: accepted.raw(),
            began: accepted.raw(),
            user: text(said.user()),
            name: text(said.name()),
            lang: text(said.lang()),
            version: text(said.version()),
            by_token: *by_token,
            client: client.map(|client| client.raw()),
            account: handle.account().as_deref().map(str::to_owned),
            user_key: None,
            server: at.server.as_ref().map(|server| server.address().to_owned()).unwrap_or_default(),
            server_client_id: at.client_id,
            moves: handle.moves(),
            traffic: handle.traffic().state(),
            rehome: None,
            relay: None,
        }
    }
}
