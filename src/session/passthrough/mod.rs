//! The path of a client whose TLS ends at its server: arrive → accept check → wait and dial → relay → close.
//!
//! weir sees where the client comes from, and who speaks when. Who it is and what it asks for is between it and its
//! server: there is no connect check here, and the client counts for no account.

pub(super) mod client;
pub(super) mod login;

use std::{net::SocketAddr, pin::pin, sync::Arc};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    admission::{Pass, SourcePermit, Wait},
    dial::{self, DialError, ServerTls},
    net::{
        linger,
        stream::Stream,
        timer::{now, timeout_at},
    },
    outcome::{Party, Phase, Refusal},
    protocol::{client_hello::FirstBytes, info::Info},
    relay::{Ended, Passthrough, Relay},
    session::{
        account::AccountPlace,
        arrive::{Accepted, arrive},
        context::{Context, End},
        damped_dials::{self, Kind},
        dial_first::turn_by_source,
        downstream::{self, Unfinished},
        established::Established,
        failover::{Open, open_any},
        listener::Listener,
        passthrough::{
            client::PassthroughClient,
            login::{Beginning, Unread},
        },
        refuse::{Refusable, close_unfinished, refuse},
        shared::Shared,
        unanswered,
    },
    telemetry::counters::Totals,
    tls::{self, HandshakeFirst},
    upstream::{Port, Server},
    worker::with_rng,
};

/// Serves one client whose TLS ends at its server, from accept to close.
pub async fn serve_passthrough(shared: Arc<Shared>, listener: Arc<Listener>, client: TcpStream, peer: SocketAddr) {
    let mut cx = Context::new(shared, listener, peer);
    let established = Box::pin(establish(&mut cx, client)).await;
    let (end, totals) = match established {
        Err(end) => (end, Totals::default()),
        Ok((mut session, beginning)) => match Box::pin(login::log_in(&cx, &mut session, beginning)).await {
            Some(ended) => end_of_login(session, ended).await,
            None => {
                let logged_in = Instant::now();
                let ended = session.relay(&cx).await;
                note_good_session(&cx, logged_in);
                ended
            }
        },
    };
    cx.finish(end, totals);
}

/// A session that has lived longer than its server waits for a login was a good one: somebody behind its source knows
/// a credential.
fn note_good_session(cx: &Context, logged_in: Instant) {
    if let Some(server) = &cx.log.server
        && logged_in.elapsed() > server.auth_timeout(Port::Client) * 2
    {
        cx.shared.admission.source_reputation().passed_through(cx.source());
    }
}

/// Everything up to the relay.
async fn establish(cx: &mut Context, client: TcpStream) -> Result<(Box<Unread>, Beginning), End> {
    let arrived = arrive(cx, client).await?;
    let accepted = arrived.accept_check(cx)?;
    let Accepted { stream, entry, refusing: _refusing, proxy_header, .. } = accepted;
    let client = PassthroughClient::begin(cx, stream).await?;
    let opened = match &entry {
        Ok(_) => client.dial(cx, &proxy_header).await?,
        Err(reason) => Err(*reason),
    };
    let Opened { stream: to_server, info, pass, unanswered } = match opened {
        Ok(opened) => opened,
        Err(reason) => {
            let until = cx.unknown_hold_until().into_std();
            let refused = with_rng(|rng| Wait::refused_at_accept(&cx.shared.admission, reason, until, now(), rng));
            return Err(refuse(cx, Refusable::Passthrough(client), reason, refused).await);
        }
    };
    cx.log.server = Some(Arc::clone(pass.server.server()));
    let mut stream = client.stream;
    if let Some(info) = info {
        let mut line = Vec::with_capacity(512);
        cx.listener.info.write_dialled_info(&info, cx.source(), &mut line);
        if let Err(unfinished) = downstream::send_info(&mut stream, &line, cx.step_by(Instant::now())).await {
            linger::close_with(to_server, b"").await;
            return Err(close_unfinished(stream, unfinished, Phase::Preface).await);
        }
    }
    let from_server = Passthrough::from_server(Arc::clone(pass.server.server()));
    let counters = Arc::clone(&cx.shared.counters);
    let records = Arc::default();
    let relay = Relay::new((stream, Passthrough::from_client(&records), b""), (to_server, from_server, b""), counters);
    // Nothing has been read yet that could be a reason to end.
    let relay = relay.map_err(|(_, ended)| End::closed(ended.party, Phase::Dial, ended.cause))?;
    let Pass { server, account } = pass;
    let session = Established::new(cx, relay, server, AccountPlace::known(account), entry.ok());
    Ok((Box::new(session), Beginning { records, unanswered }))
}

/// Ends a session whose login was not over: neither a death of the server nor a session yet, so the end is passed on
/// at once.
async fn end_of_login(session: Box<Unread>, ended: Ended) -> (End, Totals) {
    let Ended { party, cause } = ended;
    let totals = Box::pin(session.close_in_login(ended)).await;
    let silent = party == Party::Downstream && totals.bytes_up == 0;
    (if silent { End::Probe } else { End::closed(party, Phase::Dial, cause) }, totals)
}

/// A server's connection for one client.
struct Opened {
    stream: Stream,
    /// The server's INFO; `None` where TLS comes first.
    info: Option<Arc<Info>>,
    pass: Pass,
    /// Counts it for the client's source.
    unanswered: Option<SourcePermit>,
}

/// Opens a server's connection as far as the client's own TLS goes on from.
struct UntilTls<'a> {
    proxy_header: &'a [u8],
    /// TLS comes before the server's INFO.
    tls_first: bool,
}

impl Open for UntilTls<'_> {
    type Opened = (Stream, Option<Arc<Info>>);

    async fn open(&self, server: &Server, by: Instant) -> Result<Self::Opened, DialError> {
        if self.tls_first {
            return Ok((dial::connect(server.endpoint(), self.proxy_header, by).await?.into(), None));
        }
        let dialled = dial::dial(server, ServerTls::Client, self.proxy_header, by).await?;
        if !dialled.info().does_tls() {
            return Err(DialError::NotNats("it speaks no TLS: there is nothing to pass through"));
        }
        let info = Arc::clone(dialled.info());
        Ok((dialled.into_stream(), Some(info)))
    }
}

impl PassthroughClient {
    /// Finds out whether the client begins TLS before INFO. A client that opens and says nothing costs no server
    /// anything.
    async fn begin(cx: &mut Context, stream: Stream) -> Result<Self, End> {
        let tls_first = match cx.listener.passthrough.as_ref().map(|passthrough| passthrough.handshake_first) {
            None | Some(HandshakeFirst::Never) => false,
            Some(HandshakeFirst::Always) => true,
            Some(HandshakeFirst::Within(pause)) => tls::speaks_first(stream.tcp(), pause).await,
        };
        if tls_first {
            let hello = timeout_at(cx.step_by(cx.heard()), pin!(tls::hello(stream.tcp()))).await;
            let unfinished = match hello {
                Ok(Some(FirstBytes::ClientHello { .. })) => {
                    cx.note_heard();
                    return Ok(Self { stream, tls_first });
                }
                Ok(Some(_)) => return Err(End::Refused(Refusal::Protocol)),
                Ok(None) => Unfinished::Probe,
                Err(_) => Unfinished::TimedOut,
            };
            return Err(close_unfinished(None, unfinished, Phase::Preface).await);
        }
        Ok(Self { stream, tls_first })
    }

    /// Waits for a turn and dials. The outer error is the end of a client that has left meanwhile.
    async fn dial(&self, cx: &mut Context, proxy_header: &[u8]) -> Result<Result<Opened, Refusal>, End> {
        match damped_dials::may_dial(cx, Kind::Passthrough, self.left()).await {
            Ok(true) => {}
            Ok(false) => return Ok(Err(Refusal::SourceRate)),
            Err(_) => return Err(self.end_of_left(Phase::Hold)),
        }
        let unanswered = match unanswered::begin(cx, self.left()).await {
            Ok(None) => return Ok(Err(Refusal::ServerCapacity)),
            Ok(permit) => permit,
            Err(_) => return Err(self.end_of_left(Phase::Hold)),
        };
        let Pass { server, account } = match turn_by_source(cx, false, self.left()).await? {
            Ok(pass) => pass,
            Err(reason) => return Ok(Err(reason)),
        };
        let until_tls = UntilTls { proxy_header, tls_first: self.tls_first };
        let mut opening = pin!(open_any(&cx.shared, server, &until_tls, cx.dial_by()));
        let (opened, left) = tokio::select! {
            opened = &mut opening => (opened, false),
            () = self.left() => (opening.await, true),
        };
        let ((stream, info), server, _) = match opened {
            Ok(opened) => opened,
            Err(_) if left => return Err(self.end_of_left(Phase::Dial)),
            Err(reason) => return Ok(Err(reason)),
        };
        if left {
            // The slot stays taken until the server has seen the end.
            linger::close_with(stream, b"").await;
            drop(server);
            return Err(self.end_of_left(Phase::Dial));
        }
        if let Some(info) = &info {
            cx.shared.advertised_info.learn(server.server().index(), info);
        }
        Ok(Ok(Opened { stream, info, pass: Pass { server, account }, unanswered }))
    }
}
