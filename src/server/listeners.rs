//! The listeners: they are opened, changed and closed while weir runs. Each has a socket on every worker, and what its
//! next clients are served by is swapped whole; present sessions keep what they began with.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::AsFd,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    admission::Limit,
    advertised_info::{Advertise, AdvertisedTls},
    config::ListenerConfig,
    fleet::addresses::{Addresses, Class},
    net::{listening_socket::ListeningSocket, socket},
    protocol::websocket::upgrade::Rules,
    relay::registry::{ListenerKind, ListenerName},
    server::{
        ServerError,
        passed_sockets::PassedSockets,
        worker::{NewSocket, Work},
    },
    session::{Listener, PassthroughListener, Shared, WebSocketListener},
    tls::{ListenerTls, Terminator},
    upstream::Port,
};

/// How long a worker may take to close a socket. A worker that is busy takes some milliseconds.
const UNTIL_CLOSED: Duration = Duration::from_secs(1);

/// The listeners that are open.
pub struct Listeners {
    open: Vec<Open>,
    workers: Vec<mpsc::UnboundedSender<Work>>,
    shared: Arc<Shared>,
    passed: Arc<PassedSockets>,
    /// Nobody is accepted before that.
    begin: CancellationToken,
    stop: CancellationToken,
}

/// A listener that is open.
struct Open {
    config: ListenerConfig,
    /// With the port that was chosen, where the configuration says 0.
    address: SocketAddr,
    /// What its next client is served by.
    current: Arc<ArcSwap<Listener>>,
    /// One on each worker, or several where another process had more workers.
    sockets: Vec<Weak<ListeningSocket>>,
    stop: CancellationToken,
}

impl Open {
    /// Copies of its sockets.
    fn copies(&self) -> io::Result<Vec<StdListener>> {
        let copy = |socket: Arc<ListeningSocket>| Ok(socket.as_fd().try_clone_to_owned()?.into());
        self.sockets.iter().filter_map(Weak::upgrade).map(copy).collect()
    }
}

/// The sockets of listeners that accept nobody, in the order of the listeners.
pub struct Suspended(Vec<Vec<StdListener>>);

/// A listener to come, or one that stays with other settings. All that may fail has been done.
struct Prepared {
    config: ListenerConfig,
    tls: Option<Arc<Terminator>>,
    at: Place,
}

enum Place {
    /// It is open, as this one of the open ones.
    Open(usize),
    /// It is bound, with a socket for each worker.
    Bound(SocketAddr, Vec<StdListener>),
}

/// Listeners that are bound, with their TLS loaded.
pub struct Bound(Vec<Prepared>);

impl Bound {
    /// Binds all listeners of a weir that starts.
    pub fn all(configs: &[ListenerConfig], workers: usize, passed: &PassedSockets) -> Result<Self, ServerError> {
        prepare(&[], configs, workers, passed)
    }
}

/// Waits until the workers have closed the sockets of listeners that are told to stop.
async fn closed(all: &[Open]) {
    let until = Instant::now() + UNTIL_CLOSED;
    let is_open = |closed: &Open| closed.sockets.iter().any(|socket| socket.strong_count() > 0);
    while all.iter().any(is_open) && Instant::now() < until {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Binds those that are not open yet, and reads the certificates of those whose TLS is another.
fn prepare(
    open: &[Open],
    configs: &[ListenerConfig],
    workers: usize,
    passed: &PassedSockets,
) -> Result<Bound, ServerError> {
    let mut prepared: Vec<Prepared> = Vec::new();
    for (n, config) in configs.iter().enumerate() {
        // The second of two on port 0 is the second one that is open.
        let is_taken = |at: usize| prepared.iter().any(|one| matches!(one.at, Place::Open(other) if other == at));
        let known = (0..open.len()).find(|&at| open[at].config.listen == config.listen && !is_taken(at));
        let address = config.listen;
        let at = match known {
            Some(at) => Place::Open(at),
            None => {
                let sockets = match passed.of_listener(configs, n, workers) {
                    Ok(Some(passed)) => Ok(passed),
                    Ok(None) => socket::listeners(address, workers, config.tcp),
                    Err(err) => Err(err),
                };
                let sockets = sockets.map_err(|err| ServerError::Bind { address, err })?;
                Place::Bound(sockets[0].local_addr()?, sockets)
            }
        };
        let before = known.and_then(|at| open[at].current.load().tls.clone());
        let tls = config.tls.as_ref().map(|params| load(params, before)).transpose();
        let tls = tls.map_err(|bad| ServerError::Tls { address, bad })?;
        prepared.push(Prepared { config: config.clone(), tls, at });
    }
    Ok(Bound(prepared))
}

fn load(params: &ListenerTls, before: Option<Arc<Terminator>>) -> Result<Arc<Terminator>, Vec<crate::tls::BadFile>> {
    match before {
        Some(before) if before.params() == params => Ok(before),
        Some(before) => before.with_params(params.clone()).map(Arc::new),
        None => Terminator::load(params.clone()).map(Arc::new),
    }
}

/// What a listener at this address advertises.
fn advertise(address: SocketAddr, config: &ListenerConfig) -> Advertise {
    let mut own = config.advertise.clone();
    if !config.advertises_fleet {
        return Advertise { own, fleet: None, compression: config.compression.offered() };
    }
    if own.is_empty() {
        own.push(address.to_string());
    }
    let class = match (&config.websocket, config.tls.is_some() || config.passes_through.is_some()) {
        (None, false) => Class::Client,
        (None, true) => Class::ClientTls,
        (Some(_), false) => Class::WebSocket,
        (Some(_), true) => Class::WebSocketTls,
    };
    Advertise { own, fleet: Some(class), compression: None }
}

/// Listeners of which the new ones are open already, and nothing else has changed.
pub struct Opened {
    all: Vec<(ListenerConfig, Option<Arc<Terminator>>, OpenedAt)>,
}

enum OpenedAt {
    Before(usize),
    Now(Box<Open>),
}

impl Opened {
    /// Closes those that were opened.
    pub fn undo(self) {
        for (.., at) in self.all {
            if let OpenedAt::Now(open) = at {
                open.stop.cancel();
            }
        }
    }
}

impl Listeners {
    /// None yet. Each worker takes sockets by one of these channels.
    pub fn new(
        shared: Arc<Shared>,
        workers: Vec<mpsc::UnboundedSender<Work>>,
        passed: Arc<PassedSockets>,
        stop: CancellationToken,
    ) -> Self {
        Self { open: Vec::new(), workers, shared, passed, begin: CancellationToken::new(), stop }
    }

    /// From now on clients are accepted.
    pub fn begin(&self) {
        self.begin.cancel();
    }

    /// The workers.
    pub fn senders(&self) -> Vec<mpsc::UnboundedSender<Work>> {
        self.workers.clone()
    }

    /// The listeners by their addresses.
    pub fn current(&self) -> Vec<(SocketAddr, Arc<ArcSwap<Listener>>)> {
        self.open.iter().map(|open| (open.address, Arc::clone(&open.current))).collect()
    }

    /// Copies of all sockets, each with the address that its listener has in the configuration, and which of the
    /// listeners there it is.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn sockets(&self) -> io::Result<Vec<(SocketAddr, usize, StdListener)>> {
        let mut all = Vec::new();
        for (n, open) in self.open.iter().enumerate() {
            let address = open.config.listen;
            let nth = self.open.iter().take(n).filter(|other| other.config.listen == address).count();
            all.extend(open.copies()?.into_iter().map(|socket| (address, nth, socket)));
        }
        Ok(all)
    }

    /// Accepts nobody any more. The sockets stay open, and those who come wait in the kernel's queues.
    ///
    /// # Errors
    /// No descriptor is left; nothing has changed then.
    pub async fn suspend(&mut self) -> io::Result<Suspended> {
        let kept = Suspended(self.open.iter().map(Open::copies).collect::<io::Result<_>>()?);
        self.open.iter().for_each(|open| open.stop.cancel());
        closed(&self.open).await;
        Ok(kept)
    }

    /// Accepts clients again.
    pub async fn resume(&mut self, Suspended(kept): Suspended) {
        let mut all = std::mem::take(&mut self.open);
        for (open, sockets) in all.iter_mut().zip(kept) {
            open.stop = self.stop.child_token();
            match self.listen(open.address, sockets, &open.current, &open.stop).await {
                Ok(sockets) => open.sockets = sockets,
                Err(err) => error!(address = %open.address, %err, "cannot accept clients any more"),
            }
        }
        self.open = all;
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Binds what is new in these configurations, and reads the certificates that are.
    pub fn prepare(&self, configs: &[ListenerConfig]) -> Result<Bound, ServerError> {
        prepare(&self.open, configs, self.workers.len(), &self.passed)
    }

    /// Has the workers listen where they do not yet.
    pub async fn open(&self, bound: Bound) -> Result<Opened, ServerError> {
        let mut opened = Opened { all: Vec::new() };
        for Prepared { config, tls, at } in bound.0 {
            let at = match at {
                Place::Open(at) => OpenedAt::Before(at),
                Place::Bound(address, sockets) => match self.open_one(address, sockets, &config, tls.clone()).await {
                    Ok(open) => OpenedAt::Now(Box::new(open)),
                    Err(err) => {
                        opened.undo();
                        return Err(err);
                    }
                },
            };
            opened.all.push((config, tls, at));
        }
        Ok(opened)
    }

    async fn open_one(
        &self,
        address: SocketAddr,
        sockets: Vec<StdListener>,
        config: &ListenerConfig,
        tls: Option<Arc<Terminator>>,
    ) -> Result<Open, ServerError> {
        let listener = self.listener(address, config, tls, None);
        let current = Arc::new(ArcSwap::from_pointee(listener));
        let stop = self.stop.child_token();
        let sockets = self.listen(address, sockets, &current, &stop).await?;
        Ok(Open { config: config.clone(), address, current, sockets, stop })
    }

    /// Has the workers accept clients on these sockets.
    async fn listen(
        &self,
        address: SocketAddr,
        sockets: Vec<StdListener>,
        listener: &Arc<ArcSwap<Listener>>,
        stop: &CancellationToken,
    ) -> Result<Vec<Weak<ListeningSocket>>, ServerError> {
        let mut answers = Vec::new();
        for (worker, socket) in self.workers.iter().cycle().zip(sockets) {
            let (registered, answer) = oneshot::channel();
            let (listener, begin, stop) = (Arc::clone(listener), self.begin.clone(), stop.clone());
            // A worker that has ended drops the answer.
            let _ = worker.send(Work::Socket(NewSocket { socket, listener, begin, stop, registered }));
            answers.push(answer);
        }
        let mut sockets = Vec::new();
        for answer in answers {
            let answer = answer.await.unwrap_or_else(|_| Err(io::Error::other("a worker has ended")));
            sockets.push(answer.inspect_err(|_| stop.cancel()).map_err(|err| ServerError::Bind { address, err })?);
        }
        Ok(sockets)
    }

    /// Puts all of them into force, and closes those that are not among them: they take no client any more, and present
    /// sessions stay. Nothing of it can fail. Returns once their ports are free.
    pub async fn put(&mut self, opened: Opened) {
        let mut before: Vec<Option<Open>> = std::mem::take(&mut self.open).into_iter().map(Some).collect();
        for (config, tls, at) in opened.all {
            let open = match at {
                OpenedAt::Now(open) => {
                    info!(address = %open.address, "listening");
                    *open
                }
                OpenedAt::Before(at) => {
                    let Some(mut open) = before.get_mut(at).and_then(Option::take) else { continue };
                    self.change(&mut open, config, tls);
                    open
                }
            };
            self.open.push(open);
        }
        let closed: Vec<Open> = before.into_iter().flatten().collect();
        for closed in &closed {
            info!(address = %closed.address, sessions = closed.current.load().max_clients.in_use(), "not listening any more");
            closed.stop.cancel();
        }
        let of_all = |open: &Open| (open.address, Arc::clone(&open.current.load().max_clients));
        self.shared.listeners.store(Arc::new(self.open.iter().map(of_all).collect()));
        let mut addresses = Addresses::default();
        for open in &self.open {
            let Advertise { own, fleet, .. } = advertise(open.address, &open.config);
            if let Some(class) = fleet {
                own.into_iter().for_each(|address| addresses.add(class, address));
            }
        }
        self.shared.servers.count_leafnodes(self.open.iter().any(|open| open.config.takes_leafnodes()));
        self.shared.advertised_info.set_own_addresses(addresses);
        let tls = |open: &Open| Some((open.address, open.current.load().tls.clone()?));
        self.shared.terminators.store(Arc::new(self.open.iter().filter_map(tls).collect()));
        // The next reload may open them again.
        self::closed(&closed).await;
    }

    /// Gives an open listener other settings. Its clients stay counted.
    fn change(&self, open: &mut Open, config: ListenerConfig, tls: Option<Arc<Terminator>>) {
        if config == open.config {
            return;
        }
        let before = open.current.load_full();
        before.max_clients.set_most(config.max_clients);
        open.current.store(Arc::new(self.listener(open.address, &config, tls, Some(&before))));
        if config.tcp != open.config.tcp {
            for socket in open.sockets.iter().filter_map(Weak::upgrade) {
                if let Err(err) = config.tcp.replace_on(&socket) {
                    warn!(address = %open.address, %err, "the timeouts of TCP stay as they were");
                }
            }
        }
        open.config = config;
    }

    /// What the clients of a listener share. Where there was one `before` at its address, its clients are counted on.
    fn listener(
        &self,
        address: SocketAddr,
        config: &ListenerConfig,
        tls: Option<Arc<Terminator>>,
        before: Option<&Listener>,
    ) -> Listener {
        let required = |tls: &ListenerTls| AdvertisedTls::Required { verify: tls.clients.is_some() };
        let security = match config.passes_through {
            Some(_) => AdvertisedTls::Servers,
            None => config.tls.as_ref().map_or(AdvertisedTls::None, required),
        };
        let advertise = advertise(address, config);
        let port = match (config.is_for_leafnodes, &config.websocket) {
            (true, _) => Port::Leafnode,
            (false, Some(_)) => Port::WebSocket,
            (false, None) => Port::Client,
        };
        let shared = &self.shared;
        let limit = || Limit::within(config.max_clients, Some(Arc::clone(&shared.descriptors.clients)));
        let max_clients = before.map_or_else(limit, |before| Arc::clone(&before.max_clients));
        let before_check = before.map_or_else(Arc::default, |before| Arc::clone(&before.before_check));
        let websocket = |leafnodes| {
            config.websocket.as_ref().map(|websocket| WebSocketListener {
                rules: Rules { secure: config.tls.is_some(), ..websocket.rules.clone() },
                headers: websocket.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect(),
                ping_interval: websocket.ping_interval,
                trusted_proxies: websocket.accept_forwarded_from.clone(),
                leafnodes,
            })
        };
        let kind = match (config.passes_through, &config.websocket) {
            (Some(_), _) => ListenerKind::Passthrough,
            (None, Some(_)) => ListenerKind::WebSocket,
            (None, None) if config.is_for_leafnodes => ListenerKind::Leafnode,
            (None, None) => ListenerKind::Client,
        };
        let of = |name, info, websocket, is_for_leafnodes| Listener {
            name: Arc::new(name),
            info,
            max_clients: Arc::clone(&max_clients),
            before_check: Arc::clone(&before_check),
            handshake_timeout: config.handshake_timeout,
            trusted_proxies: config.accept_proxy_protocol_from.clone(),
            header_is_optional: config.allow_without_proxy_protocol,
            tls: tls.clone(),
            websocket,
            passthrough: config.passes_through.map(PassthroughListener::new),
            is_for_leafnodes,
            compression: config.compression,
        };
        let takes_others = !config.is_for_leafnodes && config.takes_leafnodes();
        let leafnodes = takes_others.then(|| {
            let info = shared.advertised_info.of_leafnodes_over_websocket(address, advertise.clone(), security);
            let name = ListenerName { address, kind: ListenerKind::Leafnode, is_websocket: true };
            Arc::new(of(name, info, websocket(None), true))
        });
        let info = shared.advertised_info.of_listener(address, advertise, security, port);
        let name = ListenerName { address, kind, is_websocket: config.websocket.is_some() };
        of(name, info, websocket(leafnodes), config.is_for_leafnodes)
    }

    /// Where they listen, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|open| open.address).collect()
    }
}
