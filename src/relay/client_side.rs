//! Client to server: everything passes but a second CONNECT, which would move the session to another account behind our back.

use crate::{
    outcome::Cause,
    protocol::op::{ClientFraming, ClientScan},
    relay::direction::{Outlet, Side},
};

/// Follows the framing of what the client sends.
#[derive(Debug)]
pub struct ClientSide {
    framing: ClientFraming,
}

impl ClientSide {
    /// `max_control_line`: as the servers are configured, in bytes.
    pub fn new(max_control_line: usize) -> Self {
        Self { framing: ClientFraming::new(max_control_line) }
    }
}

impl Side for ClientSide {
    fn pass(&mut self, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        match self.framing.scan(chunk) {
            ClientScan::Pass => {
                out.put(chunk);
                Ok(())
            }
            ClientScan::Connect { at } => {
                out.put(&chunk[..at]);
                Err(Cause::SecondConnect)
            }
            // The server gets to see the offence and says its own words about it, which go to the client.
            ClientScan::Violation { at } => {
                out.put(&chunk[..=at]);
                Err(Cause::Protocol)
            }
        }
    }

    fn messages(&self) -> u64 {
        self.framing.messages()
    }
}
