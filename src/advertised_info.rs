//! The INFO that a client sees before weir knows which server it will get: made from the servers' own.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::protocol::info::{Info, OwnInfo, Rewrite};

/// As long as a nats-server's own nonce.
const NONCE_LENGTH: usize = 15;

/// The face of one listener.
#[derive(Debug)]
pub struct ListenerInfo {
    /// What goes into `connect_urls`.
    advertise: Vec<String>,
    host: String,
    port: u16,
    tls: AdvertisedTls,
    greeting: ArcSwap<OwnInfo>,
}

/// What a listener's clients are told of TLS (conduct towards clients, rule 10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdvertisedTls {
    /// It speaks plainly.
    None,
    /// TLS is required.
    Required {
        /// And a certificate of the client's.
        verify: bool,
    },
    /// It is the servers' own.
    Servers,
}

impl AdvertisedTls {
    /// `tls_required`, `tls_available` and `tls_verify`, in front of these servers. There is no listener of weir's own where TLS is
    /// only available: Python would stay plain, Java refuse. And nobody is told by weir that servers do without.
    fn flags(self, servers: &[&Info]) -> (bool, bool, bool) {
        match self {
            Self::None => (false, false, false),
            Self::Required { verify } => (true, false, verify),
            Self::Servers => (true, false, servers.iter().any(|info| info.tls_verify())),
        }
    }

    /// The same, in the INFO of this server.
    fn flags_of(self, server: &Info) -> (bool, bool, bool) {
        match self {
            Self::Servers => (server.tls_required(), server.tls_available(), server.tls_verify()),
            _ => self.flags(&[]),
        }
    }

    fn onto(self, greeting: OwnInfo, servers: &[&Info]) -> OwnInfo {
        let (required, available, verify) = self.flags(servers);
        greeting.with_tls(required, available, verify)
    }
}

impl ListenerInfo {
    /// Writes the greeting for one client.
    pub fn write_own_info(&self, client_id: u64, client_ip: IpAddr, out: &mut Vec<u8>) {
        self.greeting.load().write(client_id, client_ip, out);
    }

    /// Writes the greeting for one client, with a nonce of weir's own: no server will take what is signed for it.
    pub fn write_own_info_with_nonce(&self, client_id: u64, client_ip: IpAddr, out: &mut Vec<u8>) {
        let nonce: String = (0..NONCE_LENGTH).map(|_| fastrand::alphanumeric()).collect();
        self.greeting.load().write_with_nonce(client_id, client_ip, &nonce, out);
    }

    /// Writes a server's own INFO as this listener's clients are to see it after their PONG.
    pub fn write_server_info(&self, info: &Info, client_ip: IpAddr, out: &mut Vec<u8>) {
        self.write(info, client_ip, false, out);
    }

    /// Writes the INFO of the server that was dialled for this client, its nonce untouched.
    pub fn write_dialled_info(&self, info: &Info, client_ip: IpAddr, out: &mut Vec<u8>) {
        self.write(info, client_ip, true, out);
    }

    fn write(&self, info: &Info, client_ip: IpAddr, keep_nonce: bool, out: &mut Vec<u8>) {
        let greeting = self.greeting.load();
        let (tls_required, tls_available, tls_verify) = self.tls.flags_of(info);
        info.rewrite(
            &Rewrite {
                advertise: &self.advertise,
                host: &self.host,
                port: self.port,
                version: greeting.version(),
                client_ip: Some(client_ip),
                tls_required,
                tls_available,
                tls_verify,
                keep_nonce,
            },
            out,
        );
    }
}

/// What is known of the servers' INFO, and the listeners' faces made from it.
#[derive(Debug)]
pub struct AdvertisedInfo {
    server_id: String,
    infos: Vec<ArcSwapOption<Info>>,
    /// Whoever changes the faces.
    update: Mutex<()>,
    listener_infos: Vec<Arc<ListenerInfo>>,
    shape: AtomicU8,
}

/// The two shapes of a preface, and what precedes the choice (design: conduct towards servers, rule 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PrefaceShape {
    /// No server is known yet. Clients see a nonce of weir's own, so that those who sign say so and can be told to come back.
    Unknown,
    /// No server sends a nonce: the greeting is weir's, the dial comes after CONNECT.
    ConnectFirst,
    /// A server sends a nonce, which the client is to sign: the dial comes first, the greeting is the server's.
    DialFirst,
}

impl AdvertisedInfo {
    /// Faces for listeners (address, `advertise` and TLS), before any server is known.
    pub fn new(listeners: impl IntoIterator<Item = (SocketAddr, Vec<String>, AdvertisedTls)>, servers: usize) -> Self {
        let server_id = nuid::next().to_string();
        let face = |(address, advertise, tls): (SocketAddr, Vec<String>, AdvertisedTls)| {
            let (host, port) = (address.ip().to_string(), address.port());
            let greeting = OwnInfo::new(&server_id, "weir", &[], &host, port, &advertise);
            let greeting = ArcSwap::from_pointee(tls.onto(greeting, &[]));
            Arc::new(ListenerInfo { greeting, advertise, host, port, tls })
        };
        let listener_infos = listeners.into_iter().map(face).collect();
        let shape = AtomicU8::new(PrefaceShape::Unknown as u8);
        let infos = std::iter::repeat_with(ArcSwapOption::empty).take(servers).collect();
        Self { infos, update: Mutex::new(()), listener_infos, server_id, shape }
    }

    /// What the servers ask for.
    pub fn shape(&self) -> PrefaceShape {
        match self.shape.load(Relaxed) {
            known if known == PrefaceShape::ConnectFirst as u8 => PrefaceShape::ConnectFirst,
            known if known == PrefaceShape::DialFirst as u8 => PrefaceShape::DialFirst,
            _ => PrefaceShape::Unknown,
        }
    }

    /// The faces, in the order of the listeners.
    pub fn listener_infos(&self) -> &[Arc<ListenerInfo>] {
        &self.listener_infos
    }

    /// A server has shown its INFO; when it says something new, every face changes.
    pub fn learn(&self, server: usize, info: &Arc<Info>) {
        let known = &self.infos[server];
        // Every dial asks: the usual answer takes no lock.
        let is_known = || known.load().as_ref().is_some_and(|known| same_server(known, info));
        if is_known() {
            return;
        }
        let _update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        known.store(Some(Arc::clone(info)));
        let infos: Vec<Arc<Info>> = self.infos.iter().filter_map(ArcSwapOption::load_full).collect();
        let infos: Vec<&Info> = infos.iter().map(Arc::as_ref).collect();
        let signed = infos.iter().any(|info| info.nonce().is_some());
        let shape = if signed { PrefaceShape::DialFirst } else { PrefaceShape::ConnectFirst };
        self.shape.store(shape as u8, Relaxed);
        for face in &self.listener_infos {
            let greeting = OwnInfo::new(&self.server_id, "weir", &infos, &face.host, face.port, &face.advertise);
            face.greeting.store(Arc::new(face.tls.onto(greeting, &infos)));
        }
    }

    /// Whether this server has shown its INFO.
    pub fn knows(&self, server: usize) -> bool {
        self.infos[server].load().is_some()
    }

    /// The `server_id` of a server that has shown its INFO.
    pub fn server_id(&self, server: usize) -> Option<String> {
        self.infos[server].load().as_ref().map(|info| info.server_id().to_owned())
    }
}

/// Whether two INFOs come from the same process with the same settings, as far as a greeting is concerned.
fn same_server(a: &Info, b: &Info) -> bool {
    let face = |info: &Info| {
        let nonce = info.nonce().is_some();
        (info.max_payload(), info.auth_required(), info.headers(), info.jetstream(), info.api_lvl(), nonce)
    };
    (a.shares_template_with(b) || a.server_id() == b.server_id()) && face(a) == face(b)
}
