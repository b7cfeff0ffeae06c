//! The story of a client whose TLS ends at its server: accept → door → dial → relay → close.
//!
//! weir sees where it comes from, and who speaks when. Who it is, and what it asks for, is between it and its server: there is no
//! connect door here, and its account is nobody's as far as weir knows.

mod login;

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    dial::{self, DialError, Secured},
    dispatch::AnyPass,
    identity::Credential,
    net::{
        linger,
        stream::Stream,
        timer::{sleep_until, timeout_at},
    },
    outcome::{Cause, Close, Party, Phase, Refusal},
    protocol::{client_hello::FirstBytes, info::Info, refusal},
    relay::{Ended, Opaque, Relay},
    session::{
        Admitted, End, Listener, Shared, Who,
        account::ask,
        connect_upstream::{Open, open_any},
        dial_first::{dial_until, turn},
        leave_unfinished, let_go,
        preface::{self, Unfinished},
        proxy_header, tell,
    },
    telemetry::counters::Totals,
    tls::{self, HandshakeFirst},
    upstream::Server,
};

pub use self::login::Through;
/// What can be said to somebody who waits for a ServerHello (RFC 8446, 6.2): fatal, internal_error. Every client library takes it
/// for a failed attempt like any other.
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 80];

/// A server's connection for one client.
struct Opened {
    stream: Stream,
    /// What the client is to see of its INFO; `None` where TLS comes first.
    info: Option<Arc<Info>>,
    pass: AnyPass,
}

/// As far as the client's own TLS goes on from.
struct Bare<'a> {
    header: &'a [u8],
    /// TLS comes before the server's INFO.
    spoke: bool,
}

impl Open for Bare<'_> {
    type Opened = (Stream, Option<Arc<Info>>);

    async fn open(&self, server: &Server, by: Instant) -> Result<Self::Opened, DialError> {
        if self.spoke {
            return Ok((dial::connect(server, self.header, by).await?.into(), None));
        }
        let dialled = dial::dial(server, Secured::ByClient, self.header, by).await?;
        if !dialled.info().does_tls() {
            return Err(DialError::NotNats("it speaks no TLS: there is nothing to pass through"));
        }
        let info = Arc::clone(dialled.info());
        Ok((dialled.into_stream(), Some(info)))
    }
}

/// One client, from accept to close.
pub async fn pass_through(shared: Arc<Shared>, listener: Arc<Listener>, down: TcpStream, mut peer: SocketAddr) {
    peer.set_ip(peer.ip().to_canonical());
    let id = shared.next_id.fetch_add(1, Relaxed);
    let accepted = Instant::now();
    let mut who = Who::default();
    let admitted = Box::pin(admit(&shared, &listener, down, &mut peer, id, accepted, &mut who)).await;
    let mut totals = Totals::default();
    let end = match admitted {
        Err(end) => end,
        Ok(mut admitted) => match Box::pin(login::log_in(&shared, &listener, &mut admitted, &who)).await {
            Some(ended) => {
                // Neither a death of the server's nor a session yet: whatever it was, it is passed on at once.
                totals = Box::pin(admitted.relay.finish(ended)).await;
                let close = Close { party: ended.party, phase: Phase::Dial, cause: ended.cause };
                let silent = ended.party == Party::Downstream && totals.bytes_up == 0;
                if silent { End::Probe } else { End::Closed(close) }
            }
            None => {
                let ended = admitted.relay.run(admitted.registered.handle()).await;
                totals = Box::pin(let_go(&shared, admitted, ended)).await;
                End::Closed(Close { party: ended.party, phase: Phase::Relay, cause: ended.cause })
            }
        },
    };
    tell(&shared, end, totals, peer, id, accepted, &who);
}

/// Everything up to the relay.
async fn admit(
    shared: &Shared,
    listener: &Listener,
    mut down: TcpStream,
    peer: &mut SocketAddr,
    id: u64,
    accepted: Instant,
    who: &mut Who,
) -> Result<Box<Admitted<Opaque, Opaque>>, End> {
    let deadline = accepted + listener.handshake_timeout;
    if listener.believes(peer.ip()) {
        let _asked = listener.asks(shared)?;
        down = listener.behind_header(down, peer, deadline).await?;
    }
    let source = peer.ip().to_canonical();
    let header = proxy_header(shared, &down, *peer);

    // The accept door, the only one.
    let entry = shared.admission.at_accept(&listener.gate, source, accepted.into_std());
    let _turned_away = match &entry {
        Ok(_) => None,
        Err(reason) => Some(shared.turned_away.enter().ok_or(End::Refused(*reason))?),
    };
    let down = Stream::from(down);
    let spoke = match listener.through.as_ref().map(|through| through.handshake_first) {
        None | Some(HandshakeFirst::Never) => false,
        Some(HandshakeFirst::Always) => true,
        Some(HandshakeFirst::Within(pause)) => tls::speaks_first(down.tcp(), pause).await,
    };
    let client = Client { down, spoke, source, accepted, deadline };
    if spoke {
        client.begins_tls().await?;
    }

    // The dial.
    let opened = match &entry {
        Ok(_) => client.dial(shared, &header, who).await?,
        Err(reason) => Err(*reason),
    };
    let Opened { stream, info, pass } = match opened {
        Ok(opened) => opened,
        Err(reason) => return Err(client.turn_away(shared, listener, reason, id, who).await),
    };
    who.server = Some(Arc::clone(pass.server.server()));
    let Client { mut down, .. } = client;
    if let Some(info) = info {
        let mut greeting = Vec::with_capacity(512);
        listener.face.write_dialled_info(&info, source, &mut greeting);
        if let Err(unfinished) = preface::greet(&mut down, &greeting, deadline).await {
            linger::close_with(stream, b"").await;
            return Err(leave_unfinished(down, unfinished, Phase::Preface).await);
        }
    }
    let from_server = Opaque::of(Arc::clone(pass.server.server()));
    let counters = Arc::clone(&shared.counters);
    let relay = Relay::new((down, Opaque::default(), b""), (stream, from_server, b""), counters);
    // Nothing has come yet that could be a reason against it.
    let relay = relay.map_err(|(_, Ended { party, cause })| End::Closed(Close { party, phase: Phase::Dial, cause }))?;
    let registered = shared.sessions.register(id);
    // A drain that began after this client's turn would not see it otherwise.
    if shared.admission.is_draining() {
        registered.handle().end();
    }
    let AnyPass { server, account } = pass;
    Ok(Box::new(Admitted { relay, server, account: ask(shared, account, None), _entry: entry.ok(), registered }))
}

/// A client before its relay.
struct Client {
    down: Stream,
    /// It has begun TLS: what it has said is there to be read.
    spoke: bool,
    source: std::net::IpAddr,
    accepted: Instant,
    deadline: Instant,
}

impl Client {
    /// Waits for the beginning of TLS, so that whoever opens and says nothing costs no server anything.
    async fn begins_tls(&self) -> Result<(), End> {
        let unfinished = match timeout_at(self.deadline, pin!(tls::hello(self.down.tcp()))).await {
            Ok(Some(FirstBytes::ClientHello { .. })) => return Ok(()),
            Ok(Some(_)) => return Err(End::Refused(Refusal::Protocol)),
            Ok(None) => Unfinished::Probe,
            Err(_) => Unfinished::TimedOut,
        };
        Err(leave_unfinished(None, unfinished, Phase::Preface).await)
    }

    /// Returns when it leaves.
    async fn left(&self) {
        match self.spoke {
            true => preface::left_unheard(self.down.tcp()).await,
            false => preface::left_ungreeted(&self.down).await,
        }
    }

    /// Waits for a turn and dials. The outer error is the end of a client that has left meanwhile.
    async fn dial(&self, shared: &Shared, header: &[u8], who: &mut Who) -> Result<Result<Opened, Refusal>, End> {
        if shared.admission.source_reputation().is_damped(self.source, Instant::now().into_std()) {
            return Ok(Err(Refusal::SourceRate));
        }
        let AnyPass { server, account } = match turn(shared, self.source, self.accepted, who, self.left()).await? {
            Ok(pass) => pass,
            Err(reason) => return Ok(Err(reason)),
        };
        let deadline = dial_until(shared, self.accepted);
        let far = Bare { header, spoke: self.spoke };
        let mut opening = pin!(open_any(shared, server, &far, deadline));
        let (opened, left) = tokio::select! {
            opened = &mut opening => (opened, false),
            () = self.left() => (opening.await, true),
        };
        let ((stream, info), server, _) = match opened {
            Ok(opened) => opened,
            Err(_) if left => return Err(self.gone(Phase::Dial)),
            Err(reason) => return Ok(Err(reason)),
        };
        if left {
            // The slot stays taken until the server has seen the end.
            linger::close_with(stream, b"").await;
            drop(server);
            return Err(self.gone(Phase::Dial));
        }
        if let Some(info) = &info {
            shared.advertised_info.learn(server.server().index(), info);
        }
        Ok(Ok(Opened { stream, info, pass: AnyPass { server, account } }))
    }

    fn gone(&self, phase: Phase) -> End {
        match self.spoke {
            true => End::Closed(Close { party: Party::Downstream, phase, cause: Cause::Eof }),
            false => End::Probe,
        }
    }

    /// Refuses, at a random moment. Words are of no use to a client that expects TLS, and INFO without TLS would have some send
    /// their credentials in the clear: so weir's INFO asks for TLS as the servers' does, and TLS fails.
    async fn turn_away(mut self, shared: &Shared, listener: &Listener, reason: Refusal, id: u64, who: &mut Who) -> End {
        let (now, until) = (Instant::now().into_std(), dial_until(shared, self.accepted).into_std());
        let at = shared.admission.moment_to_refuse(reason, until, now, &mut fastrand::Rng::new());
        tokio::select! {
            () = sleep_until(Instant::from_std(at)) => {}
            () = self.left() => return self.gone(Phase::Hold),
        }
        who.client = Some(shared.keys.client(self.source, shared.keys.credential(Credential::Nothing), None));
        let mut last = ALERT;
        if !self.spoke {
            let mut greeting = Vec::with_capacity(512);
            listener.face.write_own_info(id, self.source, &mut greeting);
            if preface::greet(&mut self.down, &greeting, self.deadline).await.is_err() {
                return self.gone(Phase::Hold);
            }
            last = match timeout_at(self.deadline, pin!(tls::hello(self.down.tcp()))).await {
                Ok(Some(FirstBytes::ClientHello { .. })) => ALERT,
                // It goes on without TLS, so it can read.
                Ok(Some(_)) => refusal::line(reason),
                _ => b"",
            };
        }
        linger::close_with(self.down, last).await;
        End::Refused(reason)
    }
}
