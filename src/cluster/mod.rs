//! Reading the servers at an interval, over the cluster's system account or their monitoring ports, and their INFO until it is known.

mod account_events;
pub mod account_lookup;
pub mod accounts;
mod http_client;
pub mod system_account;
mod varz;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::{
    net::lookup_host,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    advertised_info::AdvertisedInfo,
    cluster::{http_client::Http, system_account::SystemAccount, varz::Varz},
    dial::{self, ServerTls},
    protocol::proxy_header,
    tls::Connector,
    upstream::{Compatibility, Server, Servers, reconciled_count::ReadingEpoch},
};

/// How long the INFO of a server may take.
const INFO_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a poll failed.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// Not connected, reset, or credentials that are none.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The monitoring port does not speak HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The monitoring address makes no request.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    /// The monitoring port says no.
    #[error("HTTP status {0}")]
    Status(hyper::StatusCode),
    /// Reset, or too long.
    #[error("the body cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// Another program answers.
    #[error("not the answer of a nats-server: {0}")]
    NotNats(#[from] serde_json::Error),
    /// Nothing came.
    #[error("no answer in time")]
    TimedOut,
    /// The system account cannot be reached now.
    #[error("no connection to the system account")]
    NoSystem,
    /// The addresses or the login are none.
    #[error("{0}")]
    Connect(#[from] async_nats::ConnectError),
    /// Nobody answers on that subject, or not in time.
    #[error("{0}")]
    Ask(#[from] async_nats::RequestError),
    /// The connection to the system account is closed.
    #[error("{0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The same.
    #[error("{0}")]
    Publish(#[from] async_nats::PublishError),
    /// The server has answered that it cannot.
    #[error("the server does not say")]
    NoAnswer,
}

/// By what ways the servers are reached, beside their addresses.
#[derive(Debug, Clone)]
pub struct ClusterAccess {
    /// The connection to the system account, where there is a login.
    pub system: Option<SystemAccount>,
    /// TLS, where they want it.
    pub tls: Option<Arc<Connector>>,
    /// What comes of their INFO where weir has no TLS of its own.
    pub greeting: PlainInfo,
}

/// What a server says to whoever connects without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainInfo {
    /// INFO, and it must not ask for TLS.
    NoTls,
    /// INFO; that it asks for TLS is its clients' business.
    ThenClientTls,
    /// Nothing: it waits for TLS, which only clients speak with it.
    NotSent,
}

impl ClusterAccess {
    /// How a server's INFO is read; `None` when it is not.
    fn secured(&self) -> Option<ServerTls<'_>> {
        match (&self.tls, self.greeting) {
            (Some(tls), _) => Some(ServerTls::Weir(tls)),
            (None, PlainInfo::NoTls) => Some(ServerTls::None),
            (None, PlainInfo::ThenClientTls) => Some(ServerTls::Client),
            (None, PlainInfo::NotSent) => None,
        }
    }
}

/// Watches one server until `stop`: readings where it has a monitor, and its INFO.
pub async fn watch(
    server: Arc<Server>,
    advertised_info: Arc<AdvertisedInfo>,
    interval: Duration,
    warn_at: f64,
    compatibility: Compatibility,
    access: ClusterAccess,
    stop: CancellationToken,
) {
    let watching = async {
        let http = server.monitor().map(|url| Http::new(url, access.tls.clone()));
        let mut poll = Poll { system: access.system.clone(), http, way: None, lost: 0 };
        let mut near_full = false;
        loop {
            resolve(&server).await;
            let restarted = poll.once(&server, &advertised_info, interval).await;
            if let Some(tls) = access.secured()
                && (restarted || !advertised_info.knows(server.index()) || poll.has_lost(&server))
            {
                learn_info(&server, &advertised_info, tls, compatibility).await;
            }
            warn_when_near_full(&server, warn_at, &mut near_full);
            // Jittered, so that several weirs do not poll in step.
            sleep(interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}

/// Looks the server's name up again, so that dials need not: a look-up takes a thread, and storms would take many.
async fn resolve(server: &Server) {
    if server.address().parse::<SocketAddr>().is_ok() {
        return;
    }
    // A name that cannot be looked up now keeps what it led to before.
    if let Ok(addresses) = lookup_host(server.address()).await {
        server.set_resolved(addresses.collect());
    }
}

/// By what way readings come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    System,
    Http,
    None,
}

struct Poll {
    system: Option<SystemAccount>,
    http: Option<Http>,
    /// `None` before the first reading.
    way: Option<Way>,
    /// Polls in a row that the system account did not answer.
    lost: u32,
}

impl Poll {
    /// One reading. Returns whether the server is another process than at the last one.
    async fn once(&mut self, server: &Server, advertised_info: &AdvertisedInfo, interval: Duration) -> bool {
        // A poll that is slower than the interval is of no use; the next one follows, so they never pile up.
        let patience = interval.max(Duration::from_millis(500));
        let mut why = PollError::NoSystem;
        if let (Some(system), Some(id)) = (&self.system, advertised_info.server_id(server.index())) {
            let mark = server.load().begin_reading();
            let subject = format!("$SYS.REQ.SERVER.{id}.VARZ");
            let varz = timeout(patience, system.ask(subject, "".into())).await.unwrap_or(Err(PollError::TimedOut));
            match varz {
                Ok(varz) => {
                    self.http.as_mut().map(Http::rest);
                    return self.take(server, Way::System, mark, varz);
                }
                Err(err) => why = err,
            }
        }
        if let Some(http) = &mut self.http {
            let mark = server.load().begin_reading();
            match timeout(patience, http.get("/varz")).await.unwrap_or(Err(PollError::TimedOut)) {
                Ok(varz) => return self.take(server, Way::Http, mark, varz),
                Err(err) => why = err,
            }
        }
        if self.system.is_none() {
            server.gave_no_reading();
        }
        if server.is_read() && self.way.replace(Way::None) != Some(Way::None) {
            warn!(server = server.name(), %why, "no reading; a server without one is the last resort");
        }
        false
    }

    fn take(&mut self, server: &Server, way: Way, mark: ReadingEpoch, varz: Varz) -> bool {
        match (self.way.replace(way), way) {
            (Some(Way::None), _) => info!(server = server.name(), "readings are back"),
            (Some(Way::System), Way::Http) => {
                warn!(server = server.name(), "no answer over the system account; reading its monitoring port");
            }
            (Some(Way::Http), Way::System) => info!(server = server.name(), "read over the system account"),
            _ => {}
        }
        let restarted = server.read(Instant::now().into_std(), mark, varz.into());
        if restarted {
            info!(server = server.name(), "server has restarted");
        }
        restarted
    }

    /// Whether the server may have a new `server_id`: the system account is there, and it does not answer under the old one.
    fn has_lost(&mut self, server: &Server) -> bool {
        let is_lost =
            self.system.as_ref().is_some_and(SystemAccount::is_up) && server.is_read() && self.way != Some(Way::System);
        self.lost = if is_lost { self.lost.saturating_add(1) } else { 0 };
        // A server of another cluster never answers there: to look takes a connection, so not each time.
        is_lost && (self.lost.is_power_of_two() || self.lost.is_multiple_of(16))
    }
}

/// Listens for servers that go into lame duck mode, until `stop`: those without a session of weir's would not tell it.
pub async fn watch_lame_ducks(
    system: SystemAccount,
    servers: Arc<Servers>,
    advertised_info: Arc<AdvertisedInfo>,
    stop: CancellationToken,
) -> Result<(), PollError> {
    let mut events = system.listen("$SYS.SERVER.*.LAMEDUCK").await?;
    let hearing = async {
        while let Some(event) = events.next().await {
            let id = event.subject.split('.').nth(2).unwrap_or_default().to_owned();
            let is_it = |server: &&Arc<Server>| advertised_info.server_id(server.index()).as_deref() == Some(&id);
            if let Some(server) = servers.iter().find(is_it) {
                info!(server = server.name(), "server is in lame duck mode");
                server.said_lame_duck();
            }
        }
    };
    tokio::select! {
        () = hearing => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

/// Reads a server's INFO by connecting and leaving. That takes one of its slots for a moment, so a full server is left alone.
async fn learn_info(
    server: &Arc<Server>,
    advertised_info: &AdvertisedInfo,
    tls: ServerTls<'_>,
    compatibility: Compatibility,
) {
    let Some(_slot) = Server::reserve(server, Instant::now().into_std()) else { return };
    let header = if compatibility.proxy_protocol { proxy_header::LOCAL } else { b"" };
    match dial::dial(server, tls, header, Instant::now() + INFO_TIMEOUT).await {
        Ok(dialled) => {
            advertised_info.learn(server.index(), dialled.info());
            info!(
                server = server.name(),
                address = server.address(),
                version = dialled.info().version(),
                nonce = dialled.info().nonce().is_some(),
                "server found"
            );
            for missing in compatibility.missing(dialled.info()) {
                warn!(server = server.name(), "{missing}");
            }
        }
        Err(err) => tracing::debug!(server = server.name(), %err, "no INFO yet"),
    }
}

fn warn_when_near_full(server: &Server, warn_at: f64, near_full: &mut bool) {
    let (has, capacity) = (server.load().projected(), server.load().capacity());
    let near = f64::from(has) >= f64::from(capacity) * warn_at;
    if near && !*near_full {
        warn!(server = server.name(), connections = has, max_connections = capacity, "server is nearly full");
    }
    *near_full = near;
}
