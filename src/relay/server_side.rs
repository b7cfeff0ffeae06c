//! Server to client: every INFO is rewritten, since its `connect_urls` would lead the client past weir
//! (docs/contract.md, towards clients 10). The rest passes.

use std::{net::IpAddr, sync::Arc};

use memchr::memchr;

use crate::{
    advertised_info::ListenerInfo,
    dial,
    net::timer,
    outcome::Cause,
    protocol::{
        MAX_INFO_LINE,
        control_line::{ServerLine, server_line},
        op::{Capture, ServerFraming, ServerScan},
    },
    relay::direction::{Outlet, Side},
    upstream::{InfoKind, InfoWhen, Server},
};

/// A rewritten INFO is mostly shorter than the server's, and longer by no more than the listener's `advertise`.
const MORE_THAN_THE_SERVERS: usize = 256;

/// What a server's INFO becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoPolicy {
    Rewrite,
    /// The client's `protocol` is 0: it does not expect any INFO after the first.
    Drop,
}

/// Follows the protocol framing of what the server sends.
#[derive(Debug)]
pub struct ServerSide {
    framing: ServerFraming,
    /// The line that is being collected. On the heap, since a session rarely has one.
    line: Option<Box<Line>>,
    /// The INFO that goes behind the client's first PONG, until then.
    welcome: Option<Box<[u8]>>,
    policy: InfoPolicy,
    listener_info: Arc<ListenerInfo>,
    client_ip: IpAddr,
    server: Arc<Server>,
}

#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl ServerSide {
    /// `welcome` is the INFO to put behind the first PONG, where that PONG is still to come.
    pub fn new(
        welcome: Option<Vec<u8>>,
        policy: InfoPolicy,
        listener_info: Arc<ListenerInfo>,
        client_ip: IpAddr,
        server: Arc<Server>,
    ) -> Self {
        let capture = if welcome.is_some() { Capture::EveryControlLine } else { Capture::InfoOnly };
        let framing = ServerFraming::new(capture);
        Self { framing, line: None, welcome: welcome.map(Vec::into), policy, listener_info, client_ip, server }
    }

    fn take_line(&mut self, line: &[u8], out: &mut Outlet<'_, '_>) {
        match server_line(line) {
            ServerLine::Info(json) => {
                let kind = InfoKind { port: self.listener_info.servers_port(), when: InfoWhen::InSession };
                let Ok(info) = dial::parse_info(&self.server, json, kind) else { return };
                if info.ldm() {
                    self.server.said_lame_duck(timer::now(), info.server_id());
                }
                if self.policy == InfoPolicy::Drop {
                    return;
                }
                let mut rewritten = Vec::with_capacity(line.len().saturating_add(MORE_THAN_THE_SERVERS));
                self.listener_info.write_server_info(&info, self.client_ip, &mut rewritten);
                match &mut self.welcome {
                    // Before its PONG the client sees only what it asked for (docs/contract.md, towards clients 4).
                    Some(welcome) => *welcome = rewritten.into(),
                    None => out.put(&rewritten),
                }
            }
            ServerLine::Pong => {
                out.put(line);
                if let Some(welcome) = self.welcome.take() {
                    out.put(&welcome);
                    self.framing.set_capture(Capture::InfoOnly);
                }
            }
            _ => out.put(line),
        }
    }
}

impl Side for ServerSide {
    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "`at`, `end` and `i` are indices of bytes of `chunk`"
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
                    self.take_line(&line.0, out);
                }
                continue;
            }
            match self.framing.scan(chunk) {
                ServerScan::Pass => {
                    out.put(chunk);
                    return Ok(());
                }
                ServerScan::Line { at } => {
                    if at > 0 {
                        out.put(&chunk[..at]);
                    }
                    chunk = &chunk[at..];
                    match memchr(b'\n', chunk) {
                        Some(end) if end < MAX_INFO_LINE => {
                            self.take_line(&chunk[..=end], out);
                            chunk = &chunk[end + 1..];
                        }
                        _ => self.line = Some(Box::default()),
                    }
                }
                ServerScan::Violation { at } => {
                    out.put(&chunk[..at]);
                    return Err(Cause::Protocol);
                }
            }
        }
        Ok(())
    }

    fn messages(&self) -> u64 {
        self.framing.messages()
    }

    fn payload(&self) -> u64 {
        self.framing.payload()
    }

    fn signs_of_life(&self) -> u32 {
        self.framing.pings()
    }
}
