//! Looks up which servers a name leads to (`[cluster] discover`).
//!
//! The addresses of a host are asked of the system's resolver, since that follows what the machine is set up with:
//! `/etc/hosts`, the search domains of Kubernetes, `nsswitch.conf`. It takes a thread that may hang, of which there is
//! one at most, and it tells no TTL. It has no SRV records: those are asked of the name servers in `/etc/resolv.conf`,
//! read anew each time (docs/decisions/0035-names-of-servers.md).

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hickory_resolver::{TokioResolver, net::NetError, proto::rr::RData};
use tokio::net::lookup_host;

/// How often addresses are looked up, which have no TTL there.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The same after a failure.
pub const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// The bounds of a TTL.
const LEAST_TTL: Duration = Duration::from_secs(2);
const LONGEST_TTL: Duration = Duration::from_secs(30);

/// What stands for all servers of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discover {
    /// `host:port`: each address of the host is a server.
    Host(String),
    /// A name with SRV records, such as `_nats._tcp.example.com`: each record is a server.
    Srv(String),
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The servers, each `host:port`.
    pub addresses: Vec<String>,
    /// When to ask again.
    pub again_after: Duration,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("{0}")]
    Host(#[from] std::io::Error),
    #[error("{0}")]
    Srv(#[from] NetError),
}

impl Discover {
    /// The name, as it is written.
    pub fn name(&self) -> &str {
        match self {
            Self::Host(name) | Self::Srv(name) => name,
        }
    }

    /// Asks once. `known` are the addresses of earlier answers that are servers now. This may hang for as long as the
    /// resolver does.
    ///
    /// # Errors
    /// [`NoAnswer`]; an answer without an address is none.
    pub async fn look_up(&self, known: &[String]) -> Result<Answer, NoAnswer> {
        match self {
            Self::Host(host) => {
                let found: Vec<_> = lookup_host(host).await?.collect();
                Ok(Answer { addresses: of_one_family(&found, known), again_after: INTERVAL })
            }
            Self::Srv(name) => {
                let resolver = TokioResolver::builder_tokio()?.build()?;
                let found = resolver.srv_lookup(name.as_str()).await?;
                let mut addresses = BTreeSet::new();
                for record in found.answers() {
                    if let RData::SRV(srv) = &record.data {
                        let target = srv.target.to_utf8();
                        let target = target.trim_end_matches('.');
                        // RFC 2782: a target of "." says that there is no such service.
                        if !target.is_empty() {
                            addresses.insert(format!("{target}:{}", srv.port));
                        }
                    }
                }
                let ttl = found.valid_until().saturating_duration_since(Instant::now());
                let again_after = ttl.clamp(LEAST_TTL, LONGEST_TTL);
                Ok(Answer { addresses: addresses.into_iter().collect(), again_after })
            }
        }
    }
}

/// A machine with an address of each family is one server, so of a name with both families one counts. That of the
/// `known` addresses does for as long as there is one of it: the other ones are the same servers again. Else it is
/// the one with more addresses, and IPv4 where they are as many.
fn of_one_family(found: &[SocketAddr], known: &[String]) -> Vec<String> {
    let (v4, v6): (BTreeSet<_>, BTreeSet<_>) = found.iter().partition(|address| address.is_ipv4());
    let known = known.iter().find_map(|address| address.parse::<SocketAddr>().ok());
    let is_v6 = match known {
        Some(known) if known.is_ipv6() => !v6.is_empty(),
        Some(_) => v4.is_empty(),
        None => v6.len() > v4.len(),
    };
    let one = if is_v6 { v6 } else { v4 };
    one.into_iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_name_with_both_families_one_counts() {
        let of = |texts: &[&str]| {
            let found: Vec<SocketAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            of_one_family(&found, &[])
        };
        assert_eq!(of(&["[::1]:1", "1.0.0.2:1", "1.0.0.1:1", "1.0.0.1:1", "[::2]:1"]), ["1.0.0.1:1", "1.0.0.2:1"]);
        assert_eq!(of(&["[::2]:1", "[::1]:1", "1.0.0.1:1"]), ["[::1]:1", "[::2]:1"]);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn the_family_of_the_known_servers_stays_while_an_answer_has_one_of_it() {
        let of = |known: &str, texts: &[&str]| {
            let found: Vec<SocketAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            of_one_family(&found, &[known.to_owned()])
        };
        assert_eq!(of("1.0.0.1:1", &["[::1]:1", "[::2]:1", "1.0.0.2:1"]), ["1.0.0.2:1"], "more of the other family");
        assert_eq!(of("[::1]:1", &["[::2]:1", "1.0.0.1:1", "1.0.0.2:1"]), ["[::2]:1"]);
        assert_eq!(of("1.0.0.1:1", &["[::1]:1", "[::2]:1"]), ["[::1]:1", "[::2]:1"], "none is left of it");
        assert_eq!(of("[::1]:1", &["1.0.0.1:1"]), ["1.0.0.1:1"]);
        assert_eq!(of("n1.example:1", &["[::1]:1", "[::2]:1", "1.0.0.1:1"]), ["[::1]:1", "[::2]:1"], "a name");
    }

    #[tokio::test]
    async fn an_address_without_a_name_leads_to_itself() {
        let answer = Discover::Host("127.0.0.1:4222".into()).look_up(&[]).await.unwrap();
        assert_eq!(answer.addresses, ["127.0.0.1:4222"]);
    }
}
