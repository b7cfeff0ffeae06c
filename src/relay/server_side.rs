//! Server to client: every INFO is rewritten, since `connect_urls` would lead the client past weir; the rest passes.

use std::{net::IpAddr, sync::Arc};

use memchr::memchr;

use super::pump::{Outlet, Side};
use crate::{
    close::Cause,
    greeting::Face,
    protocol::{
        MAX_INFO_LINE,
        control_line::{ServerLine, server_line},
        info::Info,
        op::{Capture, ServerFraming, ServerScan},
    },
    upstream::Server,
};

/// What becomes of a server's INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoPolicy {
    /// Rewritten and passed on.
    Rewrite,
    /// Dropped: the client's `protocol` is 0, it does not expect any INFO after the first.
    Drop,
}

/// Follows the framing of what the server sends.
#[derive(Debug)]
pub struct ServerSide {
    framing: ServerFraming,
    /// The line being collected. Empty but while one is.
    line: Vec<u8>,
    collecting: bool,
    /// The INFO that follows the client's first PONG, while that has not passed.
    welcome: Option<Vec<u8>>,
    policy: InfoPolicy,
    face: Arc<Face>,
    client_ip: IpAddr,
    server: Arc<Server>,
}

impl ServerSide {
    /// `welcome` is the INFO to put behind the first PONG, where that is still to come.
    pub fn new(
        welcome: Option<Vec<u8>>,
        policy: InfoPolicy,
        face: Arc<Face>,
        client_ip: IpAddr,
        server: Arc<Server>,
    ) -> Self {
        let capture = if welcome.is_some() { Capture::EveryControlLine } else { Capture::InfoOnly };
        let framing = ServerFraming::new(capture);
        Self { framing, line: Vec::new(), collecting: false, welcome, policy, face, client_ip, server }
    }

    fn take_line(&mut self, out: &mut Outlet<'_, '_>) {
        let line = std::mem::take(&mut self.line);
        match server_line(&line) {
            ServerLine::Info(json) => {
                let Ok(info) = Info::parse(json) else { return };
                if info.ldm() {
                    self.server.said_lame_duck();
                }
                if self.policy == InfoPolicy::Drop {
                    return;
                }
                let mut rewritten = Vec::new();
                self.face.rewrite(&info, self.client_ip, &mut rewritten);
                match &mut self.welcome {
                    // Between CONNECT and PONG the client sees nothing but what it asked for.
                    Some(welcome) => *welcome = rewritten,
                    None => out.put(&rewritten),
                }
            }
            ServerLine::Pong => {
                out.put(&line);
                if let Some(welcome) = self.welcome.take() {
                    out.put(&welcome);
                    self.framing.set_capture(Capture::InfoOnly);
                }
            }
            _ => out.put(&line),
        }
    }
}

impl Side for ServerSide {
    fn pass(&mut self, mut chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        while !chunk.is_empty() {
            if self.collecting {
                let end = memchr(b'\n', chunk).map_or(chunk.len(), |i| i + 1);
                self.line.extend_from_slice(&chunk[..end]);
                self.collecting = self.line.last() != Some(&b'\n');
                chunk = &chunk[end..];
                if self.line.len() > MAX_INFO_LINE {
                    return Err(Cause::Protocol);
                }
                if !self.collecting {
                    self.take_line(out);
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
                    self.collecting = true;
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
}
