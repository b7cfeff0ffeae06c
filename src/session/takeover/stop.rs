//! A session stops, says what it is, and waits for what becomes of it.

use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    relay::{
        ClientSide, Immovable, LeafnodeSide, Passthrough, Relay, RelayState, ServerSide, Side, TrackedClient,
        TrackedServer,
    },
    session::{
        established::Established,
        rehome::RehomeTerms,
        takeover::{Gone, Kind, SessionState, Stays, Stopped, StoppedSession},
    },
    telemetry::moment::Moment,
};

/// A relay that another process can go on with.
pub(in crate::session) trait Movable {
    const KIND: Kind;

    fn movable(&self) -> Result<(RelayState, [OwnedFd; 2]), Stays>;
}

macro_rules! movable {
    ($client:ty, $server:ty, $kind:expr) => {
        impl Movable for Relay<$client, $server> {
            const KIND: Kind = $kind;

            fn movable(&self) -> Result<(RelayState, [OwnedFd; 2]), Stays> {
                let state = self.state().map_err(Stays::from)?;
                let [client, server] = self.descriptors().ok_or(Stays::Never)?;
                // Without a descriptor left there may be one later.
                let copy = |one: BorrowedFd<'_>| one.try_clone_to_owned().map_err(|_| Stays::NotNow);
                Ok((state, [copy(client)?, copy(server)?]))
            }
        }
    };
}

movable!(ClientSide, ServerSide, Kind::Plain);
movable!(TrackedClient, TrackedServer, Kind::Rehomable);
movable!(Passthrough, Passthrough, Kind::Passthrough);
// Its relay cannot be moved, whatever the kind is.
movable!(LeafnodeSide, LeafnodeSide, Kind::Plain);

impl From<Immovable> for Stays {
    fn from(why: Immovable) -> Self {
        if why.is_for_good() { Self::Never } else { Self::NotNow }
    }
}

/// The session stops: says what it is, and waits. Returns whether another process has it now, so that nothing of it is
/// to be done any more; what it holds is given back as it is dropped.
pub(in crate::session) async fn stop<C: Side, S: Side>(
    session: &Established<C, S>,
    began: Instant,
    terms: Option<&RehomeTerms>,
) -> bool
where
    Relay<C, S>: Movable,
{
    let (verdict, told) = oneshot::channel();
    let (state, connections) = state(session, began, terms);
    let stopped = Stopped::Session(StoppedSession { state: Box::new(state), connections, verdict });
    // Where no takeover is under way any more, nobody keeps the verdict, and the session goes on.
    session.shared.takeover.stop(stopped) && matches!(told.await, Ok(Gone))
}

fn state<C: Side, S: Side>(
    session: &Established<C, S>,
    began: Instant,
    terms: Option<&RehomeTerms>,
) -> (SessionState, Result<[OwnedFd; 2], Stays>)
where
    Relay<C, S>: Movable,
{
    let handle = session.registered.handle();
    let mut state = SessionState::of(handle);
    state.kind = Relay::<C, S>::KIND;
    state.began = Moment::from(began.into_std()).raw();
    state.account = session.account.account().filter(|account| !account.is_nobody()).map(|one| one.name().to_string());
    state.user_key = session.account.user_key().map(|key| key.raw());
    session.server.server().address().clone_into(&mut state.server);
    let mut relay = || {
        state.rehome = terms.map(|terms| terms.state().ok_or(Stays::Never)).transpose()?;
        let (relay, connections) = session.relay.movable()?;
        state.relay = Some(relay);
        // Who is to end ends here.
        if handle.end_requested().is_some() { Err(Stays::NotNow) } else { Ok(connections) }
    };
    let connections = relay();
    (state, connections)
}
