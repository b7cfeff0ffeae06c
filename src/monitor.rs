//! Reading the servers: `/varz` at an interval, and their INFO until it is known.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    dial,
    greeting::Greetings,
    protocol::proxy_header,
    tls::Connector,
    upstream::{Reading, Server, Wants},
};

/// A `/varz` answer is about 2 KiB; with many JWT operators it grows, so the bound is generous.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// How long the INFO of a server may take.
const INFO_TIMEOUT: Duration = Duration::from_secs(2);

/// The part of `/varz` that weir reads. Every nats-server since 2.0 has these.
#[derive(Debug, Deserialize)]
struct Varz {
    server_name: String,
    version: String,
    connections: u32,
    max_connections: i64,
    #[serde(default)]
    max_control_line: usize,
    /// In seconds, with a fraction.
    #[serde(default)]
    auth_timeout: f64,
    start: String,
    uptime: String,
}

impl From<Varz> for Reading {
    fn from(varz: Varz) -> Self {
        Self {
            server_name: varz.server_name,
            version: varz.version,
            connections: varz.connections,
            // nats-server takes 0 as no limit, and since 2.11 a negative one as "nobody" (server.go, createClient).
            max_connections: match varz.max_connections {
                0 => None,
                n => Some(u32::try_from(n.max(0)).unwrap_or(u32::MAX)),
            },
            max_control_line: Some(varz.max_control_line).filter(|&n| n > 0),
            auth_timeout: Duration::try_from_secs_f64(varz.auth_timeout).ok().filter(|t| !t.is_zero()),
            start: varz.start,
            // "1d2h3m4s", in whole seconds. What does not parse counts as old: slow start is a courtesy.
            uptime: humantime::parse_duration(&varz.uptime).unwrap_or(Duration::MAX),
        }
    }
}

/// Why a poll failed.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    #[error("HTTP status {0}")]
    Status(hyper::StatusCode),
    #[error("the body cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("not the /varz of a nats-server: {0}")]
    NotVarz(#[from] serde_json::Error),
    #[error("no answer in time")]
    TimedOut,
}

/// Watches one server until `stop`: readings where it has a monitor, and its INFO.
pub async fn watch(
    server: Arc<Server>,
    greetings: Arc<Greetings>,
    tls: Option<Arc<Connector>>,
    interval: Duration,
    warn_at: f64,
    wants: Wants,
    stop: CancellationToken,
) {
    let watching = async {
        let mut poll = Poll { authority: server.monitor().map(authority), connection: None };
        let (mut failing, mut near_full) = (false, false);
        loop {
            resolve(&server).await;
            let restarted = poll.once(&server, interval, &mut failing).await;
            if restarted || !greetings.knows(server.index()) {
                learn_info(&server, &greetings, tls.as_deref(), wants).await;
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

/// `host:port` of a monitoring URL.
fn authority(url: &str) -> String {
    url.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

struct Poll {
    authority: Option<String>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Poll {
    /// One reading. Returns whether the server is another process than at the last one.
    async fn once(&mut self, server: &Server, interval: Duration, failing: &mut bool) -> bool {
        if self.authority.is_none() {
            return false;
        }
        let mark = server.load().mark();
        // A poll that is slower than the interval is of no use; the next one follows, so they never pile up.
        let patience = interval.max(Duration::from_millis(500));
        let read = timeout(patience, self.varz()).await.unwrap_or(Err(PollError::TimedOut));
        match read {
            Ok(varz) => {
                if std::mem::take(failing) {
                    info!(server = server.name(), "readings are back");
                }
                let restarted = server.read(Instant::now().into_std(), mark, varz.into());
                if restarted {
                    info!(server = server.name(), "server has restarted");
                }
                restarted
            }
            Err(err) => {
                self.connection = None;
                if !std::mem::replace(failing, true) {
                    warn!(server = server.name(), %err, "no reading; a server without one is the last resort");
                }
                false
            }
        }
    }

    async fn varz(&mut self) -> Result<Varz, PollError> {
        let authority = self.authority.clone().unwrap_or_default();
        let mut connection = match self.connection.take().filter(|kept| !kept.is_closed()) {
            Some(kept) => kept,
            None => {
                let stream = TcpStream::connect(&authority).await?;
                let (connection, driver) = handshake(TokioIo::new(stream)).await?;
                // Ends with the connection.
                tokio::spawn(driver);
                connection
            }
        };
        connection.ready().await?;
        let request = Request::get("/varz").header(header::HOST, authority).body(Empty::new())?;
        let answer = connection.send_request(request).await?;
        if !answer.status().is_success() {
            return Err(PollError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await.map_err(PollError::Body)?;
        self.connection = Some(connection);
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }
}

/// Reads a server's INFO by connecting and leaving. That takes one of its slots for a moment, so a full server is left alone.
async fn learn_info(server: &Arc<Server>, greetings: &Greetings, tls: Option<&Connector>, wants: Wants) {
    let Some(_slot) = Server::reserve(server, Instant::now().into_std()) else { return };
    let header = if wants.proxy_protocol { proxy_header::LOCAL } else { b"" };
    match dial::dial(server, tls, header, Instant::now() + INFO_TIMEOUT).await {
        Ok(dialled) => {
            greetings.learn(server.index(), dialled.info());
            info!(
                server = server.name(),
                address = server.address(),
                version = dialled.info().version(),
                nonce = dialled.info().nonce().is_some(),
                "server found"
            );
            for missing in wants.missing(dialled.info()) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(max: &str, uptime: &str) -> Reading {
        let json = format!(
            r#"{{"server_name":"n1","version":"2.15.1","connections":3,"max_connections":{max},"start":"x","uptime":"{uptime}","more":1}}"#
        );
        serde_json::from_str::<Varz>(&json).unwrap().into()
    }

    #[test]
    fn varz_becomes_a_reading() {
        assert_eq!(reading("100", "3s").max_connections, Some(100));
        assert_eq!(reading("0", "3s").max_connections, None);
        assert_eq!(reading("-1", "3s").max_connections, Some(0));
        for (text, seconds) in [("0s", 0), ("59s", 59), ("1m2s", 62), ("2h3m4s", 7384), ("1d2h3m4s", 93_784)] {
            assert_eq!(reading("1", text).uptime, Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(reading("1", "nonsense").uptime, Duration::MAX);
    }

    #[test]
    fn authority_of_a_url() {
        assert_eq!(authority("http://10.0.0.1:8222"), "10.0.0.1:8222");
        assert_eq!(authority("http://nats.example.com:8222/"), "nats.example.com:8222");
    }
}
