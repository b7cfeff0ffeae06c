//! What goes with one client through all stages, and how the end of its path is counted and logged.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::{net::TcpStream, time::Instant};
use tracing::debug;

use crate::{
    identity::ClientKey,
    outcome::{Cause, Close, Party, Phase, Refusal},
    protocol::proxy_header,
    session::{listener::Listener, shared::Shared},
    telemetry::{counters::Totals, storms::Fate},
    upstream::Server,
};

/// What every stage needs: what the client shares with others, and what is known of it alone.
pub(super) struct Context {
    pub shared: Arc<Shared>,
    pub listener: Arc<Listener>,
    pub id: u64,
    pub accepted: Instant,
    /// Where the client comes from: the connection's peer, or who a trusted proxy says it is.
    pub peer: SocketAddr,
    pub log: LogFields,
}

/// What the log says of a client at its end.
#[derive(Default)]
pub(super) struct LogFields {
    pub account: Option<Arc<str>>,
    pub client: Option<ClientKey>,
    pub name: Option<Box<str>>,
    pub lang: Option<Box<str>>,
    pub server: Option<Arc<Server>>,
    /// Whether the client was held in the queue.
    pub waited: bool,
}

/// How the path of a client ends.
#[derive(Debug)]
pub(super) enum End {
    /// It left before it said anything: a health check or a port scan. Counted, not logged.
    Probe,
    /// weir refused it.
    Refused(Refusal),
    /// One side closed.
    Closed(Close),
    /// TLS with the client failed, and why.
    TlsFailed(Phase, Box<str>),
}

impl End {
    pub fn closed(party: Party, phase: Phase, cause: Cause) -> Self {
        Self::Closed(Close { party, phase, cause })
    }

    /// The client has left.
    pub fn left(phase: Phase) -> Self {
        Self::closed(Party::Downstream, phase, Cause::Eof)
    }
}

impl Context {
    /// For a connection that was accepted just now.
    pub fn new(shared: Arc<Shared>, listener: Arc<Listener>, mut peer: SocketAddr) -> Self {
        // An IPv4 client of a socket for both families is an IPv4 client.
        peer.set_ip(peer.ip().to_canonical());
        let id = shared.next_id.fetch_add(1, Relaxed);
        Self { shared, listener, id, accepted: Instant::now(), peer, log: LogFields::default() }
    }

    /// The address that the client counts for.
    pub fn source(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }

    /// CONNECT must have come by then.
    pub fn connect_by(&self) -> Instant {
        self.accepted + self.listener.handshake_timeout
    }

    /// Until when weir looks for a server for a client of which it knows nothing but its source.
    pub fn unknown_hold_until(&self) -> Instant {
        let accepted = self.accepted.into_std();
        Instant::from_std(self.shared.admission.deadline_policy().deadlines(None, accepted, accepted).hold_until)
    }

    /// The PROXY header that tells a server where this client comes from; empty where servers are not told.
    pub fn proxy_header(&self, client: &TcpStream) -> Vec<u8> {
        let mut header = Vec::new();
        if self.shared.sends_proxy_headers
            && let Ok(here) = client.local_addr()
        {
            proxy_header::write(self.peer, here, &mut header);
        }
        header
    }

    /// Notes what became of a client that had to wait.
    pub fn record_fate(&self, fate: Fate) {
        self.shared.flight.waited(self.log.account.as_deref(), self.log.lang.as_deref(), fate);
    }

    /// Counts and logs an end, once.
    pub fn finish(&self, end: End, totals: Totals) {
        let Self { shared, log, .. } = self;
        let mut tls = None;
        let (outcome, party, phase, reason) = match end {
            End::Probe => {
                shared.counters.probes.fetch_add(1, Relaxed);
                return;
            }
            End::Refused(reason) => {
                shared.counters.refuse(reason);
                if let Some(client) = log.client {
                    let refusals = shared.admission.refusals(client);
                    shared.flight.refused(log.account.as_deref(), log.lang.as_deref(), refusals);
                }
                ("refused", Party::Weir.name(), "", reason.name())
            }
            End::Closed(close) => self.count_close(close),
            End::TlsFailed(phase, why) => {
                tls = Some(why);
                self.count_close(Close { party: Party::Downstream, phase, cause: Cause::Tls })
            }
        };
        debug!(
            id = self.id,
            peer = %self.peer,
            party,
            phase,
            reason,
            account = log.account.as_deref(),
            name = log.name,
            lang = log.lang,
            server = log.server.as_deref().map(Server::name),
            tls,
            lived = ?self.accepted.elapsed(),
            bytes_up = totals.bytes_up,
            bytes_down = totals.bytes_down,
            "{outcome}"
        );
    }

    /// Counts a close, and says how the log tells of it.
    fn count_close(&self, close: Close) -> (&'static str, &'static str, &'static str, &'static str) {
        self.shared.counters.close(close);
        if self.log.waited && close.phase == Phase::Hold {
            self.record_fate(Fate::Left);
        }
        ("closed", close.party.name(), close.phase.name(), close.cause.name())
    }
}
