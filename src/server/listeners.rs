//! Binding: the sockets of all listeners and of the admin endpoints, and what the sessions of each listener share.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use crate::{
    admin::socket::AdminSocket,
    admission::Limit,
    advertised_info::{AdvertisedTls, ListenerInfo},
    config::{AdminConfig, Config, ListenerConfig},
    net::socket,
    protocol::websocket::upgrade::Rules,
    relay::registry::{ListenerKind, ListenerName},
    server::{ServerError, file_limit::ClientBudget},
    session::{Listener, PassthroughListener, WebSocketListener},
    tls::{ListenerTls, Terminator},
    upstream::Port,
};

/// A listener's sockets, one per worker, and its TLS.
pub struct BoundListener<'a> {
    /// With the port that was chosen, where the configuration says 0.
    pub address: SocketAddr,
    pub tls: Option<Arc<Terminator>>,
    /// Its clients.
    pub max_clients: Arc<Limit>,
    sockets: Vec<TcpListener>,
    config: &'a ListenerConfig,
}

/// The sockets of one worker, one per listener.
pub type WorkerSockets = Vec<(TcpListener, Arc<Listener>)>;

/// Binds all listeners.
pub fn bind<'a>(
    config: &'a Config,
    workers: usize,
    budget: &ClientBudget,
) -> Result<Vec<BoundListener<'a>>, ServerError> {
    let mut bound = Vec::new();
    for config in &config.listeners {
        let address = config.listen;
        let sockets = socket::listeners(address, workers, config.tcp);
        let sockets = sockets.map_err(|err| ServerError::Bind { address, err })?;
        let max_clients = Limit::within(config.max_clients, budget.clients.clone());
        bound.push(BoundListener { address: sockets[0].local_addr()?, tls: None, max_clients, sockets, config });
    }
    Ok(bound)
}

/// Reads the certificates of the listeners that end TLS themselves.
pub fn load_tls(bound: &mut [BoundListener<'_>]) -> Result<(), ServerError> {
    for one in bound {
        if let Some(tls) = &one.config.tls {
            let address = one.address;
            let loaded = Terminator::load(tls.clone()).map_err(|bad| ServerError::Tls { address, bad })?;
            one.tls = Some(Arc::new(loaded));
        }
    }
    Ok(())
}

/// Binds the socket of the admin endpoints.
pub fn bind_admin(address: SocketAddr) -> Result<TcpListener, ServerError> {
    let listener = TcpListener::bind(address).map_err(|err| ServerError::Bind { address, err })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Binds the admin socket.
pub fn bind_admin_socket(config: &AdminConfig) -> Result<AdminSocket, ServerError> {
    let path = &config.socket;
    AdminSocket::bind(path).map_err(|err| ServerError::AdminSocket { path: path.display().to_string(), err })
}

impl BoundListener<'_> {
    /// What its clients are told: the addresses to advertise, whether TLS is required, and what the servers say at
    /// which port.
    pub fn info(&self) -> (SocketAddr, Vec<String>, AdvertisedTls, Port) {
        let required = |tls: &ListenerTls| AdvertisedTls::Required { verify: tls.clients.is_some() };
        let security = match self.config.passes_through {
            Some(_) => AdvertisedTls::Servers,
            None => self.config.tls.as_ref().map_or(AdvertisedTls::None, required),
        };
        let port = if self.config.websocket.is_some() { Port::WebSocket } else { Port::Client };
        (self.address, self.config.advertise.clone(), security, port)
    }

    fn into_listener(self, info: &Arc<ListenerInfo>) -> (Vec<TcpListener>, Arc<Listener>) {
        let Self { address, tls, max_clients, sockets, config } = self;
        let kind = match (config.passes_through, &config.websocket) {
            (Some(_), _) => ListenerKind::Passthrough,
            (None, Some(_)) => ListenerKind::WebSocket,
            (None, None) => ListenerKind::Client,
        };
        let listener = Listener {
            name: Arc::new(ListenerName { address, kind }),
            info: Arc::clone(info),
            max_clients,
            before_check: Arc::default(),
            handshake_timeout: config.handshake_timeout,
            trusted_proxies: config.accept_proxy_protocol_from.clone(),
            header_is_optional: config.allow_without_proxy_protocol,
            tls,
            websocket: config.websocket.as_ref().map(|websocket| WebSocketListener {
                rules: Rules { secure: config.tls.is_some(), ..websocket.rules.clone() },
                headers: websocket.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect(),
                ping_interval: websocket.ping_interval,
                trusted_proxies: websocket.accept_forwarded_from.clone(),
            }),
            passthrough: config.passes_through.map(PassthroughListener::new),
        };
        (sockets, Arc::new(listener))
    }
}

/// Gives each worker one socket of each listener. `infos` are in the order of `bound`.
pub fn by_worker(bound: Vec<BoundListener<'_>>, infos: &[Arc<ListenerInfo>], workers: usize) -> Vec<WorkerSockets> {
    let mut by_worker: Vec<_> = (0..workers).map(|_| WorkerSockets::new()).collect();
    for (one, info) in bound.into_iter().zip(infos) {
        let (sockets, listener) = one.into_listener(info);
        for (worker, socket) in by_worker.iter_mut().zip(sockets) {
            worker.push((socket, Arc::clone(&listener)));
        }
    }
    by_worker
}
