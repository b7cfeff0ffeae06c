//! Sessions whose server may be gone without a word find out whether it is.

use std::{collections::HashMap, sync::Arc, time::Instant};

use super::Mover;
use crate::{
    relay::registry::SessionHandle,
    upstream::{Server, ServerId},
};

impl Mover {
    /// Sessions that can go on with another server find out whether their own still answers, where it does not answer
    /// weir and another one does.
    pub(super) async fn look_for_silent_servers(&self) {
        let now = Instant::now();
        let servers = &self.shared().servers;
        let is_silent = |server: &Arc<Server>| server.is_ejected() || server.lacks_reading(now);
        let silent = servers.iter().filter(|server| is_silent(server) && server.load().sessions() > 0);
        let silent: Vec<_> = silent.map(|server| server.id()).collect();
        if silent.is_empty() || !servers.iter().any(|server| server.is_reachable(now) && !is_silent(&server)) {
            return;
        }
        let ask = |session: &Arc<SessionHandle>| {
            if silent.contains(&session.server_id()) {
                session.request_probe();
            }
        };
        self.shared().sessions.for_each(ask).await;
    }

    /// Sessions of a process that has ended find out that it has. Mostly its machine has told them; one that lost its
    /// power, or whose network was down meanwhile, has not. Those of a process that is there notice nothing.
    pub(super) async fn look_for_restarts(&self, seen: &mut HashMap<ServerId, u64>) {
        let servers = &self.shared().servers;
        seen.retain(|id, _| servers.get(*id).is_some());
        let mut is_new = |server: &Arc<Server>| {
            let restarts = server.restarts();
            seen.insert(server.id(), restarts).is_some_and(|before| before != restarts)
        };
        let restarted: Vec<_> = servers.iter().filter(|server| is_new(server)).map(|server| server.id()).collect();
        if restarted.is_empty() {
            return;
        }
        let ask = |session: &Arc<SessionHandle>| {
            if restarted.contains(&session.server_id()) {
                session.request_no_operation();
            }
        };
        self.shared().sessions.for_each(ask).await;
    }
}
