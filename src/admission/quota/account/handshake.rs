//! The handshake of a slot: between the verdict and the server's word it counts in its account, and on its server.

use super::{AccountSlot, FIRST_LIMIT, LIMIT_OF_UNKNOWN, Relaxed, ServerId, SlotState, SourceKey};

impl AccountSlot {
    /// Begins the handshake, if its account may have one more.
    pub fn begin_handshake(&mut self) -> bool {
        let begun = self.state != SlotState::Waiting || self.account.begin_handshake();
        if begun {
            self.handshake_begun();
        }
        begun
    }

    /// Begins the handshake, whatever its account may have.
    pub fn begin_handshake_over(&mut self) {
        if self.state == SlotState::Waiting {
            self.account.begin_handshake_over();
            self.handshake_begun();
        }
    }

    /// `Account::begin_handshake` was called for it.
    pub fn handshake_begun(&mut self) {
        if self.state == SlotState::Waiting {
            self.state = SlotState::Handshake;
        }
    }

    /// The handshake that has begun is one on this server.
    pub fn logs_in_at(&mut self, server: ServerId) {
        if !self.state.is_handshake() || self.account.is_nobody {
            return;
        }
        self.leave_server();
        self.account.logins().began(server, self.counted_source());
        self.state = SlotState::LogsIn { at: server };
    }

    fn counted_source(&self) -> Option<SourceKey> {
        self.account.counts_sources().then_some(self.source)
    }

    /// The login takes longer than others on its server do.
    pub fn login_is_overdue(&mut self) {
        if let SlotState::LogsIn { at } = self.state {
            self.state = SlotState::Overdue { at };
            let first = if self.account.is_known() { FIRST_LIMIT } else { LIMIT_OF_UNKNOWN };
            self.account.logins().became_overdue(at, first);
            self.account.had_overdue.store(true, Relaxed);
        }
    }

    fn leave_server(&mut self) {
        if let SlotState::LogsIn { at } | SlotState::Overdue { at } = self.state {
            let was_overdue = matches!(self.state, SlotState::Overdue { .. });
            self.account.logins().ended(at, self.counted_source(), was_overdue);
            self.state = SlotState::Handshake;
        }
    }

    /// The handshake is over, or there is none after all.
    pub fn end_handshake(&mut self) {
        if self.state.is_handshake() {
            self.leave_server();
            self.state = SlotState::Waiting;
            self.account.end_handshake();
        }
    }
}
