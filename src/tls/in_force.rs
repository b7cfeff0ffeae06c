//! TLS of a client that connects by itself and keeps its configuration for ever: what it checks, and what it shows, is
//! what is in force at each handshake.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

use crate::tls::names;

/// What the files say.
#[derive(Debug)]
pub(super) struct InUse {
    pub(super) config: Arc<ClientConfig>,
    /// The check of `config`.
    pub(super) verifier: Arc<WebPkiServerVerifier>,
    /// The client certificate of `config`.
    pub(super) own: Option<Arc<CertifiedKey>>,
    /// When the first of the certificates expires that `config` has sessions of, in seconds since 1970.
    resumes_until: AtomicI64,
}

impl InUse {
    pub(super) fn new(
        config: ClientConfig,
        verifier: Arc<WebPkiServerVerifier>,
        own: Option<Arc<CertifiedKey>>,
    ) -> Self {
        Self { config: Arc::new(config), verifier, own, resumes_until: AtomicI64::new(i64::MAX) }
    }

    /// The same without its sessions, if one of them is of a server whose certificate has expired by `now`: rustls
    /// checks certificates in full handshakes only.
    pub(super) fn without_expired(&self, now: i64) -> Option<Self> {
        if now <= self.resumes_until.load(Relaxed) {
            return None;
        }
        let mut config = (*self.config).clone();
        config.resumption = Resumption::default();
        Some(Self::new(config, Arc::clone(&self.verifier), self.own.clone()))
    }

    /// A full handshake has accepted this chain. A certificate that had expired when it `began` was not needed.
    pub(super) fn accepted(&self, chain: &[CertificateDer<'_>], began: i64) {
        let ends = chain.iter().map(|one| names::expires(one).unwrap_or(i64::MIN));
        if let Some(first) = ends.filter(|end| *end == i64::MIN || *end >= began).min() {
            self.resumes_until.fetch_min(first, Relaxed);
        }
    }
}

/// What the files say now, for a client that has been told once.
#[derive(Debug)]
struct InForce {
    in_use: Arc<ArcSwap<InUse>>,
    /// The host that the servers' certificates are for; `None` takes the host that the client names.
    name: Option<ServerName<'static>>,
}

/// The configuration of a client that takes host names from addresses: it checks certificates for `server_name` where
/// there is one. To a server it names the host of the address (SNI) in any case.
///
/// # Errors
/// The name is none.
pub(super) fn config(in_use: &Arc<ArcSwap<InUse>>, server_name: Option<&str>) -> io::Result<ClientConfig> {
    let name = server_name.map(|name| ServerName::try_from(name.to_owned())).transpose();
    let name = name.map_err(|err| io::Error::new(io::ErrorKind::InvalidInput, err))?;
    let in_force = Arc::new(InForce { in_use: Arc::clone(in_use), name });
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    // Everything is checked by rustls's own verifier: only which one, and for which name, is decided here.
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&in_force) as _);
    let mut config = builder.with_client_cert_resolver(in_force);
    // A session that is resumed was checked by the authorities of before.
    config.resumption = Resumption::disabled();
    Ok(config)
}

impl ServerCertVerifier for InForce {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = self.name.as_ref().unwrap_or(server_name);
        self.in_use.load().verifier.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.in_use.load().verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.in_use.load().verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.in_use.load().verifier.supported_verify_schemes()
    }
}

impl ResolvesClientCert for InForce {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.in_use.load().own.clone()
    }

    fn has_certs(&self) -> bool {
        self.in_use.load().own.is_some()
    }
}
