//! A fleet: several weirs of one name in front of one cluster, each a process of its own.

use serde_json::Value;

use crate::{Cluster, PATIENCE, Weir, WeirConfig, eventually, http};

/// The most weirs of a fleet for which [`accounts`] has a user.
const MOST: usize = 10;
/// The account of the weirs.
pub const ACCOUNT: &str = "WEIRS";
/// The fleet's name, as [`Fleet`] configures it.
pub const NAME: &str = "edge";

/// The servers' accounts: an ordinary one with JetStream for the weirs, with a user for each of them, and `others`,
/// such as `A { users: [{user: a, password: p}] }`.
pub fn accounts(others: &str) -> String {
    let users: Vec<_> = (1..=MOST).map(user).collect();
    format!("accounts {{ {ACCOUNT} {{ jetstream: enabled, users: [{}] }}, {others} }}", users.join(", "))
}

/// The n-th weir's user, as the servers have it.
fn user(n: usize) -> String {
    format!("{{user: weir-{n}, password: fl33t-{n}-s3cret}}")
}

/// The same, kept from the bucket: what it publishes there is refused.
fn user_without_bucket(n: usize) -> String {
    let denied = format!("{{publish: {{deny: [\"$JS.>\", \"$KV.weir-fleet-{NAME}.>\"]}}}}");
    format!("{{user: weir-{n}, password: fl33t-{n}-s3cret, permissions: {denied}}}")
}

/// The configuration of the n-th weir, counted from 1: what all have, with a table `[fleet]`.
pub fn config(of_all: &WeirConfig, n: usize) -> WeirConfig {
    config_with(of_all, n, "")
}

/// The same with more keys of `[fleet]`.
pub fn config_with(of_all: &WeirConfig, n: usize, more: &str) -> WeirConfig {
    of_all.clone().table(&format!(
        "[fleet]\nname = \"{NAME}\"\nid = \"weir-{n}\"\nuser = \"weir-{n}\"\npassword = \"fl33t-{n}-s3cret\"\n{more}"
    ))
}

/// The running weirs, in the order of their ids `weir-1`, `weir-2`, …
pub struct Fleet {
    /// The weirs.
    pub weirs: Vec<Weir>,
}

impl Fleet {
    /// Starts `n` weirs with this configuration and a `[fleet]`, and waits until each of them sees all and has its
    /// leases.
    pub async fn start(n: usize, of_all: &WeirConfig) -> Self {
        Self::start_each((1..=n).map(|n| config(of_all, n))).await
    }

    /// Starts a weir with each of these configurations, and waits until each of them sees all and has its leases.
    pub async fn start_each(configs: impl Iterator<Item = WeirConfig>) -> Self {
        let fleet = Self::start_at_once(configs).await;
        fleet.has_leases().await;
        fleet
    }

    /// The same, and waits only for each weir's readings of its servers.
    pub async fn start_at_once(configs: impl Iterator<Item = WeirConfig>) -> Self {
        let configs: Vec<_> = configs.collect();
        Self { weirs: futures::future::join_all(configs.iter().map(WeirConfig::start)).await }
    }

    /// Waits until every weir sees all of them.
    pub async fn is_whole(&self) {
        for weir in &self.weirs {
            sees(weir, self.weirs.len()).await;
        }
    }

    /// Waits until every weir knows all of them by their places in the bucket, and has its leases.
    pub async fn has_leases(&self) {
        for weir in &self.weirs {
            eventually(PATIENCE, "a weir has its leases beside all others", async || {
                let seen = fleetz(weir).await;
                let has_leases = seen["live"] == self.weirs.len() && seen["mode"] == "lease";
                if has_leases { Ok(()) } else { Err(seen) }
            })
            .await;
        }
    }

    /// The addresses of all weirs.
    pub fn addresses(&self) -> Vec<String> {
        self.weirs.iter().map(|weir| weir.address.clone()).collect()
    }

    /// The sum of a metric over all weirs.
    pub async fn sum(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for weir in &self.weirs {
            sum += weir.metrics().await.sum(name);
        }
        sum
    }

    /// How many clients all weirs have refused, and for what, as the metric counts them.
    pub async fn refused(&self) -> f64 {
        self.sum("weir_refused_total").await
    }

    /// After all clients are gone: no weir has panicked, and every gauge is back to 0.
    pub async fn assert_idle(&self) {
        for weir in &self.weirs {
            weir.assert_no_panic();
            let load = ["weir_sessions_active", "weir_held", "weir_account_connections"];
            weir.until("all gauges are back to 0", |metrics| load.iter().all(|name| metrics.sum(name) == 0.0)).await;
        }
    }
}

/// What a weir says of its fleet.
pub async fn fleetz(weir: &Weir) -> Value {
    let (status, text) = http::get(&weir.monitor, "/fleetz").await.expect("GET /fleetz");
    assert_eq!(status, 200, "/fleetz: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// The ids of the weirs that a weir sees live, its own included.
pub async fn seen_by(weir: &Weir) -> Vec<String> {
    let all = fleetz(weir).await["weirs"].as_array().cloned().expect("a list of weirs");
    let mut ids: Vec<_> = all.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    ids
}

/// Waits until this weir sees `n` live weirs, its own included.
pub async fn sees(weir: &Weir, n: usize) {
    eventually(PATIENCE, &format!("a weir sees {n} weirs"), async || match seen_by(weir).await {
        ids if ids.len() == n => Ok(()),
        ids => Err(ids),
    })
    .await;
}

/// Keeps the n-th weir from the bucket, and from nothing else: the servers refuse what it publishes there.
pub async fn cut_from_bucket(cluster: &mut Cluster, n: usize) {
    for server in &mut cluster.servers {
        server.reload(&user(n), &user_without_bucket(n)).await;
    }
}

/// Lets it to the bucket again.
pub async fn let_to_bucket(cluster: &mut Cluster, n: usize) {
    for server in &mut cluster.servers {
        server.reload(&user_without_bucket(n), &user(n)).await;
    }
}
