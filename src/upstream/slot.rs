//! A slot on a server: taken before the dial, given back exactly once, on drop.

use std::sync::Arc;

use crate::upstream::Server;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Reserved; the server may or may not count it.
    Dialling,
    /// The server has sent INFO, so it counts the connection.
    Opened,
    /// The server counts it, and has nothing to do until the client sends its CONNECT.
    Waiting,
    /// The client has its PONG.
    Session,
}

/// Where so many slots are free, one more or less does not matter: by the time the server is full it has long seen the ends of
/// connections that are ending now.
const AMPLE: u32 = 1024;

/// One unit of a server's capacity.
#[derive(Debug)]
pub struct Slot {
    server: Arc<Server>,
    stage: Stage,
    /// It is one of those kept free, and its client has not shown yet that it may have it.
    in_lane: bool,
}

impl Slot {
    pub fn new(server: Arc<Server>) -> Self {
        Self { server, stage: Stage::Dialling, in_lane: false }
    }

    pub fn in_lane(server: Arc<Server>) -> Self {
        Self { server, stage: Stage::Dialling, in_lane: true }
    }

    /// Whether it is one of those kept free for the system account.
    pub fn is_from_reserve(&self) -> bool {
        self.in_lane
    }

    /// Whether it may be given back before the server has seen the end of its connection.
    pub fn is_one_of_many(&self) -> bool {
        let load = self.server.load();
        load.ceiling().saturating_sub(load.projected()) >= AMPLE
    }

    fn leave_lane(&mut self) {
        if std::mem::take(&mut self.in_lane) {
            self.server.load().left_lane();
        }
    }

    /// Whose it is.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The server has sent its INFO.
    pub fn opened(&mut self) {
        self.stage = match self.stage {
            Stage::Dialling => Stage::Opened,
            _ => return,
        };
        self.server.load().opened();
    }

    /// The client's CONNECT is waited for: that is no load on the server, however long the client takes.
    pub fn await_connect(&mut self) {
        if self.stage == Stage::Opened {
            self.stage = Stage::Waiting;
            self.server.load().handshake_over();
        }
    }

    /// The client's CONNECT has come: the handshake goes on.
    pub fn resume_handshake(&mut self) {
        if self.stage == Stage::Waiting {
            self.stage = Stage::Opened;
            self.server.load().handshake_goes_on();
        }
    }

    /// The server has sent its PONG: the handshake is over and a session begins.
    pub fn session_began(&mut self) {
        self.leave_lane();
        self.opened();
        if self.stage == Stage::Opened {
            self.stage = Stage::Session;
            self.server.load().handshake_over();
            self.server.load().session_began();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.leave_lane();
        match self.stage {
            Stage::Session => self.server.load().session_ended(),
            Stage::Waiting => {}
            Stage::Dialling | Stage::Opened => self.server.load().handshake_over(),
        }
        self.server.load().release(self.stage != Stage::Dialling);
    }
}
