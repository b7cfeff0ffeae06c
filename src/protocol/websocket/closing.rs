//! Close frames: the code and text with which a WebSocket ends, as nats-server chooses them (`wsEnqueueCloseMessage`).

use tungstenite::protocol::frame::coding::Control;

use crate::protocol::websocket::{Role, encode};

/// The content of a close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// RFC 6455, section 7.4.1.
    pub code: u16,
    /// At most 123 bytes.
    pub text: &'static str,
}

impl Closing {
    /// The client has gone, towards its server.
    pub const NORMAL: Self = Self { code: 1000, text: "Client Closed" };

    /// The server has gone, or weir is draining. The client reconnects.
    pub const GOING_AWAY: Self = Self { code: 1001, text: "Server Shutdown" };

    /// The close frame for a connection whose last words to the client are these; `None` unless they end in an `-ERR`
    /// after which nats-server closes. The words are weir's own or a line of the server: the payload of a message may
    /// read the same, and is anybody's.
    pub fn after(words: &[u8]) -> Option<&'static Self> {
        let line = words.strip_suffix(b"'\r\n")?;
        let line = line.rsplit(|&byte| byte == b'\n').next().unwrap_or(line);
        let text = line.strip_prefix(b"-ERR '")?;
        ENDS.iter().find(|(words, _)| text.eq_ignore_ascii_case(words.as_bytes())).map(|(_, closing)| closing)
    }

    /// Appends the frame.
    pub fn write(self, role: Role, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(encode::LONGEST_CONTROL);
        payload.extend_from_slice(&self.code.to_be_bytes());
        payload.extend_from_slice(self.text.as_bytes());
        encode::control(role, Control::Close, &payload, out);
    }
}

const fn closing(code: u16, text: &'static str) -> Closing {
    Closing { code, text }
}

/// The texts of `-ERR` after which nats-server closes, each with nats-server's close code and the name of its reason.
static ENDS: [(&str, Closing); 15] = [
    ("maximum connections exceeded", closing(1008, "Maximum Connections Exceeded")),
    ("maximum account active connections exceeded", closing(1008, "Maximum Account Connections Exceeded")),
    ("Authorization Violation", closing(1008, "Authentication Failure")),
    ("Authentication Timeout", closing(1008, "Authentication Timeout")),
    ("User Authentication Expired", closing(1008, "Authentication Expired")),
    ("Account Authentication Expired", closing(1008, "Authentication Expired")),
    ("User Authentication Revoked", closing(1008, "Credentials Revoked")),
    ("maximum control line exceeded", closing(1008, "Maximum Control Line Exceeded")),
    ("Maximum Payload Violation", closing(1009, "Maximum Message Payload Exceeded")),
    ("Unknown Protocol Operation", closing(1002, "Protocol Violation")),
    ("Parser Error", closing(1002, "Protocol Violation")),
    ("Stale Connection", closing(1001, "Stale Connection")),
    // Here nats-server closes without a frame.
    ("Not configured to accept leaf node connections", closing(1008, "Leafnodes Not Configured")),
    // weir's own, for a policy of its operator.
    ("client name required", closing(1008, "Client Name Required")),
    ("minimum version required", closing(1008, "Minimum Version Required")),
];

/// Whether an endpoint may send this code.
pub(super) fn is_valid_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
