//! Reads `[policies]`: what clients have to be like.

use std::time::Duration;

use semver::Version;

use crate::{
    admission::policies::{self, IdlePolicy, Policies, Scope, VersionPolicy},
    config::{
        effective::toml_string,
        finding::{Problem, quote},
        leaf::{Any, Leaf, Name, within, wrong_type},
        node::Node,
        raw,
        section::Section,
    },
};

/// Sessions are looked at every few seconds.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn policies(s: &mut Section<'_>) -> Policies {
    Policies {
        idle: s.optional_table("idle", "absent, idle sessions stay", idle).flatten(),
        name: s.optional_table("name", "absent, clients need no name", name).flatten(),
        version: s.optional_table("version", "absent, clients may have any version", version).flatten(),
    }
}

fn idle(s: &mut Section<'_>) -> Option<IdlePolicy> {
    let timeout = s.optional("timeout", "none, idle sessions stay", within(SHORTEST..=LONGEST));
    let scope = scope(s);
    timeout.map(|timeout| IdlePolicy { timeout, scope })
}

fn name(s: &mut Section<'_>) -> Option<Scope> {
    let required = s.value("required", false, Any);
    let scope = scope(s);
    required.then_some(scope)
}

fn version(s: &mut Section<'_>) -> Option<VersionPolicy> {
    let scope = scope(s);
    let min_by_lang = s.table("min_version_by_lang", |s| s.rest::<MinVersion>(Any));
    let min_by_lang = min_by_lang.into_iter().map(|(lang, MinVersion(version))| (lang, version)).collect();
    Some(VersionPolicy { min_by_lang, scope }).filter(|policy| !policy.min_by_lang.is_empty())
}

fn scope(s: &mut Section<'_>) -> Scope {
    // Off: a policy that is configured is enforced.
    let warn_only = s.value("warn_only", false, Any);
    let accounts = raw::list::<Name>(s, "accounts");
    Scope { warn_only, accounts: accounts.into_iter().map(|name| name.0).collect() }
}

#[derive(PartialEq)]
struct MinVersion(Version);

impl Leaf for MinVersion {
    fn kind() -> String {
        "version".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write it as \"1.30.0\"";
        match node {
            Node::String(text) => match policies::version(text) {
                Some(version) => Ok(Self(version)),
                None => Err(Problem::new(format!("{} is no version", quote(text)), REMEDY)),
            },
            other => Err(wrong_type(other, REMEDY)),
        }
    }
    fn show(&self) -> String {
        toml_string(&self.0.to_string())
    }
}
