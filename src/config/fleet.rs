//! `[fleet]`: the weirs that share quotas and pace, and the login by which they hear of each other.

use strum::{IntoStaticStr, VariantArray};

use crate::{
    cluster::system_account::Login,
    config::{
        effective::toml_string,
        finding::{Problem, quote},
        leaf::{Any, Leaf, Words, within, wrong_type},
        node::Node,
        section::Section,
        system::{self, SystemKeys},
    },
    fleet::member,
};

/// The longest name, in bytes: it is part of subjects, and an id is part of every message of the fleet.
const LONGEST: usize = member::LONGEST;

/// JetStream keeps at most so many copies of a stream.
const MOST_REPLICAS: usize = 5;

/// How weirs of a fleet share a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum SharedBy {
    /// By leases in a JetStream bucket: the sum over all weirs is never more than the quota.
    Lease,
    /// Each weir has the quota divided by the number of live weirs.
    Split,
}

/// `[fleet]`.
#[derive(Clone, PartialEq)]
pub struct FleetConfig {
    /// Letters, digits, `-` and `_`: a part of subjects and of the bucket's name.
    pub name: String,
    /// As the name; `None` is the host's name and a random part.
    pub id: Option<String>,
    /// `None` logs in without credentials, or is that of a file that was not read.
    pub login: Option<Login>,
    /// Copies of the bucket, 1 to 5; `None` is one for each server, at most 3.
    pub replicas: Option<usize>,
    pub quota: SharedBy,
}

/// `[fleet]` as it was configured.
#[derive(Clone)]
pub(super) struct FleetKeys {
    name: String,
    id: Option<String>,
    pub(super) login: Option<SystemKeys>,
    replicas: Option<usize>,
    quota: SharedBy,
}

/// Reads `[fleet]`.
pub(super) fn keys(s: &mut Section<'_>) -> FleetKeys {
    let name = s.required::<Token>("name", "write a name that all weirs of the fleet have, such as name = \"edge\"");
    // By default no two weirs have the same one, whatever image or host name they are started with.
    let id = s.optional::<Token>("id", "the host's name and a random part", Any);
    let login = system::optional(s);
    let replicas = s.optional("replicas", "one for each server, at most 3", within(1usize..=MOST_REPLICAS));
    // Leases: whoever configures a fleet wants its quotas to hold.
    let quota = s.value("quota", SharedBy::Lease, Any);
    FleetKeys {
        name: name.map(|Token(name)| name).unwrap_or_default(),
        id: id.map(|Token(id)| id),
        login,
        replicas,
        quota,
    }
}

impl FleetKeys {
    /// With the login that was read.
    pub(super) fn with(self, login: Option<Login>) -> FleetConfig {
        let Self { name, id, login: _, replicas, quota } = self;
        FleetConfig { name, id, login, replicas, quota }
    }
}

impl Words for SharedBy {}

/// A part of a NATS subject and of a bucket's name.
#[derive(Debug, PartialEq)]
struct Token(String);

impl Leaf for Token {
    fn kind() -> String {
        "letters, digits, - and _".into()
    }

    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write 1 to 48 letters, digits, - or _, such as \"edge-1\"";
        let Node::String(text) = node else { return Err(wrong_type(node, REMEDY)) };
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if (1..=LONGEST).contains(&text.len()) && text.chars().all(fits) {
            return Ok(Self(text.clone()));
        }
        Err(Problem::new(format!("{} cannot be part of a NATS subject and of a bucket's name", quote(text)), REMEDY))
    }

    fn show(&self) -> String {
        toml_string(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_token_of_a_subject() {
        let read = |text: &str| Token::read(&Node::String(text.into())).is_ok();
        assert!(read("edge") && read("edge-1_A") && read(&"x".repeat(LONGEST)));
        for text in ["", "a.b", "a b", "*", ">", "a$b", "ä", &"x".repeat(LONGEST + 1)] {
            assert!(!read(text), "{text}");
        }
    }
}
