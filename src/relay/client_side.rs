//! Client to server: everything passes except a CONNECT, which could move the session to another account unnoticed
//! (docs/contract.md, towards servers 5).
//!
//! Clients exist that send CONNECT again on a live connection: before every PUB, or for each INFO. One that says the
//! same about who it is costs them nothing. It does not reach the server, which since 2.15 drops all subscriptions of a
//! client that sends one.

use std::sync::Arc;

use memchr::memchr;

use crate::{
    identity::{Keys, SentIdentity},
    outcome::Cause,
    protocol::{
        MAX_CONTROL_LINE,
        connect::{ConnectAgain, ServiceOptions},
        control_line::{ClientLine, LineScanner, client_line, not_connect_at},
        op::{ClientFraming, ClientScan, NO_LETTER},
    },
    relay::{
        direction::{Outlet, Side},
        state::{BadState, Base64, ClientState},
    },
};

/// Stands for the CONNECT of a verbose client: the server answers it with `+OK` where it would have answered CONNECT,
/// and does nothing else, since nobody has a subscription of this name.
const OK_PLEASE: &[u8] = b"UNSUB weir-connect-again\r\n";

/// nats-server reads this from a client and does nothing (parser.go, `OP_PLUS_OK`). Unlike a PONG, it is no sign of
/// life.
const NO_OPERATION: &[u8] = b"+OK\r\n";

/// Follows the protocol framing of what the client sends.
#[derive(Debug)]
pub struct ClientSide {
    framing: ClientFraming,
    /// The CONNECT that is being collected. On the heap, since a session rarely has one.
    line: Option<Box<Line>>,
    keys: Arc<Keys>,
    client: SentIdentity,
    options: ServiceOptions,
}

#[derive(Debug)]
struct Line {
    bytes: Vec<u8>,
    scanner: LineScanner,
}

impl ClientSide {
    /// For the `client` of a CONNECT with these `options`. `max_control_line` is the servers' own, in bytes;
    /// `usize::MAX` while it is unknown.
    pub fn new(keys: Arc<Keys>, client: SentIdentity, options: ServiceOptions, max_control_line: usize) -> Self {
        Self { framing: ClientFraming::new(max_control_line), line: None, keys, client, options }
    }

    pub(super) fn state(&self) -> ClientState {
        ClientState {
            framing: self.framing.clone(),
            line: self.line.as_ref().map(|line| Base64(line.bytes.clone())),
            client: self.client,
            options: self.options,
        }
    }

    /// Goes on where another process has stopped, whose secret these `keys` have.
    ///
    /// # Errors
    /// No client can be there.
    pub(super) fn resumed(state: ClientState, keys: Arc<Keys>) -> Result<Self, BadState> {
        let ClientState { framing, line, client, options } = state;
        if !framing.is_sound() {
            return Err(BadState("the framing of what the client sends"));
        }
        let line = line.map(|Base64(bytes)| {
            let scanner = scanner(&framing);
            let is_begun = !bytes.is_empty() && not_connect_at(&bytes).is_none() && memchr(b'\n', &bytes).is_none();
            let is_sound = is_begun && framing.at_boundary() && bytes.len() <= scanner.longest();
            is_sound.then(|| Box::new(Line { bytes, scanner })).ok_or(BadState("a CONNECT that is being collected"))
        });
        Ok(Self { framing, line: line.transpose()?, keys, client, options })
    }

    pub(super) fn framing(&mut self) -> &mut ClientFraming {
        &mut self.framing
    }

    /// How the client is served now.
    pub(super) fn options(&self) -> ServiceOptions {
        self.options
    }

    /// Whether a CONNECT is being collected.
    pub(super) fn collects_line(&self) -> bool {
        self.line.is_some()
    }

    /// Whether all that was passed ends with an operation.
    pub(super) fn at_boundary(&self) -> bool {
        self.framing.at_boundary() && self.line.is_none()
    }

    /// Takes the next bytes of a CONNECT, and returns how many. Once the line is whole, puts what the server is to read
    /// in its place into `out`.
    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "memchr finds an index in `chunk`, and `at` is one in the line"
    )]
    fn collect(&mut self, mut line: Box<Line>, chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<usize, Cause> {
        let here = memchr(b'\n', chunk).map_or(chunk.len(), |end| end + 1);
        let here = here.min(line.scanner.longest().saturating_sub(line.bytes.len()).max(1));
        line.bytes.extend_from_slice(&chunk[..here]);
        if let Some(at) = not_connect_at(&line.bytes) {
            // The server answers the byte that is wrong.
            out.put(&line.bytes[..=at]);
            return Err(Cause::Protocol);
        }
        match line.scanner.find(&line.bytes) {
            Ok(None) => {
                self.line = Some(line);
                return Ok(here);
            }
            Ok(Some(_)) => {}
            Err(_) => {
                // Without its end the server cannot act on it, and answers that it is too long.
                out.put(line.bytes.strip_suffix(b"\n").unwrap_or(&line.bytes));
                return Err(Cause::Protocol);
            }
        }
        // A server closes without a word when it cannot read a CONNECT.
        let ClientLine::Connect(argument) = client_line(&line.bytes) else { return Err(Cause::Protocol) };
        let again = ConnectAgain::parse(argument, self.options).map_err(|_| Cause::Protocol)?;
        if !self.keys.is_same(self.client, &again) {
            return Err(Cause::SecondConnect);
        }
        let options = again.service_options();
        if options != self.options || again.has_bad_protocol() {
            self.options = options;
            let mut words = Vec::new();
            again.write_options(&mut words);
            out.put(&words);
        } else if options.verbose() {
            out.put(OK_PLEASE);
        }
        Ok(here)
    }
}

/// Finds the end of a CONNECT.
fn scanner(framing: &ClientFraming) -> LineScanner {
    let max = framing.max_control_line();
    LineScanner::new(if max == usize::MAX { MAX_CONTROL_LINE } else { max })
}

impl Side for ClientSide {
    #[expect(clippy::indexing_slicing, reason = "`at` is the index of a byte of `chunk`, and no more is collected")]
    fn pass(&mut self, mut chunk: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        while !chunk.is_empty() {
            if let Some(line) = self.line.take() {
                let collected = self.collect(line, chunk, out)?;
                chunk = &chunk[collected..];
                continue;
            }
            match self.framing.scan(chunk) {
                ClientScan::Pass => {
                    out.put(chunk);
                    return Ok(());
                }
                ClientScan::Connect { at } => {
                    out.put(&chunk[..at]);
                    chunk = &chunk[at..];
                    self.line = Some(Box::new(Line { bytes: Vec::new(), scanner: scanner(&self.framing) }));
                }
                // The offending byte goes to the server, whose own error text then goes to the client.
                ClientScan::Violation { at } => {
                    out.put(&chunk[..=at]);
                    return Err(Cause::Protocol);
                }
                ClientScan::Hmsg { at } => {
                    out.put(&chunk[..at]);
                    out.put(&[NO_LETTER]);
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
        self.framing.pongs()
    }

    fn activity(&self, _bytes: u64) -> u64 {
        self.framing.messages().wrapping_add(self.framing.interest().into())
    }

    fn no_operation(&self) -> Option<&'static [u8]> {
        self.at_boundary().then_some(NO_OPERATION)
    }
}
