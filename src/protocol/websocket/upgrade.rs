//! The HTTP request that opens a WebSocket, checked as nats-server checks it (`wsUpgrade`), and the answer.

use std::io::Write;

use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Request, Status};
use tungstenite::handshake::derive_accept_key;

use crate::protocol::websocket::{
    FrameSize, Negotiated,
    cookies::{CookieNames, Cookies},
    origin::OriginRules,
};

/// The most bytes of a request. A user JWT in a cookie has a few KiB, and browsers send no cookie longer than 4 KiB.
pub const LONGEST_REQUEST: usize = 16 * 1024;
/// The answer of Go's net/http, and so of nats-server, to HTTP where HTTPS is spoken.
pub const NOT_HTTPS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// The most header lines of a request.
pub(super) const MOST_HEADERS: usize = 64;

/// How a listener checks requests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Whether it agrees to permessage-deflate.
    pub compression: bool,
    /// The pages whose requests it accepts.
    pub origins: OriginRules,
    /// The cookies that hold credentials.
    pub cookies: CookieNames,
    /// Whether it uses TLS.
    pub secure: bool,
    /// Whether it takes leafnodes.
    pub leafnodes: bool,
}

/// An accepted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// What was agreed on.
    pub negotiated: Negotiated,
    /// The credentials in its cookies.
    pub cookies: Cookies,
    /// The value of `X-Forwarded-For`; several lines are joined by commas.
    pub forwarded_for: Vec<u8>,
    /// Whether a leafnode asks: the path ends in `/leafnode`.
    pub is_of_leafnode: bool,
    accept: String,
}

/// Why a request is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// The HTTP status.
    pub status: u16,
    /// The reason, in nats-server's words.
    pub why: &'static str,
}

const fn rejection(status: u16, why: &'static str) -> Rejection {
    Rejection { status, why }
}

impl Rejection {
    /// Not an HTTP request.
    pub const MALFORMED: Self = rejection(400, "malformed HTTP request");
    /// More than [`LONGEST_REQUEST`] bytes, or too many header lines.
    pub const TOO_LARGE: Self = rejection(431, "request header too large");
    /// The request was not complete in time.
    pub const TOO_LATE: Self = rejection(408, "request not complete in time");

    /// Appends the answer.
    pub fn write(&self, out: &mut Vec<u8>) {
        refusal(self.status, self.why, None, out);
    }
}

/// Whether these first bytes, which are not TLS, look like an HTTP request. The words are those of Go's net/http.
pub fn looks_like_http(bytes: &[u8]) -> bool {
    [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"].iter().any(|word| bytes.starts_with(*word))
}

/// Appends the answer to a client that weir cannot serve now; the client may retry after `retry_after` seconds.
pub fn unavailable(why: &str, retry_after: u64, out: &mut Vec<u8>) {
    refusal(503, why, Some(retry_after), out);
}

fn refusal(status: u16, why: &str, retry_after: Option<u64>, out: &mut Vec<u8>) {
    let name = match status {
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Bad Request",
    };
    let body = format!("{name}: {why}\n");
    let length = body.len();
    // Writing into a Vec cannot fail.
    let _ = write!(
        out,
        "HTTP/1.1 {status} {name}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Sec-Websocket-Version: 13\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"
    );
    if let Some(seconds) = retry_after {
        let _ = write!(out, "Retry-After: {seconds}\r\n");
    }
    let _ = write!(out, "\r\n{body}");
}

impl Rules {
    /// Reads and checks a request; `Ok(None)` if it is not complete.
    ///
    /// # Errors
    /// [`Rejection`]
    pub fn read(&self, bytes: &[u8]) -> Result<Option<Upgrade>, Rejection> {
        let mut headers = [EMPTY_HEADER; MOST_HEADERS];
        let mut request = Request::new(&mut headers);
        let length = match request.parse(bytes) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if bytes.len() < LONGEST_REQUEST => return Ok(None),
            Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(Rejection::TOO_LARGE),
            Err(_) => return Err(Rejection::MALFORMED),
        };
        let upgrade = self.judge(&request)?;
        if length < bytes.len() {
            return Err(rejection(400, "client sent data before handshake is complete"));
        }
        Ok(Some(upgrade))
    }

    fn judge(&self, request: &Request<'_, '_>) -> Result<Upgrade, Rejection> {
        let headers = Headers(request.headers);
        let path = request.path.unwrap_or_default().split(['?', '#']).next().unwrap_or_default();
        let is_of_leafnode = path.ends_with("/leafnode");
        if is_of_leafnode && !self.leafnodes {
            return Err(rejection(404, "leafnode websocket endpoint not enabled"));
        }
        if path.ends_with("/mqtt") {
            return Err(rejection(404, "mqtt websocket endpoint not enabled"));
        }
        if request.method != Some("GET") {
            return Err(rejection(405, "request method must be GET"));
        }
        let bad = |why| Err(rejection(400, why));
        let Some(host) = headers.first("Host").filter(|host| !host.is_empty()) else {
            return bad("'Host' missing in request");
        };
        if !headers.has("Upgrade", "websocket") {
            return bad("invalid value for header 'Upgrade'");
        }
        if !headers.has("Connection", "Upgrade") {
            return bad("invalid value for header 'Connection'");
        }
        let Some(key) = headers.first("Sec-WebSocket-Key").filter(|key| !key.is_empty()) else {
            return bad("key missing");
        };
        if !BASE64.decode(key).is_ok_and(|key| key.len() == 16) {
            return bad("invalid websocket key");
        }
        if !headers.has("Sec-WebSocket-Version", "13") {
            return bad("invalid version");
        }
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or("\u{fffd}");
        let origin = headers.first("Origin").filter(|origin| !origin.is_empty());
        let origin = origin.or_else(|| headers.first("Sec-WebSocket-Origin")).map(text);
        let allowed = self.origins.check(origin, text(host), self.secure);
        allowed.map_err(|why| rejection(403, why))?;
        // Neither a leafnode's agent nor its cookies mean anything to nats-server.
        let is_of_client = Some(()).filter(|()| !is_of_leafnode);
        let agent = is_of_client.and_then(|()| headers.first("User-Agent")).unwrap_or_default();
        let cookies = is_of_client.map(|()| self.cookies.pick(headers.all("Cookie"))).unwrap_or_default();
        let deflate = self.compression && headers.offers_deflate();
        Ok(Upgrade {
            negotiated: Negotiated {
                deflate,
                unmasked: headers.first("Nats-No-Masking") == Some(b"true"),
                frame_size: frame_size(agent),
            },
            cookies,
            forwarded_for: headers.all("X-Forwarded-For").collect::<Vec<_>>().join(&b','),
            is_of_leafnode,
            accept: derive_accept_key(key),
        })
    }
}

impl Upgrade {
    /// Appends the answer, with `more` header lines.
    pub fn write(&self, more: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        let _ = write!(out, "Sec-WebSocket-Accept: {}\r\n", self.accept);
        if self.negotiated.deflate {
            out.extend_from_slice(
                b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n",
            );
        }
        if self.negotiated.unmasked {
            out.extend_from_slice(b"Nats-No-Masking: true\r\n");
        }
        out.extend_from_slice(more.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The frame size for a `User-Agent`. Safari is told by "Version" and "Safari"; Chrome on a Mac sends only "Safari".
fn frame_size(agent: &[u8]) -> FrameSize {
    let says = |word: &[u8]| memchr::memmem::find(agent, word).is_some();
    match agent.starts_with(b"Mozilla/") {
        false => FrameSize::Unlimited,
        true if says(b"Version/") && says(b"Safari/") => FrameSize::SmallUnlessDeflated,
        true => FrameSize::Small,
    }
}

pub(super) struct Headers<'h>(pub(super) &'h [httparse::Header<'h>]);

impl<'h> Headers<'h> {
    fn all(&self, name: &str) -> impl Iterator<Item = &'h [u8]> {
        let named = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.trim_ascii())
    }

    pub(super) fn first(&self, name: &str) -> Option<&'h [u8]> {
        self.all(name).next()
    }

    /// Whether a comma-separated list holds this word, in any case.
    pub(super) fn has(&self, name: &str, word: &str) -> bool {
        let mut words = self.all(name).flat_map(|value| value.split(|&byte| byte == b','));
        words.any(|one| one.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    }

    /// Whether the client offers permessage-deflate with parameters that weir can meet. weir's window is always the
    /// largest, so an offer that limits it is not.
    fn offers_deflate(&self) -> bool {
        let mut offers = self.all("Sec-WebSocket-Extensions").flat_map(|value| value.split(|&byte| byte == b','));
        offers.any(|offer| {
            let mut words = offer.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let named = words.next().is_some_and(|name| name.eq_ignore_ascii_case(b"permessage-deflate"));
            let window = b"server_max_window_bits";
            named && !words.any(|word| word.get(..window.len()).is_some_and(|name| name.eq_ignore_ascii_case(window)))
        })
    }
}
