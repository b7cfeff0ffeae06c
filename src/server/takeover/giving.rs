//! The old process of a takeover.

mod sessions;

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    process,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UnixStream,
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub(super) use self::sessions::SessionsToGive;
use crate::{
    admin::socket::{AdminSocket, OperatorPause},
    fleet_link::FleetLink,
    net::passing::{self, MOST_DESCRIPTORS, Receiver, Sender},
    server::{
        listeners::Suspended,
        reload::{Parts, Reloader},
        service_manager::ServiceManager,
        takeover::{
            message::{FleetName, Message, Offer, Offered, OtherFleet, VERSION, receive, send},
            successor::{self, NoSuccessor, Start, Successor},
        },
    },
    session::{Shared, takeover::KeptPlaces},
    telemetry::moment::{self, Moment},
};

/// How long the new process may take to say that it is there.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to read its servers and to start.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to count a batch, whose sessions stand still.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// The process before, if it does not say so, goes on no longer than this when this one ends.
const MAY_GO_BACK: Duration = Duration::from_secs(30);

/// Gives what this process has to another one.
pub struct Giving {
    shared: Arc<Shared>,
    reloader: Arc<Reloader>,
    fleet: Option<FleetLink>,
    /// When it has taken over itself.
    took_over: Option<Instant>,
    admin: Arc<AdminSocket>,
    /// Ends the admin socket in this process.
    admin_stop: CancellationToken,
    pause: OperatorPause,
    /// Another process serves now.
    given: Arc<Notify>,
    /// Which one that is.
    successor: watch::Sender<Successor>,
    start: Start,
    service_manager: ServiceManager,
}

/// Why the takeover is off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Off {
    #[error("the new process is gone")]
    Gone,
    #[error("the new process says: {0}")]
    Abort(String),
    #[error("the new process does not answer within {0:?}")]
    Late(Duration),
    #[error("the new process says {0} out of turn")]
    Unexpected(&'static str),
    #[error("this process is about to end")]
    Draining,
    #[error("the new process is weir {0}, whose takeovers are another version")]
    Version(String),
    #[error("{0}")]
    OtherFleet(#[from] OtherFleet),
    #[error("{0}")]
    Os(io::Error),
}

impl From<io::Error> for Off {
    fn from(err: io::Error) -> Self {
        if passing::is_end(&err) { Self::Gone } else { Self::Os(err) }
    }
}

/// Marks that a takeover is under way, until dropped.
struct UnderWay(Arc<Giving>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.shared.takeover.set_successor(false);
    }
}

impl fmt::Debug for Giving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Giving").field("successor", &self.successor).finish_non_exhaustive()
    }
}

impl Giving {
    /// `admin_stop` ends the admin socket, and `given` is notified once another process serves.
    pub fn new(
        shared: Arc<Shared>,
        reloader: Arc<Reloader>,
        (fleet, has_taken_over): (Option<FleetLink>, bool),
        (admin, admin_stop, pause, given): (Arc<AdminSocket>, CancellationToken, OperatorPause, Arc<Notify>),
        service_manager: ServiceManager,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            reloader,
            fleet,
            took_over: has_taken_over.then(Instant::now),
            admin,
            admin_stop,
            pause,
            given,
            successor: watch::Sender::default(),
            start: Start::of_this_process(),
            service_manager,
        })
    }

    /// Starts another process, with the executable as it is by now, and waits until that has taken over. Returns its
    /// process id.
    ///
    /// # Errors
    /// It has not.
    pub async fn upgrade(&self) -> Result<u32, NoSuccessor> {
        let (pid, child) = self.start.begin()?;
        info!(pid, "another process is started, to take over");
        let (tell, told) = oneshot::channel();
        let successor = self.successor.subscribe();
        // Whoever has asked may leave.
        tokio::spawn(async move {
            let result = successor::has_all(pid, child, successor).await;
            if let Err(why) = &result {
                warn!(%why, "an upgrade has failed: all goes on here");
            }
            let _ = tell.send(result);
        });
        told.await.unwrap_or(Err(NoSuccessor::Late(pid))).map(|()| pid)
    }

    /// Begins to give all to the process at the other end of what `stream` becomes.
    ///
    /// # Errors
    /// Why not.
    pub fn begin(
        self: &Arc<Self>,
        stream: impl Future<Output = io::Result<UnixStream>> + Send + 'static,
    ) -> Result<(), &'static str> {
        if self.shared.admission.is_lame_duck() {
            return Err("it is about to end");
        }
        if self.shared.takeover.may_go_back() && self.took_over.is_some_and(|at| at.elapsed() < MAY_GO_BACK) {
            // The process before would take the end of this one for a takeover that has gone wrong.
            return Err("it has just taken over itself: try again in a few seconds");
        }
        if self.shared.takeover.set_successor(true) {
            return Err("another process is taking over");
        }
        let under_way = UnderWay(Arc::clone(self));
        tokio::spawn(async move {
            let UnderWay(giving) = &under_way;
            match stream.await {
                Ok(stream) => giving.give(stream).await,
                Err(err) => warn!(%err, "a takeover has not begun"),
            }
        });
        Ok(())
    }

    async fn give(self: &Arc<Self>, stream: UnixStream) {
        let pid = stream.peer_cred().ok().and_then(|peer| u32::try_from(peer.pid()?).ok());
        let (mut sender, receiver) = passing::channel(stream);
        let mut receiver = Mailbox::new(receiver);
        let given = match self.prepare(&mut sender, &mut receiver).await {
            Ok(()) => self.hand_all(sender, &mut receiver, pid).await,
            Err(off) => Err((off, (sender, Vec::new()))),
        };
        match given {
            Ok(mut rest) => {
                if let Some(pid) = pid {
                    self.service_manager.another_process(pid).await;
                }
                self.successor.send_replace(pid.map_or(Successor::None, Successor::HasAll));
                self.given.notify_one();
                // The other process may end before this one.
                let _ = rest.tell_of_ends().await;
            }
            Err((off, (mut sender, kept))) => {
                warn!(why = %off, "a takeover is off: all goes on here");
                // It may be gone.
                let _ = send(&mut sender, &Message::Abort { why: off.to_string() }, &[]).await;
                // As long as the new process is there its sessions are.
                tokio::spawn(async move {
                    receiver.closed().await;
                    drop((kept, sender));
                });
            }
        }
    }

    /// The new process gets the listening sockets, and starts. Nothing changes for anybody.
    async fn prepare(&self, sender: &mut Sender, receiver: &mut Mailbox) -> Result<(), Off> {
        match receiver.next(HELLO_WITHIN).await? {
            // A later version understands this one.
            Message::Hello { version, fleet, .. } if version.abs_diff(VERSION) <= 1 => {
                FleetName::agree(self.member().as_ref(), fleet.as_ref())?;
            }
            Message::Hello { weir, .. } => return Err(Off::Version(weir)),
            other => return Err(Off::Unexpected(other.name())),
        }
        let parts = self.reloader.parts().await;
        let (sockets, descriptors) = self.sockets(&parts)?;
        let discovered = parts.members.discovered();
        drop(parts);
        let offer = Offer {
            version: VERSION,
            weir: env!("WEIR_VERSION").to_owned(),
            pid: process::id(),
            origin: u64::try_from(moment::origin().as_nanos()).unwrap_or(0),
            secret: self.shared.keys.secret().to_bytes(),
            sockets,
            more_sockets: descriptors.len().div_ceil(MOST_DESCRIPTORS).saturating_sub(1),
            sessions: self.shared.sessions.len(),
            discovered,
            fleet: self.member().zip(self.shared.fleet.as_ref().map(|fleet| fleet.run())),
            fleet_seed: self.shared.fleet.as_ref().map(|fleet| fleet.signer().seed()),
            fleet_mark: self.fleet.as_ref().map(FleetLink::mark).unwrap_or_default(),
        };
        info!(sessions = offer.sessions, "another process is about to take over");
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut beside = descriptors.chunks(MOST_DESCRIPTORS);
        send(sender, &Message::Offer(Box::new(offer)), beside.next().unwrap_or_default()).await?;
        for more in beside {
            send(sender, &Message::Sockets, more).await?;
        }
        match receiver.next(READY_WITHIN).await? {
            Message::Ready => Ok(()),
            other => Err(Off::Unexpected(other.name())),
        }
    }

    /// What this weir is called in its fleet.
    fn member(&self) -> Option<FleetName> {
        let fleet = self.shared.fleet.as_ref()?;
        Some(FleetName { name: fleet.name().to_owned(), id: Some(fleet.id().to_string()) })
    }

    fn sockets(&self, parts: &Parts) -> io::Result<(Vec<Offered>, Vec<OwnedFd>)> {
        let (mut offered, mut descriptors) = (Vec::new(), Vec::new());
        for (address, nth, socket) in parts.listeners.sockets()? {
            offered.push(Offered::Listener { address, nth });
            descriptors.push(OwnedFd::from(socket));
        }
        if let Some((address, socket)) = parts.monitor.socket()? {
            offered.push(Offered::Monitor { address });
            descriptors.push(socket.into());
        }
        offered.push(Offered::Admin);
        descriptors.push(self.admin.listener.try_clone()?.into());
        Ok((offered, descriptors))
    }

    /// The new process gets the sessions, and serves. Where that goes wrong this process goes on with what it has.
    async fn hand_all(
        self: &Arc<Self>,
        sender: Sender,
        receiver: &mut Mailbox,
        pid: Option<u32>,
    ) -> Result<SessionsToGive, (Off, (Sender, Vec<KeptPlaces>))> {
        let mut parts = self.reloader.parts().await;
        let began = Instant::now();
        if self.shared.admission.is_lame_duck() {
            return Err((Off::Draining, (sender, Vec::new())));
        }
        let stopped = self.shared.takeover.begin();
        self.shared.admission.pause();
        self.shared.takeover.set_leaves_backlog(true);
        let mut rest = SessionsToGive::new(Arc::clone(&self.shared), parts.listeners.senders(), sender, stopped);
        let suspended = match parts.listeners.suspend().await {
            Ok(suspended) => suspended,
            Err(err) => {
                self.go_on(&mut parts, None).await;
                return Err((err.into(), rest.into_sender()));
            }
        };
        self.shared.takeover.ask_clients();
        let mut given = rest.all(receiver, self.pause.state()).await;
        if given.is_ok() {
            // Who asks waits for the process that serves.
            self.admin.is_given_away();
            given = rest.serve(receiver, self.pause.state()).await;
        }
        let took = began.elapsed();
        if given.is_ok() {
            self.successor.send_replace(pid.map_or(Successor::None, Successor::Serves));
            given = self.give_fleet(&mut rest).await;
        }
        if given.is_ok() {
            given = match rest.late_sessions(receiver).await {
                // It has died as soon as it had clients.
                Err(Off::Gone) => Err(Off::Gone),
                Err(off) => {
                    warn!(why = %off, "sessions whose logins were under way stay");
                    Ok(())
                }
                Ok(()) => Ok(()),
            };
        }
        rest.end();
        match given {
            Ok(()) => {
                self.admin_stop.cancel();
                parts.monitor.close();
                let stay = rest.told.len();
                let (sessions, clients) = (rest.gone, rest.gone_clients);
                let longest_pause = rest.longest_pause;
                info!(sessions, clients, stay, ?took, ?longest_pause, "another process has taken over");
                Ok(rest)
            }
            Err(off) => {
                if let Some(fleet) = &self.fleet
                    && fleet.is_given()
                {
                    fleet.take_back(&self.shared);
                }
                self.successor.send_replace(Successor::None);
                self.admin.is_taken();
                self.go_on(&mut parts, Some(suspended)).await;
                Err((off, rest.into_sender()))
            }
        }
    }

    /// The new process serves, and goes on as the weir of the fleet that this one was. What that needs is complete only
    /// now, and goes at once: this process has written to the bucket and told the others until then.
    async fn give_fleet(&self, rest: &mut SessionsToGive) -> Result<(), Off> {
        let Some(fleet) = &self.fleet else { return Ok(()) };
        let (state, at) = fleet.give(&self.shared).await;
        let state = serde_json::to_string(&state).map_err(io::Error::from)?;
        send(&mut rest.sender, &Message::Fleet { state, at: Moment::from(at).raw() }, &[]).await?;
        rest.kept.clear();
        Ok(())
    }

    async fn go_on(&self, parts: &mut Parts, suspended: Option<Suspended>) {
        let Self { shared, .. } = self;
        shared.takeover.end();
        shared.takeover.set_leaves_backlog(false);
        if let Some(suspended) = suspended {
            parts.listeners.resume(suspended).await;
        }
        self.pause.takeover_is_off(shared);
    }
}

/// Messages of the new process, as they come.
pub(super) struct Mailbox(mpsc::Receiver<Result<Message, Off>>);

impl Mailbox {
    pub(super) fn new(mut receiver: Receiver) -> Self {
        let (sender, mailbox) = mpsc::channel(16);
        tokio::spawn(async move {
            loop {
                let message = match receive(&mut receiver).await {
                    Ok(Some((Message::Abort { why }, _))) => Err(Off::Abort(why)),
                    Ok(Some((message, _))) => Ok(message),
                    Ok(None) => return,
                    Err(err) => Err(err.into()),
                };
                let is_last = message.is_err();
                if sender.send(message).await.is_err() {
                    return;
                }
                if is_last {
                    // As long as the other process is there, it may serve.
                    return receiver.ended().await;
                }
            }
        });
        Self(mailbox)
    }

    /// Returns once the other process is gone.
    async fn closed(&mut self) {
        while self.0.recv().await.is_some() {}
    }

    pub(super) async fn next(&mut self, within: Duration) -> Result<Message, Off> {
        timeout(within, self.0.recv()).await.map_err(|_| Off::Late(within))?.ok_or(Off::Gone)?
    }
}
