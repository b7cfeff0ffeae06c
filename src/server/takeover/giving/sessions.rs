//! The sessions and clients of the old process, one batch after the other.

use std::{
    collections::{HashMap, HashSet},
    io, iter, mem,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{ANSWERS_WITHIN, Mailbox, Off};
use crate::{
    admin::socket::PauseState,
    net::{
        passing::{MOST_DESCRIPTORS, Sender},
        timer,
    },
    relay::registry::{ListenerKind, SessionHandle},
    server::{
        takeover::message::{Message, send},
        worker::Work,
    },
    session::{
        Shared,
        takeover::{ClientState, Gone, Keep, KeptPlaces, SessionState, Stays, Stopped, StoppedClient, StoppedSession},
    },
};

/// Logins under way may end before sessions go. Nobody is accepted meanwhile.
const LOGINS_WITHIN: Duration = Duration::from_secs(1);
/// Sessions that cannot go now are asked again for so long.
const SESSIONS_WITHIN: Duration = Duration::from_secs(3);
/// After the takeover sessions whose logins were under way still go for so long.
const LATE_SESSIONS_WITHIN: Duration = Duration::from_secs(2);
/// No session is added to a batch that is so old: its sessions stand still. Those of one batch are all the new
/// process's or all the old one's.
const BATCH: Duration = Duration::from_millis(10);
/// So many sessions are asked to stop at a time, each with two descriptors.
const SLICE: usize = MOST_DESCRIPTORS / 2;
/// A session that has not stopped within this time is asked again later: its worker is busy, or it is about to end.
const STOPS_WITHIN: Duration = Duration::from_millis(10);
/// How soon to ask again.
const AGAIN: Duration = Duration::from_millis(5);
/// How often the new process is told of sessions that have ended here.
const TELL_OF_ENDS: Duration = Duration::from_millis(100);

/// What goes to the new process, and how far it has gone.
pub(in crate::server::takeover) struct SessionsToGive {
    shared: Arc<Shared>,
    pub(super) sender: Sender,
    stopped: mpsc::UnboundedReceiver<Stopped>,
    workers: Vec<mpsc::UnboundedSender<Work>>,
    batch: u64,
    /// Sessions that are the new process's.
    pub(super) gone: usize,
    /// Clients that were not in yet, and are the new process's.
    pub(super) gone_clients: usize,
    /// Sessions that can never go, and what is known of them.
    stay: HashMap<u64, Option<Box<SessionState>>>,
    /// Sessions that the new process counts although they are here.
    pub(super) told: HashSet<u64>,
    /// What stands for logins under way among these.
    logins: Vec<u64>,
    /// How long the sessions of a batch have stood still at most.
    pub(super) longest_pause: Duration,
    /// What sessions that have gone hold here, for as long as this process is the weir of the fleet: what it says to
    /// hold there is what both hold.
    pub(super) kept: Vec<KeptPlaces>,
}

/// Sessions of a batch, which stand still, and what they hold of what a fleet shares.
type Still = HashMap<u64, (oneshot::Sender<Gone>, Option<Keep>)>;

impl SessionsToGive {
    pub(in crate::server::takeover) fn new(
        shared: Arc<Shared>,
        workers: Vec<mpsc::UnboundedSender<Work>>,
        sender: Sender,
        stopped: mpsc::UnboundedReceiver<Stopped>,
    ) -> Self {
        let (stay, told, longest_pause) = (HashMap::new(), HashSet::new(), Duration::ZERO);
        let (batch, gone, gone_clients, logins) = (0, 0, 0, Vec::new());
        let kept = Vec::new();
        Self { shared, sender, stopped, workers, batch, gone, gone_clients, stay, told, logins, longest_pause, kept }
    }

    /// What is left of it when it is off.
    pub(super) fn into_sender(self) -> (Sender, Vec<KeptPlaces>) {
        (self.sender, self.kept)
    }

    /// Gives all that can go. Where that goes wrong this process can go on with the rest.
    pub(in crate::server::takeover) async fn all(
        &mut self,
        receiver: &mut Mailbox,
        pause: Option<PauseState>,
    ) -> Result<(), Off> {
        // First, so that nothing has been given yet where the new process cannot read it.
        match self.shared.remembered(timer::now()).to_json().map(String::from_utf8) {
            Ok(Ok(text)) => send(&mut self.sender, &Message::Remember { text, pause }, &[]).await?,
            _ => warn!("what weir has learnt does not go to the new process"),
        }
        self.clients(receiver, Instant::now() + LOGINS_WITHIN).await?;
        self.sessions(receiver, Instant::now() + SESSIONS_WITHIN).await?;
        self.tell_who_stays().await
    }

    /// Has the new process serve, and waits until it does. Once it is told so this process accepts nobody as long as
    /// that one is there, however long it takes: it may accept clients already.
    ///
    /// # Errors
    /// The new process has not been told, or has ended: this one can go on.
    pub(in crate::server::takeover) async fn serve(
        &mut self,
        receiver: &mut Mailbox,
        pause: Option<PauseState>,
    ) -> Result<(), Off> {
        if self.shared.admission.is_lame_duck() {
            return Err(Off::Draining);
        }
        let next_id = self.shared.next_id.load(Relaxed);
        // Whoever has had only a part of it has not been told.
        let serve = Message::Serve { next_id, is_paused: pause.is_some(), pause };
        send(&mut self.sender, &serve, &[]).await?;
        let mut is_late = false;
        loop {
            match receiver.next(ANSWERS_WITHIN).await {
                Ok(Message::Serving) => return Ok(()),
                Err(Off::Late(within)) if !mem::replace(&mut is_late, true) => {
                    warn!(?within, "the new process does not serve yet: who comes waits for it");
                }
                Err(Off::Late(_)) => {}
                Err(off @ (Off::Gone | Off::Abort(_))) => return Err(off),
                other => {
                    let why = other.map_or_else(|off| off, |message| Off::Unexpected(message.name()));
                    warn!(%why, "the new process is not understood, and taken to serve");
                    return Ok(());
                }
            }
        }
    }

    /// Clients between their accept and their session, except those that are refused later.
    fn logins(&self) -> usize {
        let clients: u32 = self.shared.listeners.load().iter().map(|(_, limit)| limit.in_use()).sum();
        let elsewhere = self.shared.takeover.elsewhere().len();
        let not_logins = self.shared.sessions.len() + elsewhere + self.shared.admission.waiting().answered_later;
        (clients as usize).saturating_sub(not_logins)
    }

    /// Gives the clients that are not in yet, until none is left or it is time. Whose login is under way finishes it
    /// meanwhile.
    async fn clients(&mut self, receiver: &mut Mailbox, until: Instant) -> Result<(), Off> {
        loop {
            for worker in &self.workers {
                // Those that have begun to wait since do not look by themselves.
                let _ = worker.send(Work::WakeClients);
            }
            let (began, mut still) = (Instant::now(), Still::new());
            let (mut states, mut connections) = (Vec::new(), Vec::new());
            while began.elapsed() < BATCH {
                // A session that stops now does so late: nobody keeps the verdict, and it is asked again.
                match timeout(AGAIN, self.stopped.recv()).await {
                    Ok(Some(Stopped::Client(StoppedClient { state, connection, verdict }))) => {
                        still.insert(state.id, (verdict, None));
                        states.push(state);
                        connections.push(connection);
                    }
                    Ok(Some(Stopped::Session(_))) => {}
                    Ok(None) | Err(_) => break,
                }
                if states.len() == MOST_DESCRIPTORS {
                    self.send_clients(&mut states, &mut connections).await?;
                }
            }
            if !still.is_empty() {
                self.send_clients(&mut states, &mut connections).await?;
                self.gone_clients += self.settle(still, receiver).await?;
            }
            if self.logins() == 0 || Instant::now() >= until {
                return Ok(());
            }
        }
    }

    async fn send_clients(&mut self, states: &mut Vec<ClientState>, connections: &mut Vec<OwnedFd>) -> io::Result<()> {
        if states.is_empty() {
            return Ok(());
        }
        let (clients, connections) = (mem::take(states), mem::take(connections));
        let descriptors: Vec<_> = connections.iter().map(AsFd::as_fd).collect();
        send(&mut self.sender, &Message::Clients { clients }, &descriptors).await
    }

    /// Gives all sessions that can go by then.
    async fn sessions(&mut self, receiver: &mut Mailbox, until: Instant) -> Result<(), Off> {
        loop {
            let mut handles = self.shared.sessions.handles();
            handles.retain(|handle| !self.stay.contains_key(&handle.facts().id));
            let count = handles.len();
            let mut handles = handles.into_iter();
            let mut went = 0;
            while handles.len() > 0 {
                went += self.one_batch(&mut handles, receiver).await?;
            }
            if count == 0 || Instant::now() >= until {
                return Ok(());
            }
            if went < count {
                sleep(AGAIN).await;
            }
        }
    }

    /// Gives some of these sessions, all of them or none. Returns how many.
    async fn one_batch(
        &mut self,
        handles: &mut impl Iterator<Item = Arc<SessionHandle>>,
        receiver: &mut Mailbox,
    ) -> Result<usize, Off> {
        let (began, mut still) = (Instant::now(), Still::new());
        while began.elapsed() < BATCH {
            let slice: Vec<_> = handles.by_ref().take(SLICE).collect();
            if slice.is_empty() {
                break;
            }
            self.stop(&slice, &mut still).await?;
        }
        if still.is_empty() {
            return Ok(0);
        }
        let went = self.settle(still, receiver).await?;
        self.gone += went;
        self.longest_pause = self.longest_pause.max(began.elapsed());
        Ok(went)
    }

    /// The new process counts a batch, and has it from then on. Returns how many it has.
    async fn settle(&mut self, mut still: Still, receiver: &mut Mailbox) -> Result<usize, Off> {
        self.batch += 1;
        let number = self.batch;
        send(&mut self.sender, &Message::Batch { number }, &[]).await?;
        match receiver.next(ANSWERS_WITHIN).await? {
            Message::Counted { number: counted, refused } if counted == number => {
                for one in refused {
                    info!(id = one.id, why = one.why, "a session stays: the new process cannot go on with it");
                    // It goes on here.
                    drop(still.remove(&one.id));
                    self.stay.insert(one.id, None);
                }
            }
            other => return Err(Off::Unexpected(other.name())),
        }
        send(&mut self.sender, &Message::Go { number }, &[]).await?;
        let count = still.len();
        for (id, (gone, keep)) in still {
            self.told.remove(&id);
            self.kept.extend(keep.map(|keep| keep.places(&self.shared)));
            let _ = gone.send(Gone);
        }
        Ok(count)
    }

    /// Has sessions stop, and tells the new process of them.
    async fn stop(&mut self, slice: &[Arc<SessionHandle>], still: &mut Still) -> Result<(), Off> {
        let mut awaited: HashSet<_> = slice.iter().map(|handle| handle.facts().id).collect();
        slice.iter().for_each(|handle| handle.request_stop());
        let (mut states, mut connections) = (Vec::with_capacity(slice.len()), Vec::with_capacity(slice.len() * 2));
        while !awaited.is_empty() && states.len() < SLICE {
            // What comes later is of a session that was asked before.
            let (state, of_one, verdict) = match timeout(STOPS_WITHIN, self.stopped.recv()).await {
                Ok(Some(Stopped::Session(StoppedSession { state, connections, verdict }))) => {
                    (state, connections, verdict)
                }
                // It goes on waiting, and is asked again.
                Ok(Some(Stopped::Client(_))) => continue,
                Ok(None) | Err(_) => break,
            };
            awaited.remove(&state.id);
            match of_one {
                Ok(both) => {
                    let keep = self.shared.fleet.as_ref().and_then(|_| Keep::of(&self.shared, &state));
                    still.insert(state.id, (verdict, keep));
                    states.push(*state);
                    connections.extend(both);
                }
                Err(Stays::Never) => _ = self.stay.insert(state.id, Some(state)),
                // It goes on, since nobody keeps the verdict, and is asked again.
                Err(Stays::NotNow) => {}
            }
        }
        if states.is_empty() {
            return Ok(());
        }
        let descriptors: Vec<_> = connections.iter().map(AsFd::as_fd).collect();
        Ok(send(&mut self.sender, &Message::Sessions { sessions: states }, &descriptors).await?)
    }

    /// Tells the new process which sessions stay, so that it counts them.
    async fn tell_who_stays(&mut self) -> Result<(), Off> {
        let (mut states, handles) = (Vec::new(), self.shared.sessions.handles());
        for handle in &handles {
            let id = handle.facts().id;
            self.told.insert(id);
            let known = self.stay.get_mut(&id).and_then(Option::take);
            states.push(known.map_or_else(|| SessionState::of(handle), |state| *state));
        }
        states.extend(self.logins_as_sessions(&handles));
        for (id, state) in &*self.shared.takeover.elsewhere() {
            self.told.insert(*id);
            states.push(state.to_count());
        }
        for some in chunks(states) {
            send(&mut self.sender, &Message::Stay { sessions: some }, &[]).await?;
        }
        Ok(())
    }

    /// What logins that are still under way beside these sessions count for, as if each was a session: the new process
    /// must not give their places to others.
    fn logins_as_sessions(&mut self, sessions: &[Arc<SessionHandle>]) -> Vec<SessionState> {
        let shared = &self.shared;
        let listeners = shared.listeners.load();
        let Some(&(listener, _)) = listeners.first() else { return Vec::new() };
        let (mut by_account, mut by_server) = (HashMap::<_, u32>::new(), HashMap::<_, u32>::new());
        let (mut leafnodes, mut by_listener) = (HashMap::<_, u32>::new(), HashMap::<_, u32>::new());
        for handle in sessions {
            let listener = &handle.facts().listener;
            *by_account.entry(handle.account()).or_default() += 1;
            *leafnodes.entry(handle.account()).or_default() += u32::from(listener.kind == ListenerKind::Leafnode);
            *by_server.entry(handle.server_id()).or_default() += 1;
            *by_listener.entry(listener.address).or_default() += 1;
        }
        for state in shared.takeover.elsewhere().values() {
            let server = shared.servers.iter().find(|server| server.address() == state.server);
            let account = state.account.as_deref().map(Arc::from);
            *leafnodes.entry(account.clone()).or_default() += u32::from(state.is_leafnode == Some(true));
            *by_account.entry(account).or_default() += 1;
            *by_listener.entry(state.listener).or_default() += 1;
            if let Some(server) = server {
                *by_server.entry(server.id()).or_default() += 1;
            }
        }
        for kept in &self.kept {
            *by_account.entry(Some(kept.account())).or_default() += 1;
            *by_server.entry(kept.server_id()).or_default() += 1;
        }
        let accounts = shared.admission.accounts();
        let held_by_leafnodes: HashMap<_, _> =
            accounts.leafnodes().into_iter().map(|(account, held, _)| (account, held)).collect();
        let accounts = accounts.connections().into_iter().flat_map(|(account, held)| {
            let held_by_leafnodes = held_by_leafnodes.get(&account).copied().unwrap_or(0);
            let name = account.to_string();
            let account = Some(account);
            let of = |sessions: &HashMap<_, u32>| sessions.get(&account).copied().unwrap_or(0);
            let logins = held.saturating_sub(of(&by_account));
            let of_leafnodes = held_by_leafnodes.saturating_sub(of(&leafnodes));
            (0..logins).map(move |n| (name.clone(), n < of_leafnodes))
        });
        let servers = shared.servers.iter().flat_map(|server| {
            let logins = server.load().held().saturating_sub(by_server.get(&server.id()).copied().unwrap_or(0));
            iter::repeat_n(server.address().to_owned(), logins as usize)
        });
        let listeners = listeners.iter().flat_map(|(listener, limit)| {
            let logins = limit.in_use().saturating_sub(by_listener.get(listener).copied().unwrap_or(0));
            iter::repeat_n(*listener, logins as usize)
        });
        // Which login is at which server and listener does not matter for a count.
        let logins = accounts.zip(servers).zip(listeners.chain(iter::repeat(listener))).enumerate();
        let as_session = |(n, (((account, is_leafnode), server), listener))| {
            SessionState::counted(u64::MAX - n as u64, listener, is_leafnode, account, server)
        };
        let logins: Vec<_> = logins.map(as_session).collect();
        self.logins = logins.iter().map(|login| login.id).collect();
        logins
    }

    /// Gives the sessions whose logins were under way.
    pub(super) async fn late_sessions(&mut self, receiver: &mut Mailbox) -> Result<(), Off> {
        let until = Instant::now() + LATE_SESSIONS_WITHIN;
        loop {
            let is_over = self.logins() == 0;
            self.clients(receiver, Instant::now()).await?;
            self.sessions(receiver, Instant::now()).await?;
            if is_over || Instant::now() >= until {
                // Those that are left are drained: they are no sessions, or not for long.
                let sessions = mem::take(&mut self.logins);
                return Ok(send(&mut self.sender, &Message::Ended { sessions }, &[]).await?);
            }
        }
    }

    /// Nothing is given any more: whoever stops from now on, or has stopped too late, goes on here.
    pub(in crate::server::takeover) fn end(&mut self) {
        self.shared.takeover.end();
        self.stopped.close();
        while self.stopped.try_recv().is_ok() {}
    }

    /// Tells the new process of sessions that end here, until this process ends.
    pub(super) async fn tell_of_ends(&mut self) -> Result<(), Off> {
        loop {
            sleep(TELL_OF_ENDS).await;
            let shared = &self.shared;
            let ended: Vec<_> = {
                let elsewhere = shared.takeover.elsewhere();
                let is_over = |id: &u64| shared.sessions.get(*id).is_none() && !elsewhere.contains_key(id);
                self.told.extract_if(|id| is_over(id)).collect()
            };
            if !ended.is_empty() {
                send(&mut self.sender, &Message::Ended { sessions: ended }, &[]).await?;
            }
        }
    }
}

fn chunks(states: Vec<SessionState>) -> impl Iterator<Item = Vec<SessionState>> {
    let mut states = states.into_iter().peekable();
    std::iter::from_fn(move || states.peek().is_some().then(|| states.by_ref().take(SLICE).collect()))
}
