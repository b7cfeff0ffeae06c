//! Checks, at the start, the kernel settings that limit the number of clients. `docs/how-to/kernel.md` explains them.

use std::{fs, str::FromStr};

use tracing::{info, warn};

use crate::config::Config;

/// The most clients that wait for `accept` when all come at once, after an outage. The others retry after a second.
const AT_ONCE: u64 = 4096;

/// Kernel settings; `None` where the kernel does not show one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// The number of ports in `net.ipv4.ip_local_port_range`.
    pub local_ports: Option<u64>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub max_syn_backlog: Option<u64>,
    /// `net.netfilter.nf_conntrack_max`, where connections are tracked.
    pub conntrack_max: Option<u64>,
}

/// What the configuration needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// `max_clients` of all listeners together.
    pub clients: u64,
    /// The servers that share the clients.
    pub servers: u64,
    /// The addresses to connect from, at least one.
    pub sources: u64,
}

impl Settings {
    /// Reads the settings in force. Without `/proc` all of them are `None`.
    pub fn read() -> Self {
        Self {
            local_ports: text("net/ipv4/ip_local_port_range").and_then(|range| ports(&range)),
            somaxconn: number("net/core/somaxconn"),
            max_syn_backlog: number("net/ipv4/tcp_max_syn_backlog"),
            conntrack_max: number("net/netfilter/nf_conntrack_max"),
        }
    }

    /// Describes each setting that is too low in a sentence that says what would be right.
    pub fn shortfalls(&self, needs: Needs) -> Vec<String> {
        let Needs { clients, servers, sources } = needs;
        let mut found = Vec::new();
        let each = clients.div_ceil(servers.max(1));
        if let Some(ports) = self.local_ports
            && each > ports * sources
        {
            let addresses = each.div_ceil(ports.max(1));
            found.push(format!(
                "net.ipv4.ip_local_port_range has {ports} ports for sessions from one address to one server, and {each} of \
                 {clients} clients come to each of {servers}: set it to \"1024 65535\", or give cluster.source_addresses \
                 {addresses} addresses"
            ));
        }
        let at_once = clients.min(AT_ONCE);
        for (name, setting) in
            [("net.core.somaxconn", self.somaxconn), ("net.ipv4.tcp_max_syn_backlog", self.max_syn_backlog)]
        {
            if let Some(setting) = setting.filter(|&setting| setting < at_once.min(1024)) {
                found.push(format!(
                    "{name} = {setting} makes clients that come at once wait a second and more: set it to {at_once}"
                ));
            }
        }
        // Each client has two connections, and a connection that has ended is tracked for two more minutes.
        let tracked = clients * 3;
        if let Some(most) = self.conntrack_max.filter(|&most| most < tracked) {
            found.push(format!(
                "net.netfilter.nf_conntrack_max = {most} is too low for {clients} clients, beyond it packets are dropped: set \
                 it to {tracked}, or do not track these connections"
            ));
        }
        found
    }
}

/// Logs each setting that is too low for this configuration, of which the limit of open files serves `most` clients. It
/// is a warning to whoever has asked for so many.
pub fn tell_of_settings(config: &Config, most: u32) {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let needs = Needs {
        clients: config.admission.max_clients.min(most).into(),
        servers: count(config.upstream.servers.len().max(1)),
        sources: count(config.upstream.source_addresses.len().max(1)),
    };
    for shortfall in Settings::read().shortfalls(needs) {
        match config.chooses_max_clients() {
            true => warn!(advice = shortfall, "a kernel setting is too low for max_clients"),
            false => info!(advice = shortfall, "a kernel setting is too low for max_clients"),
        }
    }
}

fn text(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}")).ok()
}

fn number(name: &str) -> Option<u64> {
    u64::from_str(text(name)?.trim()).ok()
}

/// The number of ports in a range such as `32768\t60999`.
fn ports(range: &str) -> Option<u64> {
    let mut ends = range.split_whitespace().map(u64::from_str);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some((last + 1).saturating_sub(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Settings =
        Settings { local_ports: Some(28_232), somaxconn: Some(4096), max_syn_backlog: Some(4096), conntrack_max: None };

    fn needs(clients: u64, servers: u64, sources: u64) -> Needs {
        Needs { clients, servers, sources }
    }

    #[test]
    fn ports_last_for_each_server_and_source() {
        assert_eq!(ports("32768\t60999\n"), Some(28_232));
        assert_eq!(ports("nonsense"), None);
        assert!(USUAL.shortfalls(needs(65_536, 3, 1)).is_empty());
        assert!(USUAL.shortfalls(needs(100_000, 2, 2)).is_empty());
        let found = USUAL.shortfalls(needs(100_000, 1, 1));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("4 addresses"), "{found:?}");
    }

    #[test]
    fn queues_and_tracking() {
        let low = Settings { somaxconn: Some(128), max_syn_backlog: Some(256), conntrack_max: Some(65_536), ..USUAL };
        let found = low.shortfalls(needs(30_000, 3, 1)).join("\n");
        for part in
            ["somaxconn = 128", "set it to 4096", "tcp_max_syn_backlog = 256", "nf_conntrack_max = 65536", "90000"]
        {
            assert!(found.contains(part), "{part} in {found}");
        }
        assert!(low.shortfalls(needs(100, 3, 1)).is_empty());
        assert!(Settings::default().shortfalls(needs(1_000_000, 1, 1)).is_empty(), "nothing known, nothing said");
    }
}
