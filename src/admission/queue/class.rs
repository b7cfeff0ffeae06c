//! One class of the queue: leafnodes before clients, since a leafnode is a whole site, and each of the two fair between
//! its lanes. Leafnodes wait before anybody knows who they are, so they do not get all turns: where clients wait too,
//! one turn in four is for these.

use std::{sync::Arc, time::Instant};

use crate::{
    admission::queue::{
        fair_lanes::FairLanes,
        waiting::{Ticket, Waiter, WaitingClient},
    },
    identity::CredentialKey,
};

/// So many leafnodes go before a client does, where both wait: three turns in four bring a site back soon, and what is
/// left keeps clients coming in whoever connects where leafnodes do.
const LEAFNODES_IN_A_ROW: usize = 3;

/// Those that wait with priority, or those that wait without.
#[derive(Debug)]
pub struct Class<W> {
    leafnodes: FairLanes<W>,
    clients: FairLanes<W>,
    /// How many leafnodes have gone since the last client.
    in_a_row: usize,
}

impl<W> Default for Class<W> {
    fn default() -> Self {
        Self { leafnodes: FairLanes::default(), clients: FairLanes::default(), in_a_row: 0 }
    }
}

impl<W: Waiter> Class<W> {
    pub fn len(&self) -> usize {
        self.leafnodes.len() + self.clients.len()
    }

    /// How many wait in lanes that are not passed over.
    pub fn not_passed_over(&self) -> usize {
        self.leafnodes.not_passed_over() + self.clients.not_passed_over()
    }

    pub fn lanes(&self) -> usize {
        self.leafnodes.lanes() + self.clients.lanes()
    }

    /// The lanes in which this one waits.
    pub fn fair_lanes(&mut self, is_leafnode: bool) -> &mut FairLanes<W> {
        if is_leafnode { &mut self.leafnodes } else { &mut self.clients }
    }

    fn is_clients_turn(&self) -> bool {
        self.in_a_row >= LEAFNODES_IN_A_ROW
    }

    /// The lane whose turn is next, and its first client.
    pub fn next_lane(&self) -> Option<(&Arc<str>, &WaitingClient<W>)> {
        let (leafnodes, clients) = (self.leafnodes.next_lane(), self.clients.next_lane());
        if self.is_clients_turn() { clients.or(leafnodes) } else { leafnodes.or(clients) }
    }

    /// This lane has had a turn through another weir.
    pub fn had_turn_elsewhere(&mut self, name: &str) {
        self.leafnodes.had_turn_elsewhere(name);
        self.clients.had_turn_elsewhere(name);
    }

    /// A server has named the account of a credential that nobody knew.
    pub fn account_is_named(&mut self, credential: CredentialKey) {
        self.leafnodes.account_is_named(credential);
        self.clients.account_is_named(credential);
    }

    /// One that waits, and about how many of this class go before it.
    pub fn find(&self, ticket: &Ticket) -> Option<(&WaitingClient<W>, usize)> {
        if ticket.is_leafnode {
            let (leafnode, ahead) = self.leafnodes.find(ticket)?;
            let clients = ahead.saturating_add(self.in_a_row.min(LEAFNODES_IN_A_ROW)) / LEAFNODES_IN_A_ROW;
            return Some((leafnode, ahead + clients.min(self.clients.not_passed_over())));
        }
        let (client, ahead) = self.clients.find(ticket)?;
        let leafnodes = ahead.saturating_add(1).saturating_mul(LEAFNODES_IN_A_ROW).saturating_sub(self.in_a_row);
        Some((client, ahead + leafnodes.min(self.leafnodes.not_passed_over())))
    }

    /// The next one to go, still in its place; see [`FairLanes::peek`].
    pub fn peek(&mut self, now: Instant, mut may_go: impl FnMut(&mut WaitingClient<W>) -> bool) -> Option<Ticket> {
        let leafnodes_first = !self.is_clients_turn();
        let first = self.fair_lanes(leafnodes_first).peek(now, &mut may_go);
        first.or_else(|| self.fair_lanes(!leafnodes_first).peek(now, may_go))
    }

    /// Takes the one that [`Class::peek`] named out of its lane.
    pub fn take(&mut self, next: &Ticket) -> Option<WaitingClient<W>> {
        self.in_a_row = if next.is_leafnode { self.in_a_row.saturating_add(1) } else { 0 };
        self.fair_lanes(next.is_leafnode).take(next)
    }
}
