//! TLS towards servers.

use std::{
    future::poll_fn,
    io,
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    client::WebPkiServerVerifier,
    crypto::aws_lc_rs::default_provider,
    pki_types::{ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncReadExt, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::{
    net::{stream::Stream, timer::timeout_at},
    tls::{
        BadFile, Pair,
        files::{self, Watched},
        handshake::step_by_step,
        in_force::{self, InUse},
        names,
    },
};

/// TLS towards the servers as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServersTls {
    /// The authorities of the servers' certificates; `None` takes the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate that weir shows to the servers.
    pub own: Option<Pair>,
    /// The host that the servers' certificates are for; `None` takes the host of each server's address.
    pub server_name: Option<String>,
    /// Whether the servers expect TLS before they send INFO.
    pub handshake_first: bool,
}

/// The client side of TLS towards the servers. All dials share one store of tickets, so most handshakes are resumed.
/// When a certificate expires that a server has shown, the store is emptied.
#[derive(Debug)]
pub struct Connector {
    params: ServersTls,
    in_use: Arc<ArcSwap<InUse>>,
    watched: Watched,
}

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// All files that cannot be used.
    pub fn load(params: ServersTls) -> Result<Self, Vec<BadFile>> {
        let watched = Watched::new(params.files());
        let in_use = Arc::new(ArcSwap::from_pointee(params.read()?));
        Ok(Self { params, in_use, watched })
    }

    /// Reads the files again if any of them has changed. Returns whether new ones are in use.
    ///
    /// # Errors
    /// All files that cannot be used; the old ones stay in use.
    pub fn reload(&self) -> Result<bool, Vec<BadFile>> {
        if !self.watched.changed(self.params.files()) {
            return Ok(false);
        }
        self.in_use.store(Arc::new(self.params.read()?));
        Ok(true)
    }

    /// The configuration in use.
    pub fn config(&self) -> ClientConfig {
        (*self.in_use.load().config).clone()
    }

    /// A configuration for a client that connects by itself, and takes host names from addresses. It checks
    /// certificates for [`ServersTls::server_name`] where that is set, and new files are in use there too.
    ///
    /// # Errors
    /// `server_name` is no host.
    pub fn config_in_force(&self) -> io::Result<ClientConfig> {
        in_force::config(&self.in_use, self.params.server_name.as_deref())
    }

    pub fn handshake_first(&self) -> bool {
        self.params.handshake_first
    }

    /// What is in use, which resumes no session of a server whose certificate has expired by `now`.
    fn in_use_at(&self, now: i64) -> Arc<InUse> {
        let in_use = self.in_use.load_full();
        let Some(fresh) = in_use.without_expired(now) else { return in_use };
        // What a reload has put there meanwhile stays.
        self.in_use.compare_and_swap(&in_use, Arc::new(fresh));
        self.in_use.load_full()
    }

    /// Does the client's part of a handshake with the server at `address`, `host:port`.
    ///
    /// # Errors
    /// The server goes on in plain text, its certificate is not valid, it rejects weir's, or the connection fails.
    pub async fn connect(&self, tcp: TcpStream, address: &str, deadline: Instant) -> Result<Stream, ConnectError> {
        let host = self.params.server_name.as_deref().unwrap_or_else(|| host(address));
        let name =
            ServerName::try_from(host.to_owned()).map_err(|err| io::Error::new(io::ErrorKind::InvalidInput, err))?;
        let began = names::seconds(UnixTime::now());
        let in_use = self.in_use_at(began);
        let mut handshake = TlsConnector::from(Arc::clone(&in_use.config)).connect(name, tcp);
        let mut is_plain = None;
        // The first byte is looked at before the handshake reads it: what rustls has read is lost to everybody else.
        let steps = poll_fn(|cx| {
            if is_plain.is_none()
                && let Some(tcp) = handshake.get_ref()
            {
                is_plain = peek_plain(tcp, cx);
            }
            match is_plain {
                Some(true) => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                _ => Pin::new(&mut handshake).poll(cx),
            }
        });
        let done = step_by_step(steps, None, deadline).await;
        if is_plain == Some(true)
            && let Some(tcp) = handshake.get_mut()
        {
            return Err(ConnectError::Plain(timeout_at(deadline, pin!(read_line(tcp))).await.unwrap_or_default()));
        }
        let tls = done?;
        let connection = tls.get_ref().1;
        if connection.handshake_kind() != Some(HandshakeKind::Resumed) {
            in_use.accepted(connection.peer_certificates().unwrap_or_default(), began);
        }
        Ok(Stream::Tls(Box::new(TlsStream::Client(tls))))
    }
}

/// Why there is no TLS with a server.
#[derive(Debug)]
pub enum ConnectError {
    /// Instead of TLS the server has sent this line.
    Plain(Vec<u8>),
    Tls(io::Error),
}

impl From<io::Error> for ConnectError {
    fn from(err: io::Error) -> Self {
        Self::Tls(err)
    }
}

impl From<ConnectError> for io::Error {
    fn from(err: ConnectError) -> Self {
        match err {
            ConnectError::Tls(err) => err,
            ConnectError::Plain(line) => {
                let line = String::from_utf8_lossy(&line);
                Self::new(io::ErrorKind::InvalidData, format!("no TLS but {:?}", line.trim_end()))
            }
        }
    }
}

/// Whether the server answers with a text instead of TLS; `None` while it has not answered.
fn peek_plain(tcp: &TcpStream, cx: &mut Context<'_>) -> Option<bool> {
    let mut first = [0];
    let mut first = ReadBuf::new(&mut first);
    match tcp.poll_peek(cx, &mut first) {
        // `-ERR`, or INFO. Every record of TLS begins with its type, 20 to 24.
        Poll::Ready(Ok(1..)) => Some(first.filled().first().is_some_and(u8::is_ascii_graphic)),
        _ => None,
    }
}

/// The most that is read of a line that a server sends instead of TLS.
const MAX_LINE: usize = 128;

/// Reads a line, or the beginning of a long one, or what there is of it before the end of the stream.
async fn read_line(tcp: &mut TcpStream) -> Vec<u8> {
    let mut line = Vec::with_capacity(MAX_LINE);
    while line.len() < MAX_LINE && !line.ends_with(b"\n") {
        match tcp.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(_) => break,
        }
    }
    line
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl ServersTls {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.ca_file.iter().chain(self.own.iter().flat_map(|own| [&own.cert_file, &own.key_file]))
    }

    fn read(&self) -> Result<InUse, Vec<BadFile>> {
        let provider = Arc::new(default_provider());
        let mut bad = Vec::new();
        let roots = self.ca_file.as_deref().map_or_else(system_roots, files::roots);
        let roots = roots.map_err(|err| bad.push(err)).ok();
        let own = self.own.as_ref().map(|own| files::pair(own, "", &provider)).transpose();
        let own = own.map_err(|errors| bad.extend(errors)).ok();
        let (Some(roots), Some(own)) = (roots, own) else { return Err(bad) };
        let unfit = |err: String| vec![BadFile::new("ca_file", err, "write the path of another file")];
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let verifier = verifier.map_err(|err| unfit(err.to_string()))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|err| unfit(err.to_string()))?
            .with_webpki_verifier(Arc::clone(&verifier));
        let own = own.map(|(own, _)| own);
        let config = match &own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let own: CertifiedKey = (**own).clone();
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
            }
        };
        Ok(InUse::new(config, verifier, own))
    }
}

fn system_roots() -> Result<RootCertStore, BadFile> {
    const RIGHT: &str = "write ca_file = \"ca.pem\" with the authorities of the servers' certificates";
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        false => Ok(roots),
        true => Err(BadFile::new("ca_file", "this system has no authorities of its own", RIGHT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_addresses() {
        for (address, expected) in [("n1:4222", "n1"), ("10.0.0.1:4222", "10.0.0.1"), ("[::1]:4222", "::1")] {
            assert_eq!(host(address), expected);
        }
    }
}
