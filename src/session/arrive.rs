//! Whose connection is it? A trusted proxy says so before the client speaks; then the accept check, by source alone.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};
use tracing::warn;

use crate::{
    admission::{AcceptPermit, Permit, SourcePermit},
    net::{stream::Stream, timer::now},
    outcome::{Phase, Refusal},
    protocol::websocket::upgrade::Upgrade,
    session::{
        client_tls,
        connection_permit::ConnectionPermit,
        context::{Context, End},
        downstream::Unfinished,
        proxy_header,
        refuse::close_unfinished,
        websocket_upgrade,
    },
};

/// How often weir says that PROXY headers are missing.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// A client whose real address is known.
pub(super) struct Arrived {
    stream: Stream,
    /// The HTTP request of a WebSocket, which is not answered yet.
    upgrade: Option<Upgrade>,
    /// The accept check, where the address was known before the request was read; else what it is to be made with.
    check: Result<Checked, ConnectionPermit>,
}

/// What the accept check has said.
struct Checked {
    entry: Result<AcceptPermit, Refusal>,
    refusing: Option<Permit>,
}

impl Checked {
    /// The HTTP request is that of a leafnode.
    fn of_leafnode(self, cx: &Context) -> Result<Self, End> {
        let Self { entry: Ok(entry), refusing } = self else { return Ok(self) };
        match cx.shared.admission.becomes_leafnode(entry, cx.source(), now()) {
            Ok(entry) => Ok(Self { entry: Ok(entry), refusing }),
            Err(reason) => {
                let refusing = cx.shared.descriptors.to_refuse_with(None).ok_or(End::Refused(reason))?;
                Ok(Self { entry: Err(reason), refusing: Some(refusing) })
            }
        }
    }
}

/// A client that has been through the accept check.
pub(super) struct Accepted {
    pub stream: Stream,
    pub upgrade: Option<Upgrade>,
    /// The client's place in the limits of its listener and source, or why there is none.
    pub entry: Result<AcceptPermit, Refusal>,
    /// Counts a refused client until it has been told.
    pub refusing: Option<Permit>,
    /// Goes to the server in front of everything else; empty where servers are not told of clients' addresses.
    pub proxy_header: Vec<u8>,
}

/// A peer that should send a PROXY header has sent none. A NATS client waits for INFO, so it says nothing either: to
/// whoever looks at it, weir is silent. Told now and then, since each such connection has the same cause.
fn tell_of_missing_header(peer: SocketAddr) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let Ok(mut last) = LAST.try_lock() else { return };
    if last.is_none_or(|last| last.elapsed() >= TELL_AGAIN) {
        *last = Some(Instant::now());
        warn!(
            %peer,
            "no PROXY header from a network of accept_proxy_protocol_from: each connection from there must begin with \
             one; name the balancers only, or have them send it"
        );
    }
}

/// Reads what a trusted proxy says before the client itself speaks: a PROXY header, or the HTTP request of a WebSocket.
/// The accept check comes as soon as it is known whose connection it is, so that silent connections count for their own
/// source.
pub(super) async fn arrive(cx: &mut Context, mut tcp: TcpStream, permit: ConnectionPermit) -> Result<Arrived, End> {
    let is_proxied = cx.listener.trusts_proxy(cx.peer.ip())
        && (!cx.listener.header_is_optional || proxy_header::is_coming(&tcp).await);
    let (mut permit, mut asked) = (permit, None);
    if is_proxied {
        (permit, asked) = ask(cx, permit)?;
        match proxy_header::read(&mut tcp, cx.step_by(cx.heard())).await {
            Ok(client) => cx.comes_from(client.unwrap_or(cx.peer)),
            Err(unfinished) => {
                if matches!(unfinished, Unfinished::TimedOut | Unfinished::Wrong(_)) {
                    tell_of_missing_header(cx.peer);
                }
                return Err(close_unfinished(Stream::from(tcp), unfinished, Phase::Preface).await);
            }
        }
        cx.note_heard();
    }
    let listener = Arc::clone(&cx.listener);
    let Some(web) = &listener.websocket else {
        return Ok(Arrived { stream: tcp.into(), upgrade: None, check: Err(permit) });
    };
    let mut check = if web.trusts_proxy(cx.peer.ip()) {
        if asked.is_none() {
            (permit, asked) = ask(cx, permit)?;
        }
        Err(permit)
    } else {
        asked = None;
        Ok(check(cx, permit)?)
    };
    let refused = check.as_ref().ok().and_then(|checked| checked.entry.as_ref().err().copied());
    // HTTPS is HTTP inside TLS.
    let stream = match client_tls::handshake(cx, tcp.into(), refused).await {
        Ok(stream) => stream,
        Err(lost) => return Err(lost.close(refused).await),
    };
    cx.note_heard();
    let (stream, upgrade) = websocket_upgrade::read_request(cx, stream, web).await?;
    cx.note_heard();
    if upgrade.is_of_leafnode
        && let Some(leafnodes) = &web.leafnodes
    {
        cx.listener = Arc::clone(leafnodes);
        check = match check {
            Ok(checked) => Ok(checked.of_leafnode(cx)?),
            Err(permit) => Err(permit),
        };
    }
    drop(asked);
    Ok(Arrived { stream, upgrade: Some(upgrade), check })
}

/// Counts a connection of which something is read before the accept check: it takes a place like any client.
fn ask(cx: &Context, permit: ConnectionPermit) -> Result<(ConnectionPermit, Option<SourcePermit>), End> {
    let counted = cx.listener.count_before_check(cx.source()).ok_or(End::Refused(Refusal::ListenerFull))?;
    Ok((permit.into_client(&cx.listener.max_clients), Some(counted)))
}

/// The accept check, and for a client that it refuses the permit to be told. Only a source beyond its own quota may
/// find no such permit: its connections do not take the places of clients.
fn check(cx: &Context, permit: ConnectionPermit) -> Result<Checked, End> {
    let (client, other) = permit.split();
    let source = (cx.source(), cx.listener.is_for_leafnodes);
    let entry = cx.shared.admission.at_accept(client, &cx.listener.max_clients, source, now());
    let refusing = match &entry {
        Ok(_) => None,
        Err(reason) => Some(cx.shared.descriptors.to_refuse_with(other).ok_or(End::Refused(*reason))?),
    };
    Ok(Checked { entry, refusing })
}

impl Arrived {
    /// The accept check. A refused client goes on to the preface as well, since only then can it read why.
    pub fn accept_check(self, cx: &Context) -> Result<Accepted, End> {
        let Self { stream, upgrade, check: checked } = self;
        let proxy_header = cx.proxy_header(stream.tcp());
        let Checked { entry, refusing } = match checked {
            Ok(checked) => checked,
            Err(permit) => check(cx, permit)?,
        };
        Ok(Accepted { stream, upgrade, entry, refusing, proxy_header })
    }
}
