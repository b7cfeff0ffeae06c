//! What all sessions share.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};

use crate::{
    admission::{BySource, Limit, policies::Policies},
    advertised_info::AdvertisedInfo,
    cluster::account_lookup::AccountLookup,
    dispatch::SessionAdmission,
    events::watch::Row,
    fleet::Fleet,
    identity::{Directory, Keys, trusted_proxy::ProxyKey},
    net::socket::TcpTimeouts,
    notify::Notifier,
    rebalance::under_way::UnderWay,
    relay::registry::SessionRegistry,
    reports::Reports,
    session::{
        damped_dials::DampedDials, descriptors::Descriptors, ghosts::Ghosts, move_orders::MoveOrders,
        read_ahead::ReadAhead, takeover::Takeover,
    },
    tally::Tallies,
    telemetry::{counters::Counters, storms::Flight},
    tls::{Connector, Terminator},
    upstream::Servers,
    worker::Heartbeats,
};

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// The servers.
    pub servers: Arc<Servers>,
    /// Who gets in, and when.
    pub admission: Arc<SessionAdmission>,
    /// Notified when a client begins to wait for its turn.
    pub arrived: Arc<Notify>,
    /// Whose credentials belong to which account.
    pub directory: Arc<Directory>,
    /// Makes keys of credentials and clients.
    pub keys: Arc<Keys>,
    /// Where accounts are asked for that a server did not name.
    pub account_lookups: mpsc::Sender<AccountLookup>,
    /// The servers' INFO.
    pub advertised_info: Arc<AdvertisedInfo>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// Who did not get in, and why.
    pub tallies: Tallies,
    /// What clients have to be like.
    pub policies: ArcSwap<Policies>,
    /// What samples of sessions and counts have shown.
    pub reports: Reports,
    /// Dials for damped sources.
    pub damped_dials: DampedDials,
    /// Sessions that are to go to another server.
    pub move_orders: MoveOrders,
    /// Clients that lack a place that a ghost of theirs may have.
    pub ghosts: Ghosts,
    /// Servers' connections whose clients have not answered yet, by source.
    pub unanswered: Arc<BySource>,
    /// The record of storms.
    pub flight: Flight,
    /// Where events are told.
    pub notifier: Arc<Notifier>,
    /// How full servers, accounts and listeners are, as of the last second.
    pub usage: ArcSwap<Vec<Row>>,
    /// The moves that are under way, as of the last half second.
    pub moves_under_way: ArcSwap<UnderWay>,
    /// A takeover by another process.
    pub takeover: Takeover,
    /// The sessions that relay.
    pub sessions: Arc<SessionRegistry>,
    /// The clients that wait for their turn, for those who look at connections.
    pub held: Arc<SessionRegistry>,
    /// Whether the threads make progress.
    pub heartbeats: Heartbeats,
    /// The limit of open files.
    pub descriptors: Descriptors,
    /// How much is read of clients that are not in yet.
    pub read_ahead: ReadAhead,
    /// The key by which servers know weir as a trusted proxy.
    pub proxy_key: Option<ProxyKey>,
    /// Whether the servers are told the clients' addresses by PROXY headers.
    pub sends_proxy_headers: bool,
    /// The clients of each listener that is open.
    pub listeners: ArcSwap<Vec<(SocketAddr, Arc<Limit>)>>,
    /// The ends of TLS, by listener.
    pub terminators: ArcSwap<Vec<(SocketAddr, Arc<Terminator>)>>,
    /// When the kernel gives up connections to servers.
    pub servers_tcp: TcpTimeouts,
    /// TLS towards the servers.
    pub servers_tls: Option<Arc<Connector>>,
    /// TLS towards the servers' WebSocket ports.
    pub websocket_tls: Option<Arc<Connector>>,
    /// Whether clients of WebSocket listeners are connected to the servers' WebSocket ports.
    pub dials_websockets: AtomicBool,
    /// The fleet that this weir belongs to.
    pub fleet: Option<Arc<Fleet>>,
    /// The next session's id.
    pub next_id: AtomicU64,
}
