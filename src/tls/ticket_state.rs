//! Reads the client's certificates in the state of a TLS session that rustls has a ticket hold.
//!
//! rustls documents no layout of it, and has no other way to the certificates before it resumes the session. A state
//! that reads otherwise is one without certificates, which resumes nothing where certificates are required.

use rustls::pki_types::CertificateDer;

use crate::protocol::tls_cursor::Cursor;

/// The chain, the client's own certificate first; `None` without one.
pub(super) fn client_chain(state: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    let mut rest = Cursor(state);
    if rest.number(1)? == 1 {
        let _host = rest.counted(1)?;
    }
    let (_version, _cipher_suite) = (rest.number(2)?, rest.number(2)?);
    let _master_secret = rest.counted(1)?;
    let _extended_master_secret = rest.number(1)?;
    if rest.number(1)? != 1 {
        return None;
    }
    let mut rest = Cursor(rest.counted(3)?);
    let mut chain = Vec::new();
    while !rest.0.is_empty() {
        chain.push(CertificateDer::from(rest.counted(3)?));
    }
    (!chain.is_empty()).then_some(chain)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
        crypto::aws_lc_rs::default_provider,
        pki_types::{PrivateKeyDer, UnixTime},
        server::{ProducesTickets, WebPkiClientVerifier},
        version::{TLS12, TLS13},
    };

    use super::*;
    use crate::tls::tickets::Tickets;

    /// A certificate that is valid until a year, and its key.
    struct Issued {
        certificate: Certificate,
        issuer: Issuer<'static, KeyPair>,
    }

    fn issue(name: &str, until: i32, by: Option<&Issued>, is_ca: bool) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = date_time_ymd(until, 1, 1);
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = match by {
            None => params.self_signed(&key),
            Some(by) => params.signed_by(&key, &by.issuer),
        };
        Issued { certificate: certificate.unwrap(), issuer: Issuer::new(params, key) }
    }

    fn key(of: &Issued) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(of.issuer.key().serialize_der()).unwrap()
    }

    /// Keeps the state of the session for the test.
    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<u8>>);

    impl ProducesTickets for Kept {
        fn enabled(&self) -> bool {
            true
        }
        fn lifetime(&self) -> u32 {
            60
        }
        fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
            *self.0.lock().unwrap() = plain.to_vec();
            Some(vec![1])
        }
        fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
            None
        }
    }

    fn roots(authority: &Issued) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// The state of a session with a client that has shown this chain, the key of whose first certificate it has. The
    /// host, which the state holds too, is named or is not.
    fn state(version: &'static SupportedProtocolVersion, authority: &Issued, chain: &[&Issued], host: &str) -> Vec<u8> {
        let (provider, own) = (Arc::new(default_provider()), issue("localhost", 2090, Some(authority), false));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority), Arc::clone(&provider));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![own.certificate.der().clone()], key(&own))
            .unwrap();
        let kept = Arc::new(Kept::default());
        server.ticketer = Arc::clone(&kept) as _;
        let shown = chain.iter().map(|one| one.certificate.der().clone()).collect();
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots(authority))
            .with_client_auth_cert(shown, key(chain[0]))
            .unwrap();
        client.enable_sni = host == "localhost";
        let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut up).unwrap();
            }
            server.read_tls(&mut &up[..]).unwrap();
            server.process_new_packets().unwrap();
            while server.wants_write() {
                server.write_tls(&mut down).unwrap();
            }
            client.read_tls(&mut &down[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        std::mem::take(&mut *kept.0.lock().unwrap())
    }

    /// At the beginning of this year.
    fn in_year(year: i32) -> UnixTime {
        let seconds = date_time_ymd(year, 1, 2).unix_timestamp();
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.try_into().unwrap()))
    }

    #[test]
    fn a_session_is_resumed_while_the_certificates_are_valid_that_its_client_needs() {
        let authority = issue("authority", 2090, None, true);
        let between = issue("between", 2050, Some(&authority), true);
        let (direct, below) =
            (issue("direct", 2060, Some(&authority), false), issue("below", 2070, Some(&between), false));
        let unneeded = issue("unneeded", 2020, None, true);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(&authority), Arc::new(default_provider())).build();
        let tickets = Tickets::new(vec![], vec![], b"", verifier.unwrap());
        for version in [&TLS12, &TLS13] {
            for (chain, last) in [(&[&direct][..], 2059), (&[&below, &between], 2049), (&[&direct, &unneeded], 2059)] {
                for host in ["localhost", "none"] {
                    let state = state(version, &authority, chain, host);
                    let shown: Vec<_> = chain.iter().map(|one| one.certificate.der().clone()).collect();
                    assert_eq!(client_chain(&state), Some(shown), "{version:?}");
                    for year in [2030, last, last + 1, 2080] {
                        assert_eq!(tickets.is_client_valid(&state, in_year(year)), year <= last, "{version:?} {year}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_state_without_certificates_resumes_nothing_where_they_are_required() {
        let authority = issue("authority", 2090, None, true);
        let own = issue("own", 2090, Some(&authority), false);
        let whole = state(&TLS13, &authority, &[&own], "localhost");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(&authority), Arc::new(default_provider())).build();
        let asks = Tickets::new(vec![], vec![], b"", verifier.unwrap());
        let asks_not = Tickets::new(vec![], vec![], b"", WebPkiClientVerifier::no_client_auth());
        let end = whole.windows(8).rposition(|bytes| own.certificate.der().ends_with(bytes)).unwrap();
        for length in 0..end {
            assert!(!asks.is_client_valid(&whole[..length], in_year(2030)), "{length}");
            assert!(asks_not.is_client_valid(&whole[..length], in_year(2030)));
        }
        assert!(asks.is_client_valid(&whole, in_year(2030)));
    }
}
