//! TLS on both sides. Towards clients weir is the end of it: certificates by name, tickets, client certificates, and a budget
//! that keeps a storm of handshakes from those who are in. Towards servers it is a client like any other.

mod budget;
mod connector;
mod files;
mod handshake;
mod names;
mod renew;
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
    tls::{files::Watched, names::CertificateNames, tickets::Tickets},
};

pub use self::{
    budget::Budget,
    connector::{Connector, ServersTls},
    files::{BadFile, Pair},
    handshake::{Failed, accept, hello, speaks_first},
    renew::renew,
};
/// When clients of a listener are expected to begin TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFirst {
    /// At once. Clients have to be told (`tls_first`, `TLSHandshakeFirst`, `handshakeFirst`).
    Always,
    /// At once; whoever has not after this long gets INFO first.
    Within(Duration),
    /// After INFO.
    Never,
}

/// The oldest version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2: with forward secrecy and authenticated encryption only, as all versions.
    Tls12,
    /// TLS 1.3.
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

/// TLS of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The first is for those who name no host, or one that no other covers.
    pub pairs: Vec<Pair>,
    /// The authorities of client certificates, where these are required.
    pub clients: Option<ClientCertificates>,
    /// When TLS begins.
    pub handshake_first: HandshakeFirst,
    /// The oldest version.
    pub min_version: MinVersion,
    /// Keys of tickets that other weirs have too; without it tickets are good for this process.
    pub ticket_keys_file: Option<PathBuf>,
}

/// How client certificates are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM, the authorities.
    pub ca_file: PathBuf,
    /// PEM, their revocation lists. With it a certificate is good only if its authority's list is there and names it not.
    pub crl_file: Option<PathBuf>,
}

/// A certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// Its subject.
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

/// The end of TLS at a listener: what its files say now. Replaced whole when they change; sessions keep what they began with.
#[derive(Debug)]
pub struct Terminator {
    params: ListenerTls,
    now: ArcSwap<Loaded>,
    watched: Watched,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    /// The same for those who have nothing for AES.
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
        Ok(Self { params, now: ArcSwap::from_pointee(loaded), watched })
    }

    /// Reads the files again if any of them has changed. Returns whether the new ones are in force.
    ///
    /// # Errors
    /// All files that cannot be used; what was in force stays so, and they are not complained of again until they change.
    pub fn reload(&self) -> Result<bool, Vec<BadFile>> {
        if !self.watched.changed(self.params.files()) {
            return Ok(false);
        }
        self.now.store(Arc::new(Loaded::new(&self.params, Some(&self.now.load().tickets))?));
        Ok(true)
    }

    /// When TLS begins.
    pub fn handshake_first(&self) -> HandshakeFirst {
        self.params.handshake_first
    }

    /// The certificates in use.
    pub fn in_use(&self) -> Vec<InUse> {
        self.now.load().in_use.clone()
    }

    fn config(&self, without_aes: bool) -> Arc<ServerConfig> {
        let now = self.now.load();
        Arc::clone(if without_aes { &now.without_aes } else { &now.config })
    }
}

impl ListenerTls {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let clients =
            self.clients.iter().flat_map(|clients| std::iter::once(&clients.ca_file).chain(&clients.crl_file));
        self.pairs
            .iter()
            .flat_map(|pair| [&pair.cert_file, &pair.key_file])
            .chain(clients)
            .chain(&self.ticket_keys_file)
    }
}

impl Loaded {
    fn new(params: &ListenerTls, earlier: Option<&Tickets>) -> Result<Self, Vec<BadFile>> {
        let mut provider = default_provider();
        // Of TLS 1.3, AES-128 before AES-256: that comes with SHA-384, for which processors have no instructions as for SHA-256, and
        // a handshake hashes a lot. Most libraries but Go's ask for the other order.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        let provider = Arc::new(provider);
        let mut bad = Vec::new();
        let by_name = ByName::read(&params.pairs, &provider, &mut bad);
        let verifier = match &params.clients {
            None => Ok(WebPkiClientVerifier::no_client_auth()),
            Some(clients) => clients.verifier(&provider),
        };
        let verifier = verifier.map_err(|err| bad.push(err)).ok();
        let shared = params.ticket_keys_file.as_deref().map_or_else(|| Ok(Vec::new()), files::ticket_keys);
        let shared = shared.map_err(|err| bad.push(err)).ok();
        let (Some(verifier), Some(shared), true) = (verifier, shared, bad.is_empty()) else { return Err(bad) };
        let judged_by =
            params.clients.iter().flat_map(|clients| std::iter::once(&clients.ca_file).chain(&clients.crl_file));
        let earlier = earlier.map(Tickets::secrets).unwrap_or_default();
        let tickets = Arc::new(Tickets::new(shared, earlier, &files::contents(judged_by)));
        let in_use =
            by_name.pairs.iter().map(|(_, says)| InUse { subject: says.subject.clone(), expires: says.expires });
        let in_use = in_use.collect();
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(params.min_version.versions())
            .map_err(|err| vec![BadFile::new("min_version", err.to_string(), "write \"1.2\" or \"1.3\"")])?;
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(by_name));
        config.ticketer = Arc::clone(&tickets) as _;
        // Tickets do the same without a lock or memory.
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
        builder.build().map_err(|err| BadFile::new(key, err.to_string(), "write the path of a PEM file that fits"))
    }
}

/// Certificates by the host that a client names.
#[derive(Debug)]
struct ByName {
    pairs: Vec<(Arc<CertifiedKey>, CertificateNames)>,
}

impl ByName {
    fn read(pairs: &[Pair], provider: &CryptoProvider, bad: &mut Vec<BadFile>) -> Self {
        let mut read = Vec::new();
        for (i, pair) in pairs.iter().enumerate() {
            // The first pair stands in the table itself.
            let at = i.checked_sub(1).map_or_else(String::new, |i| format!("certificates[{i}]."));
            match files::pair(pair, &at, provider) {
                Ok(pair) => read.push(pair),
                Err(err) => bad.push(err),
            }
        }
        Self { pairs: read }
    }
}

impl ResolvesServerCert for ByName {
    /// The first that covers the host and signs in a way that the client knows; else the first that the client can verify.
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

/// The name of the certificate that a client has shown, and that was found good; `None` without one. It is the first host, else the
/// first mail address or URI of its subjectAltName, else its common name, else its whole subject.
pub fn client_name(down: &Stream) -> Option<String> {
    match down {
        Stream::Plain(_) => None,
        Stream::Tls(tls) => names::read(tls.get_ref().1.peer_certificates()?.first()?)?.all().into_iter().next(),
        Stream::WebSocket(websocket) => client_name(websocket.below()),
    }
}
