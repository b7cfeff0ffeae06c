//! Which accounts change between two polls: a server tells when a connection of an account comes or goes.
//!
//! nats-server sends `$SYS.ACCOUNT.<name>.SERVER.CONNS`, 0.8 KB, for every connection that comes or goes, those through weir too
//! (and `CONNECT` or `DISCONNECT`, which say who it was: nothing that weir needs). How many a server had is of little use without
//! what weir itself had in that moment; so an event only says of which account to ask again. In a storm they are thousands
//! a second, and all about weir's own clients, whose number is known: beyond some hundreds weir stops listening for a while.

use std::{collections::HashSet, time::Duration};

use async_nats::Subscriber;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use crate::{cluster::system_account::SystemAccount, dispatch::SessionAdmission};

const SUBJECT: &str = "$SYS.ACCOUNT.*.SERVER.CONNS";

/// The servers are asked again so long after the last time at the earliest.
const APART: Duration = Duration::from_millis(250);
/// So many events in that time are a storm.
const STORM: usize = 500;
/// For so long nothing is heard of it then.
const REST: Duration = Duration::from_secs(1);

/// The events as far as they are heard.
#[derive(Debug, Default)]
pub(super) struct Events {
    heard: Option<Subscriber>,
    /// There was nothing to hear at the last poll: no account had a limit.
    idle: bool,
}

impl Events {
    /// To be called before the accounts are counted: what changes afterwards is heard then.
    pub(super) async fn begin(&mut self, system: &SystemAccount, admission: &SessionAdmission) {
        self.idle = !admission.accounts().any_limited();
        if self.heard.is_none() && system.is_up() && !self.idle {
            self.heard = system.listen(SUBJECT).await.inspect_err(|err| debug!(%err, "no events of accounts")).ok();
        }
    }

    /// Waits until servers say that accounts with a limit have changed, and returns these; `None` when it is time for a poll of
    /// all, by `until` at the latest.
    pub(super) async fn changed(&mut self, admission: &SessionAdmission, until: Instant) -> Option<HashSet<String>> {
        let Some(heard) = &mut self.heard else {
            while Instant::now() < until && !(self.idle && admission.accounts().any_limited()) {
                sleep_until(until.min(Instant::now() + APART)).await;
            }
            return None;
        };
        let (mut changed, mut ask_at) = (HashSet::new(), until);
        let (mut events, mut since) = (0, Instant::now());
        while events < STORM {
            let event = match timeout_at(ask_at, heard.next()).await {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => return (ask_at < until).then_some(changed),
            };
            if since.elapsed() > APART {
                (events, since) = (0, Instant::now());
            }
            events += 1;
            if let Some(name) = name(&event.subject)
                && admission.accounts().is_limited(name)
                && changed.insert(name.to_owned())
            {
                ask_at = ask_at.min(Instant::now() + APART);
            }
        }
        self.heard = None;
        sleep_until(until.min(Instant::now() + REST)).await;
        None
    }
}

/// The account of a subject.
fn name(subject: &str) -> Option<&str> {
    subject.strip_prefix("$SYS.ACCOUNT.")?.strip_suffix(".SERVER.CONNS")
}

#[cfg(test)]
mod tests {
    #[test]
    fn subjects() {
        assert_eq!(super::name("$SYS.ACCOUNT.ORDERS.SERVER.CONNS"), Some("ORDERS"));
        assert_eq!(super::name("$SYS.ACCOUNT.ORDERS.CONNECT"), None);
    }
}
