//! Asks a server which connections it has closed, where nothing that weir could send would tell.
//!
//! The end of a server is behind all that it has written. A client that takes nothing keeps it from weir, and weir can
//! put nothing of its own into a stream that it cannot read (passthrough), or into the middle of a message.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    advertised_info::AdvertisedInfo,
    cluster::{access::ClusterAccess, error::PollError, http_client::MonitorClient, system_account::SystemAccount},
    relay::{Stalled, registry::SessionRegistry},
    upstream::Server,
};

/// How often a server is asked while there is something to ask. Nothing is asked otherwise.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer may take.
const LONGEST: Duration = Duration::from_secs(5);

/// Connections of one answer. A server remembers the last 10,000 by default.
const PAGE: usize = 512;
const MOST_PAGES: usize = 20;

/// `/connz?state=closed`, the last closed one first.
#[derive(Debug, Deserialize)]
struct Connz {
    now: String,
    #[serde(default)]
    connections: Vec<Closed>,
}

#[derive(Debug, Deserialize)]
struct Closed {
    ip: String,
    port: u16,
    stop: Option<String>,
}

/// Asks a server about stalled sessions, and tells those whose connections it has closed, until `stop`.
pub async fn watch_closed_connections(
    server: Arc<Server>,
    advertised_info: Arc<AdvertisedInfo>,
    access: ClusterAccess,
    sessions: Arc<SessionRegistry>,
    stop: CancellationToken,
) {
    let monitor = MonitorClient::new(&server, access.tls.clone());
    let mut asked = Asked { server, advertised_info, system: access.system, monitor };
    let watching = async {
        loop {
            sleep(ASK_INTERVAL).await;
            let stalled = sessions.take_stalled(asked.server.id());
            if !stalled.is_empty() {
                asked.about(stalled).await;
            }
        }
    };
    tokio::select! {
        () = watching => {}
        () = stop.cancelled() => {}
    }
}

/// A server that is asked.
struct Asked {
    server: Arc<Server>,
    advertised_info: Arc<AdvertisedInfo>,
    system: Option<SystemAccount>,
    monitor: Option<MonitorClient>,
}

impl Asked {
    async fn about(&mut self, stalled: Vec<Stalled>) {
        let now = Instant::now();
        let longest = stalled.iter().map(|one| one.stalled_for(now)).max().unwrap_or_default();
        let closed = timeout(LONGEST, self.closed_within(longest)).await.unwrap_or(Err(PollError::TimedOut));
        // It may not be needed again for days.
        self.monitor.as_mut().map(MonitorClient::disconnect);
        for one in stalled {
            match &closed {
                Ok(closed) => one.note_closed(|address| closed.get(&address).copied(), now),
                Err(_) => one.note_unanswered(),
            }
        }
    }

    /// How long ago the server has closed connections, by the address of their other end. What is older than `longest`
    /// does not matter.
    async fn closed_within(&mut self, longest: Duration) -> Result<HashMap<SocketAddr, Duration>, PollError> {
        let mut closed = HashMap::new();
        for page in 0..MOST_PAGES {
            let connz = self.page(page * PAGE).await?;
            let now = time(&connz.now).ok_or(PollError::NoAnswer)?;
            let is_last = connz.connections.len() < PAGE;
            let mut oldest = Duration::ZERO;
            for one in connz.connections {
                let stop = one.stop.as_deref().and_then(time);
                if let (Some(stop), Ok(ip)) = (stop, one.ip.parse::<IpAddr>()) {
                    let age = now.duration_since(stop).unwrap_or_default();
                    oldest = oldest.max(age);
                    closed.entry(SocketAddr::new(ip.to_canonical(), one.port)).or_insert(age);
                }
            }
            if is_last || oldest > longest {
                break;
            }
        }
        Ok(closed)
    }

    /// Over the system account where that answers, else at the monitoring port, like readings.
    async fn page(&mut self, offset: usize) -> Result<Connz, PollError> {
        let mut why = PollError::NoSystem;
        if let (Some(system), Some(id)) = (&self.system, self.advertised_info.server_id(&self.server)) {
            let request = format!(r#"{{"state":1,"sort":"stop","limit":{PAGE},"offset":{offset}}}"#);
            match system.ask(format!("$SYS.REQ.SERVER.{id}.CONNZ"), Bytes::from(request)).await {
                Ok(connz) => return Ok(connz),
                Err(err) => why = err,
            }
        }
        match &mut self.monitor {
            Some(monitor) => monitor.get(&format!("/connz?state=closed&sort=stop&limit={PAGE}&offset={offset}")).await,
            None => Err(why),
        }
    }
}

/// nats-server writes its times in UTC.
fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}
