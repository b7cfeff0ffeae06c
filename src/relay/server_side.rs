//! Server to client: every INFO is rewritten, since its `connect_urls` would lead the client past weir
//! (docs/contract.md, towards clients 10). The rest passes.

use std::{net::IpAddr, sync::Arc};

use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::{
    advertised_info::ListenerInfo,
    dial,
    net::timer,
    outcome::Cause,
    protocol::{
        MAX_INFO_LINE, PING,
        control_line::{ServerLine, server_line},
        info::Info,
        op::{Capture, ServerFraming, ServerScan},
        websocket::closing::Closing,
    },
    relay::{
        direction::{Outlet, Side},
        state::{BadState, Base64, ServerState},
    },
    upstream::{InfoKind, InfoWhen, Server},
};

/// A rewritten INFO is mostly shorter than the server's, and longer by no more than the listener's `advertise`.
const MORE_THAN_THE_SERVERS: usize = 256;

/// What a server's INFO becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// The server's last INFO, where the listener may have something new to tell its clients: an INFO has all fields.
    last_info: Option<Arc<Info>>,
    /// Whether that goes behind the operation that is under way.
    is_news_due: bool,
    /// What goes behind the server's last error. Known where the client comes over WebSocket.
    closing: Option<&'static Closing>,
}

#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl ServerSide {
    /// `welcome` is the INFO to put behind the first PONG, where that PONG is still to come. `last_info` is the last
    /// one of the server.
    pub fn new(
        welcome: Option<Vec<u8>>,
        policy: InfoPolicy,
        listener_info: Arc<ListenerInfo>,
        client_ip: IpAddr,
        server: Arc<Server>,
        last_info: &Arc<Info>,
    ) -> Self {
        let framing = ServerFraming::new(captured(welcome.is_some()));
        let welcome = welcome.map(Vec::into);
        let mut side = Self {
            framing,
            line: None,
            welcome,
            policy,
            listener_info,
            client_ip,
            server,
            last_info: None,
            is_news_due: false,
            closing: None,
        };
        side.last_info = side.may_have_news().then(|| Arc::clone(last_info));
        side
    }

    pub(super) fn state(&self) -> ServerState {
        let last_info = self.last_info.as_ref().map(|info| {
            let mut received = Vec::new();
            info.write_received(&mut received);
            String::from_utf8_lossy(&received).into_owned()
        });
        ServerState {
            framing: self.framing.clone(),
            line: self.line.as_ref().map(|line| Base64(line.0.clone())),
            welcome: self.welcome.as_ref().map(|welcome| Base64(welcome.to_vec())),
            policy: self.policy,
            last_info,
            is_news_due: self.is_news_due,
        }
    }

    /// Goes on where another process has stopped. Its listener may have told no news where this one does: then the
    /// client hears none before its server has sent an INFO.
    ///
    /// # Errors
    /// No server can be there.
    pub(super) fn resumed(
        state: ServerState,
        listener_info: Arc<ListenerInfo>,
        client_ip: IpAddr,
        server: Arc<Server>,
    ) -> Result<Self, BadState> {
        let ServerState { framing, line, welcome, policy, last_info: json, is_news_due } = state;
        if !framing.is_sound() || framing.capture() != captured(welcome.is_some()) {
            return Err(BadState("the framing of what the server sends"));
        }
        let line = line.map(|Base64(line)| {
            let is_begun = !line.is_empty() && line.len() <= MAX_INFO_LINE && memchr(b'\n', &line).is_none();
            let is_sound = is_begun && framing.at_boundary();
            is_sound.then(|| Box::new(Line(line))).ok_or(BadState("a line of the server that is being collected"))
        });
        let line = line.transpose()?;
        let welcome = welcome.map(|Base64(welcome)| welcome.into());
        let (last_info, closing) = (None, None);
        let mut side =
            Self { framing, line, welcome, policy, listener_info, client_ip, server, last_info, is_news_due, closing };
        if let Some(json) = json.filter(|_| side.may_have_news()) {
            let info = side.info_of(&side.server, json.as_bytes()).ok_or(BadState("the last INFO of the server"))?;
            side.last_info = Some(Arc::new(info));
        }
        Ok(side)
    }

    /// Whether the listener may have something new to tell this client.
    fn may_have_news(&self) -> bool {
        self.policy == InfoPolicy::Rewrite && self.listener_info.tells_of_fleet()
    }

    pub(super) fn framing(&mut self) -> &mut ServerFraming {
        &mut self.framing
    }

    /// Whether an INFO is being collected.
    pub(super) fn collects_line(&self) -> bool {
        self.line.is_some()
    }

    /// Whether all that was passed ends with an operation.
    pub(super) fn at_boundary(&self) -> bool {
        self.framing.at_boundary() && self.line.is_none()
    }

    /// From now on another server speaks, whose last INFO this is. Returns what the client is told of it, if anything:
    /// nothing while its first PONG is still to come, behind which that goes.
    pub(super) fn moved_to(&mut self, server: Arc<Server>, info: &Arc<Info>) -> Option<Vec<u8>> {
        (self.server, self.is_news_due, self.closing) = (server, false, None);
        if let Some(last) = &mut self.last_info {
            *last = Arc::clone(info);
        }
        if self.policy == InfoPolicy::Drop {
            return None;
        }
        let mut line = Vec::with_capacity(2 * MORE_THAN_THE_SERVERS);
        self.listener_info.write_server_info(info, self.client_ip, &mut line);
        match &mut self.welcome {
            Some(welcome) => {
                *welcome = line.into();
                None
            }
            None => Some(line),
        }
    }

    /// Reads an INFO that a server sends in this session.
    pub(super) fn info_of(&self, server: &Server, json: &[u8]) -> Option<Info> {
        let kind = InfoKind { port: self.listener_info.servers_port(), when: InfoWhen::InSession };
        dial::parse_info(server, json, kind).ok()
    }

    /// The server's last INFO with what the listener says now.
    fn news(&self) -> Option<Vec<u8>> {
        let info = self.last_info.as_ref()?;
        let mut line = Vec::with_capacity(2 * MORE_THAN_THE_SERVERS);
        self.listener_info.write_server_info(info, self.client_ip, &mut line);
        Some(line)
    }

    fn take_line(&mut self, line: &[u8], out: &mut Outlet<'_, '_>) {
        match server_line(line) {
            ServerLine::Info(json) => {
                let Some(info) = self.info_of(&self.server, json) else { return };
                if info.ldm() {
                    self.server.told_to_go(timer::now(), info.server_id(), info.client_id());
                }
                if self.policy == InfoPolicy::Drop {
                    return;
                }
                let mut rewritten = Vec::with_capacity(line.len().saturating_add(MORE_THAN_THE_SERVERS));
                self.listener_info.write_server_info(&info, self.client_ip, &mut rewritten);
                if self.may_have_news() {
                    self.last_info = Some(Arc::new(info));
                    self.is_news_due = false;
                }
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
            ServerLine::Err(_) => {
                out.put(line);
                self.closing = Closing::after(line);
            }
            ServerLine::Ping | ServerLine::Ok | ServerLine::Other => out.put(line),
        }
    }
}

/// What is captured while a welcome is still to come, and afterwards.
fn captured(has_welcome: bool) -> Capture {
    if has_welcome { Capture::EveryControlLine } else { Capture::InfoOnly }
}

impl Side for ServerSide {
    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "`at`, `end` and `i` are indices of bytes of `chunk`"
    )]
    fn pass(&mut self, mut chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        while !chunk.is_empty() {
            if self.is_news_due {
                let Some(end) = self.framing.pass_boundary(chunk) else {
                    out.put(chunk);
                    return Ok(());
                };
                self.is_news_due = false;
                let (before, rest) = chunk.split_at(end);
                chunk = rest;
                out.put(before);
                // Else the next byte is one that no server sends, which the scan below finds.
                if self.framing.at_boundary()
                    && let Some(news) = self.announce()
                {
                    out.put(&news);
                }
                continue;
            }
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

    fn capture_errors(&mut self) {
        self.framing.capture_errors();
    }

    fn closing(&self) -> Option<&'static Closing> {
        self.closing
    }

    fn announce(&mut self) -> Option<Vec<u8>> {
        self.is_news_due = false;
        let news = self.news()?;
        match &mut self.welcome {
            // Before its PONG the client sees only what it asked for (docs/contract.md, towards clients 4).
            Some(welcome) => *welcome = news.into(),
            None if self.framing.at_boundary() => return Some(news),
            None => self.is_news_due = true,
        }
        None
    }

    /// Before its first PONG the client sees only what it asked for (docs/contract.md, towards clients 4).
    fn question(&self) -> Option<&'static [u8]> {
        (self.welcome.is_none() && self.at_boundary()).then_some(PING)
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

#[cfg(test)]
mod tests;
