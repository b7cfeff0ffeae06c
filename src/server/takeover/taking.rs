//! The new process of a takeover.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io, mem,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    StatusCode,
    client::conn::http1,
    header::{CONNECTION, HOST, UPGRADE},
    upgrade::{self, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    admin::socket::{OperatorPause, Why},
    fleet::{Process, member::MemberId},
    fleet_link::FleetLink,
    identity::{Keys, Secret},
    net::{
        passing::{self, Receiver, Sender, is_end},
        timer,
    },
    server::{
        discovery::DiscoveredServers,
        listeners::Listeners,
        takeover::{
            PROTOCOL,
            message::{FleetName, Message, Offer, Offered, OtherFleet, Refused, VERSION, receive, send},
        },
        worker::{NewSession, Work},
    },
    session::{
        Listener, Shared,
        remembered::Remembered,
        takeover::{Adopted, ClientState, Gone, Places, SessionState, adopt},
    },
    telemetry::moment::Moment,
};

/// How long the old process may take for an answer. It may have many sessions to stop.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// The longest refusal in bytes.
const LONGEST_REFUSAL: usize = 64 * 1024;

/// Why there is no takeover.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    #[error("no weir answers on {socket}: {err}")]
    NoWeir { socket: String, err: io::Error },
    #[error("the running weir refuses: {0}")]
    Refused(String),
    #[error("the running weir has broken off: {0}")]
    BrokenOff(String),
    #[error("the running weir cannot be taken over: {0}")]
    OtherFleet(#[from] OtherFleet),
    #[error("{0}")]
    Os(#[from] io::Error),
}

/// The listening sockets of the old process.
#[derive(Debug, Default)]
pub struct TakenSockets {
    /// By the address of a listener in the old process's configuration, and which of those there it is.
    pub listeners: BTreeMap<(SocketAddr, usize), Vec<TcpListener>>,
    pub monitor: Option<(SocketAddr, TcpListener)>,
    pub admin: Option<UnixListener>,
}

/// A takeover, as the new process sees it.
pub struct Taking {
    sender: Sender,
    receiver: Receiver,
    offer: Offer,
    batch: Batch,
    /// Clients that go on once all sessions are counted: before that a quota seems to have room. `None` from then on.
    until_serving: Option<Vec<NewClient>>,
    /// What sessions hold here that go on there.
    stay: HashMap<u64, Places>,
    taken: usize,
    /// More than the id of each session and client that was taken.
    next_id: u64,
    /// The old process has ended before it has said all.
    is_alone: bool,
    /// This process is the weir of the fleet.
    has_fleet: bool,
}

impl fmt::Debug for Taking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taking").field("offer", &self.offer).finish_non_exhaustive()
    }
}

impl Taking {
    /// Asks the process behind this admin socket, and takes its listening sockets.
    ///
    /// # Errors
    /// No weir runs there, or it does not agree.
    pub async fn begin(socket: &Path, fleet: Option<FleetName>) -> Result<(Self, TakenSockets), TakeoverError> {
        let name = socket.display().to_string();
        let stream = UnixStream::connect(socket).await.map_err(|err| TakeoverError::NoWeir { socket: name, err })?;
        let (mut sender, mut receiver) = passing::channel(ask(stream).await?);
        let hello = Message::Hello { version: VERSION, weir: env!("WEIR_VERSION").to_owned(), fleet: fleet.clone() };
        send(&mut sender, &hello, &[]).await?;
        let (message, mut descriptors) = next(&mut receiver).await?;
        let Message::Offer(offer) = message else { return Err(unexpected(&message)) };
        // One of an older version does not compare.
        FleetName::agree(offer.fleet.as_ref().map(|(running, _)| running), fleet.as_ref())?;
        for _ in 0..offer.more_sockets {
            match next(&mut receiver).await? {
                (Message::Sockets, more) => descriptors.extend(more),
                (other, _) => return Err(unexpected(&other)),
            }
        }
        let sockets = sockets(&offer, descriptors)?;
        info!(pid = offer.pid, weir = offer.weir, sessions = offer.sessions, "takes over from a running weir");
        Ok((Self::offered(sender, receiver, *offer), sockets))
    }

    /// One that has had this offer.
    pub(super) fn offered(sender: Sender, receiver: Receiver, offer: Offer) -> Self {
        Self {
            sender,
            receiver,
            offer,
            batch: Batch::default(),
            until_serving: Some(Vec::new()),
            stay: HashMap::new(),
            taken: 0,
            next_id: 0,
            is_alone: false,
            has_fleet: false,
        }
    }

    /// Whether the old process has ended before it has said all.
    #[cfg(test)]
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// From where moments count, by the monotonic clock.
    pub fn origin(&self) -> Duration {
        Duration::from_nanos(self.offer.origin)
    }

    /// What the old process is in its fleet.
    pub fn member(&self) -> Option<Process> {
        let (fleet, run) = self.offer.fleet.as_ref()?;
        let id = MemberId::new(fleet.id.as_deref()?).ok()?;
        Some(Process { id, run: *run, seed: self.offer.fleet_seed })
    }

    /// The servers that the old process has discovered.
    pub fn discovered(&self) -> &DiscoveredServers {
        &self.offer.discovered
    }

    /// Makes the keys of clients that the old process makes.
    pub fn keys(&self) -> Keys {
        Keys::with_secret(Secret::from_bytes(self.offer.secret))
    }

    /// All is ready to go on with what the old process has: takes its sessions over, until nothing is left but to
    /// accept clients. That is so, too, when the old process ends before it has said all: nobody else has the listening
    /// sockets then, and what it has given.
    ///
    /// # Errors
    /// The old process has broken off. What it has not given is its own.
    pub async fn take(&mut self, home: &Home) -> Result<(), TakeoverError> {
        self.tell(&Message::Ready).await?;
        loop {
            let Some((message, descriptors)) = self.next().await? else {
                self.goes_on_alone(home);
                return Ok(());
            };
            match message {
                Message::Serve { next_id, is_paused, pause } => {
                    // It says nothing more before it has an answer. One of the version before that has waited in vain
                    // for too long says that it serves again.
                    while self.receiver.has_more()
                        && let Some((message, descriptors)) = self.next().await?
                    {
                        self.take_in(message, descriptors, home).await?;
                    }
                    home.shared.next_id.fetch_max(next_id, Relaxed);
                    home.pause.adopt(&home.shared, is_paused, pause);
                    home.start(self.until_serving.take().unwrap_or_default());
                    return Ok(());
                }
                message => self.take_in(message, descriptors, home).await?,
            }
        }
    }

    /// The next message; `None`: the old process has ended.
    async fn next(&mut self) -> Result<Option<(Message, Vec<OwnedFd>)>, TakeoverError> {
        let has_been_given = self.taken > 0 || self.until_serving.as_ref().is_some_and(|clients| !clients.is_empty());
        let receiving = receive(&mut self.receiver);
        tokio::pin!(receiving);
        let received = match timeout(ANSWERS_WITHIN, &mut receiving).await {
            Ok(received) => received,
            // With this process would end what it has been given.
            Err(_) if has_been_given => {
                let within = ANSWERS_WITHIN;
                warn!(
                    ?within,
                    "the weir that is taken over from says nothing: nobody is accepted until it does, or ends"
                );
                receiving.await
            }
            Err(_) => return Err(TakeoverError::BrokenOff(format!("it says nothing for {ANSWERS_WITHIN:?}"))),
        };
        match received {
            Ok(Some((Message::Abort { why }, _))) => Err(TakeoverError::BrokenOff(why)),
            Ok(received) => Ok(received),
            Err(err) if is_end(&err) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }

    /// Says something to the old process. Where that has ended the next message is `None`, behind all that it has said.
    async fn tell(&mut self, message: &Message) -> io::Result<()> {
        match send(&mut self.sender, message, &[]).await {
            Err(err) if is_end(&err) => Ok(()),
            sent => sent,
        }
    }

    /// The old process has ended: this one goes on with what it has been given. A batch without its `Go` is lost with
    /// the old process, whose sessions may have gone on there in the last moment.
    fn goes_on_alone(&mut self, home: &Home) {
        let (pid, sessions) = (self.offer.pid, self.taken);
        warn!(pid, sessions, "the weir that is taken over from has ended too soon: what it has given goes on");
        self.is_alone = true;
        self.batch = Batch::default();
        self.forget_all(home);
        home.shared.next_id.fetch_max(self.next_id, Relaxed);
        home.start(self.until_serving.take().unwrap_or_default());
    }

    /// Clients are accepted from now on.
    pub async fn serving(&mut self, home: &Home) {
        if !self.is_alone {
            home.shared.takeover.set_may_go_back(true);
            if let Err(err) = self.tell(&Message::Serving).await {
                warn!(%err, "the rest of a takeover has gone wrong");
            }
        }
        info!(pid = self.offer.pid, sessions = self.taken, stay = self.stay.len(), "has taken over");
    }

    /// Takes in what still comes of the old process: sessions whose logins were under way, and ends. Returns once that
    /// process is gone.
    ///
    /// # Errors
    /// The old process accepts clients again: one of the version before does so when it has waited in vain for too
    /// long. This one must not.
    pub async fn follow(mut self, home: Home) -> Result<(), TakeoverError> {
        while !self.is_alone {
            let wrong = match receive(&mut self.receiver).await {
                Ok(Some((Message::Abort { why }, _))) => return Err(TakeoverError::BrokenOff(why)),
                Ok(Some((message, descriptors))) => self.take_in(message, descriptors, &home).await.err(),
                Ok(None) => break,
                Err(err) if is_end(&err) => break,
                Err(err) => Some(err.into()),
            };
            if let Some(err) = wrong {
                warn!(%err, "the rest of a takeover has gone wrong");
                self.forget_all(&home);
                // As long as this end is open the old process knows that this one is there, and accepts nobody.
                self.receiver.ended().await;
                break;
            }
        }
        self.forget_all(&home);
        home.shared.takeover.set_may_go_back(false);
        info!(pid = self.offer.pid, "the weir that was taken over from is gone");
        if let Some(fleet) = home.fleet.as_ref().filter(|_| !self.has_fleet) {
            fleet.begin_after(&home.shared, self.offer.fleet_mark);
        }
        Ok(())
    }

    async fn take_in(&mut self, message: Message, descriptors: Vec<OwnedFd>, home: &Home) -> Result<(), TakeoverError> {
        match message {
            Message::Sessions { sessions } => self.adopt(sessions, descriptors, home),
            Message::Clients { clients } => self.batch.take_clients(clients, descriptors, home),
            Message::Batch { number } => {
                let refused = self.batch.counted().await;
                self.tell(&Message::Counted { number, refused }).await?;
            }
            Message::Go { .. } => {
                let (went, clients) = self.batch.go();
                let ids = went.iter().copied().chain(clients.iter().map(|(_, client, _)| client.id));
                self.next_id = ids.fold(self.next_id, |next, id| next.max(id.saturating_add(1)));
                match &mut self.until_serving {
                    Some(waiting) => waiting.extend(clients),
                    None => home.start(clients),
                }
                self.taken += went.len();
                self.forget(&went, home);
            }
            Message::Stay { sessions } => self.count(sessions, home),
            Message::Remember { text, pause } => {
                home.pause.adopt(&home.shared, pause.is_some(), pause);
                match Remembered::from_json(text.as_bytes()) {
                    Ok(remembered) => _ = home.shared.recall(remembered, timer::now()),
                    Err(err) => warn!(%err, "what the weir before has learnt is lost"),
                }
            }
            Message::Fleet { state, at } => match serde_json::from_str(&state) {
                Ok(state) => {
                    if let Some(fleet) = &home.fleet {
                        fleet.adopt(&home.shared, state, Moment::from_raw(at).into());
                        self.has_fleet = true;
                    }
                }
                Err(err) => return Err(TakeoverError::BrokenOff(format!("what it says of its fleet: {err}"))),
            },
            Message::Ended { sessions } => {
                // It says so behind the last session that it gives.
                home.shared.takeover.set_may_go_back(false);
                self.forget(&sessions, home);
            }
            Message::Abort { why } => return Err(TakeoverError::BrokenOff(why)),
            message => return Err(unexpected(&message)),
        }
        Ok(())
    }

    /// Counts sessions, and has the workers make them.
    fn adopt(&mut self, sessions: Vec<SessionState>, descriptors: Vec<OwnedFd>, home: &Home) {
        let mut descriptors = descriptors.into_iter();
        for state in sessions {
            let id = state.id;
            let connections = descriptors.next().zip(descriptors.next());
            let made = connections.ok_or_else(|| "its connections are missing".to_owned()).and_then(|(down, up)| {
                let adopted = adopt(&home.shared, |at| home.listener(at), state).map_err(|err| err.to_string())?;
                Ok(home.make(adopted, [down, up]))
            });
            match made {
                Ok((made, go)) => self.batch.sessions.push(Pending { id, made, go }),
                Err(why) => self.batch.refused.push(Refused { id, why }),
            }
        }
    }

    /// Counts sessions that go on there.
    fn count(&mut self, sessions: Vec<SessionState>, home: &Home) {
        for state in sessions {
            // One on a server, or at a listener, that the configuration lacks counts nowhere here.
            if let Ok(adopted) = adopt(&home.shared, |at| home.listener(at), state) {
                let to_count = adopted.to_count();
                let (id, places) = adopted.into_places();
                self.stay.insert(id, places);
                home.shared.takeover.elsewhere().insert(id, to_count);
            }
        }
    }

    /// No session is there any more.
    fn forget_all(&mut self, home: &Home) {
        let mut elsewhere = home.shared.takeover.elsewhere();
        self.stay.drain().for_each(|(id, _)| _ = elsewhere.remove(&id));
    }

    /// These sessions are not there any more.
    fn forget(&mut self, sessions: &[u64], home: &Home) {
        let mut elsewhere = home.shared.takeover.elsewhere();
        for id in sessions {
            self.stay.remove(id);
            elsewhere.remove(id);
        }
    }
}

/// Where sessions go on.
pub struct Home {
    shared: Arc<Shared>,
    fleet: Option<FleetLink>,
    pause: OperatorPause,
    listeners: Vec<(SocketAddr, Arc<ArcSwap<Listener>>)>,
    workers: Vec<mpsc::UnboundedSender<Work>>,
}

impl Home {
    pub fn new(shared: Arc<Shared>, fleet: Option<FleetLink>, pause: OperatorPause, listeners: &Listeners) -> Self {
        Self { shared, fleet, pause, listeners: listeners.current(), workers: listeners.senders() }
    }

    pub(super) fn listener(&self, at: SocketAddr) -> Option<Arc<Listener>> {
        self.listeners.iter().find(|(address, _)| *address == at).map(|(_, listener)| listener.load_full())
    }

    fn worker(&self, id: u64) -> Option<&mpsc::UnboundedSender<Work>> {
        let worker = usize::try_from(id).unwrap_or(0).checked_rem(self.workers.len())?;
        self.workers.get(worker)
    }

    /// Has workers go on with clients.
    fn start(&self, clients: impl IntoIterator<Item = NewClient>) {
        for (listener, state, connection) in clients {
            if let Some(worker) = self.worker(state.id) {
                let _ = worker.send(Work::Client(listener, state, connection));
            }
        }
    }

    /// Has a worker make a session.
    fn make(&self, adopted: Adopted, connections: [OwnedFd; 2]) -> (oneshot::Receiver<Made>, oneshot::Sender<Gone>) {
        let ((tell, made), (go, gone)) = (oneshot::channel(), oneshot::channel());
        if let Some(worker) = self.worker(adopted.id()) {
            // A worker that has ended drops the answer.
            let _ = worker.send(Work::Session(Box::new(NewSession { adopted, connections, made: tell, gone })));
        }
        (made, go)
    }
}

/// A client that is not in yet, with what it is served by and its connection.
type NewClient = (Arc<Listener>, Box<ClientState>, OwnedFd);

/// Whether a worker has made a session, or why not.
pub type Made = Result<(), String>;

/// Sessions that stand still.
#[derive(Debug, Default)]
struct Batch {
    sessions: Vec<Pending>,
    clients: Vec<NewClient>,
    refused: Vec<Refused>,
}

#[derive(Debug)]
struct Pending {
    id: u64,
    made: oneshot::Receiver<Made>,
    go: oneshot::Sender<Gone>,
}

impl Batch {
    /// All sessions are made, except those that cannot be.
    async fn counted(&mut self) -> Vec<Refused> {
        let mut made = Vec::with_capacity(self.sessions.len());
        for mut one in self.sessions.drain(..) {
            match (&mut one.made).await {
                Ok(Ok(())) => made.push(one),
                Ok(Err(why)) => self.refused.push(Refused { id: one.id, why }),
                Err(_) => self.refused.push(Refused { id: one.id, why: "its worker has ended".to_owned() }),
            }
        }
        self.sessions = made;
        mem::take(&mut self.refused)
    }

    fn take_clients(&mut self, clients: Vec<ClientState>, descriptors: Vec<OwnedFd>, home: &Home) {
        let mut descriptors = descriptors.into_iter();
        for state in clients {
            match home.listener(state.listener).zip(descriptors.next()) {
                Some((listener, connection)) => self.clients.push((listener, Box::new(state), connection)),
                None => self.refused.push(Refused { id: state.id, why: "there is no such listener".to_owned() }),
            }
        }
    }

    /// They go on here. Returns the sessions, and clients that are to begin.
    fn go(&mut self) -> (Vec<u64>, Vec<NewClient>) {
        let went = |one: Pending| {
            let _ = one.go.send(Gone);
            one.id
        };
        (self.sessions.drain(..).map(went).collect(), mem::take(&mut self.clients))
    }
}

/// The next message.
async fn next(receiver: &mut Receiver) -> Result<(Message, Vec<OwnedFd>), TakeoverError> {
    match timeout(ANSWERS_WITHIN, receive(receiver)).await {
        Ok(received) => match received? {
            Some((Message::Abort { why }, _)) => Err(TakeoverError::BrokenOff(why)),
            Some(received) => Ok(received),
            None => Err(TakeoverError::BrokenOff("it has closed the connection".to_owned())),
        },
        Err(_) => Err(TakeoverError::BrokenOff(format!("it says nothing for {ANSWERS_WITHIN:?}"))),
    }
}

fn unexpected(message: &Message) -> TakeoverError {
    TakeoverError::BrokenOff(format!("it says {} out of turn", message.name()))
}

/// Asks for a takeover by HTTP, and returns the connection on which it is talked about.
async fn ask(stream: UnixStream) -> Result<UnixStream, TakeoverError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection.with_upgrades());
    let request = hyper::Request::post("/takeover").header(HOST, "weir").header(CONNECTION, "upgrade");
    let request = request.header(UPGRADE, PROTOCOL).body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let body = Limited::new(answer.into_body(), LONGEST_REFUSAL).collect().await.map_err(io::Error::other)?;
        let why = serde_json::from_slice::<Why>(&body.to_bytes()).map(|why| why.error);
        return Err(TakeoverError::Refused(why.unwrap_or_else(|_| "it knows no takeovers".to_owned())));
    }
    let upgraded = upgrade::on(answer).await.map_err(io::Error::other)?;
    drop(connection);
    Ok(taken_back(upgraded)?)
}

/// The connection below HTTP.
///
/// # Errors
/// Something has come already that the HTTP of weir has read.
pub fn taken_back(upgraded: Upgraded) -> io::Result<UnixStream> {
    let parts = upgraded.downcast::<TokioIo<UnixStream>>().map_err(|_| io::ErrorKind::Unsupported)?;
    if !parts.read_buf.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the other process speaks too soon"));
    }
    Ok(parts.io.into_inner())
}

fn sockets(offer: &Offer, descriptors: Vec<OwnedFd>) -> io::Result<TakenSockets> {
    let mut all = TakenSockets::default();
    if descriptors.len() != offer.sockets.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "sockets are missing: is the limit of open files too low?",
        ));
    }
    for (offered, descriptor) in offer.sockets.iter().zip(descriptors) {
        match *offered {
            Offered::Listener { address, nth } => {
                all.listeners.entry((address, nth)).or_default().push(descriptor.into());
            }
            Offered::Monitor { address } => all.monitor = Some((address, descriptor.into())),
            Offered::Admin => all.admin = Some(descriptor.into()),
        }
    }
    Ok(all)
}
