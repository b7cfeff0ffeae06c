//! Publishes events to a NATS subject, on a connection of its own: the login that may do so may be one of any account.

use std::{
    io,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use async_nats::{Event as Happening, ServerError, client::PublishErrorKind};
use bytes::Bytes;
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    cluster::{own_client::OwnClient, system_account::Login},
    notify::{Message, Notifier, Outcome, Receiver},
    tls::Connector,
    upstream::Servers,
};

/// How long publishing one event may take while there is a connection. Then the event is published once more: the
/// connection may have gone with it.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often weir looks whether there is a connection again, while an event waits for it.
const LOOK_FOR_CONNECTION: Duration = Duration::from_millis(250);
/// What the client holds while it has no connection. Events wait in weir's own queue meanwhile.
const MAX_WAITING: usize = 64;
/// The longest pause between two tries to connect, in seconds.
const LONGEST_PAUSE: u64 = 30;

/// Where and how events are published.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Each kind of event has a subject below this one.
    pub subject: String,
    pub login: Login,
    /// The table of the configuration that has the login.
    pub table: &'static str,
    /// `host:port` of each server, and each change of that.
    pub addresses: watch::Receiver<Vec<String>>,
    /// The connection counts at one of these.
    pub servers: Arc<Servers>,
}

/// What was last told of the connection, so that the same is not told again.
#[derive(Debug, Default)]
struct Told(StdMutex<Option<String>>);

impl Told {
    /// Whether this is new.
    fn is_new(&self, what: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = told.as_deref() != Some(what);
        *told = Some(what.to_owned());
        is_new
    }

    /// Everything is well. Returns whether it was not.
    fn clear(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

/// Publishes what comes, until `stop`.
pub async fn run(
    publish: Publish,
    tls: Option<Arc<Connector>>,
    notifier: Arc<Notifier>,
    queue: Arc<Mutex<mpsc::Receiver<Message>>>,
    stop: CancellationToken,
) {
    let publishing = async {
        let client = match connect(&publish, tls.as_deref(), &notifier) {
            Ok(client) => client,
            // Reading the configuration has checked the login.
            Err(err) => {
                warn!(key = publish.table, %err, "no connection to publish events");
                return;
            }
        };
        let mut queue = queue.lock().await;
        while let Some(message) = queue.recv().await {
            let subject = format!("{}.{}", publish.subject, message.kind.name());
            notifier.note(Receiver::Nats, deliver(&client, subject, message.body).await);
        }
    };
    tokio::select! {
        () = publishing => {}
        () = stop.cancelled() => {}
    }
    stop.cancelled().await;
}

/// Publishes one event, however long there is no connection before.
async fn deliver(client: &OwnClient, subject: String, body: Bytes) -> Outcome {
    loop {
        while !client.is_connected() {
            sleep(LOOK_FOR_CONNECTION).await;
        }
        let now = client.get().await;
        let written = async {
            now.publish(subject.clone(), body.clone()).await.map_err(|err| err.kind())?;
            now.flush().await.map_err(|_| PublishErrorKind::Send)
        };
        match timeout(PUBLISH_TIMEOUT, written).await {
            Ok(Ok(())) => return Outcome::Delivered,
            // The client has ended, or its connection has.
            Ok(Err(PublishErrorKind::Send)) => sleep(LOOK_FOR_CONNECTION).await,
            Err(_) => {}
            Ok(Err(PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject)) => return Outcome::Failed,
        }
    }
}

fn connect(publish: &Publish, tls: Option<&Connector>, notifier: &Arc<Notifier>) -> io::Result<OwnClient> {
    let (heard, counts, told) = (publish.clone(), Arc::clone(notifier), Arc::new(Told::default()));
    let options = publish.login.options(tls)?.name("weir events").client_capacity(MAX_WAITING);
    let pause = |tries| {
        let seconds = u64::try_from(tries).unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE);
        Duration::from_secs(seconds).mul_f64(0.75 + 0.5 * fastrand::f64())
    };
    let hear = move |happening: &Happening| hear(&heard, &counts, &told, happening);
    let at = (publish.addresses.clone(), &publish.servers);
    Ok(OwnClient::open("events", options, at, pause, hear))
}

fn hear(publish: &Publish, notifier: &Notifier, told: &Told, happening: &Happening) {
    let (key, subject) = (publish.table, format!("{}.>", publish.subject));
    match happening {
        Happening::Connected => {
            told.clear();
            info!(subject, "events are published");
        }
        Happening::ServerError(ServerError::Other(words)) if is_violation(words) => {
            notifier.note(Receiver::Nats, Outcome::Failed);
            if told.is_new(words) {
                let advice = format!("let the login of {key} publish to {subject}");
                warn!(key, words, advice, "a server does not let weir publish an event");
            }
        }
        Happening::ClientError(error) => {
            let error = error.to_string();
            let err = error.strip_prefix("nats: ").unwrap_or(&error);
            if told.is_new(err) {
                warn!(key, err, "no connection to publish events; weir keeps trying");
            }
        }
        _ => {}
    }
}

fn is_violation(words: &str) -> bool {
    words.to_ascii_lowercase().starts_with("permissions violation for publish")
}
