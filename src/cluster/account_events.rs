//! Learns between two polls which accounts change: a server publishes an event when a connection of an account comes or
//! goes.
//!
//! nats-server publishes `$SYS.ACCOUNT.<name>.SERVER.CONNS`, 0.8 KB, for every connection that comes or goes, also for
//! those through weir. (It publishes `CONNECT` and `DISCONNECT` too, with the name of the client; weir needs neither.)
//! The count in an event is of little use without weir's own count at that time, so an event only tells weir which
//! account to count again. In a storm there are thousands of events a second, all about weir's own clients, whose
//! number weir knows: beyond 500 in 250 ms weir stops listening for a while.

use std::{collections::HashSet, time::Duration};

use async_nats::Subscriber;
use futures_util::StreamExt;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use crate::{cluster::system_account::SystemAccount, dispatch::SessionAdmission};

const SUBJECT: &str = "$SYS.ACCOUNT.*.SERVER.CONNS";

/// Accounts that change are counted this long after the event, all together, so that one count serves many events.
const COLLECT_FOR: Duration = Duration::from_millis(250);
/// This many events within [`COLLECT_FOR`] are a storm.
const STORM_EVENTS: usize = 500;
/// How long weir does not listen once a storm has begun.
const STORM_PAUSE: Duration = Duration::from_secs(1);

/// The subscription to the events, while there is one.
#[derive(Debug, Default)]
pub(super) struct AccountEvents {
    subscription: Option<Subscriber>,
    /// At the last poll no account had a limit, so there was nothing to listen for.
    idle: bool,
}

impl AccountEvents {
    /// To be called before the accounts are counted, so that no later change is missed.
    pub(super) async fn begin(&mut self, system: &SystemAccount, admission: &SessionAdmission) {
        self.idle = !admission.accounts().any_limited();
        if self.subscription.is_none() && system.is_up() && !self.idle {
            self.subscription = system
                .subscribe(SUBJECT)
                .await
                .inspect_err(|err| debug!(%err, "cannot listen to the events of accounts"))
                .ok();
        }
    }

    /// Waits until accounts with a limit have changed, and returns their names. Returns `None` when it is time to count
    /// all accounts, at `until` at the latest.
    pub(super) async fn changed(&mut self, admission: &SessionAdmission, until: Instant) -> Option<HashSet<String>> {
        let Some(subscription) = &mut self.subscription else {
            while Instant::now() < until && !(self.idle && admission.accounts().any_limited()) {
                sleep_until(until.min(Instant::now() + COLLECT_FOR)).await;
            }
            return None;
        };
        let (mut changed, mut ask_at) = (HashSet::new(), until);
        let (mut events, mut since) = (0, Instant::now());
        while events < STORM_EVENTS {
            let event = match timeout_at(ask_at, subscription.next()).await {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => return (ask_at < until).then_some(changed),
            };
            if since.elapsed() > COLLECT_FOR {
                (events, since) = (0, Instant::now());
            }
            events += 1;
            if let Some(name) = account(&event.subject)
                && admission.accounts().is_limited(name)
                && changed.insert(name.to_owned())
            {
                ask_at = ask_at.min(Instant::now() + COLLECT_FOR);
            }
        }
        self.subscription = None;
        sleep_until(until.min(Instant::now() + STORM_PAUSE)).await;
        None
    }
}

/// The account that the subject of an event names.
fn account(subject: &str) -> Option<&str> {
    subject.strip_prefix("$SYS.ACCOUNT.")?.strip_suffix(".SERVER.CONNS")
}

#[cfg(test)]
mod tests {
    #[test]
    fn subjects() {
        assert_eq!(super::account("$SYS.ACCOUNT.ORDERS.SERVER.CONNS"), Some("ORDERS"));
        assert_eq!(super::account("$SYS.ACCOUNT.ORDERS.CONNECT"), None);
    }
}
