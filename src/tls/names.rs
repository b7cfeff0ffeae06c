//! Reads the names and the expiry of a certificate.

use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, x509::SubjectPublicKeyInfo,
};

/// The names of one certificate, and when it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateNames {
    /// As `CN=…, O=…`.
    pub(super) subject: String,
    pub(super) common_names: Vec<String>,
    /// Host names of the subjectAltName.
    pub(super) hosts: Vec<String>,
    /// Mail addresses and URIs of the subjectAltName.
    pub(super) others: Vec<String>,
    /// In seconds since 1970.
    pub(super) expires: i64,
}

/// Reads a certificate; `None` if it is not X.509.
pub(super) fn read(certificate: &CertificateDer<'_>) -> Option<CertificateNames> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let (mut hosts, mut others) = (Vec::new(), Vec::new());
    if let Ok(Some(names)) = parsed.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                GeneralName::RFC822Name(other) | GeneralName::URI(other) => others.push((*other).to_owned()),
                _ => {}
            }
        }
    }
    let subject = parsed.subject();
    Some(CertificateNames {
        subject: subject.to_string(),
        common_names: subject.iter_common_name().filter_map(|name| name.as_str().ok().map(str::to_owned)).collect(),
        hosts,
        others,
        expires: parsed.validity().not_after.timestamp(),
    })
}

/// Seconds since 1970, as certificates are read here.
pub(super) fn seconds(at: UnixTime) -> i64 {
    i64::try_from(at.as_secs()).unwrap_or(i64::MAX)
}

/// When a certificate expires, in seconds since 1970; `None` if it cannot be read.
pub(super) fn expires(certificate: &CertificateDer<'_>) -> Option<i64> {
    Some(X509Certificate::from_der(certificate).ok()?.1.validity().not_after.timestamp())
}

/// Why a certificate is not accepted at `now`, in seconds since 1970; `None` if it is, or is no certificate.
pub(super) fn not_valid_at(certificate: &CertificateDer<'_>, now: i64) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let (subject, validity) = (parsed.subject(), parsed.validity());
    if now > validity.not_after.timestamp() {
        return Some(format!("the certificate of {subject} has expired on {}", validity.not_after));
    }
    let is_early = now < validity.not_before.timestamp();
    is_early.then(|| format!("the certificate of {subject} is not valid before {}", validity.not_before))
}

/// Whether a certificate is in its time at `now`, in seconds since 1970; `false` if it cannot be read.
pub(super) fn is_valid_at(certificate: &CertificateDer<'_>, now: i64) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
        let validity = parsed.validity();
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
    })
}

/// Whether this public key is that of the certificate; `None` if either cannot be read.
pub(super) fn is_key_of(key: &SubjectPublicKeyInfoDer<'_>, certificate: &CertificateDer<'_>) -> Option<bool> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let (_, key) = SubjectPublicKeyInfo::from_der(key).ok()?;
    Some(certificate.public_key().subject_public_key == key.subject_public_key)
}

impl CertificateNames {
    /// All names by which the certificate of a client may be known: those of the subjectAltName, the common names, the
    /// subject.
    pub(super) fn all(self) -> Vec<String> {
        let mut all = self.hosts;
        all.extend(self.others);
        all.extend(self.common_names);
        all.push(self.subject);
        all
    }

    /// Whether one of the host names is `host`, or begins with `*.` and covers all but the first label of `host`.
    pub(super) fn covers(&self, host: &str) -> bool {
        self.hosts.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
            None => name.eq_ignore_ascii_case(host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_wildcards_cover_one_label() {
        let mut params =
            rcgen::CertificateParams::new(vec!["*.example.com".into(), "nats.example.org".into()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "orders-7");
        params.not_after = rcgen::date_time_ymd(2031, 1, 2);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = read(params.self_signed(&key).unwrap().der()).unwrap();
        assert_eq!(names.common_names, ["orders-7"]);
        assert_eq!(names.expires, 1_925_078_400);
        for (host, covered) in [
            ("a.example.com", true),
            ("A.EXAMPLE.com", true),
            ("example.com", false),
            ("a.b.example.com", false),
            ("nats.example.org", true),
        ] {
            assert_eq!(names.covers(host), covered, "{host}");
        }
        let all = names.all();
        assert!(all.contains(&"orders-7".to_owned()) && all.contains(&"CN=orders-7".to_owned()), "{all:?}");
        assert_eq!(read(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
