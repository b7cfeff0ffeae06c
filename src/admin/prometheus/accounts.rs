//! The metrics of accounts: connections and leafnodes, and the most of both.

use std::fmt;

use prometheus_client::metrics::gauge::ConstGauge;

use crate::{
    admin::prometheus::{Families, TOP_ACCOUNTS},
    admission::Accounts,
};

/// All of them, of the accounts with the most by name.
pub(super) fn accounts(accounts: &Accounts, families: &mut Families<'_, '_>) -> fmt::Result {
    let account = |name: &str, n: u32| (vec![("account", name.to_owned())], ConstGauge::new(f64::from(n)));
    let mut connections = accounts.connections();
    connections.sort_by(|(a_name, a), (b_name, b)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
    let others: u32 = connections.iter().skip(TOP_ACCOUNTS).map(|(_, n)| n).sum();
    connections.truncate(TOP_ACCOUNTS);
    families.family(
        "account_connections",
        "Connections of each account now: the 50 accounts with the most by name, the sum of the rest as `other`",
        connections.iter().map(|(name, n)| account(name, *n)).chain((others > 0).then(|| account("other", others))),
    )?;
    let most = |name: &str| accounts.max_connections(name);
    families.family(
        "account_max_connections",
        "The most connections of each of these accounts, by the configuration or by the cluster, where it has a limit",
        connections.iter().filter_map(|(name, _)| Some(account(name, most(name)?))),
    )?;
    let mut leafnodes = accounts.leafnodes();
    leafnodes.sort_by(|(a_name, a, _), (b_name, b, _)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
    let others: u32 = leafnodes.iter().skip(TOP_ACCOUNTS).map(|(_, n, _)| n).sum();
    leafnodes.truncate(TOP_ACCOUNTS);
    families.family(
        "account_leafnodes",
        "Of these connections, leafnodes: the 50 accounts with the most by name, the sum of the rest as `other`",
        leafnodes.iter().map(|(name, n, _)| account(name, *n)).chain((others > 0).then(|| account("other", others))),
    )?;
    families.family(
        "account_max_leafnodes",
        "The most leafnodes of each of these accounts, by the configuration or by the cluster, where it has a limit",
        leafnodes.iter().filter_map(|(name, _, most)| Some(account(name, (*most)?))),
    )
}
