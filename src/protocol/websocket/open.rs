//! The HTTP request by which weir opens a WebSocket to a server, and the server's answer.

use std::{io::Write, net::IpAddr};

use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Response, Status};
use tungstenite::handshake::derive_accept_key;

use crate::protocol::websocket::upgrade::{Headers, MOST_HEADERS};

/// The most bytes of an answer. A nats-server's own has about 130, and `websocket { headers }` may add some.
const LONGEST_ANSWER: usize = 16 * 1024;

/// A request whose answer is still to come.
#[derive(Debug)]
pub struct Request {
    key: String,
}

impl Request {
    /// With random bytes of its own, by which the answer is recognized (RFC 6455, section 4.1).
    pub fn new(random: [u8; 16]) -> Self {
        Self { key: BASE64.encode(&random) }
    }

    /// Appends the request to the server at `host`, `host:port`, for the `client` with this address, if it is for one.
    ///
    /// weir asks for no compression. It passes on neither `Cookie` nor `Origin`: weir's listener has the rules for
    /// both, and what a cookie holds is in CONNECT.
    pub fn write(&self, host: &str, client: Option<IpAddr>, out: &mut Vec<u8>) {
        let Self { key } = self;
        // Writing into a Vec cannot fail.
        let _ = write!(
            out,
            "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Version: 13\r\n"
        );
        if let Some(client) = client {
            let _ = write!(out, "X-Forwarded-For: {client}\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Reads the answer from the front of `bytes`; returns its length, and `Ok(None)` if it is not complete.
    ///
    /// # Errors
    /// Why it opens no WebSocket.
    pub fn read_answer(&self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let mut headers = [EMPTY_HEADER; MOST_HEADERS];
        let mut answer = Response::new(&mut headers);
        let length = match answer.parse(bytes) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if bytes.len() < LONGEST_ANSWER => return Ok(None),
            Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err("its HTTP answer is too long"),
            Err(_) => return Err("it does not answer HTTP"),
        };
        let headers = Headers(answer.headers);
        let accept = derive_accept_key(self.key.as_bytes());
        match answer.code {
            Some(101) if !headers.has("Upgrade", "websocket") => Err("it changes to another protocol"),
            Some(101) if headers.first("Sec-WebSocket-Accept") != Some(accept.as_bytes()) => {
                Err("it answers another request for a WebSocket")
            }
            Some(101) if headers.first("Sec-WebSocket-Extensions").is_some() => {
                Err("it uses a WebSocket extension that weir has not offered")
            }
            Some(101) => Ok(Some(length)),
            Some(403) => Err("it refuses a WebSocket (403 Forbidden)"),
            _ => Err("it opens no WebSocket"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::websocket::upgrade::{Rejection, Rules};

    fn request() -> (Request, Vec<u8>) {
        let (request, mut bytes) = (Request::new(*b"the sample nonce"), Vec::new());
        request.write("n1:8080", "2001:db8::1".parse().ok(), &mut bytes);
        (request, bytes)
    }

    #[test]
    fn it_is_what_weir_itself_accepts() {
        let (request, bytes) = request();
        let upgrade = Rules { compression: true, ..Rules::default() }.read(&bytes).unwrap().unwrap();
        assert_eq!(upgrade.negotiated, Default::default());
        assert_eq!(upgrade.forwarded_for, b"2001:db8::1");
        let mut answer = Vec::new();
        upgrade.write("", &mut answer);
        let length = answer.len();
        answer.extend_from_slice(b"\x82\x06PING\r\n");
        for cut in 0..length {
            assert_eq!(request.read_answer(&answer[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(request.read_answer(&answer), Ok(Some(length)), "what follows is the server's first frame");
        assert!(Request::new(*b"another's nonce!").read_answer(&answer).is_err());
    }

    #[test]
    fn other_answers_open_nothing() {
        let (request, _) = request();
        let mut refusal = Vec::new();
        Rejection::TOO_LATE.write(&mut refusal);
        let mut long = b"HTTP/1.1 101 Switching Protocols\r\nX: ".to_vec();
        long.resize(LONGEST_ANSWER, b'x');
        for answer in [&refusal[..], b"INFO {\"server_id\":\"x\"}\r\n", b"HTTP/1.1 403 Forbidden\r\n\r\n", &long] {
            assert!(request.read_answer(answer).is_err(), "{}", String::from_utf8_lossy(answer));
        }
        let accept = derive_accept_key(request.key.as_bytes());
        let opened = |more: &str| {
            format!("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{more}\r\n")
        };
        assert!(request.read_answer(opened("Upgrade: h2c\r\n").as_bytes()).is_err());
        let extended = opened("Upgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n");
        assert!(request.read_answer(extended.as_bytes()).is_err());
        assert!(request.read_answer(opened("Upgrade: WebSocket\r\n").as_bytes()).is_ok_and(|read| read.is_some()));
    }
}
