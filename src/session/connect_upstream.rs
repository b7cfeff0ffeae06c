//! Until a server has said its word: dialling, handing CONNECT over, and placing a client elsewhere without its noticing.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    admission::{Again, Pass},
    advertised_info::PrefaceShape,
    dial::{self, Accepted, Answer, DialError, Dialled, Secured},
    dispatch::{self, AnyPass},
    net::timer,
    outcome::Refusal,
    protocol::{PING, connect::Connect},
    session::Shared,
    upstream::{Server, Slot, concurrency::baseline::Since},
};

/// Why no server took the client.
pub(super) enum NotAnswered {
    Refused(Refusal),
    /// `-ERR`, as the server wrote it.
    ServerSaid(Vec<u8>),
    /// With weir's own signature CONNECT is longer than the servers take.
    TooLong,
}

/// What the server is sent: the canonical CONNECT, with weir's signature where weir is a trusted proxy, and PING.
fn words(shared: &Shared, connect: &Connect, nonce: Option<&str>, longest: usize) -> Result<Vec<u8>, NotAnswered> {
    let mut words = Vec::with_capacity(512);
    match shared.proxy_key.as_ref().zip(nonce).and_then(|(key, nonce)| key.sign(nonce)) {
        None => connect.write(&mut words),
        Some(sig) => {
            let mut signed = connect.clone();
            signed.set_proxy_sig(&sig);
            signed.write(&mut words);
            let argument = words.len() - b"CONNECT \r\n".len();
            if argument > longest {
                static TOLD: AtomicBool = AtomicBool::new(false);
                if !TOLD.swap(true, Relaxed) {
                    warn!(
                        argument,
                        max_control_line = longest,
                        "a CONNECT has no room for proxy_sig: raise max_control_line"
                    );
                }
                return Err(NotAnswered::TooLong);
            }
        }
    }
    words.extend_from_slice(PING);
    Ok(words)
}

/// Dials until a server has said its word; whatever goes wrong with one, the client is placed on the next without noticing.
/// Not so one that has signed the nonce of the first, which is `dialled` already: it has to come back.
pub(super) async fn dial_until_answered(
    shared: &Shared,
    mut pass: AnyPass,
    mut dialled: Option<Dialled>,
    connect: &Connect,
    header: &[u8],
    answer_by: Instant,
) -> Result<(AnyPass, Box<Accepted>), NotAnswered> {
    let bound = dialled.is_some() && connect.signs();
    let mut tried = Vec::new();
    loop {
        let began = Instant::now();
        let longest = pass.server.server().max_control_line();
        let (opened, since, said) = match dialled.take() {
            Some(dialled) => (Ok(dialled), Since::Connect, false),
            None if may_speak_first(shared, header) => {
                let words = words(shared, connect, None, longest)?;
                (open(shared, &mut pass.server, &words, answer_by).await, Since::Dial, true)
            }
            None => (open(shared, &mut pass.server, header, answer_by).await, Since::Dial, false),
        };
        let answer = match opened {
            // It has signed another nonce, or none: this server would call it a liar.
            Ok(dialled) if connect.signs() && !bound && dialled.info().nonce().is_some() => {
                return Err(NotAnswered::Refused(Refusal::ServerCapacity));
            }
            Ok(dialled) => {
                let words = match said {
                    true => Vec::new(),
                    false => words(shared, connect, dialled.info().nonce(), longest)?,
                };
                hand_over(shared, &mut pass, dialled, &words, (began, since), answer_by).await
            }
            Err(err) => Err(err),
        };
        match answer {
            Ok(Answer::Pong(accepted)) => return Ok((pass, accepted)),
            Ok(Answer::Err(line)) => return Err(NotAnswered::ServerSaid(line)),
            Err(err) if bound => {
                debug!(server = pass.server.server().name(), %err, "dial failed");
                return Err(NotAnswered::Refused(Refusal::ServerCapacity));
            }
            Err(err) => {
                let Pass { server, account } = pass;
                let placed = place_instead(shared, server, &err, &mut tried, answer_by).await;
                pass = Pass { server: placed.map_err(NotAnswered::Refused)?, account };
            }
        }
    }
}

/// Whether CONNECT may be on its way before the server's INFO has been read: where no server has anything in it that CONNECT
/// must answer, no signature and no TLS. A server that has changed its mind meanwhile is seen by its INFO, or closes.
fn may_speak_first(shared: &Shared, header: &[u8]) -> bool {
    shared.advertised_info.shape() == PrefaceShape::ConnectFirst
        && shared.servers_tls.is_none()
        && shared.proxy_key.is_none()
        && header.is_empty()
}

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
            Err(err) => slot = place_instead(shared, slot, &err, &mut tried, deadline).await?,
        }
    }
}

/// Finds a server in the place of one whose dial went wrong.
async fn place_instead(
    shared: &Shared,
    failed: Slot,
    err: &DialError,
    tried: &mut Vec<usize>,
    deadline: Instant,
) -> Result<Slot, Refusal> {
    debug!(server = failed.server().name(), %err, "dial failed");
    tried.push(failed.server().index());
    // The failed server's slot goes back before the next one's is taken.
    drop(failed);
    place_again(shared, tried, deadline).await
}

/// Finds a server other than those that were `tried`.
async fn place_again(shared: &Shared, tried: &[usize], deadline: Instant) -> Result<Slot, Refusal> {
    loop {
        let now = Instant::now().into_std();
        match shared.admission.place_again(tried, deadline.into_std(), now, &mut fastrand::Rng::new()) {
            Again::Placed(server) => return Ok(server),
            Again::Busy(until) => tokio::time::sleep_until(Instant::from_std(until)).await,
            Again::Refuse(reason) => return Err(reason),
        }
    }
}

/// How far a connection to a server is opened.
pub(super) trait Open {
    /// What there is then.
    type Opened;

    /// Opens one to `server`, which has to be done `by` then.
    async fn open(&self, server: &Server, by: Instant) -> Result<Self::Opened, DialError>;
}

/// As far as the server's INFO, with weir's own TLS where there is any.
pub(super) struct Greeted<'a> {
    tls: Secured<'a>,
    words: &'a [u8],
}

impl<'a> Greeted<'a> {
    /// `words` go first, where there are any.
    pub(super) fn by(shared: &'a Shared, words: &'a [u8]) -> Self {
        Self { tls: shared.servers_tls.as_deref().into(), words }
    }
}

impl Open for Greeted<'_> {
    type Opened = Dialled;

    async fn open(&self, server: &Server, by: Instant) -> Result<Dialled, DialError> {
        dial::dial(server, self.tls, self.words, by).await
    }
}

/// Connects to the server of a slot, sends `words` and reads its INFO; what that says of the server is noted.
pub(super) async fn open(
    shared: &Shared,
    slot: &mut Slot,
    words: &[u8],
    deadline: Instant,
) -> Result<Dialled, DialError> {
    let dialled = open_as(slot, deadline, &Greeted::by(shared, words)).await?;
    shared.advertised_info.learn(slot.server().index(), dialled.info());
    Ok(dialled)
}

/// Opens a connection to the server of a slot, and notes what that says of the server.
async fn open_as<O: Open>(slot: &mut Slot, deadline: Instant, far: &O) -> Result<O::Opened, DialError> {
    let began = Instant::now();
    let server = Arc::clone(slot.server());
    // A server that does not answer in half of what is left leaves the other half for another one.
    match far.open(&server, began + deadline.saturating_duration_since(began) / 2).await {
        Ok(opened) => {
            server.answered();
            slot.opened();
            Ok(opened)
        }
        Err(DialError::Full) => {
            server.said_full(Instant::now().into_std());
            Err(DialError::Full)
        }
        Err(err) => {
            if let Some(pause) = server.failed(Instant::now().into_std(), &mut fastrand::Rng::new()) {
                tracing::warn!(server = server.name(), %err, ?pause, "server ejected");
            }
            Err(err)
        }
    }
}

/// The rest of the handshake, which `began` with the dial or, where that came first, with CONNECT.
async fn hand_over(
    shared: &Shared,
    pass: &mut AnyPass,
    dialled: Dialled,
    words: &[u8],
    (began, since): (Instant, Since),
    answer_by: Instant,
) -> Result<Answer, DialError> {
    let server = Arc::clone(pass.server.server());
    let names_account = dialled.info().names_account();
    let answer = dialled.handshake(&server, words, names_account, answer_by).await;
    match &answer {
        Ok(Answer::Pong(_)) => {
            let took = began.elapsed();
            shared.admission.handshake_finished(pass, took, since, timer::late(), Instant::now().into_std());
            shared.counters.servers[server.index()].handshake_seconds.observe(took.as_secs_f64());
        }
        Err(DialError::Full) => server.said_full(Instant::now().into_std()),
        Err(DialError::TimedOut) => shared.admission.handshake_cut_off(pass, began.elapsed()),
        _ => {}
    }
    // Room for the next handshake: whoever waits for that need not wait for a timer.
    dispatch::give_now(&shared.admission);
    answer
}
