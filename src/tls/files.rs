//! Reads certificates, keys, revocation lists and ticket keys. An error names the key of the configuration that names
//! the file, says what would be right, and never shows the content of a file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use data_encoding::BASE64;
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::{
    operator_file,
    tls::{
        names::{self, CertificateNames},
        tickets::{KEY_LENGTH, Secret},
    },
};

/// A certificate chain and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// PEM, the certificate itself first, then the intermediate ones.
    pub cert_file: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}")]
pub struct BadFile {
    /// The key of the configuration, below the `tls` table.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub right: &'static str,
}

impl BadFile {
    pub(super) fn new(key: impl Into<String>, what: impl Into<String>, right: &'static str) -> Self {
        Self { key: key.into(), what: what.into(), right }
    }
}

const CERTIFICATES: &str = "write the path of a PEM file with the certificate, and the intermediate ones behind it";
const DECRYPT: &str = "write the path of the key without a passphrase, such as `openssl pkey -in KEY -out FILE` makes";
const KEY: &str = "write the path of the PEM file with the key of that certificate";
const ROOTS: &str = "write the path of a PEM file with the certificates of the authorities";
const CRL: &str = "write the path of a PEM file with the authorities' revocation lists";
const TICKETS: &str = "write the path of a file with lines such as `openssl rand -base64 32` prints, the newest first";

/// The longest file that weir reads, in bytes. Revocation lists have some MiB.
const LONGEST: u64 = 64 << 20;

fn bytes(key: &str, path: &Path, right: &'static str) -> Result<Vec<u8>, BadFile> {
    operator_file::read(path, LONGEST)
        .map_err(|err| BadFile::new(key, format!("{} cannot be read ({err})", path.display()), right))
}

fn certificates(key: &str, path: &Path, right: &'static str) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let bytes = bytes(key, path, right)?;
    let bad = |why: String| BadFile::new(key, format!("{} {why}", path.display()), right);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(list) if list.is_empty() => Err(bad("holds no certificate in PEM".into())),
        Ok(list) => Ok(list),
        Err(_) => Err(bad("is not PEM".into())),
    }
}

/// Which certificates of this file nobody accepts at `now`, and why, in words. None where the file cannot be read.
pub fn not_valid_at(path: &Path, now: SystemTime) -> Vec<String> {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let chain = certificates("cert_file", path, CERTIFICATES).unwrap_or_default();
    chain.iter().filter_map(|certificate| names::not_valid_at(certificate, now)).collect()
}

/// Reads a pair. `at` is its place in the configuration, such as `certificates[0].`.
///
/// # Errors
/// What is wrong with either file; with the key too where the certificate cannot be used.
pub(super) fn pair(
    pair: &Pair,
    at: &str,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, CertificateNames), Vec<BadFile>> {
    let (cert_key, key_key) = (format!("{at}cert_file"), format!("{at}key_file"));
    let of_cert = |why: &str| BadFile::new(&*cert_key, format!("{} {why}", pair.cert_file.display()), CERTIFICATES);
    let of_key = |why: &str, right| BadFile::new(&*key_key, format!("{} {why}", pair.key_file.display()), right);
    let chain = certificates(&cert_key, &pair.cert_file, CERTIFICATES).and_then(|chain| {
        match chain.first().and_then(names::read) {
            Some(names) => Ok((chain, names)),
            None => Err(of_cert("begins with no X.509 certificate")),
        }
    });
    let key = bytes(&key_key, &pair.key_file, KEY).and_then(|bytes| {
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| match is_encrypted(&bytes) {
            true => of_key("holds an encrypted key", DECRYPT),
            false => of_key("holds no private key in PEM", KEY),
        })?;
        provider.key_provider.load_private_key(key).map_err(|_| of_key("holds a key of an unknown kind", KEY))
    });
    let ((chain, names), key) = match (chain, key) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    // Not by rustls, which reads no certificate of version 1: OpenSSL makes these without extensions.
    let public = key.public_key();
    let is_its_key = public.zip(chain.first()).and_then(|(key, certificate)| names::is_key_of(&key, certificate));
    match is_its_key {
        Some(false) => Err(vec![of_key("is not the key of the certificate", KEY)]),
        Some(true) | None => Ok((Arc::new(CertifiedKey::new(chain, key)), names)),
    }
}

/// Whether a PEM file holds a key that needs a passphrase: PKCS#8, or the older form of OpenSSL.
fn is_encrypted(pem: &[u8]) -> bool {
    ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"]
        .iter()
        .any(|mark| pem.windows(mark.len()).any(|bytes| bytes == mark.as_bytes()))
}

/// Reads the authorities of a `ca_file`.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, BadFile> {
    let mut roots = RootCertStore::empty();
    let (_, ignored) = roots.add_parsable_certificates(certificates("ca_file", path, ROOTS)?);
    match ignored {
        0 => Ok(roots),
        n => Err(BadFile::new("ca_file", format!("{} holds {n} that are no certificates", path.display()), ROOTS)),
    }
}

/// Reads a `crl_file`.
pub(super) fn revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, BadFile> {
    let bytes = bytes("crl_file", path, CRL)?;
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    lists
        .ok()
        .filter(|lists| !lists.is_empty())
        .ok_or_else(|| BadFile::new("crl_file", format!("{} holds no revocation list in PEM", path.display()), CRL))
}

/// Reads a `ticket_keys_file`.
pub(super) fn ticket_keys(path: &Path) -> Result<Vec<Secret>, BadFile> {
    let bytes = bytes("ticket_keys_file", path, TICKETS)?;
    let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let secrets: Option<Vec<Secret>> =
        lines.map(|line| <[u8; KEY_LENGTH]>::try_from(BASE64.decode(line).ok()?).ok().map(Secret)).collect();
    secrets.filter(|secrets| !secrets.is_empty()).ok_or_else(|| {
        let what = format!("{} has to hold 32 bytes in base64 on each line", path.display());
        BadFile::new("ticket_keys_file", what, TICKETS)
    })
}

/// Finds out whether files have changed since the last look, whether they could be used then or not.
#[derive(Debug)]
pub(super) struct Watched {
    seen: Mutex<Vec<u8>>,
}

impl Watched {
    pub(super) fn new<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        Self { seen: Mutex::new(contents(paths)) }
    }

    pub(super) fn changed<'a>(&self, paths: impl IntoIterator<Item = &'a PathBuf>) -> bool {
        let now = contents(paths);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *seen != now;
        *seen = now;
        changed
    }
}

/// The content of files, for a comparison. A file that cannot be read counts as empty.
pub(super) fn contents<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Vec<u8> {
    let mut all = Vec::new();
    for path in paths {
        let bytes = operator_file::read(path, LONGEST).unwrap_or_default();
        all.extend_from_slice(&bytes.len().to_be_bytes());
        all.extend_from_slice(&bytes);
    }
    all
}
