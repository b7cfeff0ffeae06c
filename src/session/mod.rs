//! THE STORY of a client: accept → door → preface → door → dial → relay → close.
//!
//! Where the servers send a nonce, the first half of the dial moves before the preface (`session/ahead.rs`): the client signs what the
//! very server that it gets has sent.

mod account;
mod client_tls;
mod connect_upstream;
mod dial_first;
mod listener;
mod passthrough;
pub mod preface;
pub mod proxy_header;
mod refuse;
#[cfg(test)]
mod tests;
pub mod upstream_pool;
mod websocket_upgrade;

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};
use tracing::debug;

use crate::{
    admin::storm_sampler::Flight,
    admission::{Client, Deadlines, Entry, Limit, Pass, QuotaIdentity, Step, Wait},
    advertised_info::{AdvertisedInfo, PrefaceShape},
    cluster::account_lookup::Question,
    dial::Accepted,
    dispatch::{AnyAdmission, AnyPass, AnyStep, AnyWait, Turn},
    identity::{Claims, ClientKey, Credential, Directory, Keys, trusted_proxy::ProxyKey},
    net::{linger, stream::Stream, timer::sleep_until},
    outcome::{Cause, Close, Party, Phase, Refusal},
    protocol::{
        OK, PONG,
        client_preface::{Preface, PrefaceError},
        refusal,
    },
    relay::{
        ClientSide, Ended, InfoPolicy, Relay, ServerSide, Side,
        registry::{Registered, Sessions},
    },
    session::{
        account::{OfAccount, ask, expect_info, quota_identity, settle_account},
        client_tls::Secure,
        connect_upstream::{NotAnswered, dial_until_answered},
        dial_first::Ahead,
        preface::{Arrival, Unfinished},
        refuse::{leave_unfinished, refuse, refuse_at, turn_away},
    },
    telemetry::{
        counters::{Counters, Totals},
        storms::Fate,
    },
    tls::{Connector, Terminator},
    upstream::{Server, Servers, Slot},
};

pub use crate::session::{
    listener::{Listener, Web},
    passthrough::{Through, pass_through},
};
/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// The servers.
    pub servers: Arc<Servers>,
    /// Both doors.
    pub admission: Arc<AnyAdmission>,
    /// Notified when a client begins to wait for its turn.
    pub arrived: Arc<Notify>,
    /// Whose credentials belong to which account.
    pub directory: Arc<Directory>,
    /// Makes keys of credentials and clients.
    pub keys: Keys,
    /// Where accounts are asked for that a server did not name.
    pub questions: mpsc::Sender<Question>,
    /// The servers' INFO.
    pub advertised_info: Arc<AdvertisedInfo>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// The flight recorder.
    pub flight: Flight,
    /// The sessions that relay.
    pub sessions: Arc<Sessions>,
    /// Refusals under way at the accept door.
    pub turned_away: Arc<Limit>,
    /// The key by which servers know weir as a trusted proxy.
    pub proxy_key: Option<ProxyKey>,
    /// Whether the servers are told the clients' addresses by PROXY headers.
    pub sends_proxy_headers: bool,
    /// The ends of TLS, by listener.
    pub terminators: Vec<(SocketAddr, Arc<Terminator>)>,
    /// TLS towards the servers.
    pub servers_tls: Option<Arc<Connector>>,
    /// The next session's id.
    pub next_id: AtomicU64,
}

/// How a story ends.
enum End {
    Probe,
    Refused(Refusal),
    Closed(Close),
}

/// What is told of a client in the log.
#[derive(Default)]
struct Who {
    account: Option<Arc<str>>,
    client: Option<ClientKey>,
    name: Option<Box<str>>,
    lang: Option<Box<str>>,
    server: Option<Arc<Server>>,
    /// Why TLS failed.
    tls: Option<Box<str>>,
    /// Whether it had to wait for its turn.
    waited: bool,
}

/// A client that is in, with what is needed to relay.
struct Admitted<C = ClientSide, S = ServerSide> {
    relay: Relay<C, S>,
    /// Both held for as long as the session lives.
    server: Slot,
    account: OfAccount,
    /// `None` for one of the system account that the listener had no room for.
    _entry: Option<Entry>,
    registered: Registered,
}

impl<C: Side, S: Side> Admitted<C, S> {
    /// What has passed, when both sides can simply be closed: nothing is on its way, and neither the server nor a quota is so near
    /// its limit that it matters whether the server has seen the end already.
    fn ends_at_once(&self, ended: Ended) -> Option<Totals> {
        let totals = self.relay.owed_nothing(ended)?;
        (self.server.is_one_of_many() && self.account.is_unlimited()).then_some(totals)
    }
}

/// One client, from accept to close.
pub fn serve(
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    down: TcpStream,
    mut peer: SocketAddr,
) -> impl Future<Output = ()> + Send {
    // An IPv4 client of a socket for both families is an IPv4 client.
    peer.set_ip(peer.ip().to_canonical());
    let id = shared.next_id.fetch_add(1, Relaxed);
    let accepted = Instant::now();
    // What is needed only until the client is in lives on the heap until then: an idle session is small.
    let admitting = Box::pin(async move {
        let mut who = Who::default();
        let admitted = admit(&shared, &listener, down, &mut peer, id, accepted, &mut who).await;
        (admitted, shared, peer, who)
    });
    async move {
        let (admitted, shared, peer, who) = admitting.await;
        let (end, totals) = match admitted {
            Err(end) => (end, Totals::default()),
            Ok(mut admitted) => {
                let began = Instant::now();
                let ended = admitted.relay.run(admitted.registered.handle()).await;
                if let Some(client) = who.client {
                    shared.admission.session_ended(client, began.elapsed(), Instant::now().into_std());
                }
                let totals = match admitted.ends_at_once(ended) {
                    Some(totals) => {
                        drop(admitted);
                        totals
                    }
                    None => Box::pin(let_go(&shared, admitted, ended)).await,
                };
                (End::Closed(Close { party: ended.party, phase: Phase::Relay, cause: ended.cause }), totals)
            }
        };
        tell(&shared, end, totals, peer, id, accepted, &who);
    }
}

/// Ends a session properly; only then its slots are given back, but for that of a server which has ended it itself.
async fn let_go<C: Side, S: Side>(shared: &Shared, admitted: Box<Admitted<C, S>>, ended: Ended) -> Totals {
    let Admitted { mut relay, server, account: _account, _entry, registered } = *admitted;
    let _server = if ended.by_server() {
        drop(server);
        let now = Instant::now();
        let wait = shared.admission.session_lost(now.into_std(), &mut fastrand::Rng::new());
        if !wait.is_zero() {
            relay.outlive_server(now + wait, registered.handle()).await;
        }
        None
    } else {
        Some(server)
    };
    let totals = relay.finish(ended).await;
    drop(registered);
    totals
}

/// Counts and logs an end, once.
fn tell(shared: &Shared, end: End, totals: Totals, peer: SocketAddr, id: u64, accepted: Instant, who: &Who) {
    let (outcome, party, phase, reason) = match end {
        End::Probe => {
            shared.counters.probes.fetch_add(1, Relaxed);
            return;
        }
        End::Refused(reason) => {
            shared.counters.refuse(reason);
            if let Some(client) = who.client {
                shared.flight.refused(who.account.as_deref(), who.lang.as_deref(), shared.admission.refusals(client));
            }
            ("refused", Party::Weir.name(), "", reason.name())
        }
        End::Closed(close) => {
            shared.counters.close(close);
            if who.waited && close.phase == Phase::Hold {
                shared.flight.waited(who.account.as_deref(), who.lang.as_deref(), Fate::Left);
            }
            ("closed", close.party.name(), close.phase.name(), close.cause.name())
        }
    };
    debug!(
        id,
        %peer,
        party,
        phase,
        reason,
        account = who.account.as_deref(),
        name = who.name,
        lang = who.lang,
        server = who.server.as_deref().map(Server::name),
        tls = who.tls,
        lived = ?accepted.elapsed(),
        bytes_up = totals.bytes_up,
        bytes_down = totals.bytes_down,
        "{outcome}"
    );
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
) -> Result<Box<Admitted>, End> {
    let deadline = accepted + listener.handshake_timeout;
    let is_proxied = listener.believes(peer.ip());
    let asked = (is_proxied || listener.websocket.is_some()).then(|| listener.asks(shared)).transpose()?;
    if is_proxied {
        down = listener.behind_header(down, peer, deadline).await?;
    }
    let mut down = Stream::from(down);
    let mut upgrade = None;
    let mut secure = Secure::new(shared, listener, accepted, deadline);
    if let Some(web) = &listener.websocket {
        // Whatever comes over HTTPS comes after TLS; who really asks is told in HTTP.
        down = match secure.at_once(down).await {
            Ok(down) => down,
            Err(lost) => return Err(secure.end(lost, who).await),
        };
        (down, upgrade) =
            websocket_upgrade::ask(down, web, peer, deadline).await.map(|(down, upgrade)| (down, Some(upgrade)))?;
    }
    let source = peer.ip().to_canonical();
    let header = proxy_header(shared, down.tcp(), *peer);

    // The accept door.
    drop(asked);
    let entry = shared.admission.at_accept(&listener.gate, source, accepted.into_std());

    // The preface. Whoever was refused at the accept door goes through it too, or could not read why.
    let _turned_away = match &entry {
        Ok(_) => None,
        Err(reason) => Some(shared.turned_away.enter().ok_or(End::Refused(*reason))?),
    };
    secure.refused = entry.as_ref().err().copied();
    down = match (&upgrade, &entry) {
        (None, _) => match secure.first(down).await {
            Ok(down) => down,
            Err(lost) => return Err(secure.end(lost, who).await),
        },
        (Some(upgrade), Ok(_)) => websocket_upgrade::open(down, upgrade).await?,
        (Some(_), Err(reason)) => return Err(websocket_upgrade::turn_away(shared, down, *reason, deadline).await),
    };
    let mut ahead = match (&entry, shared.advertised_info.shape()) {
        (_, PrefaceShape::ConnectFirst) => Ahead::NotNeeded,
        (entry, PrefaceShape::DialFirst)
            if entry.is_ok() || shared.admission.lane().is_likely(source, Instant::now().into_std()) =>
        {
            dial_first::dial(shared, &down, &header, source, accepted, who).await?
        }
        (_, PrefaceShape::Unknown | PrefaceShape::DialFirst) => Ahead::Not(Refusal::ServerCapacity),
    };
    let mut greeting = Vec::with_capacity(512);
    match &ahead {
        Ahead::Dialled(dialled) => listener.face.write_dialled_info(dialled.info(), source, &mut greeting),
        Ahead::Not(_) => listener.face.write_own_info_with_nonce(id, source, &mut greeting),
        Ahead::NotNeeded => listener.face.write_own_info(id, source, &mut greeting),
    }
    let exchange = secure.exchange(down, &greeting);
    let (down, Arrival { mut connect, mut preface }) = match ahead.lasts_through(shared, source, exchange).await {
        Ok(heard) => heard,
        Err(lost) => {
            match lost.is_probe() {
                true => ahead.spare(shared).await,
                false => ahead.let_go().await,
            }
            return Err(secure.end(lost, who).await);
        }
    };
    let connected = Instant::now();
    if let Some(upgrade) = upgrade {
        upgrade.cookies.fill_in(&mut connect);
    }
    let lang = connect.lang();
    let deadlines = shared.admission.patience().deadlines(lang, accepted.into_std(), connected.into_std());
    who.name = connect.name().map(Box::from);
    who.lang = lang.map(Box::from);
    let claims = connect.jwt().and_then(Claims::read);
    let credential = Credential::of(&connect, claims.as_ref());
    let credential_key = shared.keys.credential(credential);
    let account = shared.directory.account(credential, credential_key);
    let entry = match entry {
        Ok(entry) => Some(entry),
        // The listener is full; what is kept for the system account is the servers'.
        Err(Refusal::ListenerFull) if shared.servers.is_system_account(&account) => None,
        Err(reason) => {
            ahead.let_go().await;
            let (until, rng) = (deadlines.hold_until, &mut fastrand::Rng::new());
            let at = shared.admission.moment_to_refuse(reason, until, connected.into_std(), rng);
            return Err(refuse_at(shared, down, &mut preface, reason, Instant::from_std(at)).await);
        }
    };

    // The connect door.
    let client = shared.keys.client(source, credential_key, connect.name());
    who.client = Some(client);
    who.account = Some(Arc::clone(&account));
    let Deadlines { hold_until, answer_by, returns } = deadlines;
    let quota_identity = if shared.admission.patterns().is_empty() {
        QuotaIdentity::default()
    } else {
        quota_identity(&shared.keys, credential, credential_key, &connect, &down)
    };
    let client = Client { account, key: client, quota_identity, hold_until, answer_by, returns };
    if shared.admission.source_reputation().is_damped_as(source, credential_key, connected.into_std()) {
        ahead.let_go().await;
        return Err(turn_away(shared, Refusal::SourceRate, &client, down, &mut preface).await);
    }
    if matches!(ahead, Ahead::Not(_)) && shared.servers.is_system_account(&client.account) {
        shared.admission.lane().claimed(source, connected.into_std());
    }
    let (pass, dialled, mut down) = match ahead.enter(shared, client, &connect, down, &mut preface, who).await {
        Ok(entered) => entered,
        Err(end) => {
            // While it waited a server may have named the account to another client of this credential.
            who.account = shared.directory.learned(credential_key).or(who.account.take());
            return Err(end);
        }
    };

    // The dial.
    let policy = expect_info(&mut connect);
    let answer_by = Instant::from_std(answer_by);
    let dialled = tokio::select! {
        dialled = dial_until_answered(shared, pass, dialled, &connect, &header, answer_by) => dialled,
        left = preface::watch(&mut down, &mut preface) => return Err(leave_unfinished(down, left, Phase::Dial).await),
    };
    let (mut pass, accepted_by) = match dialled {
        Ok(both) => both,
        Err(NotAnswered::Refused(reason)) => return Err(refuse(shared, down, reason).await),
        Err(NotAnswered::TooLong) => {
            return Err(leave_unfinished(down, Unfinished::Wrong(PrefaceError::TooLong), Phase::Dial).await);
        }
        Err(NotAnswered::ServerSaid(words)) => {
            if let Some(bad) = refusal::bad_login(&words) {
                shared.counters.bad_logins.note(who.account.as_deref().unwrap_or_default(), source, bad);
                if bad.is_of_credentials() {
                    shared.admission.source_reputation().failed(source, credential_key, Instant::now().into_std());
                }
            }
            linger::close_with(down, &words).await;
            return Err(End::Closed(Close { party: Party::Upstream, phase: Phase::Dial, cause: Cause::ServerError }));
        }
    };
    shared.admission.source_reputation().succeeded(source, credential_key);
    let server = Arc::clone(pass.server.server());
    who.server = Some(Arc::clone(&server));

    // The server's own word on the account.
    let unasked = match settle_account(shared, &mut pass, credential_key, &accepted_by) {
        Ok(unasked) => unasked,
        Err(reason) => {
            drop(accepted_by);
            return Err(refuse(shared, down, reason).await);
        }
    };
    pass.account.session_began();
    if server.is_system_account(pass.account.account().name()) {
        shared.admission.lane().verified(source, Instant::now().into_std());
    }
    who.account = Some(Arc::clone(pass.account.account().name()));

    // The client's PONG, and what follows it.
    let write_welcome = |out: &mut Vec<u8>| listener.face.write_server_info(&accepted_by.info, source, out);
    let mut words = Vec::with_capacity(1024);
    if connect.verbose() {
        words.extend_from_slice(OK);
    }
    let mut welcome = None;
    match (preface.take_ping(), policy) {
        (true, InfoPolicy::Drop) => words.extend_from_slice(PONG),
        (true, InfoPolicy::Rewrite) => {
            words.extend_from_slice(PONG);
            write_welcome(&mut words);
        }
        (false, InfoPolicy::Drop) => {}
        (false, InfoPolicy::Rewrite) => write_welcome(welcome.insert(Vec::new())),
    }
    let closed = |party, cause| End::Closed(Close { party, phase: Phase::Relay, cause });
    if down.send(&words).await.is_err() {
        return Err(closed(Party::Downstream, Cause::SocketError));
    }
    shared.counters.servers[server.index()].admitted.fetch_add(1, Relaxed);
    if who.waited {
        shared.flight.waited(who.account.as_deref(), who.lang.as_deref(), Fate::Admitted);
    }
    let from_client = ClientSide::new(server.max_control_line());
    let from_server = ServerSide::new(welcome, policy, Arc::clone(&listener.face), source, server);
    let Accepted { stream: up, rest, .. } = *accepted_by;
    let counters = Arc::clone(&shared.counters);
    match Relay::new((down, from_client, &preface.into_pipelined()), (up, from_server, &rest), counters) {
        Ok(relay) => {
            let registered = shared.sessions.register(id);
            // A drain that began after this client's turn would not see it otherwise.
            if shared.admission.is_draining() {
                registered.handle().end();
            }
            let Pass { server, account } = pass;
            Ok(Box::new(Admitted { relay, server, account: ask(shared, account, unasked), _entry: entry, registered }))
        }
        Err((down, ended)) => {
            linger::close_with(down, b"").await;
            Err(closed(ended.party, ended.cause))
        }
    }
}

/// What tells a server where this client comes from; empty where servers are not told.
fn proxy_header(shared: &Shared, down: &TcpStream, client: SocketAddr) -> Vec<u8> {
    let mut header = Vec::new();
    if shared.sends_proxy_headers
        && let Ok(here) = down.local_addr()
    {
        crate::protocol::proxy_header::write(client, here, &mut header);
    }
    header
}

/// Passes the connect door, waiting for a turn where need be.
async fn enter(
    shared: &Shared,
    client: Client,
    mut down: Stream,
    preface: &mut Preface,
    who: &mut Who,
) -> Result<(AnyPass, Stream), End> {
    let (turn, turn_comes) = oneshot::channel();
    let (now, rng) = (Instant::now().into_std(), &mut fastrand::Rng::new());
    let begun = Wait::at_connect(&shared.admission, client, now, rng, || Turn(turn));
    match wait(shared, begun, turn_comes, who, preface::watch(&mut down, preface)).await {
        Waited::Turn(pass) => Ok((pass, down)),
        Waited::Left(left) => Err(leave_unfinished(down, left, Phase::Hold).await),
        Waited::InVain(reason) => Err(refuse(shared, down, reason).await),
    }
}

/// Goes a client's course to its end, or until `left` says that the client is not there any more.
async fn wait<L>(
    shared: &Shared,
    (mut course, mut step): (AnyWait, AnyStep),
    mut turn_comes: oneshot::Receiver<AnyPass>,
    who: &mut Who,
    left: impl Future<Output = L>,
) -> Waited<L> {
    let mut held_since = None;
    let mut left = pin!(left);
    let waited = loop {
        if course.is_held() && held_since.is_none() {
            held_since = Some(Instant::now());
            if !std::mem::replace(&mut who.waited, true) {
                shared.counters.held.fetch_add(1, Relaxed);
            }
            shared.arrived.notify_one();
        }
        let until = match step {
            Step::Dial(pass) => break Waited::Turn(pass),
            Step::Refuse(reason) => break Waited::InVain(reason),
            Step::Gone => break Waited::of_turn(shared, course, turn_comes.await),
            Step::Wait(until) => Instant::from_std(until),
        };
        tokio::select! {
            biased;
            turn = &mut turn_comes, if course.is_held() => break Waited::of_turn(shared, course, turn),
            left = &mut left => {
                course.leave(&shared.admission, Instant::now().into_std());
                break Waited::Left(left);
            }
            () = sleep_until(until) => {}
        }
        step = course.go_on(&shared.admission, Instant::now().into_std(), &mut fastrand::Rng::new());
    };
    if let Some(since) = held_since {
        shared.counters.hold_seconds.observe(since.elapsed().as_secs_f64());
    }
    waited
}

/// How a wait ends.
enum Waited<L> {
    Turn(AnyPass),
    Left(L),
    InVain(Refusal),
}

impl<L> Waited<L> {
    /// Without a turn it was the queue that sent the client away: a drain, or a deadline that it saw before the session did.
    fn of_turn(shared: &Shared, course: AnyWait, turn: Result<AnyPass, oneshot::error::RecvError>) -> Self {
        turn.map_or_else(|_| Self::InVain(course.dropped(&shared.admission, Instant::now().into_std())), Self::Turn)
    }
}
