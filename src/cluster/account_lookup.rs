//! Finds out which account a client is in by asking the server: once for each credential, and again when the answer is
//! not [certain](Directory::certain) any more. Servers since 2.12 tell it themselves in INFO; older ones have to be
//! asked.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    admission::AccountSlot,
    advertised_info::AdvertisedInfo,
    cluster::{access::ClusterAccess, error::PollError, http_client::MonitorClient},
    dispatch::{self, SessionAdmission},
    identity::{CredentialKey, Directory},
    net::timer,
    outcome::Cause,
    relay::registry::SessionHandle,
    upstream::{ServerId, Servers},
};

/// The most lookups that wait for their first try: one for each session that a listener has by default. One beyond them
/// is dropped, and made when its credential comes again.
pub const MAX_QUEUED: usize = 65_536;
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that has not answered is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A client whose account is to be looked up.
#[derive(Debug)]
pub struct AccountLookup {
    pub server: ServerId,
    /// The client, by the number that the server has given its connection.
    pub client_id: u64,
    /// What the client logged in with; the answer is remembered for it.
    pub credential: CredentialKey,
    pub then: Then,
}

/// What to do with the answer.
#[derive(Debug)]
pub enum Then {
    /// Move the slot that the session holds of the account that weir took the client for; gone once the session has
    /// ended. Where the account has no room for it, the session ends.
    Move(Weak<Mutex<AccountSlot>>, Arc<SessionHandle>),
    /// Tell it.
    Tell(oneshot::Sender<Arc<str>>),
}

/// `/connz?cid=…&auth=1`: the server looks up one connection, without a walk over the others.
#[derive(Debug, Deserialize)]
struct Connz {
    #[serde(default)]
    connections: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    account: Option<String>,
}

/// Serves lookups until `stop`.
pub async fn run(
    servers: Arc<Servers>,
    advertised_info: Arc<AdvertisedInfo>,
    directory: Arc<Directory>,
    admission: Arc<SessionAdmission>,
    access: ClusterAccess,
    lookups: Arc<tokio::sync::Mutex<mpsc::Receiver<AccountLookup>>>,
    stop: CancellationToken,
) {
    let serving = async {
        let mut lookups = lookups.lock().await;
        let (mut ports, mut silent) = (HashMap::new(), HashMap::new());
        let mut unanswered = VecDeque::new();
        loop {
            // No connection stays open for nothing.
            if lookups.is_empty() {
                ports.clear();
            }
            let Some(lookup) = next(&mut lookups, &mut unanswered).await else { return };
            // One that is to be told wants to know it of its own connection.
            let is_told = matches!(lookup.then, Then::Tell(_));
            let certain = || directory.certain(lookup.credential, servers.reconfigured_at(), timer::now());
            let mut account = if is_told { None } else { certain() };
            if account.is_none() {
                // All that wait for a server that does not answer would wait for each other's timeouts.
                if silent.get(&lookup.server).is_some_and(|until| Instant::now() < *until) {
                    ask_again(&mut unanswered, lookup);
                    continue;
                }
                let asked = ask(&servers, &advertised_info, &access, &mut ports, &lookup);
                match timeout(ANSWER_TIMEOUT, asked).await.unwrap_or(Err(PollError::TimedOut)) {
                    Ok(Some(named)) => {
                        let named = account.insert(named.into());
                        dispatch::learn(&admission, &directory, lookup.credential, named);
                    }
                    // The client has left already.
                    Ok(None) => {}
                    Err(err) => {
                        debug!(%err, "a client's account is not known");
                        // A server that can be asked in no way stays unasked.
                        if access.system.is_some() || ports.contains_key(&lookup.server) {
                            silent.retain(|_, until| Instant::now() < *until);
                            silent.insert(lookup.server, Instant::now() + ASK_AGAIN);
                            ask_again(&mut unanswered, lookup);
                        }
                        continue;
                    }
                }
            }
            if let Some(account) = account {
                match lookup.then {
                    Then::Move(slot, session) => {
                        if let Some(slot) = slot.upgrade() {
                            let slot = &mut slot.lock().unwrap_or_else(PoisonError::into_inner);
                            count_for(&admission, &account, slot, &session);
                        }
                    }
                    // A client that waits no longer needs no answer.
                    Then::Tell(tell) => drop(tell.send(account)),
                }
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = stop.cancelled() => {}
    }
}

/// The next lookup: one of those that had no answer once it is time for it.
async fn next(
    lookups: &mut mpsc::Receiver<AccountLookup>,
    unanswered: &mut VecDeque<(Instant, AccountLookup)>,
) -> Option<AccountLookup> {
    let due = unanswered.front().map(|(at, _)| *at);
    tokio::select! {
        biased;
        () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
            unanswered.pop_front().map(|(_, lookup)| lookup)
        }
        lookup = lookups.recv() => lookup,
    }
}

/// Keeps a lookup for later, if its session is still there.
fn ask_again(unanswered: &mut VecDeque<(Instant, AccountLookup)>, lookup: AccountLookup) {
    if matches!(&lookup.then, Then::Move(slot, _) if slot.strong_count() > 0) && unanswered.len() < MAX_QUEUED {
        unanswered.push_back((Instant::now() + ASK_AGAIN, lookup));
    }
}

/// Moves a session to the account that it is in. Where that has no room the session ends, and counts until it has. Its
/// client is not told why: most libraries never come back after an `-ERR` on a live connection (docs/contract.md,
/// towards clients 9). Now that the account is known, the client is told when it comes back.
fn count_for(admission: &SessionAdmission, account: &Arc<str>, slot: &mut AccountSlot, session: &SessionHandle) {
    session.set_account(account);
    let (accounts, now) = (admission.accounts(), timer::now());
    accounts.is_named(account, now);
    if slot.account().name() == account {
        return;
    }
    let moved = admission.enter_named(account, slot, now).unwrap_or_else(|_| {
        session.end(Cause::AccountQuota);
        accounts.enter_anyway(account, now)
    });
    slot.move_to(moved);
    slot.session_began();
}

async fn ask(
    servers: &Servers,
    advertised_info: &AdvertisedInfo,
    access: &ClusterAccess,
    ports: &mut HashMap<ServerId, MonitorClient>,
    lookup: &AccountLookup,
) -> Result<Option<String>, PollError> {
    let &AccountLookup { server, client_id, .. } = lookup;
    let id = servers.get(server).and_then(|server| advertised_info.server_id(&server));
    let system = access.system.as_ref().filter(|system| system.is_up());
    let connz: Connz = match (system.zip(id), port(servers, server, access, ports)) {
        (Some((system, id)), _) => {
            let request = format!(r#"{{"cid":{client_id},"auth":true}}"#);
            system.ask(format!("$SYS.REQ.SERVER.{id}.CONNZ"), request.into()).await?
        }
        (None, Some(port)) => port.get(&format!("/connz?cid={client_id}&auth=1")).await?,
        (None, None) => return Err(PollError::NoAnswer),
    };
    Ok(connz.connections.into_iter().next().and_then(|one| one.account))
}

/// The client of a server's monitoring port, where it has one.
fn port<'a>(
    servers: &Servers,
    id: ServerId,
    access: &ClusterAccess,
    ports: &'a mut HashMap<ServerId, MonitorClient>,
) -> Option<&'a mut MonitorClient> {
    match ports.entry(id) {
        Entry::Occupied(known) => Some(known.into_mut()),
        Entry::Vacant(free) => Some(free.insert(MonitorClient::new(&servers.get(id)?, access.tls.clone())?)),
    }
}
