//! A certificate for weir's listener, and clients that trust it.

use std::{fs, path::Path, sync::Arc};

use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::Outcome;

/// Writes `server.pem` and `server.key`, for `localhost`, into `dir`, and returns a connector that trusts them.
pub(crate) fn prepare(dir: &Path) -> Outcome<TlsConnector> {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    fs::write(dir.join("server.pem"), issued.cert.pem())?;
    fs::write(dir.join("server.key"), issued.signing_key.serialize_pem())?;
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone())?;
    let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(trusting)))
}
