//! What a listener is to its sessions.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use tokio::{net::TcpStream, time::Instant};

use crate::{
    admission::{Limit, Permit},
    advertised_info::ListenerInfo,
    net::stream::Stream,
    outcome::{Phase, Refusal},
    protocol::websocket::upgrade::Rules,
    session::{End, Shared, Through, leave_unfinished, proxy_header},
    tls::Terminator,
};

/// What the sessions of one listener share.
#[derive(Debug)]
pub struct Listener {
    /// What its clients see.
    pub face: Arc<ListenerInfo>,
    /// Its `max_clients`.
    pub gate: Arc<Limit>,
    /// From accept to CONNECT.
    pub handshake_timeout: Duration,
    /// The load balancers whose PROXY headers are believed, and expected.
    pub believes: Vec<IpNet>,
    /// Its TLS, where it speaks TLS.
    pub tls: Option<Arc<Terminator>>,
    /// It speaks WebSocket.
    pub websocket: Option<Web>,
    /// It passes TLS through.
    pub through: Option<Through>,
}

impl Listener {
    /// Whether this is a load balancer whose PROXY headers are believed.
    pub(super) fn believes(&self, peer: IpAddr) -> bool {
        self.believes.iter().any(|network| network.contains(&peer))
    }

    /// Who is asked for something before the accept door is one of the listener's clients all the same.
    pub(super) fn asks(&self, shared: &Shared) -> Result<Permit, End> {
        self.gate.try_acquire().or_else(|| shared.turned_away.try_acquire()).ok_or(End::Refused(Refusal::ListenerFull))
    }

    /// Reads the PROXY header of a connection that comes through such a load balancer: from then on `peer` is who it names.
    pub(super) async fn behind_header(
        &self,
        mut down: TcpStream,
        peer: &mut SocketAddr,
        deadline: Instant,
    ) -> Result<TcpStream, End> {
        match proxy_header::read(&mut down, deadline).await {
            Ok(real) => {
                *peer = real.unwrap_or(*peer);
                Ok(down)
            }
            Err(unfinished) => Err(leave_unfinished(Stream::from(down), unfinished, Phase::Preface).await),
        }
    }
}

/// What the WebSockets of a listener share.
#[derive(Debug)]
pub struct Web {
    /// Who may open one, and what is looked at.
    pub rules: Rules,
    /// The HTTP proxies whose `X-Forwarded-For` is believed.
    pub believes: Vec<IpNet>,
}
