//! The connection to the cluster's system account, over which every server answers.

use std::{fmt, time::Duration};

use async_nats::{Client, ConnectOptions, Subscriber, connection::State};
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use tracing::{info, warn};

use crate::{cluster::error::PollError, tls::Connector};

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
/// The longest pause between two tries to connect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// The connection. After a loss it reconnects by itself.
#[derive(Debug, Clone)]
pub struct SystemAccount {
    client: Client,
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
    /// Connects to the first of `addresses` (`host:port`) that answers, in the background.
    ///
    /// # Errors
    /// The login cannot be used.
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
            // Only to the configured servers, like clients that come through weir.
            .ignore_discovered_servers()
            .retry_on_initial_connect()
            .request_timeout(Some(ANSWER_TIMEOUT))
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(|tries| {
                MAX_RECONNECT_DELAY.min(Duration::from_millis(100) * tries.min(100) as u32)
            })
            .event_callback(|event| async move {
                match event {
                    async_nats::Event::Connected => info!("connected to the system account"),
                    async_nats::Event::Disconnected => warn!("lost the connection to the system account"),
                    other => warn!(%other, "system account"),
                }
            });
        Ok(Self { client: options.connect(addresses).await? })
    }

    /// Whether it is connected now.
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Sends a request and returns the data of the first answer.
    ///
    /// # Errors
    /// [`PollError`]; without waiting, while there is no connection.
    pub(super) async fn ask<T: DeserializeOwned>(&self, subject: String, request: Bytes) -> Result<T, PollError> {
        if !self.is_up() {
            return Err(PollError::NoSystem);
        }
        let answer = self.client.request(subject, request).await?;
        let answer: Response<T> = serde_json::from_slice(&answer.payload)?;
        answer.data.ok_or(PollError::NoAnswer)
    }

    /// Sends a request to all servers. Each answer arrives at the subscription when it is ready.
    ///
    /// # Errors
    /// [`PollError`].
    pub(super) async fn ask_all(&self, subject: &'static str, request: Bytes) -> Result<Subscriber, PollError> {
        if !self.is_up() {
            return Err(PollError::NoSystem);
        }
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await?;
        self.client.publish_with_reply(subject, inbox, request).await?;
        Ok(answers)
    }

    /// Subscribes to what the servers publish from now on.
    ///
    /// # Errors
    /// The connection is closed for good.
    pub(super) async fn subscribe(&self, subject: &'static str) -> Result<Subscriber, PollError> {
        Ok(self.client.subscribe(subject).await?)
    }
}
