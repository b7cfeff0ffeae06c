//! Client to server: everything passes except a second CONNECT, which would move the session to another account
//! unnoticed (docs/contract.md, towards servers 5).

use crate::{
    outcome::Cause,
    protocol::op::{ClientFraming, ClientScan},
    relay::direction::{Outlet, Side},
};

/// Follows the protocol framing of what the client sends.
#[derive(Debug)]
pub struct ClientSide {
    framing: ClientFraming,
}

impl ClientSide {
    /// `max_control_line` is the servers' own, in bytes.
    pub fn new(max_control_line: usize) -> Self {
        Self { framing: ClientFraming::new(max_control_line) }
    }
}

impl Side for ClientSide {
    #[expect(clippy::indexing_slicing, reason = "`at` is the index of a byte of `chunk`")]
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
            // The offending byte goes to the server, whose own error text then goes to the client.
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
