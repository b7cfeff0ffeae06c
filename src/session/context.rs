//! What goes with one client through all stages.

use std::{
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};
use tracing::info;

use crate::{
    admission::{AcceptPermit, AccountSlot, FAIR_TIME, LearnsAnew, Would, policies::Described},
    identity::ClientKey,
    net::{
        stream::{Stream, TlsInUse},
        timer::now,
    },
    outcome::{BadLogin, Cause, Close, Party, Phase, Refusal},
    protocol::{connect::Connect, proxy_header, refusal, s2::Mode},
    relay::registry::{AtServer, Said, SessionFacts, SessionHandle},
    session::{failover::DialPort, finish::finish, listener::Listener, shared::Shared},
    tally::{Who, login_failure_name, shown},
    telemetry::storms::Fate,
    upstream::Server,
};

/// nats-server's own default for `tls { timeout }` (`TLS_TIMEOUT`, const.go). The HTTP request of a WebSocket and a
/// PROXY header have as long.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(2);
/// nats-server's own default for the time from the end of TLS to CONNECT (`getDefaultAuthTimeout`, opts.go).
const AUTH_TIMEOUT_BEHIND_TLS: Duration = Duration::from_secs(3);
/// How long nats-server keeps a client that is silent and need not log in: it misses the answers to a PING in the first
/// seconds and to one after 2 minutes, and closes after 4 (`ping_interval` and `ping_max` at their defaults).
const SILENT_FOR: Duration = Duration::from_secs(240);

/// A nats-server that connects as a leafnode waits for INFO for 1 s (`DEFAULT_LEAFNODE_INFO_WAIT`, const.go), from when
/// TCP, or TLS before INFO, is there. Of that its turn and the dial may take this much together.
const LEAFNODE_DIAL: Duration = Duration::from_millis(900);
/// A dial has so long at least.
const LEAFNODE_FAIR_DIAL: Duration = Duration::from_millis(150);
/// A CONNECT with a JWT of many permissions has some KiB.
const LONGEST_OF_LEAFNODE: usize = 16 * 1024;

/// What every stage needs: what the client shares with others, and what is known of it alone.
pub(super) struct Context {
    pub shared: Arc<Shared>,
    pub listener: Arc<Listener>,
    pub id: u64,
    pub accepted: Instant,
    /// From accept until the client did the last thing that weir waited for before INFO, in milliseconds. A session
    /// keeps it, and is small.
    heard_after_ms: u32,
    /// Whether the client was held in the queue.
    pub waited: bool,
    /// Where the client comes from: the connection's peer, or who a trusted proxy says it is.
    pub peer: SocketAddr,
    /// By what weir recognises a client whose last login from its source was good.
    pub known_client: Option<ClientKey>,
    /// Lets the client through to a server, although the account that it is known to be of has no room.
    pub learns_anew: Option<Box<LearnsAnew>>,
    pub log: LogFields,
}

/// What the log says of a client at its end.
#[derive(Default)]
pub(super) struct LogFields {
    pub account: Option<Arc<str>>,
    pub client: Option<ClientKey>,
    pub said: Said,
    /// It has logged in with a token.
    pub by_token: bool,
    pub server: Option<Arc<Server>>,
    /// The server's number of the connection; 0 where the server has told none.
    pub server_client_id: u64,
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
    /// It has not ended: another process has it. Neither counted nor logged here.
    Given,
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

/// An IPv4 client of a socket for both families is an IPv4 client.
pub(super) fn canonical(mut peer: SocketAddr) -> SocketAddr {
    peer.set_ip(peer.ip().to_canonical());
    peer
}

impl Context {
    /// For a connection that was accepted just now.
    pub fn new(shared: Arc<Shared>, listener: Arc<Listener>, peer: SocketAddr) -> Self {
        let peer = canonical(peer);
        let id = shared.next_id.fetch_add(1, Relaxed);
        let accepted = Instant::now();
        let (known_client, learns_anew, log) = (None, None, LogFields::default());
        Self { shared, listener, id, accepted, heard_after_ms: 0, waited: false, peer, known_client, learns_anew, log }
    }

    /// For a client that another process has accepted.
    pub fn taken(
        shared: Arc<Shared>,
        listener: Arc<Listener>,
        id: u64,
        peer: SocketAddr,
        (accepted, heard_after_ms, waited): (Instant, u32, bool),
    ) -> Self {
        let (known_client, learns_anew, log) = (None, None, LogFields::default());
        Self { shared, listener, id, accepted, heard_after_ms, waited, peer, known_client, learns_anew, log }
    }

    /// From accept until the client did the last thing that weir waited for before INFO, in milliseconds.
    pub fn heard_after_ms(&self) -> u32 {
        self.heard_after_ms
    }

    /// The address that the client counts for.
    pub fn source(&self) -> IpAddr {
        self.peer.ip()
    }

    /// A trusted proxy says that the client comes from there.
    pub fn comes_from(&mut self, peer: SocketAddr) {
        self.peer = canonical(peer);
    }

    /// The client has done what weir waited for, before INFO: from now on it waits for weir.
    pub fn note_heard(&mut self) {
        self.heard_after_ms = u32::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u32::MAX);
    }

    /// Since when the client waits for weir, before INFO.
    pub fn heard(&self) -> Instant {
        self.accepted + Duration::from_millis(self.heard_after_ms.into())
    }

    /// A step before CONNECT, for which weir has waited `since` then, must be done by then: TLS, the HTTP request of a
    /// WebSocket, a PROXY header.
    pub fn step_by(&self, since: Instant) -> Instant {
        self.listener.handshake_timeout.map_or(since + STEP_TIMEOUT, |in_all| self.accepted + in_all)
    }

    /// CONNECT, for which weir has waited `since` then, must be complete by then.
    pub fn connect_by(&self, since: Instant) -> Instant {
        match self.listener.handshake_timeout {
            Some(in_all) => self.accepted + in_all,
            // Where no login is required a nats-server has no timer for CONNECT.
            None if !self.listener.info.requires_login() => since + SILENT_FOR,
            // What a client is given by nats-server: it counts from INFO, and from the end of TLS where there is any.
            None => {
                let least = if self.listener.tls.is_some() { AUTH_TIMEOUT_BEHIND_TLS } else { Duration::ZERO };
                since + self.shared.servers.auth_timeout(DialPort::of(self).port()).max(least)
            }
        }
    }

    /// Until when a client may wait for its turn of which weir knows nothing but its source.
    pub fn unknown_hold_until(&self) -> Instant {
        let (accepted, heard) = (self.accepted.into_std(), self.heard().into_std());
        Instant::from_std(self.shared.admission.deadline_policy().deadlines(None, accepted, heard).hold_until)
    }

    /// Until when a client may wait for its turn that has not seen INFO.
    pub fn wait_before_info_until(&self) -> Instant {
        let (accepted, heard) = (self.accepted.into_std(), self.heard().into_std());
        let policy = self.shared.admission.deadline_policy();
        Instant::from_std(match self.listener.is_for_leafnodes {
            true => policy.of_leafnode_before_info(heard),
            false => policy.before_info(accepted, heard),
        })
    }

    /// The longest argument that CONNECT may have. A server sets no limit for that of a leafnode; weir does.
    pub fn longest_connect(&self) -> usize {
        let longest = self.shared.servers.max_control_line();
        if self.listener.is_for_leafnodes { longest.max(LONGEST_OF_LEAFNODE) } else { longest }
    }

    /// Until when weir looks for a server for such a client, once it has its turn.
    pub fn dial_by(&self) -> Instant {
        if self.listener.is_for_leafnodes {
            return (self.heard() + LEAFNODE_DIAL).max(Instant::now() + LEAFNODE_FAIR_DIAL);
        }
        self.unknown_hold_until().max(Instant::now() + FAIR_TIME)
    }

    /// Whether the server takes this client for one that speaks plainly, although it speaks WebSocket.
    pub fn is_taken_for_plain(&self) -> bool {
        let is_told = self.shared.dials_websockets.load(Relaxed) && !self.listener.is_for_leafnodes;
        self.listener.websocket.is_some() && !is_told
    }

    /// Whether another process may go on with this client before it is in. Who connects as a leafnode is in so soon, or
    /// refused, that it stays here.
    pub fn may_be_given(&self, stream: &Stream) -> bool {
        matches!(stream, Stream::Plain(_)) && !self.listener.is_for_leafnodes
    }

    /// The PROXY header that tells a server where this client comes from; empty where servers are not told.
    pub fn proxy_header(&self, client: &TcpStream) -> Vec<u8> {
        let mut header = Vec::new();
        // A nats-server reads a header at its client port only.
        if self.shared.sends_proxy_headers
            && !self.listener.is_for_leafnodes
            && let Ok(here) = client.local_addr()
        {
            proxy_header::write(self.peer, here, &mut header);
        }
        header
    }

    /// Whether the client is as the policies want clients to be.
    ///
    /// # Errors
    /// The reason to refuse it with.
    pub fn check_policies(&self, connect: &Connect, account: &str) -> Result<(), Refusal> {
        let policies = self.shared.policies.load();
        let (name, lang, version) = (connect.name(), connect.lang(), connect.version());
        let warned = self.shared.admission.warned();
        policies.check(Described { account, name, lang, version }, |reason| warned.note(reason))
    }

    /// Counts a client that its server has let in.
    pub fn count_admitted(&self, server: &Server) {
        server.counters().admitted.fetch_add(1, Relaxed);
        if self.listener.is_for_leafnodes {
            server.counters().admitted_leafnodes.fetch_add(1, Relaxed);
        }
        self.shared.counters.admitted.fetch_add(1, Relaxed);
        self.shared.tallies.session_began(&self.who(), now());
    }

    /// The client lacks a place, for want of which it waits or is refused for this reason: a ghost of its own may have
    /// that. Who has never been let in has none.
    pub fn lacks_place(&self, reason: Refusal) {
        if let Some(client) = self.known_client
            && reason.is_for_a_place()
            && !self.shared.admission.is_observing()
        {
            self.shared.ghosts.lacks_place(client);
        }
    }

    /// Notes what became of a client that had to wait.
    pub fn record_fate(&self, fate: Fate) {
        self.shared.flight.waited(self.log.account.as_deref(), self.log.said.lang(), fate);
    }

    /// Tells whom enforce mode would have refused, where weir only observes. It counts for no source from now on.
    pub fn note_would(&self, account: &AccountSlot, entry: Option<&mut AcceptPermit>) {
        if let Some(Would::Refuse(reason)) = account.would() {
            self.shared.tallies.would_refuse(reason, &self.who());
            entry.map(AcceptPermit::becomes_extra).unwrap_or_default();
        }
    }

    /// Counts and logs the end of a client that is no session, once.
    pub fn finish(mut self, end: End) {
        if self.waited
            && let End::Closed(Close { phase: Phase::Hold, .. }) | End::TlsFailed(Phase::Hold, _) = &end
        {
            self.record_fate(Fate::Left);
        }
        let shared = Arc::clone(&self.shared);
        let facts = self.facts(None, None);
        let at = self.at();
        finish(&shared, SessionHandle::new(facts, self.log.account, at).into(), end);
    }

    /// What is known of the client from now on. TLS and compression are those of its connection.
    pub fn facts(&mut self, tls: Option<TlsInUse>, compression: Option<Mode>) -> SessionFacts {
        let log = &mut self.log;
        SessionFacts {
            id: self.id,
            accepted: self.accepted.into_std().into(),
            peer: self.peer.into(),
            listener: Arc::clone(&self.listener.name),
            said: mem::take(&mut log.said),
            by_token: log.by_token,
            tls,
            compression,
            client: log.client,
        }
    }

    /// Where the client is connected, or was last.
    pub fn at(&self) -> AtServer {
        AtServer { server: self.log.server.clone(), client_id: self.log.server_client_id }
    }

    /// What is known of the client while it waits, which goes on being known afterwards.
    pub fn facts_so_far(&self) -> SessionFacts {
        SessionFacts {
            id: self.id,
            accepted: self.accepted.into_std().into(),
            peer: self.peer.into(),
            listener: Arc::clone(&self.listener.name),
            said: self.log.said.clone(),
            by_token: self.log.by_token,
            tls: None,
            compression: None,
            client: self.log.client,
        }
    }

    /// Who the client is, as far as it has said.
    fn who(&self) -> Who<'_> {
        let LogFields { account, said, .. } = &self.log;
        Who { account: account.as_deref(), user: said.user(), name: said.name(), source: self.source().into() }
    }

    /// Counts and tells that a server has refused the client's login with these words.
    pub fn login_failed(&self, why: Option<BadLogin>, line: &[u8]) {
        let who = self.who();
        if self.shared.tallies.login_failed(why, &who, now()) {
            info!(
                reason = login_failure_name(why),
                words = shown(&refusal::words(line)),
                account = who.account,
                user = who.user,
                name = who.name,
                source = %self.source(),
                server = self.log.server.as_deref().map(Server::name),
                "login failed"
            );
        }
    }
}
