//! What a reload has in force: the keys of the file that change while weir runs, and the others as weir runs with them
//! until a restart. Both kinds meet in one rule in places, so that a file which is right for a start may be wrong for a
//! reload.

use crate::config::{
    Config, Effective, Findings, cross, diff,
    finding::{Finding, Problem},
    raw,
    section::Sink,
};

/// An error names at most so many keys that need a restart.
const MOST_NAMED: usize = 3;

impl Config {
    /// What is in force once this configuration has been reloaded into a weir that runs with `running` and was started
    /// with `started_with`. It is shown as the file has it ([`Config::effective`]).
    ///
    /// # Errors
    /// What contradicts what weir runs with until a restart.
    pub fn reloaded_into(&self, running: &Self, started_with: &Effective) -> Result<Self, Findings> {
        let together = self.over(running);
        let mut sink = Sink::new(self.source.clone());
        raw::some_server(&together.upstream.servers, together.discover.as_ref(), &mut sink);
        cross::check_in_force(&together, &mut sink);
        if sink.findings.is_empty() {
            return Ok(together);
        }
        let waiting = diff(started_with, &self.effective).into_iter().filter(|change| change.restart.is_some());
        let mut waiting: Vec<_> = waiting.map(|change| change.path()).collect();
        let more = waiting.len().saturating_sub(MOST_NAMED);
        waiting.truncate(MOST_NAMED);
        if more > 0 {
            waiting.push(format!("{more} more"));
        }
        let waiting = waiting.join(", ");
        let told = |finding: Finding| {
            let Problem { what, remedy } = finding.problem;
            let what = format!("{what}, as weir runs until a restart ({waiting})");
            let remedy = format!("restart weir with this file, or {remedy}");
            Finding { problem: Problem { what, remedy }, ..finding }
        };
        Err(Findings::new(sink.findings.into_iter().map(told).collect()))
    }

    /// The keys of this file that change while weir runs, and the others of `running`.
    fn over(&self, running: &Self) -> Self {
        let mut all = self.clone();
        all.server_name.clone_from(&running.server_name);
        all.workers = running.workers;
        all.log.format = running.log.format;
        all.admin.clone_from(&running.admin);
        all.proxy_nkey_seed_file.clone_from(&running.proxy_nkey_seed_file);
        all.proxy_key.clone_from(&running.proxy_key);
        all.servers_tcp = running.servers_tcp;
        all.servers_tls.clone_from(&running.servers_tls);
        all.websocket_tls.clone_from(&running.websocket_tls);
        all.discover.clone_from(&running.discover);
        all.system_login.clone_from(&running.system_login);
        all.answer_requests = running.answer_requests;
        // Whether weir is in a fleet, and in which, stays; how that shares quotas does not.
        let quota = self.fleet.as_ref().map(|fleet| fleet.quota);
        all.fleet.clone_from(&running.fleet);
        if let Some((fleet, quota)) = all.fleet.as_mut().zip(quota) {
            fleet.quota = quota;
        }
        let mut servers = std::mem::take(&mut all.upstream.servers);
        for server in &mut servers {
            // One at another address is another server, with the ports of the file.
            if let Some(same) = running.upstream.servers.iter().find(|one| one.address == server.address) {
                server.websocket.clone_from(&same.websocket);
                server.leafnode.clone_from(&same.leafnode);
            }
        }
        all.upstream = crate::upstream::Params { warn_at: self.upstream.warn_at, servers, ..running.upstream.clone() };
        all.upstream.only_websocket = all.uses_only_websockets();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse("weir.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// What a reload of `new` into a weir that was started with `old` says, or puts into force.
    fn reload(old: &str, new: &str) -> Result<Config, String> {
        let (old, new) = (parse(old), parse(new));
        new.reloaded_into(&old, old.effective()).map_err(|findings| findings.to_string())
    }

    const N1: &str = "[[cluster.servers]]\naddress = \"n1:4222\"\n";

    #[test]
    fn keys_of_both_kinds_are_judged_together() {
        let tls = "[cluster.tls]\n";
        let monitor = "monitor = \"https://n1:8222\"\n";
        let websocket = "websocket = \"wss://n1:8080\"\n";
        let cases = [
            (
                format!("[cluster]\nreserve = 500\n{N1}"),
                format!("[cluster]\nreserve = 10\n{N1}max_connections = 400\n"),
                "weir.toml:5: cluster.servers[0].max_connections: 400 is not more than the reserve of 500 slots, as weir runs \
                 until a restart ([cluster] reserve); restart weir with this file, or write more, or a \
                 smaller cluster.reserve",
            ),
            (
                N1.to_owned(),
                format!("{tls}{N1}{monitor}"),
                "weir.toml:4: cluster.servers[0].monitor: HTTPS needs to know whom to trust, as weir runs until \
                 a restart ([cluster.tls]); restart weir with this file, or write [cluster.tls] too, with a \
                 ca_file or empty",
            ),
            ("[cluster]\ndiscover = \"all:4222\"\n".to_owned(), format!("{tls}{N1}"), ""),
            (
                N1.to_owned(),
                format!("{tls}[[cluster.servers]]\naddress = \"n2:4222\"\n{}", websocket.replace("n1", "n2")),
                "weir.toml:4: cluster.servers[0].websocket: TLS needs to know whom to trust",
            ),
            (
                N1.to_owned(),
                "[cluster]\ndiscover = \"all:4222\"\n".to_owned(),
                "weir.toml:1: cluster.servers: there is no server, as weir runs until a restart ([cluster] \
                 discover); restart weir",
            ),
            (
                N1.to_owned(),
                format!(
                    "{N1}websocket = \"ws://n1:8080\"\n[[cluster.servers]]\naddress = \"n2:4222\"\nwebsocket = \
                         \"ws://n2:8080\"\n"
                ),
                "weir.toml:3: cluster.servers[0].websocket: it is absent, and other servers have one, as weir runs",
            ),
            (
                N1.to_owned(),
                format!(
                    "[[listeners]]\nlisten = \"127.0.0.1:4222\"\nadvertise = \"fleet\"\n{N1}[fleet]\nname = \"f\"\n"
                ),
                "weir.toml:3: listeners[0].advertise: this weir is in no fleet, as weir runs until a restart \
                 ([fleet]); restart weir",
            ),
        ];
        for (old, new, told) in &cases {
            match reload(old, new) {
                Err(findings) => assert!(!told.is_empty() && findings.contains(told), "{findings}\nexpected {told}"),
                Ok(_) => assert_eq!(*told, "", "{new} is reloaded into {old}"),
            }
        }
    }

    #[test]
    fn what_needs_a_restart_stays_and_the_rest_changes() {
        let old = format!(
            "workers = 2\nserver_name = \"a\"\n[cluster]\nreserve = 5\n{N1}leafnode = \"n1:7422\"\n[fleet]\nname = \"f\"\n"
        );
        let new = format!(
            "workers = 3\nserver_name = \"b\"\nlame_duck_duration = \"9s\"\n[cluster]\nreserve = 50\nwarn_at = \"70%\"\n\
             {N1}leafnode = \"n1:7\"\nmax_connections = 60\n[[cluster.servers]]\naddress = \"n2:4222\"\nleafnode = \
             \"n2:7\"\n[fleet]\nname = \"g\"\nquota = \"split\"\n"
        );
        let (before, all) = (parse(&old), reload(&old, &new).unwrap());
        assert_eq!((all.workers, &all.server_name), (before.workers, &before.server_name));
        assert_eq!(all.upstream.reserve, before.upstream.reserve);
        assert_eq!(all.lame_duck_duration.as_secs(), 9);
        assert!((all.upstream.warn_at - 0.7).abs() < 1e-9);
        let [n1, n2] = &all.upstream.servers[..] else { panic!("{all:?}") };
        assert_eq!((n1.leafnode.as_deref(), n1.max_connections), (Some("n1:7422"), Some(60)));
        assert_eq!(n2.leafnode.as_deref(), Some("n2:7"), "it is new");
        let fleet = all.fleet.as_ref().unwrap();
        assert_eq!((&*fleet.name, fleet.quota), ("f", crate::config::SharedBy::Split));
        assert_eq!(
            all.effective().to_string(),
            parse(&new).effective().to_string(),
            "the next reload is compared with the file"
        );
    }
}
