//! Certificates for tests, and a client that speaks NATS over TLS on a bare socket.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate authority, with a folder for its files.
pub struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate, in PEM.
    pub cert: PathBuf,
    /// The key, in PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority with this common name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        let dir = TempDir::with_prefix("weir-ca-").expect("temporary folder");
        std::fs::write(dir.path().join("ca.pem"), cert.pem()).expect("write");
        Self { dir, issuer: Issuer::new(params, key) }
    }

    /// The file of the authority's own certificate, in PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The path of a file in the authority's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Issues a certificate with common name `name` for these hosts or IP addresses, for a server or for a client.
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Issued {
        self.issue_with(name, hosts, |_| {})
    }

    /// The same, with `change` applied to the parameters before signing.
    pub fn issue_with(&self, name: &str, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        let issued = Issued { cert: self.file(&format!("{name}.pem")), key: self.file(&format!("{name}.key")) };
        std::fs::write(&issued.cert, cert.pem()).expect("write");
        std::fs::write(&issued.key, key.serialize_pem()).expect("write");
        // weir warns of a key that everybody may read.
        std::fs::set_permissions(&issued.key, Permissions::from_mode(0o600)).expect("the key is for its owner");
        issued
    }

    /// The same, valid until `end`, in whole seconds.
    pub fn issue_until(&self, name: &str, hosts: &[&str], end: SystemTime) -> Issued {
        let since = end.duration_since(UNIX_EPOCH).expect("not before 1970");
        self.issue_with(name, hosts, |params| {
            params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since.as_secs());
        })
    }

    /// Writes a revocation list with this serial number; returns its file.
    pub fn revoke(&self, serial: u64) -> PathBuf {
        let now = rcgen::date_time_ymd(2020, 1, 1);
        let params = rcgen::CertificateRevocationListParams {
            this_update: now,
            next_update: rcgen::date_time_ymd(2090, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let path = self.file("crl.pem");
        let list = params.signed_by(&self.issuer).expect("a list");
        std::fs::write(&path, list.pem().expect("PEM")).expect("write");
        path
    }

    /// The configuration of a client that trusts this authority, with or without a certificate of its own.
    pub fn client(&self, own: Option<&Issued>) -> Arc<ClientConfig> {
        Arc::new(self.client_config(rustls::ALL_VERSIONS, own))
    }

    /// The same for these TLS versions only.
    pub fn client_config(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
        own: Option<&Issued>,
    ) -> ClientConfig {
        self.client_config_of(rustls::crypto::aws_lc_rs::default_provider(), versions, own)
    }

    /// The same with the provider's cipher suites, in their order.
    pub fn client_config_of(
        &self,
        provider: CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
        own: Option<&Issued>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(pem_certificate(&self.ca())).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots);
        match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
                builder.with_client_auth_cert(vec![pem_certificate(&own.cert)], key).expect("a pair")
            }
        }
    }
}

fn pem_certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

/// `cert_file = …` and `key_file = …`, for a table of weir's configuration.
pub fn pair(issued: &Issued) -> String {
    format!("cert_file = {:?}\nkey_file = {:?}\n", issued.cert, issued.key)
}

/// A client that speaks NATS over TLS.
pub struct TlsClient {
    /// The connection.
    pub stream: BufReader<TlsStream<TcpStream>>,
    /// The INFO line that came first.
    pub info: String,
}

impl TlsClient {
    /// Connects and reads INFO, with the TLS handshake before INFO (`first`) or after it.
    pub async fn connect(address: &str, host: &str, first: bool, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        Self::over(TcpStream::connect(address).await?, host, first, config).await
    }

    /// The same over a connection that is open already.
    pub async fn over(tcp: TcpStream, host: &str, first: bool, config: Arc<ClientConfig>) -> std::io::Result<Self> {
        let greeted = if first { (tcp, String::new()) } else { Self::info(tcp).await? };
        let mut client = Self::handshake(greeted, host, config).await?;
        if first {
            client.info = client.line().await?;
        }
        Ok(client)
    }

    /// Reads INFO in front of the handshake.
    pub async fn info(mut tcp: TcpStream) -> std::io::Result<(TcpStream, String)> {
        let info = read_line(&mut tcp).await?;
        Ok((tcp, info))
    }

    /// Does the handshake behind INFO.
    pub async fn handshake(
        (tcp, info): (TcpStream, String),
        host: &str,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let stream = BufReader::new(TlsConnector::from(config).connect(name, tcp).await?);
        Ok(Self { stream, info })
    }

    /// Sends text.
    pub async fn say(&mut self, words: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(words.as_bytes()).await?;
        self.stream.get_mut().flush().await
    }

    /// The next line; empty at the end of the stream. A server's own PING, which it sends to every client that has been
    /// there for some seconds, is left out.
    pub async fn line(&mut self) -> std::io::Result<String> {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await?;
            if line != "PING\r\n" {
                return Ok(line);
            }
        }
    }

    /// Sends CONNECT and PING; returns the next line.
    pub async fn enter(&mut self) -> std::io::Result<String> {
        self.say("CONNECT {\"verbose\":false,\"lang\":\"go\",\"version\":\"1\",\"protocol\":1}\r\nPING\r\n").await?;
        self.line().await
    }
}

/// Reads one line and nothing after it.
async fn read_line(tcp: &mut TcpStream) -> std::io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(tcp.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}
