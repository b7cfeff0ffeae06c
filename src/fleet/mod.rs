//! A fleet: the weirs of one `[fleet] name` in front of one cluster, and what each of them knows of the others.
//!
//! Each weir publishes a [`beat`]: what it holds, in counts under hashed [`key`]s. [`peers`] is what has come of the
//! others'. What all weirs want of one thing is divided by [`share`]. Nothing here has a socket or a clock: `now` goes
//! in.

pub mod beat;
pub mod key;
pub mod link;
pub mod member;
pub mod peers;
pub mod share;

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fleet::{key::Keys, link::LinkState, member::MemberId, peers::Peers};

/// What this weir is in its fleet.
#[derive(Debug)]
pub struct Fleet {
    name: Box<str>,
    id: MemberId,
    run: u64,
    keys: Keys,
    peers: Mutex<Peers>,
    link: LinkState,
}

impl Fleet {
    /// The fleet of this `name`, in which this weir is `id`. `rng` gives the process the number by which peers tell it
    /// from the one before it with the same id.
    pub fn new(name: &str, id: MemberId, rng: &mut fastrand::Rng) -> Self {
        let peers = Mutex::new(Peers::new(id.clone()));
        Self { name: name.into(), id, run: rng.u64(1..), keys: Keys::of_fleet(name), peers, link: LinkState::default() }
    }

    /// `[fleet] name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What this weir is called in its fleet.
    pub fn id(&self) -> &MemberId {
        &self.id
    }

    /// The number of this process; see [`beat::Beat::run`].
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Makes the keys of this fleet.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What the connection to the fleet is like.
    pub fn link(&self) -> &LinkState {
        &self.link
    }

    /// The other weirs. Whoever holds this asks for no other lock.
    pub fn peers(&self) -> MutexGuard<'_, Peers> {
        // What is known is valid between any two statements.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
