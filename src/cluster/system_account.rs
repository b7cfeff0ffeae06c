//! The connection to the cluster's system account, over which every server answers.

use std::{fmt, sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, Event, PublishError, Subject, Subscriber, subject::ToSubject};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{error::PollError, own_client::OwnClient, system_login::SystemLogin},
    tls::Connector,
    upstream::Servers,
};

/// How weir logs in to the system account.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// The text of a `.creds` file.
    Creds(String),
    /// The seed of an NKey.
    Nkey(String),
    /// User and password.
    Password(String, String),
}

/// Shows nothing: all of it is secret.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one address of a server may take, from TCP to PONG, before the next one is tried (5 s by default).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

impl Login {
    /// What a connection with this login begins with.
    ///
    /// # Errors
    /// The login cannot be used.
    pub fn options(&self, tls: Option<&Connector>) -> std::io::Result<ConnectOptions> {
        let options = match self.clone() {
            Self::Creds(text) => ConnectOptions::with_credentials(&text)?,
            Self::Nkey(seed) => ConnectOptions::with_nkey(seed),
            Self::Password(user, password) => ConnectOptions::with_user_and_password(user, password),
        };
        with_tls(options, tls)
    }

    /// The key to change in the table of a login that is wrong.
    pub(super) fn leaf(&self) -> &'static str {
        match self {
            Self::Creds(_) => "creds_file",
            Self::Nkey(_) => "nkey_seed_file",
            Self::Password(..) => "user",
        }
    }

    /// The same of the login of `[cluster.system]`, with its table.
    pub(super) fn key(&self) -> &'static str {
        match self {
            Self::Creds(_) => "cluster.system.creds_file",
            Self::Nkey(_) => "cluster.system.nkey_seed_file",
            Self::Password(..) => "cluster.system.user",
        }
    }
}

/// With weir's TLS towards the servers, where there is one.
///
/// # Errors
/// Its `server_name` is no host.
pub fn with_tls(options: ConnectOptions, tls: Option<&Connector>) -> std::io::Result<ConnectOptions> {
    let Some(tls) = tls else { return Ok(options) };
    let options = options.tls_client_config(tls.config_in_force()?).require_tls(true);
    Ok(if tls.handshake_first() { options.tls_first() } else { options })
}

/// The connection. After a loss it reconnects by itself.
#[derive(Debug, Clone)]
pub struct SystemAccount {
    client: OwnClient,
    addresses: Arc<watch::Sender<Vec<String>>>,
    login: Arc<SystemLogin>,
}

/// What every server sends as an answer: who it is, and the data.
#[derive(Debug, Deserialize)]
pub(super) struct Response<T> {
    pub(super) server: ServerId,
    pub(super) data: Option<T>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ServerId {
    /// Its `server_id`.
    pub(super) id: String,
}

impl SystemAccount {
    /// Connects to one of `addresses` (`host:port`) in the background, once there is one. The connection counts at that
    /// one of `servers`.
    ///
    /// # Errors
    /// The login cannot be used.
    pub fn connect(
        login: &Login,
        addresses: &[String],
        tls: Option<&Connector>,
        servers: &Arc<Servers>,
    ) -> Result<Self, PollError> {
        let options = login.options(tls)?;
        let login = Arc::new(SystemLogin::new(login.key(), addresses.len()));
        let (pauses, events) = (Arc::clone(&login), Arc::clone(&login));
        let options = options
            .name("weir")
            // weir may answer requests to the servers, but not its own.
            .no_echo()
            .request_timeout(Some(ANSWER_TIMEOUT))
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(Duration::from_secs(10));
        let (pause, heard) = (move |tries| pauses.pause(tries), move |event: &Event| events.heard(event));
        let (addresses, seen) = watch::channel(addresses.to_vec());
        let client = OwnClient::open("the system account", options, (seen, servers), pause, heard);
        Ok(Self { client, addresses: Arc::new(addresses), login })
    }

    /// Connects to one of these `addresses` (`host:port`) from now on. A connection to a server that is not among them
    /// lasts for as long as that server keeps it.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        self.login.set_servers(addresses.len());
        self.addresses.send_replace(addresses);
    }

    /// Checks, each time that a server has let weir in, whether it may ask there; until `stop`.
    pub async fn watch_login(self, stop: CancellationToken) {
        tokio::select! {
            () = self.login.watch(&self.client) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Whether servers answer it now.
    pub fn is_up(&self) -> bool {
        self.login.is_good() && self.client.is_connected()
    }

    /// Whether it may soon be seen whether servers answer it: nobody need be told yet that they do not.
    pub fn is_open(&self) -> bool {
        self.login.is_open()
    }

    /// The client that there is, while servers answer it.
    fn client_in_use(&self) -> Result<Client, PollError> {
        self.client.now().filter(|_| self.is_up()).ok_or(PollError::NoSystem)
    }

    /// Sends a request and returns the data of the first answer.
    ///
    /// # Errors
    /// [`PollError`]; without waiting, while there is no connection.
    pub(super) async fn ask<T: DeserializeOwned>(&self, subject: String, request: Bytes) -> Result<T, PollError> {
        let answer = self.client_in_use()?.request(subject, request).await?;
        let answer: Response<T> = serde_json::from_slice(&answer.payload)?;
        answer.data.ok_or(PollError::NoAnswer)
    }

    /// Sends a request to all servers. Each answer arrives at the subscription when it is ready.
    ///
    /// # Errors
    /// [`PollError`].
    pub(super) async fn ask_all(&self, subject: impl ToSubject, request: Bytes) -> Result<Subscriber, PollError> {
        let client = self.client_in_use()?;
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await?;
        client.publish_with_reply(subject, inbox, request).await?;
        Ok(answers)
    }

    /// Subscribes to requests, whatever is asked. The subscription ends where the connection begins anew.
    ///
    /// # Errors
    /// The connection begins anew just now.
    pub async fn subscribe_to(&self, subject: String) -> Result<Subscriber, PollError> {
        Ok(self.client.get().await.subscribe(subject).await?)
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// The connection begins anew just now, or the answer is longer than the servers take.
    pub async fn reply(&self, to: Subject, answer: Bytes) -> Result<(), PublishError> {
        self.client.get().await.publish(to, answer).await
    }

    /// Subscribes to what the servers publish from now on. The subscription ends where the connection begins anew.
    ///
    /// # Errors
    /// The connection begins anew just now.
    pub(super) async fn subscribe(&self, subject: &'static str) -> Result<Subscriber, PollError> {
        Ok(self.client.get().await.subscribe(subject).await?)
    }
}
