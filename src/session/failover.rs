//! Opens a connection to a server, and places the client on another one when that fails.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    admission::{Failover, LoginOf},
    dial::{self, DialError, ServerConnection},
    net::timer::now,
    outcome::Refusal,
    session::{context::Context, shared::Shared},
    upstream::{Port, Server, ServerId, Slot},
    worker::with_rng,
};

/// Opens a connection to the server of `slot`, or to another one. Returns it with its slot, and when its dial began.
pub(super) async fn open_any<O: Open>(
    shared: &Shared,
    mut slot: Slot,
    far: &O,
    deadline: Instant,
) -> Result<(O::Opened, Slot, Instant), Refusal> {
    let mut tried = Vec::new();
    loop {
        let began = Instant::now();
        match open_as(&mut slot, deadline, far).await {
            Ok(opened) => return Ok((opened, slot, began)),
            Err(err) => slot = place_instead(shared, (slot, None), &err, &mut tried, deadline).await?,
        }
    }
}

/// Finds a server in the place of one whose dial went wrong.
pub(super) async fn place_instead(
    shared: &Shared,
    (failed, login): (Slot, Option<LoginOf<'_>>),
    err: &DialError,
    tried: &mut Vec<ServerId>,
    deadline: Instant,
) -> Result<Slot, Refusal> {
    give_up(shared, failed, err, tried);
    place_again(shared, login, tried, deadline).await
}

/// Gives the slot of a server back whose dial went wrong: before the next one's is taken.
pub(super) fn give_up(shared: &Shared, failed: Slot, err: &DialError, tried: &mut Vec<ServerId>) {
    debug!(server = failed.server().name(), %err, "dial failed");
    // A server that limits its rate is tried again, in the next second. Where weir only observes nobody waits for that.
    if !matches!(err, DialError::Throttled) || shared.admission.is_observing() {
        tried.push(failed.server().id());
    }
}

/// Finds a server other than those that were `tried`.
pub(super) async fn place_again(
    shared: &Shared,
    login: Option<LoginOf<'_>>,
    tried: &[ServerId],
    deadline: Instant,
) -> Result<Slot, Refusal> {
    loop {
        match with_rng(|rng| shared.admission.place_again(login, tried, deadline.into_std(), now(), rng)) {
            Failover::Placed(server) => return Ok(server),
            Failover::Busy(until) => tokio::time::sleep_until(Instant::from_std(until)).await,
            Failover::Refuse(reason) => return Err(reason),
        }
    }
}

/// How far a connection to a server is opened.
pub(super) trait Open {
    /// What there is then.
    type Opened;

    /// Opens one to `server`, which has to be done `by` then.
    async fn open(&self, server: &Server, by: Instant) -> Result<Self::Opened, DialError>;

    /// The port of the server to which it goes.
    fn port(&self) -> Port {
        Port::Client
    }
}

/// The port of a server to which a client is connected.
#[derive(Debug, Clone, Copy)]
pub(super) enum DialPort {
    Client,
    /// For the client with this address, which the server is told.
    WebSocket(IpAddr),
    Leafnode,
}

impl DialPort {
    /// For the client of a listener: where the servers' WebSocket ports are known, clients over WebSocket use those.
    pub fn of(cx: &Context) -> Self {
        match cx.listener.websocket.is_some() && cx.shared.dials_websockets.load(Relaxed) {
            _ if cx.listener.is_for_leafnodes => Self::Leafnode,
            true => Self::WebSocket(cx.source()),
            false => Self::Client,
        }
    }

    pub fn port(self) -> Port {
        match self {
            Self::Client => Port::Client,
            Self::WebSocket(_) => Port::WebSocket,
            Self::Leafnode => Port::Leafnode,
        }
    }
}

/// As far as the server's INFO, with weir's own TLS where there is any.
pub(super) struct UntilInfo<'a> {
    shared: &'a Shared,
    port: DialPort,
    words: &'a [u8],
}

impl<'a> UntilInfo<'a> {
    /// `words` go first, where there are any; to a WebSocket port none can go.
    pub(super) fn new(shared: &'a Shared, port: DialPort, words: &'a [u8]) -> Self {
        Self { shared, port, words }
    }
}

impl Open for UntilInfo<'_> {
    type Opened = ServerConnection;

    async fn open(&self, server: &Server, by: Instant) -> Result<ServerConnection, DialError> {
        match self.port {
            DialPort::Client => dial::dial(server, self.shared.servers_tls.as_deref().into(), self.words, by).await,
            // Boxed, so that the future of a plain dial stays small.
            DialPort::Leafnode => {
                let tls = self.shared.servers_tls.as_deref().into();
                Box::pin(dial::dial_leafnode(server, tls, self.words, by)).await
            }
            DialPort::WebSocket(client) => {
                let tls = self.shared.websocket_tls.as_deref();
                Box::pin(dial::dial_websocket(server, tls, Some(client), by)).await
            }
        }
    }

    fn port(&self) -> Port {
        self.port.port()
    }
}

/// Connects to the server of a slot, sends `words` and reads its INFO; what that says of the server is noted.
pub(super) async fn open(
    shared: &Shared,
    slot: &mut Slot,
    port: DialPort,
    words: &[u8],
    deadline: Instant,
) -> Result<ServerConnection, DialError> {
    let dialled = open_as(slot, deadline, &UntilInfo::new(shared, port, words)).await?;
    shared.advertised_info.learn_at(port.port(), slot.server(), dialled.info());
    Ok(dialled)
}

/// Opens a connection to the server of a slot, and notes what that says of the server.
async fn open_as<O: Open>(slot: &mut Slot, deadline: Instant, far: &O) -> Result<O::Opened, DialError> {
    let began = Instant::now();
    let server = Arc::clone(slot.server());
    // A dial without any time would fail, and that would say nothing.
    if began >= deadline {
        return Err(DialError::TimedOut);
    }
    let port = far.port();
    if port == Port::Leafnode {
        slot.for_leafnode();
    }
    if !server.may_dial(port, began.into_std()) {
        return Err(DialError::LeftAlone);
    }
    // A server that does not answer in its share of what is left leaves the rest for another one.
    let given = server.time_for_dial(port, deadline.saturating_duration_since(began));
    match far.open(&server, began + given).await {
        Ok(opened) => {
            server.dial_answered_in(port, began.elapsed());
            slot.opened();
            Ok(opened)
        }
        Err(err) => {
            match (err.note_at(&server, port, (began, given)), port) {
                (None, _) => {}
                (Some(pause), Port::Client) => warn!(server = server.name(), %err, ?pause, "server ejected"),
                (Some(pause), Port::WebSocket) => {
                    warn!(server = server.name(), %err, ?pause, "WebSocket port of server ejected");
                }
                (Some(pause), Port::Leafnode) => {
                    warn!(server = server.name(), %err, ?pause, "leafnode port of server ejected");
                }
            }
            Err(err)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;
    use crate::{config::Config, net::timer::timeout_at, upstream::Servers};

    /// A server whose INFO comes after so long.
    struct Distant(Duration);

    impl Open for Distant {
        type Opened = ();

        async fn open(&self, _server: &Server, by: Instant) -> Result<(), DialError> {
            let info = std::pin::pin!(tokio::time::sleep(self.0));
            timeout_at(by, info).await.map_err(|_| DialError::TimedOut)
        }
    }

    /// No descriptor is left for the dial.
    struct OutOfFiles;

    impl Open for OutOfFiles {
        type Opened = ();

        async fn open(&self, _server: &Server, _by: Instant) -> Result<(), DialError> {
            Err(io::Error::from(rustix::io::Errno::MFILE).into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_without_a_descriptor_says_nothing_of_the_server() {
        let config = Config::from_servers(&[crate::config::ServerArg("n1:4222".into())]).unwrap();
        let servers = Servers::new(&config.upstream);
        let server = servers.iter().next().unwrap();
        let dial = async |far: &OutOfFiles| {
            let mut slot = Slot::reserve(&server, now()).expect("a free slot");
            open_as(&mut slot, Instant::now() + Duration::from_secs(1), far).await
        };
        assert!(dial(&OutOfFiles).await.is_err());
        assert!(server.is_up(now()), "ejected because weir has no descriptor");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_with_little_time_left_ejects_no_distant_server() {
        let config = Config::from_servers(&[crate::config::ServerArg("n1:4222".into())]).unwrap();
        let servers = Servers::new(&config.upstream);
        let server = servers.iter().next().unwrap();
        let ms = Duration::from_millis;
        let dial = async |left: Duration| {
            let mut slot = Slot::reserve(&server, now()).expect("a free slot");
            open_as(&mut slot, Instant::now() + left, &Distant(ms(60))).await.is_ok()
        };
        assert!(dial(ms(1900)).await);
        assert!(dial(ms(78)).await, "1.3 times a login, which is little more than the dial");
        assert!(!dial(ms(40)).await);
        assert!(server.is_up(now()), "ejected by a client that had no time");
    }
}
