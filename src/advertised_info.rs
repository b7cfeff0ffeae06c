//! The INFO lines that a listener sends to its clients: weir's own, made from what the servers have in common, and the
//! servers' with weir's address and TLS in place of theirs (docs/contract.md, towards clients 10).

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;

use crate::{
    fleet::addresses::{Addresses, Class, MOST_TOLD},
    protocol::info::{Info, OwnInfo, Rewrite, Urls},
    upstream::{Drain, Port, Server, Servers},
};

/// The length of a nats-server's nonce.
const NONCE_LENGTH: usize = 15;

/// What one listener tells its clients.
#[derive(Debug)]
pub struct ListenerInfo {
    advertise: Advertise,
    host: String,
    port: u16,
    tls: AdvertisedTls,
    /// The port of the servers to which its clients are connected. What it says of logins is the truth for them.
    servers_port: Port,
    /// The field in which its addresses stand.
    urls: Urls,
    told: ArcSwap<Told>,
}

/// What a listener offers: its `connect_urls`, or a leafnode's, and `compression`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertise {
    /// Its own, each `host:port`.
    pub own: Vec<String>,
    /// Where it also tells those of the fleet's other weirs, which of them its clients can use.
    pub fleet: Option<Class>,
    /// The mode of compression that leafnodes are offered.
    pub compression: Option<&'static str>,
}

/// What a listener's clients are told now.
#[derive(Debug)]
struct Told {
    own_info: OwnInfo,
    connect_urls: Box<[String]>,
}

/// What a listener tells its clients about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdvertisedTls {
    None,
    Required {
        /// Whether clients must present a certificate.
        verify: bool,
    },
    /// What the servers tell: TLS is passed through.
    Servers,
}

impl AdvertisedTls {
    /// `tls_required`, `tls_available` and `tls_verify` of weir's own INFO, in front of these servers.
    ///
    /// No listener of weir's offers TLS without requiring it: Python would then not use TLS, and Java would refuse to
    /// connect. Where TLS is passed through it is always required, even if the servers only offer it.
    fn flags(self, servers: &[&Info]) -> (bool, bool, bool) {
        match self {
            Self::None => (false, false, false),
            Self::Required { verify } => (true, false, verify),
            Self::Servers => (true, false, servers.iter().any(|info| info.tls_verify())),
        }
    }

    /// The same flags in the INFO of this server.
    fn flags_of(self, server: &Info) -> (bool, bool, bool) {
        match self {
            Self::Servers => (server.tls_required(), server.tls_available(), server.tls_verify()),
            _ => self.flags(&[]),
        }
    }

    fn onto(self, own_info: OwnInfo, servers: &[&Info]) -> OwnInfo {
        let (required, available, verify) = self.flags(servers);
        own_info.with_tls(required, available, verify)
    }
}

impl ListenerInfo {
    /// The port of the servers to which its clients are connected.
    pub fn servers_port(&self) -> Port {
        self.servers_port
    }

    /// Whether any server requires a login of the listener's clients, or none is known. A leafnode has to log in
    /// everywhere.
    pub fn requires_login(&self) -> bool {
        self.servers_port == Port::Leafnode || self.told.load().own_info.auth_required()
    }

    /// Whether its clients are told the addresses of the fleet's weirs, and of changes of these.
    pub fn tells_of_fleet(&self) -> bool {
        self.advertise.fleet.is_some()
    }

    /// What the clients are told by `all` in front of servers with these INFOs.
    fn told_of(&self, all: &AdvertisedInfo, infos: &[&Info]) -> Told {
        let (fleet, mut connect_urls) = (all.fleet.load(), self.advertise.own.clone());
        let others = self.advertise.fleet.map_or(&[][..], |class| fleet.of(class));
        for url in others {
            if connect_urls.len() < MOST_TOLD && !connect_urls.contains(url) {
                connect_urls.push(url.clone());
            }
        }
        let urls = (self.urls, &*connect_urls);
        let own_info = OwnInfo::new(&all.server_id, &all.server_name, infos, &self.host, self.port, urls);
        let own_info = self.tls.onto(own_info, infos).with_compression(self.advertise.compression);
        Told { own_info, connect_urls: connect_urls.into() }
    }

    /// Writes weir's own INFO for one client.
    pub fn write_own_info(&self, client_ip: IpAddr, out: &mut Vec<u8>) {
        self.told.load().own_info.write(client_ip, out);
    }

    /// Writes weir's own INFO for one client with a random nonce. No server accepts a signature of it.
    pub fn write_own_info_with_nonce(&self, client_ip: IpAddr, out: &mut Vec<u8>) {
        let nonce: String = (0..NONCE_LENGTH).map(|_| fastrand::alphanumeric()).collect();
        self.told.load().own_info.write_with_nonce(client_ip, &nonce, out);
    }

    /// Writes a server's INFO, as a client sees it after its first PONG: without the nonce.
    pub fn write_server_info(&self, info: &Info, client_ip: IpAddr, out: &mut Vec<u8>) {
        self.write(info, client_ip, false, out);
    }

    /// Writes the INFO of the server that was dialled for this client, with the server's nonce.
    pub fn write_dialled_info(&self, info: &Info, client_ip: IpAddr, out: &mut Vec<u8>) {
        self.write(info, client_ip, true, out);
    }

    fn write(&self, info: &Info, client_ip: IpAddr, keep_nonce: bool, out: &mut Vec<u8>) {
        let told = self.told.load();
        // A leafnode decides by the version of its hub what it may say to that. It is told no address of its own.
        let (version, client_ip) = match self.servers_port {
            Port::Leafnode => (info.version(), None),
            Port::Client | Port::WebSocket => (told.own_info.version(), Some(client_ip)),
        };
        let (tls_required, tls_available, tls_verify) = self.tls.flags_of(info);
        info.rewrite(
            &Rewrite {
                advertise: &told.connect_urls,
                urls: self.urls,
                host: &self.host,
                port: self.port,
                version,
                client_ip,
                tls_required,
                tls_available,
                tls_verify,
                keep_nonce,
                // It is agreed on before CONNECT.
                compression: self.advertise.compression.filter(|_| keep_nonce),
            },
            out,
        );
    }
}

/// The servers' latest INFOs, and what each listener tells its clients as a result.
#[derive(Debug)]
pub struct AdvertisedInfo {
    server_id: String,
    server_name: String,
    /// Their latest INFOs are kept with them, so that those of one that has gone are gone too.
    servers: Arc<Servers>,
    /// Held while the listeners are updated.
    update: Mutex<()>,
    /// As long as a listener, or one of its sessions, needs them.
    listener_infos: Mutex<Vec<Weak<ListenerInfo>>>,
    /// The addresses of the fleet's other weirs.
    fleet: ArcSwap<Addresses>,
    /// Those at which the other weirs have their clients find this one.
    own_addresses: ArcSwap<Addresses>,
    shape: AtomicU8,
}

/// What clients of this port of a server are told: another port's INFO is better than none. That of the leafnode port
/// is none for other clients: it has a nonce in any case.
fn best(server: &Server, port: Port) -> Option<Arc<Info>> {
    let other = if port == Port::Client { Port::WebSocket } else { Port::Client };
    server.port_info(port).load_full().or_else(|| server.port_info(other).load_full())
}

/// The order of dial and CONNECT in a preface (docs/contract.md, towards servers 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PrefaceShape {
    /// No server is known yet. Clients get weir's own INFO with a nonce: a client that signs it is refused and retries.
    Unknown,
    /// No server sends a nonce. Clients get weir's own INFO, and weir dials after CONNECT.
    ConnectFirst,
    /// A server sends a nonce, which the client must sign. weir dials first, and the client gets the server's INFO.
    DialFirst,
}

impl AdvertisedInfo {
    /// Before any listener, or the INFO of any of these servers, is known. `server_name` is weir's own.
    pub fn new(servers: Arc<Servers>, server_name: String) -> Self {
        let server_id = nuid::next().to_string();
        let shape = AtomicU8::new(PrefaceShape::Unknown as u8);
        let (fleet, own_addresses) = (ArcSwap::default(), ArcSwap::default());
        let (update, listener_infos) = (Mutex::new(()), Mutex::default());
        Self { servers, update, listener_infos, fleet, own_addresses, server_id, server_name, shape }
    }

    /// What a listener tells that has this address, `advertise`, TLS, and port of the servers.
    pub fn of_listener(
        &self,
        address: SocketAddr,
        advertise: Advertise,
        tls: AdvertisedTls,
        servers_port: Port,
    ) -> Arc<ListenerInfo> {
        let urls = if servers_port == Port::Leafnode { Urls::Leafnodes } else { Urls::Clients };
        self.told_by(address, advertise, tls, (servers_port, urls))
    }

    /// What a WebSocket listener tells leafnodes.
    pub fn of_leafnodes_over_websocket(
        &self,
        address: SocketAddr,
        advertise: Advertise,
        tls: AdvertisedTls,
    ) -> Arc<ListenerInfo> {
        self.told_by(address, advertise, tls, (Port::Leafnode, Urls::LeafnodesOverWebSocket))
    }

    fn told_by(
        &self,
        address: SocketAddr,
        advertise: Advertise,
        tls: AdvertisedTls,
        (servers_port, urls): (Port, Urls),
    ) -> Arc<ListenerInfo> {
        // nats-server writes its default like this, which is both families there too.
        let ip = if address.ip().is_unspecified() { Ipv4Addr::UNSPECIFIED.into() } else { address.ip() };
        let (host, port) = (ip.to_string(), address.port());
        let nothing = OwnInfo::new("", "", &[], "", 0, (Urls::Clients, &[]));
        let nothing = Told { own_info: nothing, connect_urls: Box::default() };
        let told = ArcSwap::from_pointee(nothing);
        let listener = Arc::new(ListenerInfo { told, advertise, host, port, tls, servers_port, urls });
        listener.told.store(Arc::new(listener.told_of(self, &[])));
        let _update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        self.listener_infos.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&listener));
        self.update_listeners();
        listener
    }

    /// What the known servers require.
    pub fn shape(&self) -> PrefaceShape {
        match self.shape.load(Relaxed) {
            known if known == PrefaceShape::ConnectFirst as u8 => PrefaceShape::ConnectFirst,
            known if known == PrefaceShape::DialFirst as u8 => PrefaceShape::DialFirst,
            _ => PrefaceShape::Unknown,
        }
    }

    /// weir's own `server_name`.
    pub fn own_name(&self) -> &str {
        &self.server_name
    }

    /// Those of all listeners, also of listeners that are closed and have sessions still.
    fn listener_infos(&self) -> Vec<Arc<ListenerInfo>> {
        let mut all = self.listener_infos.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// Takes the INFO of a server's client port. If it differs from the last one, every listener is updated.
    pub fn learn(&self, server: &Server, info: &Arc<Info>) {
        self.learn_at(Port::Client, server, info);
    }

    /// The same for either port.
    pub fn learn_at(&self, port: Port, server: &Server, info: &Arc<Info>) {
        let known = server.port_info(port);
        // Each dial calls this. Usually nothing has changed, and no lock is taken.
        let is_known = || known.load().as_ref().is_some_and(|known| same_server(known, info));
        if is_known() {
            return;
        }
        let _update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        known.store(Some(Arc::clone(info)));
        self.update_listeners();
    }

    /// A server has come or is leaving: what the listeners say is about the servers that clients are sent to.
    pub fn servers_changed(&self) {
        let _update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        self.update_listeners();
    }

    /// The addresses at which the fleet's other weirs have their clients find this one.
    pub fn own_addresses(&self) -> Arc<Addresses> {
        self.own_addresses.load_full()
    }

    /// The listeners have changed.
    pub fn set_own_addresses(&self, addresses: Addresses) {
        self.own_addresses.store(Arc::new(addresses));
    }

    /// The addresses of the fleet's other weirs have changed.
    pub fn fleet_changed(&self, addresses: Addresses) {
        let _update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        self.fleet.store(Arc::new(addresses));
        self.update_listeners();
    }

    /// To be called while `update` is locked.
    fn update_listeners(&self) {
        let list = self.servers.list();
        let stay = || list.iter().filter(|server| server.drain() != Drain::Leaves);
        let all = |port| stay().filter_map(|server| best(server, port)).collect::<Vec<_>>();
        let (client, websocket, leafnode) = (all(Port::Client), all(Port::WebSocket), all(Port::Leafnode));
        // Nothing better is known than what was said last.
        if client.is_empty() && self.shape() != PrefaceShape::Unknown {
            return;
        }
        if !client.is_empty() {
            // A server sends a nonce at both of its ports or at none.
            let signed = client.iter().any(|info| info.nonce().is_some());
            let shape = if signed { PrefaceShape::DialFirst } else { PrefaceShape::ConnectFirst };
            self.shape.store(shape as u8, Relaxed);
        }
        for listener in self.listener_infos() {
            let infos = match listener.servers_port {
                Port::Client => &client,
                Port::WebSocket => &websocket,
                Port::Leafnode => &leafnode,
            };
            let infos: Vec<&Info> = infos.iter().map(Arc::as_ref).collect();
            listener.told.store(Arc::new(listener.told_of(self, &infos)));
        }
    }

    /// Whether this server sends a nonce, or its INFO is not known.
    pub fn may_send_nonce(&self, server: &Server) -> bool {
        best(server, Port::Client).is_none_or(|info| info.nonce().is_some())
    }

    /// Whether the INFO of this server's client port is known.
    pub fn knows(&self, server: &Server) -> bool {
        self.knows_of(Port::Client, server)
    }

    /// Whether the INFO of this port of a server is known.
    pub fn knows_of(&self, port: Port, server: &Server) -> bool {
        server.port_info(port).load().is_some()
    }

    /// The `server_id` by which weir calls itself.
    pub fn own_server_id(&self) -> &str {
        &self.server_id
    }

    /// The `server_id` of this server, if its INFO is known.
    pub fn server_id(&self, server: &Server) -> Option<String> {
        best(server, Port::Client).map(|info| info.server_id().to_owned())
    }
}

/// Whether two INFOs come from the same process and lead to the same [`OwnInfo`].
fn same_server(a: &Info, b: &Info) -> bool {
    let settings = |info: &Info| {
        let nonce = info.nonce().is_some();
        (info.max_payload(), info.auth_required(), info.headers(), info.jetstream(), info.api_lvl(), nonce)
    };
    let is_same = |a: &Info, b: &Info| {
        let is_named_alike = a.server_id() == b.server_id() && a.cluster_and_domain() == b.cluster_and_domain();
        is_named_alike && a.proto() == b.proto()
    };
    (a.shares_template_with(b) || is_same(a, b)) && settings(a) == settings(b)
}
