//! The connection to the servers over which the weirs of a fleet hear of each other.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{Client, ClientError, ConnectOptions, Event, ServerError};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    cluster::{
        own_client::{OwnClient, is_refusal},
        system_account::{Login, with_tls},
    },
    fleet_link::subjects::Subjects,
    tls::Connector,
    upstream::Servers,
};

/// How long one address of a server may take, from TCP to PONG, before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection that has died without a word is found after two of these. Leases are in force for 2.5 s after a write.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause between two tries to connect, while servers do not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The same while they refuse the login.
const LONGEST_PAUSE_OF_WRONG_LOGIN: Duration = Duration::from_secs(30);
/// Messages that wait for the connection. Those of a fleet are worth nothing when they come late.
const MAX_WAITING: usize = 256;
/// Beats of other weirs that wait until they are read.
const MAX_UNREAD: usize = 4096;

/// The connection. After a loss it reconnects by itself.
#[derive(Debug, Clone)]
pub struct Connection {
    client: OwnClient,
    addresses: Arc<watch::Sender<Vec<String>>>,
    health: Arc<Health>,
}

impl Connection {
    /// Connects to one of `addresses` (`host:port`) in the background, once there is one. The connection counts at that
    /// one of `servers`.
    ///
    /// # Errors
    /// The login cannot be used.
    pub fn open(
        login: Option<&Login>,
        (addresses, servers): (&[String], &Arc<Servers>),
        tls: Option<&Connector>,
        subjects: &Subjects,
    ) -> io::Result<Self> {
        let options = match login {
            Some(login) => login.options(tls),
            None => with_tls(ConnectOptions::new(), tls),
        };
        let health = Arc::new(Health::new(key_of(login), addresses.len()));
        let (pauses, events) = (Arc::clone(&health), Arc::clone(&health));
        let options = options?
            .name("weir fleet")
            // Apart from those of all other clients: whoever else may publish there answers in others' place.
            .custom_inbox_prefix(subjects.inboxes())
            .request_timeout(None)
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .client_capacity(MAX_WAITING)
            .subscription_capacity(MAX_UNREAD);
        let (pause, heard) = (move |tries| pauses.pause(tries), move |event: &Event| events.heard(event));
        let (addresses, seen) = watch::channel(addresses.to_vec());
        let client = OwnClient::open("the fleet", options, (seen, servers), pause, heard);
        Ok(Self { client, addresses: Arc::new(addresses), health })
    }

    /// The client as it is now, which sends whatever it is given as soon as it can; `None` before there is an address.
    pub fn client(&self) -> Option<Client> {
        self.client.now()
    }

    /// The same, once there is one. Subscriptions end where the connection begins anew: then there is another one.
    pub async fn get_client(&self) -> Client {
        self.client.get().await
    }

    /// Whether a server has let weir in, and is not known to have gone.
    pub fn is_up(&self) -> bool {
        *self.health.up.borrow()
    }

    /// Whether it is down and every server has refused the login.
    pub fn is_refused(&self) -> bool {
        self.health.is_refused(&self.health.inner())
    }

    /// Whether it is up; changes are seen.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.health.up.subscribe()
    }

    /// Connects to one of these `addresses` (`host:port`) from now on. A connection to a server that is not among them
    /// lasts for as long as that server keeps it.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        self.health.set_servers(addresses.len());
        self.addresses.send_replace(addresses);
    }

    /// What the servers have not permitted since they let weir in, such as `publish to a.b`; at most a few.
    pub fn denied(&self) -> Vec<String> {
        self.health.inner().denied.clone()
    }
}

/// The key of the configuration to change where the login is wrong.
pub fn key_of(login: Option<&Login>) -> &'static str {
    match login {
        None | Some(Login::Password(..)) => "fleet.user",
        Some(Login::Creds(_)) => "fleet.creds_file",
        Some(Login::Nkey(_)) => "fleet.nkey_seed_file",
    }
}

/// What is wrong, as the log was told last.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Refused,
    Unreachable(String),
}

/// What has happened to the connection.
#[derive(Debug)]
struct Health {
    key: &'static str,
    /// How many servers there are to try.
    servers: AtomicU32,
    up: watch::Sender<bool>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Times in a row that the login was refused.
    refusals: u32,
    told: Option<Fault>,
    /// What the servers do not permit, as they said it: each is told once, and not many are kept.
    denied: Vec<String>,
}

/// Different violations of permissions that are told.
const MOST_DENIED: usize = 16;

impl Health {
    fn new(key: &'static str, servers: usize) -> Self {
        let health = Self { key, servers: AtomicU32::new(0), up: watch::Sender::new(false), inner: Mutex::default() };
        health.set_servers(servers);
        health
    }

    fn set_servers(&self, servers: usize) {
        self.servers.store(u32::try_from(servers).unwrap_or(u32::MAX), Relaxed);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait before try number `tries` to connect: longer and longer where the login is refused. Several
    /// weirs do not try in step.
    fn pause(&self, tries: usize) -> Duration {
        let tries = u32::try_from(tries).unwrap_or(u32::MAX);
        let pause = match self.inner().refusals {
            0 => LONGEST_PAUSE.min(Duration::from_millis(50).saturating_mul(tries)),
            times => LONGEST_PAUSE_OF_WRONG_LOGIN.min(Duration::from_millis(100).saturating_mul(1 << times.min(16))),
        };
        pause.mul_f64(0.75 + 0.5 * fastrand::f64())
    }

    fn heard(&self, event: &Event) {
        match event {
            Event::Connected => {
                let mut inner = self.inner();
                (inner.refusals, inner.told) = (0, None);
                // What was denied may be permitted by now, or be denied again.
                inner.denied.clear();
                drop(inner);
                info!("connected to the fleet");
                self.up.send_replace(true);
            }
            Event::Disconnected | Event::Closed if self.up.send_replace(false) => {
                warn!(key = self.key, "lost the connection to the fleet; weir connects again");
            }
            Event::ClientError(error) => self.failed(error),
            Event::ServerError(ServerError::Other(words)) if is_violation(words) => self.was_denied(words),
            _ => {}
        }
    }

    fn failed(&self, error: &ClientError) {
        let mut inner = self.inner();
        if is_refusal(error) {
            inner.refusals = inner.refusals.saturating_add(1);
            // Another server may let it in.
            if self.is_refused(&inner) {
                self.tell(&mut inner, Fault::Refused);
            }
        } else if !*self.up.borrow() {
            let error = error.to_string();
            let why = error.strip_prefix("nats: ").unwrap_or(&error).to_owned();
            self.tell(&mut inner, Fault::Unreachable(why));
        }
    }

    fn is_refused(&self, inner: &Inner) -> bool {
        inner.refusals >= self.servers.load(Relaxed).max(1)
    }

    fn tell(&self, inner: &mut Inner, fault: Fault) {
        if inner.told.as_ref() == Some(&fault) {
            return;
        }
        let key = self.key;
        match &fault {
            Fault::Refused => warn!(
                key,
                words = "Authorization Violation",
                advice = "write the login of a user of an ordinary account, with JetStream for leases",
                "the servers refuse the login to the fleet; weir keeps trying"
            ),
            Fault::Unreachable(err) => warn!(key, err, "no connection to the fleet; weir keeps trying"),
        }
        inner.told = Some(fault);
    }

    fn was_denied(&self, words: &str) {
        let mut inner = self.inner();
        let what = denied(words);
        if inner.denied.contains(&what) || inner.denied.len() == MOST_DENIED {
            return;
        }
        let advice = format!("let it {what}; `weir check` prints all that it needs");
        warn!(key = self.key, words, advice, "the servers do not permit what the fleet needs");
        inner.denied.push(what);
    }
}

fn is_violation(words: &str) -> bool {
    words.to_ascii_lowercase().starts_with("permissions violation for")
}

/// What is to be permitted, from `Permissions Violation for Publish to "a.b"`: `publish to a.b`. Inboxes and consumers
/// have random parts, which are left out.
fn denied(words: &str) -> String {
    let subject = words.split('"').nth(1).unwrap_or_default();
    let verb = if words.to_ascii_lowercase().contains("subscription") { "subscribe to" } else { "publish to" };
    let random = [".is.", "_INBOX_weir-fleet-", "$JS.API.CONSUMER.CREATE.", "$JS.API.CONSUMER.DELETE.", "$JS.FC."];
    let known = random.iter().find_map(|part| {
        let at = subject.find(part)? + part.len();
        let name = if part == &".is." { "" } else { subject[at..].split('.').next()? };
        let dot = if name.is_empty() { "" } else { "." };
        Some(format!("{}{name}{dot}>", &subject[..at]))
    });
    format!("{verb} {}", known.as_deref().unwrap_or(subject))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::own_client::refusal;

    #[test]
    fn a_login_that_every_server_refuses_is_tried_less_and_less_often() {
        let health = Health::new("fleet.user", 2);
        let refused = refusal();
        health.heard(&refused);
        assert!(health.inner().told.is_none(), "the other server may let it in");
        for _ in 0..20 {
            health.heard(&refused);
        }
        assert_eq!(health.inner().told, Some(Fault::Refused));
        assert!(health.pause(1) >= LONGEST_PAUSE_OF_WRONG_LOGIN.mul_f64(0.75));
        health.heard(&Event::Connected);
        assert!(*health.up.borrow() && health.inner().told.is_none());
        assert!(health.pause(1) <= Duration::from_millis(100), "it begins anew");
        health.heard(&Event::Disconnected);
        assert!(!*health.up.borrow());
    }

    #[test]
    fn what_is_denied_is_told_as_what_to_permit() {
        for (words, what) in [
            ("Permissions Violation for Publish to \"weir.fleet.edge.beat\"", "publish to weir.fleet.edge.beat"),
            ("Permissions Violation for Subscription to \"weir.fleet.edge.bye\"", "subscribe to weir.fleet.edge.bye"),
            (
                "Permissions Violation for Subscription to \"_INBOX_weir-fleet-edge.Q1w2.*\"",
                "subscribe to _INBOX_weir-fleet-edge.>",
            ),
            (
                "Permissions Violation for Publish to \"$JS.API.CONSUMER.CREATE.KV_weir-fleet-edge.x1.$KV\"",
                "publish to $JS.API.CONSUMER.CREATE.KV_weir-fleet-edge.>",
            ),
        ] {
            assert_eq!(denied(words), what);
        }
        let health = Health::new("fleet.user", 1);
        for n in 0..100 {
            health.was_denied(&format!("Permissions Violation for Publish to \"a.{n}\""));
        }
        assert_eq!(health.inner().denied.len(), MOST_DENIED);
    }
}
