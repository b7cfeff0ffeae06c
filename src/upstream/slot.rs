//! A slot of a server: taken before the dial, given back exactly once, when it is dropped (docs/contract.md, towards
//! servers 1).

use std::{sync::Arc, time::Instant};

use crate::{fleet::lease::allowance::LeasePlace, upstream::server::Server};

/// How far the connection of a slot has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Kept for a client that is being moved and has not come back yet: no handshake is under way.
    Promised,
    /// Reserved; the server may or may not count the connection.
    Dialling,
    /// The server has sent INFO, so it counts the connection. The handshake is under way.
    Opened,
    /// The server counts the connection, and has nothing to do until the client sends its CONNECT.
    AwaitingConnect,
    /// The server counts the connection, and has had the client's CONNECT for so long that it most likely waits for
    /// somebody else.
    Overdue,
    /// The client has its PONG.
    Session,
}

/// With this many free slots on a server, one connection more or less does not matter: by the time the server is full,
/// it has long noticed the ends of the connections that are ending now.
const MANY_FREE: u32 = 1024;

/// One unit of a server's capacity.
#[derive(Debug)]
pub struct Slot {
    server: Arc<Server>,
    state: State,
    /// It was taken from the reserve.
    from_reserve: bool,
    /// It counts among those of the reserve whose client has not logged in yet.
    counts_for_reserve: bool,
    /// It is for a leafnode.
    is_leafnode: bool,
    /// The logins under way on the server when it was taken, this one included.
    under_way: u32,
    /// What it has of this weir's lease, where weir is in a fleet. It goes after the slot has been given back.
    place: Option<LeasePlace>,
}

impl Slot {
    /// Takes a slot if one is free, this weir's lease has one, and the handshake limit allows one more handshake.
    pub fn reserve(server: &Arc<Server>, now: Instant) -> Option<Self> {
        let place = server.take_place(now).ok()?;
        let slot = || Self {
            server: Arc::clone(server),
            state: State::Dialling,
            from_reserve: false,
            counts_for_reserve: false,
            is_leafnode: false,
            under_way: server.load().under_way(),
            place,
        };
        server.begin_handshake(now).then(slot)
    }

    /// Takes a slot for a client that is about to be moved to the server, if one is free and this weir's lease has one.
    /// No handshake counts until the client is there ([`Slot::redeem`]). `None` where the operator drains the server.
    pub fn promise(server: &Arc<Server>, now: Instant) -> Option<Self> {
        if server.is_draining() {
            return None;
        }
        let place = server.take_place(now).ok()?;
        server.load().promise().then(|| Self {
            server: Arc::clone(server),
            state: State::Promised,
            from_reserve: false,
            counts_for_reserve: false,
            is_leafnode: false,
            under_way: 0,
            place,
        })
    }

    /// The client that the slot was promised to is there: its handshake begins. `None`, with the slot given back, where
    /// the server takes no clients any more.
    pub fn redeem(mut self, now: Instant) -> Option<Self> {
        if self.state == State::Promised {
            if self.server.is_lame_duck(now) || !self.server.promised_handshake_begins(now) {
                return None;
            }
            self.state = State::Dialling;
            self.under_way = self.server.load().under_way();
        }
        Some(self)
    }

    /// Takes a slot, however many are taken and however many handshakes are under way. `None` where the operator drains
    /// the server.
    pub fn over(server: &Arc<Server>, now: Instant) -> Option<Self> {
        let (under_way, place) = (server.load().under_way(), server.take_place_over());
        let slot = || Self {
            server: Arc::clone(server),
            state: State::Dialling,
            from_reserve: false,
            counts_for_reserve: false,
            is_leafnode: false,
            under_way,
            place,
        };
        server.begin_handshake_over(now).then(slot)
    }

    /// The slot of a session that weir takes over from another process, however many are taken.
    pub fn of_session(server: &Arc<Server>) -> Self {
        let place = server.take_place_over();
        server.load().adopt_session();
        let place = place.map(|mut place| {
            place.opened();
            place
        });
        let (server, state) = (Arc::clone(server), State::Session);
        Self { server, state, from_reserve: false, counts_for_reserve: false, is_leafnode: false, under_way: 0, place }
    }

    /// It is of a leafnode's session, for [`Slot::of_session`].
    pub fn of_leafnode(mut self) -> Self {
        if self.state == State::Session && !std::mem::replace(&mut self.is_leafnode, true) {
            self.server.leafnode().begun();
            self.server.leafnode().session_began();
        }
        self
    }

    /// Takes a slot of the reserve, for a client of the system account.
    pub fn from_reserve(server: &Arc<Server>) -> Option<Self> {
        let place = server.take_place_over();
        let slot = || Self {
            server: Arc::clone(server),
            state: State::Dialling,
            from_reserve: true,
            counts_for_reserve: true,
            is_leafnode: false,
            under_way: server.load().under_way(),
            place,
        };
        server.load().take_from_reserve().then(slot)
    }

    /// Whether it was taken from the reserve.
    pub fn is_from_reserve(&self) -> bool {
        self.from_reserve
    }

    /// A client that the reserve is not for may keep the slot, if the server has room without it by now.
    pub fn may_be_kept(&self) -> bool {
        let load = self.server.load();
        !self.from_reserve || load.projected() <= load.ceiling()
    }

    /// Whether the server has so many free slots that this one may be given back before the server has noticed the end
    /// of its connection.
    pub fn is_one_of_many(&self) -> bool {
        let load = self.server.load();
        load.ceiling().saturating_sub(load.projected()) >= MANY_FREE
    }

    fn leave_reserve(&mut self) {
        if std::mem::take(&mut self.counts_for_reserve) {
            self.server.load().left_reserve();
        }
    }

    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The server has sent its INFO.
    pub fn opened(&mut self) {
        self.state = match self.state {
            State::Dialling => State::Opened,
            _ => return,
        };
        // A leafnode counts once the server has let it in.
        if !self.is_leafnode {
            self.count();
        }
    }

    /// It is for a leafnode. To be called before the dial.
    pub fn for_leafnode(&mut self) {
        if self.state == State::Dialling && !std::mem::replace(&mut self.is_leafnode, true) {
            self.server.leafnode().begun();
        }
    }

    fn count(&mut self) {
        self.server.load().opened();
        if let Some(place) = &mut self.place {
            place.opened();
        }
    }

    /// Whether the server counts the connection for certain.
    fn is_counted(&self) -> bool {
        match self.state {
            State::Promised | State::Dialling => false,
            State::Opened | State::AwaitingConnect | State::Overdue => !self.is_leafnode,
            State::Session => true,
        }
    }

    /// Whether weir shares the server's slots with others by leases, so that [`Slot::may_go_on`] has to be asked.
    pub fn is_leased(&self) -> bool {
        self.place.as_ref().is_some_and(|place| !place.is_over())
    }

    /// Asked once the server is connected, before it is told whose connection it is: whether this weir's lease still
    /// has the slot. Where leases are not in force any more the counts decide.
    pub fn may_go_on(&self, now: Instant) -> bool {
        let Some(place) = self.place.as_ref().filter(|place| !place.is_over()) else { return true };
        if place.allowance().is_in_force(now) {
            place.may_go_on(now)
        } else {
            self.server.load().projected() <= self.server.load().ceiling()
        }
    }

    /// weir waits for the client's CONNECT. That is no load on the server, however long the client takes, so it is not
    /// counted as a handshake under way.
    pub fn await_connect(&mut self) {
        if self.state == State::Opened {
            self.state = State::AwaitingConnect;
            self.server.load().handshake_over();
        }
    }

    /// The client's CONNECT has come: the handshake goes on.
    pub fn resume_handshake(&mut self) {
        if self.state == State::AwaitingConnect {
            self.state = State::Opened;
            self.server.load().handshake_resumed();
        }
    }

    /// The handshake takes longer than others do: it is no longer one of those that the server's limit is about.
    pub fn overdue(&mut self) {
        if self.state == State::Opened {
            self.state = State::Overdue;
            self.server.load().handshake_overdue();
        }
    }

    pub fn is_overdue(&self) -> bool {
        self.state == State::Overdue
    }

    /// The most logins that were under way on the server since it was taken, as far as is known, this one included.
    pub fn most_under_way(&self) -> u32 {
        self.under_way.max(self.server.load().under_way())
    }

    /// The server has sent its PONG: the handshake is over and a session begins.
    pub fn session_began(&mut self) {
        self.leave_reserve();
        self.opened();
        match self.state {
            State::Opened => self.server.load().handshake_over(),
            State::Overdue => self.server.load().overdue_ended(),
            State::Promised | State::Dialling | State::AwaitingConnect | State::Session => return,
        }
        if self.is_leafnode {
            self.count();
            self.server.leafnode().session_began();
        }
        self.state = State::Session;
        self.server.load().session_began();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.leave_reserve();
        match self.state {
            State::Session => self.server.load().session_ended(),
            State::AwaitingConnect | State::Promised => {}
            State::Overdue => self.server.load().overdue_ended(),
            State::Dialling | State::Opened => self.server.load().handshake_over(),
        }
        if self.is_leafnode {
            self.server.leafnode().ended();
            if self.state == State::Session {
                self.server.leafnode().session_ended();
            }
        }
        self.server.load().release(self.is_counted());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Params, ServerParams, Servers};

    #[test]
    fn a_leafnode_counts_once_its_server_has_let_it_in() {
        let params = ServerParams {
            leafnode: Some("n1:7422".into()),
            max_connections: Some(10),
            ..ServerParams::bare("n1:4222")
        };
        let servers = Servers::new(&Params::bare(vec![params]));
        let (server, now) = (servers.iter().next().expect("one"), Instant::now());
        let reading = |counted| {
            let epoch = server.load().begin_reading(now);
            server.load().reconcile(epoch, now, counted);
            (server.load().projected(), server.leafnode().leafnodes())
        };
        let sessions = || server.leafnode().sessions();
        assert_eq!(reading(4), (4, 0));
        let mut slot = Slot::reserve(&server, now).expect("a slot");
        slot.for_leafnode();
        slot.for_leafnode();
        slot.opened();
        // The server has sent INFO, and does not count it yet: the four are those of before.
        assert_eq!(reading(4), (5, 1));
        assert_eq!(sessions(), 0);
        slot.session_began();
        assert_eq!((reading(5), sessions()), ((5, 1), 1));
        let taken_over = Slot::of_session(&server).of_leafnode();
        assert_eq!((server.leafnode().leafnodes(), sessions()), (2, 2));
        drop((slot, taken_over));
        assert_eq!(sessions(), 0);
        assert_eq!((reading(4), server.load().held(), server.load().handshakes()), ((4, 0), 0, 0));
    }
}
