//! Between a hub and its leafnode: every INFO of the hub is rewritten, since its `leafnode_urls` would lead past weir
//! (docs/contract.md, towards clients 10). The rest passes, in both directions: loop detection (`$LDS`) and
//! the names of domains and accounts are a thing of the two servers.

mod speaker;

use std::{net::IpAddr, sync::Arc};

use memchr::memchr;

use crate::{
    advertised_info::ListenerInfo,
    outcome::Cause,
    protocol::{
        MAX_INFO_LINE, PING,
        op::{LeafnodeFraming, LeafnodeScan},
        websocket::closing::Closing,
    },
    relay::{
        direction::{Outlet, Side},
        leafnode::speaker::Speaker,
    },
    upstream::Server,
};

/// nats-server reads this and does nothing (parser.go, `OP_PLUS_OK`).
const NO_OPERATION: &[u8] = b"+OK\r\n";

/// Follows the protocol framing of what one of the two sends.
#[derive(Debug)]
pub struct LeafnodeSide {
    framing: LeafnodeFraming,
    /// The line that is being collected.
    line: Option<Box<Line>>,
    speaker: Speaker,
}

#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl LeafnodeSide {
    /// What the leafnode sends, behind its CONNECT.
    pub fn from_leafnode() -> Self {
        Self { framing: LeafnodeFraming::default(), line: None, speaker: Speaker::Leafnode }
    }

    /// What its hub sends, behind the INFO that answers CONNECT.
    pub fn from_hub(listener_info: Arc<ListenerInfo>, client_ip: IpAddr, server: Arc<Server>) -> Self {
        let speaker = Speaker::Hub { listener_info, client_ip, server, closing: None };
        Self { framing: LeafnodeFraming::default(), line: None, speaker }
    }

    fn at_boundary(&self) -> bool {
        self.framing.at_boundary() && self.line.is_none()
    }
}

impl Side for LeafnodeSide {
    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "`at` and `end` are indices of bytes of `chunk`"
    )]
    fn pass(&mut self, mut chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        while !chunk.is_empty() {
            if let Some(line) = &mut self.line {
                let end = memchr(b'\n', chunk).map_or(chunk.len(), |i| i + 1);
                line.0.extend_from_slice(&chunk[..end]);
                chunk = &chunk[end..];
                if line.0.len() > MAX_INFO_LINE {
                    return Err(Cause::Protocol);
                }
                if line.0.ends_with(b"\n")
                    && let Some(line) = self.line.take()
                {
                    self.speaker.pass_line(&line.0, out)?;
                }
                continue;
            }
            match self.framing.scan(chunk) {
                LeafnodeScan::Pass => {
                    out.put(chunk);
                    return Ok(());
                }
                LeafnodeScan::Line { at } => {
                    if at > 0 {
                        out.put(&chunk[..at]);
                    }
                    chunk = &chunk[at..];
                    match memchr(b'\n', chunk) {
                        Some(end) if end < MAX_INFO_LINE => {
                            self.speaker.pass_line(&chunk[..=end], out)?;
                            chunk = &chunk[end + 1..];
                        }
                        _ => self.line = Some(Box::default()),
                    }
                }
                // It would be another account's, unnoticed (docs/contract.md, towards servers 5).
                LeafnodeScan::Connect { at } => {
                    out.put(&chunk[..at]);
                    return Err(match self.speaker {
                        Speaker::Leafnode => Cause::SecondConnect,
                        Speaker::Hub { .. } => Cause::Protocol,
                    });
                }
                LeafnodeScan::Violation { at } => {
                    out.put(&chunk[..at]);
                    return Err(Cause::Protocol);
                }
            }
        }
        Ok(())
    }

    fn capture_errors(&mut self) {
        self.framing.capture_errors();
    }

    fn closing(&self) -> Option<&'static Closing> {
        self.speaker.closing()
    }

    /// Asked of the leafnode, whose answer its hub takes for one of its own PING.
    fn question(&self) -> Option<&'static [u8]> {
        (matches!(self.speaker, Speaker::Hub { .. }) && self.at_boundary()).then_some(PING)
    }

    fn no_operation(&self) -> Option<&'static [u8]> {
        (matches!(self.speaker, Speaker::Leafnode) && self.at_boundary()).then_some(NO_OPERATION)
    }

    fn messages(&self) -> u64 {
        self.framing.messages()
    }

    fn payload(&self) -> u64 {
        self.framing.payload()
    }

    /// The hub's PINGs, and the leafnode's PONGs.
    fn signs_of_life(&self) -> u32 {
        match self.speaker {
            Speaker::Leafnode => self.framing.pongs(),
            Speaker::Hub { .. } => self.framing.pings(),
        }
    }
}
