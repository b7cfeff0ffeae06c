//! The path of a client whose TLS ends at its server: arrive → accept check → wait and dial → first answer → relay →
//! close.
//!
//! weir sees where the client comes from, and who speaks when. Who it is and what it asks for is between it and its
//! server: there is no connect check here, and the client counts for no account.

pub(super) mod client;
mod first_answer;
pub(super) mod login;

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::Instant};

use crate::{
    admission::{AccountSlot, Pass, SourcePermit, Wait},
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
        connection_permit::ConnectionPermit,
        context::{Context, End},
        damped_dials::{self, Kind},
        dial_first::turn_by_source,
        downstream::Unfinished,
        established::Established,
        failover::{Open, give_up, open_any, place_again},
        listener::Listener,
        passthrough::{
            client::PassthroughClient,
            first_answer::{FirstAnswer, Unread, busy_behind_info, first_answer},
            login::{Beginning, Login, UnreadSession},
        },
        refuse::{Refusable, close_unfinished, refuse},
        shared::Shared,
        unanswered,
    },
    telemetry::counters::Totals,
    tls::{self, HandshakeFirst},
    upstream::{Port, Server, Slot},
    worker::with_rng,
};

/// nats-server decides on a TLS handshake right behind INFO. One that is known to limit its rate has this long to say
/// no; each login of a client that signs its nonce waits for it then.
const BEHIND_INFO: Duration = Duration::from_millis(5);

/// Serves one client whose TLS ends at its server, from accept to close.
pub async fn serve_passthrough(
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    client: TcpStream,
    peer: SocketAddr,
    permit: ConnectionPermit,
) {
    let mut cx = Context::new(shared, listener, peer);
    let established = Box::pin(establish(&mut cx, client, permit)).await;
    let (mut session, beginning) = match established {
        Ok(both) => both,
        Err(end) => return cx.finish(end),
    };
    match Box::pin(login::log_in(&cx, &mut session, beginning)).await {
        Some(ended) => end_login(session, ended).await,
        None => {
            let logged_in = Instant::now();
            session.relay(logged_in).await;
            note_good_session(&cx, logged_in);
        }
    }
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

/// Everything up to the server's first answer, behind which the relay follows.
async fn establish(
    cx: &mut Context,
    client: TcpStream,
    permit: ConnectionPermit,
) -> Result<(Box<UnreadSession>, Beginning), End> {
    let arrived = arrive(cx, client, permit).await?;
    let accepted = arrived.accept_check(cx)?;
    let Accepted { stream, entry, refusing: _refusing, proxy_header, .. } = accepted;
    let mut client = PassthroughClient::begin(cx, stream).await?;
    let until_tls = UntilTls { proxy_header: &proxy_header, tls_first: client.tls_first };
    let opened = match &entry {
        Ok(_) => client.dial(cx, &until_tls).await?,
        Err(reason) => Err(*reason),
    };
    let (opened, account, unanswered) = match opened {
        Ok(opened) => opened,
        Err(reason) => return Err(refuse_passthrough(cx, client, reason).await),
    };
    let answered = Box::pin(client.answered_by(cx, &until_tls, opened)).await?;
    let Answered { stream: to_server, server, unread, login } = match answered {
        Ok(answered) => answered,
        Err(reason) => return Err(refuse_passthrough(cx, client, reason).await),
    };
    let (bytes_up, records) = unread.into_parts();
    let counters = Arc::clone(&cx.shared.counters);
    let from_client = Passthrough::from_client(records, login.records());
    let relay = Relay::new((client.stream, from_client, b""), (to_server, Passthrough::default(), b""), counters);
    // Nothing has been read yet that could be a reason to end.
    let mut relay = relay.map_err(|(_, ended)| End::closed(ended.party, Phase::Dial, ended.cause))?;
    relay.has_passed(bytes_up);
    let session = Established::new(cx, relay, server, |_| AccountPlace::known(account), entry.ok());
    Ok((Box::new(session), Beginning { login, unanswered }))
}

/// Refuses a client at the moment that admission chooses.
async fn refuse_passthrough(cx: &mut Context, client: PassthroughClient, reason: Refusal) -> End {
    let until = cx.unknown_hold_until().into_std();
    let refused = with_rng(|rng| Wait::refused_at_accept(&cx.shared.admission, reason, until, now(), rng));
    refuse(cx, Refusable::Passthrough(client), reason, refused).await
}

/// Ends a session whose login was not over: neither a death of the server nor a session yet, so the end is passed on
/// at once.
async fn end_login(session: Box<UnreadSession>, ended: Ended) {
    let Ended { party, cause } = ended;
    let end = |totals: Totals| match party == Party::Downstream && totals.bytes_up == 0 {
        true => End::Probe,
        false => End::closed(party, Phase::Dial, cause),
    };
    Box::pin(session.close_in_login(ended, end)).await;
}

/// A server's connection for one client.
struct Opened {
    stream: Stream,
    /// The server's INFO; `None` where TLS comes first.
    info: Option<Arc<Info>>,
    server: Slot,
}

/// A connection whose server has begun to answer.
struct Answered {
    stream: Stream,
    server: Slot,
    unread: Unread,
    login: Login,
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
        let stream = dialled.into_stream();
        // A client that signs its nonce is bound to it, and sees INFO only once it is likely that the server takes it.
        if info.nonce().is_some() {
            let within = if server.limits_its_rate() { BEHIND_INFO } else { Duration::ZERO };
            if let Some(busy) = busy_behind_info(stream.tcp(), within).await {
                return Err(busy.into());
            }
        }
        Ok((stream, Some(info)))
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
                    return Ok(Self { stream, tls_first, is_informed: false });
                }
                Ok(Some(_)) => return Err(End::Refused(Refusal::Protocol)),
                Ok(None) => Unfinished::Probe,
                Err(_) => Unfinished::TimedOut,
            };
            return Err(close_unfinished(None, unfinished, Phase::Preface).await);
        }
        Ok(Self { stream, tls_first, is_informed: false })
    }

    /// Waits for a turn and dials. The outer error is the end of a client that has left meanwhile.
    async fn dial(
        &self,
        cx: &mut Context,
        until_tls: &UntilTls<'_>,
    ) -> Result<Result<(Opened, AccountSlot, Option<SourcePermit>), Refusal>, End> {
        let end = |()| self.end_of_left(Phase::Hold);
        if !damped_dials::may_dial(cx, Kind::Passthrough, self.left()).await.map_err(end)? {
            return Ok(Err(Refusal::SourceRate));
        }
        let unanswered = unanswered::begin(cx, self.left()).await.map_err(end)?;
        if unanswered.is_none() {
            return Ok(Err(Refusal::ServerCapacity));
        }
        let Pass { server, account } = match turn_by_source(cx, false, self.left()).await.map_err(end)? {
            Ok(pass) => pass,
            Err(reason) => return Ok(Err(reason)),
        };
        let by = cx.dial_by();
        let opening = open_any(&cx.shared, server, until_tls, by);
        Ok(self.open(cx, opening).await?.map(|opened| (opened, account, unanswered)))
    }

    /// Follows a dial to its end, also when the client leaves meanwhile. The outer error is the client's end then.
    async fn open(
        &self,
        cx: &Context,
        opening: impl Future<Output = Result<((Stream, Option<Arc<Info>>), Slot, Instant), Refusal>>,
    ) -> Result<Result<Opened, Refusal>, End> {
        let mut opening = pin!(opening);
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
            cx.shared.advertised_info.learn(server.server(), info);
        }
        Ok(Ok(Opened { stream, info, server }))
    }

    /// Passes on the server's INFO, and the client's first bytes until the server answers them. One that is busy is
    /// replaced, unless the client signs its nonce. The outer error is the end of a client that has left meanwhile.
    async fn answered_by(
        &mut self,
        cx: &mut Context,
        until_tls: &UntilTls<'_>,
        opened: Opened,
    ) -> Result<Result<Answered, Refusal>, End> {
        let Opened { mut stream, info, mut server } = opened;
        cx.log.server = Some(Arc::clone(server.server()));
        let is_bound = info.as_ref().is_some_and(|info| info.nonce().is_some());
        if let Some(info) = info {
            cx.log.server_client_id = info.client_id().unwrap_or(0);
            let mut line = Vec::with_capacity(512);
            cx.listener.info.write_dialled_info(&info, cx.source(), &mut line);
            if let Err(end) = self.inform(cx, &line).await {
                linger::close_with(stream, b"").await;
                return Err(end);
            }
        }
        let mut tried = Vec::new();
        loop {
            let (mut unread, mut login) = (Unread::default(), Login::new(Instant::now()));
            let of_client = (&mut unread, &mut login, &mut server);
            match first_answer(self.stream.tcp(), stream.tcp(), of_client).await {
                FirstAnswer::Begun => return Ok(Ok(Answered { stream, server, unread, login })),
                FirstAnswer::Busy(busy) => {
                    busy.note_at(server.server());
                    if is_bound {
                        // It reads the server's words.
                        let (unread, login) = (Unread::default(), Login::new(Instant::now()));
                        return Ok(Ok(Answered { stream, server, unread, login }));
                    }
                    drop(stream);
                    give_up(&cx.shared, server, &busy.into(), &mut tried);
                    // One that says nothing takes nothing of what the servers have left.
                    if unread.is_silent() {
                        self.speaks(cx).await?;
                    }
                    let (shared, by) = (&cx.shared, cx.dial_by());
                    let again = async {
                        let slot = place_again(shared, None, &tried, by).await?;
                        open_any(shared, slot, until_tls, by).await
                    };
                    let opened = match self.open(cx, again).await? {
                        Ok(opened) => opened,
                        Err(reason) => return Ok(Err(reason)),
                    };
                    // Its client has seen the INFO of the first one.
                    cx.log.server_client_id = opened.info.as_ref().and_then(|info| info.client_id()).unwrap_or(0);
                    Opened { stream, server, .. } = opened;
                    cx.log.server = Some(Arc::clone(server.server()));
                }
                FirstAnswer::ClientLeft => {
                    let silent = unread.is_silent();
                    // The slot stays taken until the server has seen the end.
                    linger::close_with(stream, b"").await;
                    drop(server);
                    return Err(if silent { End::Probe } else { End::left(Phase::Dial) });
                }
            }
        }
    }
}
