//! What is shown of a fleet: the answer of `/fleetz`, which `weir fleet` prints, and its summary in the overview. It is
//! of bounded size whatever peers and clients do.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// The form of the answer. It changes when a field changes its meaning or goes; more fields may come.
pub const FORM: u32 = 1;

/// How this weir comes to its part of what the fleet shares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Mode {
    /// By leases of the bucket: all weirs together never have more than a quota.
    Lease,
    /// Each weir has the quota divided by the number of live weirs.
    Split,
    /// As [`Self::Split`], with no other weir to be seen: this one has the whole quota.
    #[default]
    Alone,
}

impl Mode {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Everything. Names are those that this weir knows; what only other weirs have shows its key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetView {
    /// [`FORM`].
    pub form: u32,
    pub now_unix_ms: u64,
    #[serde(flatten)]
    pub summary: Summary,
    /// This weir first, then the others by id.
    pub weirs: Vec<Weir>,
    /// The quotas that weirs share by leases, the fullest first.
    pub quotas: Vec<Quota>,
    /// How many quotas there are, shown or not.
    pub quotas_in_use: usize,
    /// In the order of the configuration.
    pub servers: Vec<Server>,
    pub messages: Messages,
}

/// The fleet as this weir sees it, in a few figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// `[fleet] name`.
    pub name: String,
    /// Of this weir.
    pub id: String,
    /// [`Mode`].
    pub mode: String,
    /// Why it is not `lease`, where the configuration wants leases.
    pub why: Option<String>,
    /// For how long leases have been in force, or not.
    pub mode_seconds: f64,
    /// Whether this weir is connected to the fleet.
    pub connected: bool,
    /// Weirs that live, this one included.
    pub live: usize,
    /// Sessions of all live weirs.
    pub sessions: u64,
    /// Clients that wait at all live weirs.
    pub waiting: u64,
    /// Clients that all live weirs have let in since they began.
    pub admitted: u64,
    /// Weirs whose beats have stopped without a word, of late.
    pub missing: usize,
}

/// A weir.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Weir {
    pub id: String,
    /// Whether it is the one that answers.
    pub is_this: bool,
    pub version: String,
    pub uptime_seconds: f64,
    pub sessions: u64,
    pub waiting: u64,
    pub admitted: u64,
    /// How old its last beat is; 0 of this one.
    pub beat_age_seconds: f64,
    /// Whether the bucket does not know it, while this weir goes by leases: what it says counts for nothing.
    pub is_stranger: bool,
    /// Whether it says that its leases are in force.
    pub leases_in_force: bool,
    /// The addresses at which its clients reach it, as its listeners with `advertise = "fleet"` tell them.
    pub addresses: Vec<String>,
}

/// A quota that weirs share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// `account`, `user`, `name`, `leafnodes` or `server`.
    pub of: String,
    /// `None` where this weir does not know whose it is.
    pub name: Option<String>,
    /// What it is called in the bucket.
    pub key: String,
    /// The most connections, as this weir knows it; else as the record says.
    pub limit: u32,
    /// Connections that came past all weirs, as the servers count them.
    pub past: u32,
    /// Leases of all weirs together.
    pub leased: u32,
    /// What no weir has leased.
    pub free: u32,
    pub weirs: Vec<Lease>,
}

/// What one weir has of a quota.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lease {
    pub id: String,
    pub lease: u32,
    /// What it may admit without a membership.
    pub floor: u32,
    /// What it asks for.
    pub want: u32,
    /// What it holds: of this weir exactly, of others as their last beat said, or unknown.
    pub held: Option<u32>,
}

/// A server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    pub name: String,
    pub key: String,
    /// Its own limit or the configured one.
    pub max_connections: Option<u32>,
    /// Connections of all weirs.
    pub held: u64,
    /// Logins under way, of all weirs.
    pub handshakes: u64,
    /// The most logins at a time, of all weirs together.
    pub handshake_limit: u32,
    /// This weir's share of these, in logins; less than one is a turn every now and then.
    pub share: f64,
    pub weirs: Vec<AtServer>,
}

/// What one weir has of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AtServer {
    pub id: String,
    pub held: u32,
    pub handshakes: u32,
    pub waiting: u32,
    /// The most logins at a time, as this weir has found it.
    pub handshake_limit: u32,
}

/// What this weir has sent and received since its start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Messages {
    pub beats_sent: u64,
    pub beats_received: u64,
    /// Beats that came late, twice, or were none.
    pub beats_rejected: u64,
    /// Beats that other weirs have sent and that did not come.
    pub beats_lost: u64,
    /// Writes to the bucket.
    pub writes: u64,
    /// Of these, those that another weir was ahead of.
    pub conflicts: u64,
    /// Of these, those whose outcome is unknown.
    pub unanswered: u64,
    pub rejected: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_version_is_read() {
        let view: FleetView = serde_json::from_str(r#"{"form":1,"name":"edge","mode":"split","new":1}"#).unwrap();
        assert_eq!((&*view.summary.name, &*view.summary.mode, view.weirs.len()), ("edge", "split", 0));
        let text = serde_json::to_value(FleetView::default()).unwrap();
        assert_eq!(text["live"], 0, "the summary stands beside the lists");
        assert_eq!(Mode::VARIANTS.iter().map(|mode| mode.name()).collect::<Vec<_>>(), ["lease", "split", "alone"]);
    }
}
