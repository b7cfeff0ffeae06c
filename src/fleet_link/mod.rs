//! What connects this weir with the others of its fleet: messages over core NATS and leases in a JetStream bucket. What
//! follows from them is decided in [`crate::fleet`].
//!
//! - [`connection`]: one connection to the servers, opened before any client's. [`subjects`]: what it is used for.
//! - [`beats`]: tells the others what this weir holds. [`hearing`]: hears them, and asks whether one that is silent is
//!   still connected.
//! - [`bucket`]: the bucket of the leases. [`leases`]: does there what the ledger wants. [`counts`]: has the servers
//!   count connections, while leases of weirs that have ended are to be taken back. [`slots`]: has slots of servers
//!   leased, where these are nearly full.
//! - [`takeover`]: gives all of this to another process.
//! - [`permissions`]: tries whether the login may do all of this, for `weir check --connect`.

mod beats;
pub mod bucket;
mod connection;
mod counts;
mod hearing;
mod leases;
pub mod permissions;
mod slots;
mod subjects;
mod takeover;

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::RequestErrorKind;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{ClusterAccess, system_account::Login},
    fleet::{Fleet, beat::Bye, lease::Holder, link::Counted},
    fleet_link::{beats::Told, connection::Connection},
    session::Shared,
    tls::Connector,
    upstream::Servers,
};

pub use self::{leases::Wishes, subjects::Subjects};

/// How long a weir that is asked whether it is connected may take. It answers at once where it can.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long handing back what is left may take, and then the last words.
const HAND_BACK: Duration = Duration::from_millis(700);
const FAREWELL: Duration = Duration::from_millis(300);

/// Whether a weir is connected to the servers, by its subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// It has answered.
    There,
    /// Somebody subscribes and does not answer: the weir, which stands still, or whoever looks at all messages.
    Silent,
    /// Nobody subscribes: its connection is gone.
    Gone,
    /// The servers have not said.
    Unknown,
}

/// The connection of this weir to its fleet.
#[derive(Debug, Clone)]
pub struct FleetLink {
    fleet: Arc<Fleet>,
    connection: Connection,
    subjects: Subjects,
    /// From then on this process is the member of the fleet: another one was until then.
    begin: CancellationToken,
    told: Arc<Mutex<Told>>,
}

impl FleetLink {
    /// Connects to one of `addresses` (`host:port`) in the background, once there is one. The connection counts at that
    /// one of `servers`.
    ///
    /// # Errors
    /// The login cannot be used.
    pub fn open(
        fleet: Arc<Fleet>,
        login: Option<&Login>,
        (addresses, servers): (&[String], &Arc<Servers>),
        tls: Option<&Connector>,
    ) -> io::Result<Self> {
        let subjects = Subjects::of(fleet.name());
        let connection = Connection::open(login, (addresses, servers), tls, &subjects)?;
        Ok(Self { fleet, connection, subjects, begin: CancellationToken::new(), told: Arc::default() })
    }

    /// Connects to one of these `addresses` (`host:port`) from now on.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        self.connection.set_addresses(addresses);
    }

    /// Whether it may soon be seen how this weir comes to its part of what the fleet shares.
    pub fn is_open(&self) -> bool {
        self.fleet.link().bucket().since.is_none()
    }

    /// Publishes what this weir holds, until `stop`.
    pub async fn publish_beats(self, shared: Arc<Shared>, stop: CancellationToken) {
        tokio::select! {
            () = beats::publish(&self, &shared) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Hears the other weirs, until `stop`.
    pub async fn hear(self, shared: Arc<Shared>, stop: CancellationToken) {
        tokio::select! {
            () = hearing::hear(&self, &shared) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Asks whether a weir is connected to the servers.
    async fn probe(&self, holder: &Holder) -> Interest {
        self.fleet.link().count(Counted::Probe);
        let Some(client) = self.connection.client() else { return Interest::Unknown };
        let asked = client.request(self.subjects.interest(holder), "".into());
        match timeout(PROBE_TIMEOUT, asked).await {
            Ok(Ok(_)) => Interest::There,
            Ok(Err(err)) if err.kind() == RequestErrorKind::NoResponders => Interest::Gone,
            Ok(Err(_)) => Interest::Unknown,
            // The servers say at once that nobody subscribes.
            Err(_) if self.connection.is_up() => Interest::Silent,
            Err(_) => Interest::Unknown,
        }
    }

    /// Keeps this weir's leases, until `stop`.
    pub async fn keep_leases(self, shared: Arc<Shared>, wishes: Wishes, stop: CancellationToken) {
        tokio::select! {
            () = leases::run(&self, &shared, wishes) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Has the servers count connections while that is wanted for leases, until `stop`.
    pub async fn count_for_leases(self, shared: Arc<Shared>, access: ClusterAccess, stop: CancellationToken) {
        tokio::select! {
            () = counts::run(&self, &shared, &access) => {}
            () = stop.cancelled() => {}
        }
    }

    /// Hands back all leases and says to the others that this weir ends, for when its last session has ended. It takes
    /// a second at most.
    pub async fn leave(&self) {
        if self.is_given() {
            // Another process goes on.
            return;
        }
        leases::leave(self, HAND_BACK).await;
        self.say_goodbye().await;
    }

    async fn say_goodbye(&self) {
        let Some(client) = self.connection.client().filter(|_| self.connection.is_up()) else { return };
        let bye = Bye { id: self.fleet.id().clone(), run: self.fleet.run() };
        let said = async {
            client.publish(self.subjects.byes(), bye.encode().into()).await.map_err(drop)?;
            client.flush().await.map_err(drop)
        };
        let _ = timeout(FAREWELL, said).await;
    }
}
