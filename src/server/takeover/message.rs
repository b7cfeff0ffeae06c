//! What the two processes of a takeover tell each other: JSON, with descriptors beside it.
//!
//! Fields that a version does not know are passed over, and those that a later version adds have defaults, so that two
//! adjacent versions understand each other. Whatever changes the meaning of a field or of the order of messages needs
//! another [`VERSION`].

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{BorrowedFd, OwnedFd},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use tokio::time::timeout;

use crate::{
    admin::socket::PauseState,
    fleet::{beat_key::Seed, takeover::FleetMark},
    net::passing::{Receiver, Sender},
    server::discovery::DiscoveredServers,
    session::takeover::{ClientState, SessionState},
};

/// The version of these messages.
pub const VERSION: u32 = 1;

/// A message, in the order in which they come.
#[derive(Debug, Serialize, Deserialize, IntoStaticStr)]
#[serde(tag = "message", rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Message {
    /// The new process is there.
    Hello {
        version: u32,
        weir: String,
        /// The fleet of its configuration.
        #[serde(default)]
        fleet: Option<FleetName>,
    },
    /// What the old process has; its listening sockets are beside it, in the order of `sockets`.
    Offer(Box<Offer>),
    /// More of them, for which there was no room beside the offer.
    Sockets,
    /// The new process has adopted the sockets and read the servers. It accepts nobody yet.
    Ready,
    /// What the old process has learnt, as a text: [`Remembered`](crate::session::remembered::Remembered). `pause` is
    /// for a new process that hears no more.
    Remember {
        text: String,
        #[serde(default)]
        pause: Option<PauseState>,
    },
    /// Sessions, with two descriptors of each beside it: of the client, and of the server.
    Sessions { sessions: Vec<SessionState> },
    /// Clients that are not in yet, each with its connection beside it.
    Clients { clients: Vec<ClientState> },
    /// Those sent so far are a batch: they stand still until [`Self::Go`].
    Batch { number: u64 },
    /// The new process has counted the sessions of the batch. Those it cannot go on with are the old one's again.
    Counted { number: u64, refused: Vec<Refused> },
    /// The sessions of the batch are the new process's from now on.
    Go { number: u64 },
    /// Sessions that stay in the old process until they end, to be counted.
    Stay { sessions: Vec<SessionState> },
    /// All has been said: the new process is to accept clients.
    Serve {
        next_id: u64,
        is_paused: bool,
        #[serde(default)]
        pause: Option<PauseState>,
    },
    /// The new process accepts clients.
    Serving,
    /// What the old process is in its fleet, as a [`FleetState`](crate::fleet::takeover::FleetState) of the moment
    /// `at`: it takes nothing of what the fleet shares from then on. It comes after [`Self::Serving`].
    Fleet { state: String, at: u64 },
    /// Sessions that stayed have ended.
    Ended { sessions: Vec<u64> },
    /// The takeover is off: all is as it was before.
    Abort { why: String },
}

impl Message {
    /// Its name, without what it says: that may be long, or secret.
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

/// What the old process has.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Offer {
    pub version: u32,
    pub weir: String,
    pub pid: u32,
    /// From where moments count, in nanoseconds of the monotonic clock.
    pub origin: u64,
    /// What keys of clients are made with.
    pub secret: [u8; 16],
    pub sockets: Vec<Offered>,
    /// How many messages with more of them follow; none from a version that has room for all.
    pub more_sockets: usize,
    pub sessions: usize,
    /// Servers that it has discovered. Sessions are there, and the new process may find them too late.
    pub discovered: DiscoveredServers,
    /// The fleet that it is of, and which process of it.
    pub fleet: Option<(FleetName, u64)>,
    /// What that process signs its beats with; absent from a version that signs none.
    pub fleet_seed: Option<Seed>,
    /// How far it is there, for a new process that hears no more of it.
    pub fleet_mark: FleetMark,
}

/// A fleet, and what a weir is called there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetName {
    pub name: String,
    /// `None` in a configuration that leaves it open.
    pub id: Option<String>,
}

/// A fleet that another process of one weir is not of.
#[derive(Debug, thiserror::Error)]
#[error("it is of {}, and the new configuration has {}: a takeover changes no fleet", shown(.0), shown(.1))]
pub struct OtherFleet(pub Option<FleetName>, pub Option<FleetName>);

fn shown(fleet: &Option<FleetName>) -> String {
    match fleet {
        None => "no fleet".to_owned(),
        Some(FleetName { name, id: None }) => format!("fleet {name}"),
        Some(FleetName { name, id: Some(id) }) => format!("fleet {name} as {id}"),
    }
}

impl FleetName {
    /// Whether a process with the configuration `new` can go on as the member that another one is. An id that the
    /// configuration leaves open is that of the running process.
    ///
    /// # Errors
    /// It is of another fleet, or another member, or only one of both is of a fleet.
    pub fn agree(running: Option<&Self>, new: Option<&Self>) -> Result<(), OtherFleet> {
        let is_same = match (running, new) {
            (None, None) => true,
            (Some(one), Some(other)) => one.name == other.name && (other.id.is_none() || one.id == other.id),
            _ => false,
        };
        if is_same { Ok(()) } else { Err(OtherFleet(running.cloned(), new.cloned())) }
    }
}

/// Without the secret.
impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, weir, pid, sessions, fleet, .. } = self;
        let mut shown = f.debug_struct("Offer");
        shown.field("version", version).field("weir", weir).field("pid", pid).field("sessions", sessions);
        shown.field("fleet", fleet);
        shown.finish_non_exhaustive()
    }
}

/// A listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Offered {
    /// Of the listener that is configured at this address, as the `nth` of those there.
    Listener { address: SocketAddr, nth: usize },
    /// Of the endpoints configured at this address.
    Monitor { address: SocketAddr },
    /// The admin socket.
    Admin,
}

/// A session that the new process cannot go on with.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refused {
    pub id: u64,
    pub why: String,
}

/// How long the other process may take to read a message: sessions stand still meanwhile.
const READS_WITHIN: Duration = Duration::from_secs(5);

/// Sends a message.
///
/// # Errors
/// Those of the connection, and [`io::ErrorKind::TimedOut`] where the other process does not read it within
/// [`READS_WITHIN`]. It may have had a part of the message: nothing that follows is understood.
pub async fn send(to: &mut Sender, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let words = serde_json::to_vec(message)?;
    timeout(READS_WITHIN, to.send(&words, descriptors)).await.unwrap_or_else(|_| {
        let why = format!("it has read nothing for {READS_WITHIN:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    })
}

/// The next message; `None` once the other process is gone.
///
/// # Errors
/// Those of the connection; what comes is no message of this version.
pub async fn receive(from: &mut Receiver) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    let Some((words, descriptors)) = from.receive().await? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&words)?, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_changes_no_fleet() {
        let of = |name: &str, id: Option<&str>| Some(FleetName { name: name.to_owned(), id: id.map(str::to_owned) });
        let agree = |running: &Option<FleetName>, new: &Option<FleetName>| {
            FleetName::agree(running.as_ref(), new.as_ref()).map_err(|err| err.to_string())
        };
        let running = of("edge", Some("weir-1"));
        for new in [of("edge", Some("weir-1")), of("edge", None)] {
            assert_eq!(agree(&running, &new), Ok(()));
        }
        assert_eq!(agree(&None, &None), Ok(()));
        for (one, new, text) in [
            (&running, None, "fleet edge as weir-1, and the new configuration has no fleet"),
            (
                &running,
                of("edge", Some("weir-2")),
                "fleet edge as weir-1, and the new configuration has fleet edge as weir-2",
            ),
            (&running, of("other", None), "fleet edge as weir-1, and the new configuration has fleet other"),
            (&None, of("edge", None), "no fleet, and the new configuration has fleet edge"),
        ] {
            assert_eq!(agree(one, &new), Err(format!("it is of {text}: a takeover changes no fleet")));
        }
    }
}
