//! The cluster's system account: one connection, over which every server answers.

use std::{fmt, time::Duration};

use async_nats::{Client, ConnectOptions, Subscriber, connection::State};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use tracing::{info, warn};

use crate::{cluster::PollError, tls::Connector};

/// How weir logs in to the system account.
#[derive(Clone)]
pub enum Login {
    /// The text of a `.creds` file.
    Creds(String),
    /// The seed of an NKey.
    Nkey(String),
    /// User and password.
    Password(String, String),
}

/// Secrets, all of it.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

/// How long an answer may take: the longest poll.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// What cannot be answered is not waited for longer between two tries to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The connection. It comes back by itself.
#[derive(Debug, Clone)]
pub struct SystemAccount {
    client: Client,
}

/// Every answer of a server: who it is, and what it says.
#[derive(Debug, Deserialize)]
pub(super) struct Response<T> {
    pub(super) server: Named,
    pub(super) data: Option<T>,
}

/// A server by its `server_id`.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) id: String,
}

impl SystemAccount {
    /// Connects to the first of `addresses` (`host:port`) that answers, in the background.
    ///
    /// # Errors
    /// The login is none that can be used.
    pub async fn connect(login: &Login, addresses: &[String], tls: Option<&Connector>) -> Result<Self, PollError> {
        let options = match login.clone() {
            Login::Creds(text) => ConnectOptions::with_credentials(&text)?,
            Login::Nkey(seed) => ConnectOptions::with_nkey(seed),
            Login::Password(user, password) => ConnectOptions::with_user_and_password(user, password),
        };
        let options = match tls {
            None => options,
            Some(tls) if tls.handshake_first() => options.tls_client_config(tls.config()).require_tls(true).tls_first(),
            Some(tls) => options.tls_client_config(tls.config()).require_tls(true),
        };
        let options = options
            .name("weir")
            // It goes to the servers it was told, as clients do that come through weir.
            .ignore_discovered_servers()
            .retry_on_initial_connect()
            .request_timeout(Some(ANSWER_TIMEOUT))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(|tries| LONGEST_PAUSE.min(Duration::from_millis(100) * tries.min(100) as u32))
            .event_callback(|event| async move {
                match event {
                    async_nats::Event::Connected => info!("connected to the system account"),
                    async_nats::Event::Disconnected => warn!("the connection to the system account is lost"),
                    other => warn!(%other, "system account"),
                }
            });
        Ok(Self { client: options.connect(addresses).await? })
    }

    /// Whether the connection stands.
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// What the first server that answers says.
    ///
    /// # Errors
    /// [`PollError`], at once while the connection is down.
    pub(super) async fn ask<T: DeserializeOwned>(&self, subject: String, question: Bytes) -> Result<T, PollError> {
        if !self.is_up() {
            return Err(PollError::NoSystem);
        }
        let answer = self.client.request(subject, question).await?;
        let answer: Response<T> = serde_json::from_slice(&answer.payload)?;
        answer.data.ok_or(PollError::NoAnswer)
    }

    /// Asks all servers; their answers come to the subscription as they are ready.
    ///
    /// # Errors
    /// [`PollError`].
    pub(super) async fn ask_all(&self, subject: &'static str, question: Bytes) -> Result<Subscriber, PollError> {
        if !self.is_up() {
            return Err(PollError::NoSystem);
        }
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await?;
        self.client.publish_with_reply(subject, inbox, question).await?;
        Ok(answers)
    }

    /// What the servers publish under a subject from now on.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub(super) async fn listen(&self, subject: &'static str) -> Result<Subscriber, PollError> {
        Ok(self.client.subscribe(subject).await?)
    }
}
