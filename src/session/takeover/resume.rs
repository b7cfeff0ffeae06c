//! A session of another process goes on in this one.

use std::{io, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use tokio::time::Instant;

use crate::{
    admission::{AcceptPermit, AccountSlot, QuotaIdentity},
    identity::{ClientKey, CredentialKey, UNKNOWN_ACCOUNT},
    net::{socket, timer::now},
    relay::{
        BadState, ClientSide, Passthrough, Relay, RelayState, ResumedIn, ServerSide, Side, TrackedClient,
        TrackedServer,
        registry::{AtServer, Registration, Said, SessionFacts},
    },
    session::{
        account::AccountPlace,
        established::Established,
        listener::Listener,
        rehome::{Rehomable, RehomeTerms},
        shared::Shared,
        takeover::{Kind, SessionState},
    },
    telemetry::moment::Moment,
    upstream::{Server, ServerId, Slot},
};

/// Why a session of another process cannot go on in this one.
#[derive(Debug, thiserror::Error)]
pub enum CannotResume {
    #[error("the configuration has no listener at {0}")]
    Listener(SocketAddr),
    #[error("the configuration has no server {0}")]
    Server(String),
    #[error("it says nothing of its relay")]
    NoRelay,
    #[error("it says nothing of how its client logs in")]
    NoTerms,
    #[error("{0}")]
    State(#[from] BadState),
    #[error("its connections: {0}")]
    Os(#[from] io::Error),
}

/// What a session of another process holds in this one, whether it goes on here or there.
#[derive(Debug)]
pub struct Places {
    server: Slot,
    account: AccountPlace,
    entry: AcceptPermit,
}

/// A session of another process that is counted here.
#[derive(Debug)]
pub struct Adopted {
    state: SessionState,
    places: Places,
    listener: Arc<Listener>,
}

/// A session that can go on here.
pub struct Resumed {
    session: Session,
    began: Instant,
}

enum Session {
    Plain(Box<Established>),
    Rehomable(Box<Rehomable>),
    Passthrough(Box<Established<Passthrough, Passthrough>>),
}

fn server(shared: &Shared, address: &str) -> Option<Arc<Server>> {
    shared.servers.iter().find(|server| server.address() == address)
}

/// Counts a session of another process, whatever the limits are: it has been there before. `listener` is the one at the
/// address where its client has come.
///
/// # Errors
/// The configuration lacks what the session needs.
pub fn adopt(
    shared: &Shared,
    listener: impl FnOnce(SocketAddr) -> Option<Arc<Listener>>,
    mut state: SessionState,
) -> Result<Adopted, CannotResume> {
    let listener = listener(state.listener).ok_or(CannotResume::Listener(state.listener))?;
    let server = server(shared, &state.server).ok_or_else(|| CannotResume::Server(state.server.clone()))?;
    // A listener for WebSocket has both.
    let is_leafnode = *state.is_leafnode.get_or_insert(listener.is_for_leafnodes);
    let KeptPlaces { server, account } = Keep::at(server, &state).places(shared);
    let account = AccountPlace::known(account);
    let entry = shared.admission.adopt_accepted(&listener.max_clients, (state.peer.ip(), is_leafnode), now());
    Ok(Adopted { state, places: Places { server, account, entry }, listener })
}

/// What a session counts for, but for its listener and its source.
#[derive(Debug)]
pub struct Keep {
    server: Arc<Server>,
    /// `None`: nobody knows it.
    account: Option<Arc<str>>,
    quota_identity: QuotaIdentity,
    is_leafnode: bool,
}

/// It is counted.
#[derive(Debug)]
pub struct KeptPlaces {
    server: Slot,
    account: AccountSlot,
}

impl Keep {
    /// What this session counts for; `None`: the configuration has its server no more.
    pub fn of(shared: &Shared, state: &SessionState) -> Option<Self> {
        Some(Self::at(server(shared, &state.server)?, state))
    }

    fn at(server: Arc<Server>, state: &SessionState) -> Self {
        let user = state.user.as_deref().zip(state.user_key);
        let quota_identity = QuotaIdentity {
            user: user.map(|(user, key)| (user.into(), CredentialKey::from_raw(key))),
            name: state.name.as_deref().map(Arc::from),
        };
        let account = match (&state.account, state.kind) {
            (Some(name), _) => Some(Arc::from(name.as_str())),
            (None, Kind::Passthrough) => None,
            (None, _) => Some(Arc::from(UNKNOWN_ACCOUNT)),
        };
        Self { server, account, quota_identity, is_leafnode: state.is_leafnode.unwrap_or_default() }
    }

    /// Counts it, whatever the limits are.
    pub fn places(self, shared: &Shared) -> KeptPlaces {
        let account = match &self.account {
            Some(name) => shared.admission.adopt_session(name, &self.quota_identity, self.is_leafnode, now()),
            None => AccountSlot::of_nobody(Arc::from("")),
        };
        let server = Slot::of_session(&self.server);
        let server = if self.is_leafnode { server.of_leafnode() } else { server };
        KeptPlaces { server, account }
    }
}

impl KeptPlaces {
    /// The name of its account.
    pub fn account(&self) -> Arc<str> {
        Arc::clone(self.account.account().name())
    }

    pub fn server_id(&self) -> ServerId {
        self.server.server().id()
    }
}

impl Adopted {
    /// What the session holds here, as long as it goes on there.
    pub fn into_places(self) -> (u64, Places) {
        (self.state.id, self.places)
    }

    pub fn id(&self) -> u64 {
        self.state.id
    }

    /// The same session, to be counted only.
    pub fn to_count(&self) -> SessionState {
        self.state.to_count()
    }
}

/// Makes the session on the worker of the caller, with its connections to the client and to the server. It does nothing
/// until [`Resumed::relay`].
///
/// # Errors
/// [`CannotResume`]; what it holds is given back.
pub fn resume(shared: &Arc<Shared>, adopted: Adopted, descriptors: [OwnedFd; 2]) -> Result<Resumed, CannotResume> {
    let Adopted { mut state, places, listener } = adopted;
    let [client, to_server] = descriptors;
    let (down, up) = (socket::adopted(client)?.into(), socket::adopted(to_server)?.into());
    let began = Instant::from_std(Moment::from_raw(state.began).into());
    let relay = state.relay.take().ok_or(CannotResume::NoRelay)?;
    let process = ResumedIn {
        keys: Arc::clone(&shared.keys),
        listener_info: Arc::clone(&listener.info),
        client_ip: state.peer.ip(),
        server: Arc::clone(places.server.server()),
        counters: Arc::clone(&shared.counters),
    };
    let streams = (down, up);
    let session = match relay {
        RelayState::Plain(relay) => {
            let relay = Relay::<ClientSide, ServerSide>::resume(streams, *relay, process)?;
            Session::Plain(Box::new(established(shared, relay, places, &state, &listener)))
        }
        RelayState::Tracked(relay) => {
            let terms = state.rehome.take().ok_or(CannotResume::NoTerms)?;
            let account = places.account.account();
            let limits = account.and_then(|account| account.rehome());
            let most_bytes = limits.map(|limits| limits.memory.get() as usize);
            let relay = Relay::<TrackedClient, TrackedServer>::resume(streams, *relay, process, most_bytes)?;
            let session = Box::new(established(shared, relay, places, &state, &listener));
            Session::Rehomable(Box::new(Rehomable::new(session, RehomeTerms::resume(terms))))
        }
        RelayState::Passthrough(relay) => {
            let relay = Relay::<Passthrough, Passthrough>::resume(streams, *relay, process.counters)?;
            Session::Passthrough(Box::new(established(shared, relay, places, &state, &listener)))
        }
    };
    Ok(Resumed { session, began })
}

fn established<C: Side, S: Side>(
    shared: &Arc<Shared>,
    relay: Relay<C, S>,
    places: Places,
    state: &SessionState,
    listener: &Listener,
) -> Established<C, S> {
    let Places { server, account, entry } = places;
    let registered = register(shared, state, listener, server.server());
    Established::adopted(relay, (server, account, entry), registered, shared)
}

fn register(shared: &Arc<Shared>, state: &SessionState, listener: &Listener, server: &Arc<Server>) -> Registration {
    let SessionState { user, name, lang, version, .. } = state;
    let facts = SessionFacts {
        id: state.id,
        accepted: Moment::from_raw(state.accepted),
        peer: state.peer.into(),
        listener: Arc::clone(&listener.name),
        said: Said::new(user.as_deref(), name.as_deref(), lang.as_deref(), version.as_deref()),
        by_token: state.by_token,
        tls: None,
        compression: None,
        client: state.client.map(ClientKey::from_raw),
    };
    let at = AtServer { server: Some(Arc::clone(server)), client_id: state.server_client_id };
    let registered = shared.sessions.register(facts, state.account.as_deref().map(Arc::from), at);
    let handle = registered.handle();
    handle.set_moves(state.moves);
    handle.traffic().resume(state.traffic);
    registered
}

impl Resumed {
    /// The session goes on here, until its end.
    pub async fn relay(self) {
        match self.session {
            Session::Plain(session) => session.relay(self.began).await,
            Session::Rehomable(session) => session.relay(self.began).await,
            Session::Passthrough(session) => session.relay(self.began).await,
        }
    }
}
