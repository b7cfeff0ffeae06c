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
mod tests;
