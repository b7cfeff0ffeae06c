//! Which account a client is in, asked of servers that do not tell (before 2.12): once for each credential.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    admission::AccountSlot,
    advertised_info::AdvertisedInfo,
    cluster::{ClusterAccess, PollError, http_client::Http},
    dispatch::SessionAdmission,
    identity::{CredentialKey, Directory},
    upstream::Servers,
};

/// Questions that wait at most; what comes beyond is asked when its credential comes again.
pub const MAX_QUEUED: usize = 256;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who wants to know what.
#[derive(Debug)]
pub struct AccountLookup {
    /// The server, by its place in the configuration.
    pub server: usize,
    /// The client, by the server's number for its connection.
    pub client_id: u64,
    /// Whose account it is.
    pub credential: CredentialKey,
    /// The slot that the client has taken of the account it was taken for; gone once its session is.
    pub slot: Weak<Mutex<AccountSlot>>,
}

/// `/connz?cid=…&auth=1`: a look at one connection, without a walk over the others.
#[derive(Debug, Deserialize)]
struct Connz {
    #[serde(default)]
    connections: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
struct Connection {
    account: Option<String>,
}

/// Answers until `stop`.
pub async fn run(
    servers: Arc<Servers>,
    advertised_info: Arc<AdvertisedInfo>,
    directory: Arc<Directory>,
    admission: Arc<SessionAdmission>,
    access: ClusterAccess,
    mut questions: mpsc::Receiver<AccountLookup>,
    stop: CancellationToken,
) {
    let answering = async {
        let mut ports = HashMap::new();
        while let Some(question) = questions.recv().await {
            if !directory.has_learned(question.credential) {
                let asked = ask(&servers, &advertised_info, &access, &mut ports, &question);
                match timeout(PATIENCE, asked).await.unwrap_or(Err(PollError::TimedOut)) {
                    Ok(Some(account)) => directory.learn(question.credential, &account.into()),
                    // The client has left already.
                    Ok(None) => {}
                    Err(err) => debug!(%err, "a client's account is not known"),
                }
            }
            if let Some(slot) = question.slot.upgrade()
                && let Some(account) = directory.learned(question.credential)
            {
                count_for(&admission, &account, &mut slot.lock().unwrap_or_else(PoisonError::into_inner));
            }
            // Also behind a question that needs no asking any more: no connection stays open for nothing.
            if questions.is_empty() {
                ports.clear();
            }
        }
    };
    tokio::select! {
        () = answering => {}
        () = stop.cancelled() => {}
    }
}

/// Moves a session to the account that it is in. The server has let it in, so it counts even where the account has no room.
fn count_for(admission: &SessionAdmission, account: &Arc<str>, slot: &mut AccountSlot) {
    if slot.account().name() != account {
        slot.move_to(admission.accounts().enter_anyway(account, Instant::now().into_std()));
        slot.session_began();
    }
}

async fn ask(
    servers: &Servers,
    advertised_info: &AdvertisedInfo,
    access: &ClusterAccess,
    ports: &mut HashMap<usize, Http>,
    question: &AccountLookup,
) -> Result<Option<String>, PollError> {
    let &AccountLookup { server, client_id, .. } = question;
    let id = advertised_info.server_id(server);
    let connz: Connz = match (access.system.as_ref().filter(|system| system.is_up()).zip(id), monitor(servers, server))
    {
        (Some((system, id)), _) => {
            let question = format!(r#"{{"cid":{client_id},"auth":true}}"#);
            system.ask(format!("$SYS.REQ.SERVER.{id}.CONNZ"), question.into()).await?
        }
        (None, Some(url)) => {
            let port = ports.entry(server).or_insert_with(|| Http::new(url, access.tls.clone()));
            port.get(&format!("/connz?cid={client_id}&auth=1")).await?
        }
        (None, None) => return Err(PollError::NoAnswer),
    };
    Ok(connz.connections.into_iter().next().and_then(|one| one.account))
}

fn monitor(servers: &Servers, index: usize) -> Option<&str> {
    servers.iter().nth(index)?.monitor()
}
