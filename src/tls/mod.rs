//! TLS on both sides. Towards clients weir is a TLS server, with certificates by host name, tickets, client
//! certificates, and a budget that protects established sessions from a storm of handshakes. Towards servers weir is a
//! TLS client like any other.

mod budget;
mod client_verifier;
mod connector;
mod files;
mod handshake;
mod in_force;
mod names;
mod renew;
mod ticket_state;
mod tickets;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use rustls::{
    CipherSuite, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use crate::{
    net::stream::Stream,
    tls::{client_verifier::ByAuthority, files::Watched, names::CertificateNames, tickets::Tickets},
};

pub use self::{
    connector::{ConnectError, Connector, ServersTls},
    files::{BadFile, Pair, not_valid_at},
    handshake::{Failed, accept, begun_with, hello, speaks_first},
    renew::renew,
};

/// Whether the clients of a listener begin TLS before they have seen INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFirst {
    /// All do. Each client has to be configured for it (`tls_first`, `TLSHandshakeFirst`, `handshakeFirst`).
    Always,
    /// A client may. One that has not begun after this long gets INFO first.
    Within(Duration),
    /// None does.
    Never,
}

/// The oldest version of TLS that weir accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// With forward secrecy and authenticated encryption only, as in all versions.
    Tls12,
    Tls13,
}

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        match self {
            Self::Tls12 => &BOTH,
            Self::Tls13 => &BOTH[..1],
        }
    }
}

/// The TLS of one listener, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The first is for clients that name no host, or one that no pair covers.
    pub pairs: Vec<Pair>,
    /// Set where client certificates are required.
    pub clients: Option<ClientCertificates>,
    pub handshake_first: HandshakeFirst,
    pub min_version: MinVersion,
    /// Ticket keys that several weirs share. Without it, only this process opens its tickets.
    pub ticket_keys_file: Option<PathBuf>,
}

/// What client certificates are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM, the authorities.
    pub ca_file: PathBuf,
    /// PEM, the authorities' revocation lists. With it a certificate is valid only if its authority's list is there and
    /// does not name the certificate.
    pub crl_file: Option<PathBuf>,
}

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    pub subject: String,
    /// Seconds since 1970.
    pub expires: i64,
}

impl InUse {
    /// Days until it expires, with a fraction; negative once it has.
    pub fn days_left(&self) -> f64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        (self.expires as f64 - now) / 86_400.0
    }
}

/// The TLS server of a listener. When its files change, everything loaded from them is replaced at once; sessions keep
/// what they began with.
#[derive(Debug)]
pub struct Terminator {
    params: ListenerTls,
    loaded: ArcSwap<Loaded>,
    watched: Watched,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// The same for clients without instructions for AES.
    without_aes: Arc<ServerConfig>,
    tickets: Arc<Tickets>,
    in_use: Vec<InUse>,
}

impl Terminator {
    /// Reads the files.
    ///
    /// # Errors
    /// All files that cannot be used.
    pub fn load(params: ListenerTls) -> Result<Self, Vec<BadFile>> {
        let watched = Watched::new(params.files());
        let loaded = Loaded::new(&params, None)?;
        Ok(Self { params, loaded: ArcSwap::from_pointee(loaded), watched })
    }

    /// The same with other params, which may name other files: tickets that it gave out stay good.
    ///
    /// # Errors
    /// All files that cannot be used.
    pub fn with_params(&self, params: ListenerTls) -> Result<Self, Vec<BadFile>> {
        let watched = Watched::new(params.files());
        let loaded = Loaded::new(&params, Some(&self.loaded.load().tickets))?;
        Ok(Self { params, loaded: ArcSwap::from_pointee(loaded), watched })
    }

    /// What it was made with.
    pub fn params(&self) -> &ListenerTls {
        &self.params
    }

    /// Reads the files again if any of them has changed. Returns whether new ones are in use.
    ///
    /// # Errors
    /// All files that cannot be used. The old ones stay in use, and there is no further error until a file changes.
    pub fn reload(&self) -> Result<bool, Vec<BadFile>> {
        if !self.watched.changed(self.params.files()) {
            return Ok(false);
        }
        self.loaded.store(Arc::new(Loaded::new(&self.params, Some(&self.loaded.load().tickets))?));
        Ok(true)
    }

    pub fn handshake_first(&self) -> HandshakeFirst {
        self.params.handshake_first
    }

    /// The certificates in use.
    pub fn in_use(&self) -> Vec<InUse> {
        self.loaded.load().in_use.clone()
    }

    fn config(&self, without_aes: bool) -> Arc<ServerConfig> {
        let loaded = self.loaded.load();
        Arc::clone(if without_aes { &loaded.without_aes } else { &loaded.config })
    }
}

impl ListenerTls {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.pairs
            .iter()
            .flat_map(|pair| [&pair.cert_file, &pair.key_file])
            .chain(self.checked_against())
            .chain(&self.ticket_keys_file)
    }

    /// What client certificates are checked against.
    fn checked_against(&self) -> impl Iterator<Item = &PathBuf> {
        self.clients.iter().flat_map(|clients| std::iter::once(&clients.ca_file).chain(&clients.crl_file))
    }
}

impl Loaded {
    fn new(params: &ListenerTls, earlier: Option<&Tickets>) -> Result<Self, Vec<BadFile>> {
        let mut provider = default_provider();
        // In TLS 1.3, AES-128 goes before AES-256: the latter comes with SHA-384, for which processors have no
        // instructions as they have for SHA-256, and a handshake hashes a lot. Most libraries other than Go's ask for
        // the other order.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let mut bad = Vec::new();
        // Before the verifier reads them: what changes in between must not give a client that was checked against the
        // old files a ticket that is bound to the new ones.
        let checked_against = files::contents(params.checked_against());
        let by_name = ByName::read(&params.pairs, &provider, &mut bad);
        let verifier = match &params.clients {
            None => Ok(WebPkiClientVerifier::no_client_auth()),
            Some(clients) => clients.verifier(&provider),
        };
        let verifier = verifier.map_err(|err| bad.push(err)).ok();
        let shared = params.ticket_keys_file.as_deref().map_or_else(|| Ok(Vec::new()), files::ticket_keys);
        let shared = shared.map_err(|err| bad.push(err)).ok();
        let (Some(verifier), Some(shared), true) = (verifier, shared, bad.is_empty()) else { return Err(bad) };
        let earlier = earlier.map(Tickets::made).unwrap_or_default();
        let tickets = Arc::new(Tickets::new(shared, earlier, &checked_against, Arc::clone(&verifier)));
        let in_use =
            by_name.pairs.iter().map(|(_, names)| InUse { subject: names.subject.clone(), expires: names.expires });
        let in_use = in_use.collect();
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(params.min_version.versions())
            .map_err(|err| vec![BadFile::new("min_version", err.to_string(), "write \"1.2\" or \"1.3\"")])?;
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(by_name));
        config.ticketer = Arc::clone(&tickets) as _;
        // Tickets resume sessions without a lock and without memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // No NATS client asks for more than one connection with one ticket.
        config.send_tls13_tickets = 1;
        let without_aes = Arc::new(config.clone());
        config.ignore_client_order = true;
        Ok(Self { config: Arc::new(config), without_aes, tickets, in_use })
    }
}

impl ClientCertificates {
    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, BadFile> {
        let roots = Arc::new(files::roots(&self.ca_file)?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
        if let Some(path) = &self.crl_file {
            builder = builder.with_crls(files::revoked(path)?).only_check_end_entity_revocation();
        }
        let key = if self.crl_file.is_some() { "crl_file" } else { "ca_file" };
        match builder.build() {
            Ok(verifier) => Ok(Arc::new(ByAuthority(verifier))),
            Err(err) => Err(BadFile::new(key, err.to_string(), "write the path of a PEM file that fits")),
        }
    }
}

/// Chooses the certificate by the host that a client names.
#[derive(Debug)]
struct ByName {
    pairs: Vec<(Arc<CertifiedKey>, CertificateNames)>,
}

impl ByName {
    fn read(pairs: &[Pair], provider: &CryptoProvider, bad: &mut Vec<BadFile>) -> Self {
        let mut read = Vec::new();
        for (i, pair) in pairs.iter().enumerate() {
            // The first pair is in the `tls` table itself.
            let at = i.checked_sub(1).map_or_else(String::new, |i| format!("certificates[{i}]."));
            match files::pair(pair, &at, provider) {
                Ok(pair) => read.push(pair),
                Err(errors) => bad.extend(errors),
            }
        }
        Self { pairs: read }
    }
}

impl ResolvesServerCert for ByName {
    /// The first certificate that covers the host and has a signature scheme that the client supports; else the first
    /// with such a scheme; else the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can = |pair: &&(Arc<CertifiedKey>, CertificateNames)| {
            pair.0.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        let host = hello.server_name();
        let fits = |pair: &&(Arc<CertifiedKey>, CertificateNames)| host.is_some_and(|host| pair.1.covers(host));
        let chosen = self.pairs.iter().filter(fits).find(can).or_else(|| self.pairs.iter().find(can));
        chosen.or_else(|| self.pairs.first()).map(|(key, _)| Arc::clone(key))
    }
}

/// The name of the valid certificate that a client has shown; `None` without one. It is the first host name of the
/// subjectAltName, else its first mail address or URI, else the common name, else the whole subject.
pub fn client_name(down: &Stream) -> Option<String> {
    match down {
        Stream::Plain(_) => None,
        Stream::Tls(tls) => names::read(tls.get_ref().1.peer_certificates()?.first()?)?.all().into_iter().next(),
        Stream::WebSocket(websocket) => client_name(websocket.below()),
        Stream::S2(s2) => client_name(s2.below()),
    }
}
