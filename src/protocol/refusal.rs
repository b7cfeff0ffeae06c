//! The `-ERR` lines that weir sends to clients it refuses. What each text does to real clients was measured
//! (docs/contract.md, towards clients 2 and 3).

use crate::outcome::{BadLogin, Refusal};

/// nats-server's answer to a control line longer than `max_control_line` (`ErrMaxControlLine`).
pub const CONTROL_LINE_TOO_LONG: &[u8] = b"-ERR 'maximum control line exceeded'\r\n";

/// nats-server's answer to bytes that are not an operation.
pub const UNKNOWN_OP: &[u8] = b"-ERR 'Unknown Protocol Operation'\r\n";

/// Why a server refused a login, from its `-ERR` line; `None` if the line is about something else.
pub fn bad_login(line: &[u8]) -> Option<BadLogin> {
    let line = line.to_ascii_lowercase();
    let says = |text: &[u8]| memchr::memmem::find(&line, text).is_some();
    match () {
        () if says(b"authorization violation") => Some(BadLogin::Violation),
        () if !says(b"authentication") => None,
        () if says(b"timeout") => Some(BadLogin::TimedOut),
        () if says(b"expired") => Some(BadLogin::Expired),
        () if says(b"revoked") => Some(BadLogin::Revoked),
        () => Some(BadLogin::Violation),
    }
}

/// Whether another server may see a login differently that a server has refused with this line. Not so a full account,
/// which is full in the whole cluster, nor a login that took too long.
pub fn may_differ_elsewhere(line: &[u8]) -> bool {
    let is_full = memchr::memmem::find(&line.to_ascii_lowercase(), b"maximum account active connections").is_some();
    !is_full && bad_login(line) != Some(BadLogin::TimedOut)
}

/// The words of a server's `-ERR` line, without quotes.
pub fn words(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    let text = text.strip_prefix("-ERR").map_or(text, str::trim);
    text.trim_matches('\'').to_owned()
}

/// nats-server's answer to a client without TLS where TLS is required. Every client takes it for one failed attempt.
pub const TLS_REQUIRED: &[u8] = b"-ERR 'Secure Connection - TLS Required'\r\n";

macro_rules! words {
    ($($pattern:pat => $text:literal,)*) => {
        /// The text of the refusal, without quotes.
        ///
        /// Every text but `client name required` is one of nats-server's. After the first two every client reconnects.
        /// For a handshake that took too long weir uses the server's text for a silent client: some clients count the
        /// server's own "Authentication Timeout" as an authorization error, and two of those in a row end such a client
        /// for ever.
        pub fn text(refusal: Refusal) -> &'static str {
            match refusal { $($pattern => $text,)* }
        }

        /// The line `-ERR '…'\r\n`.
        pub fn line(refusal: Refusal) -> &'static [u8] {
            match refusal { $($pattern => concat!("-ERR '", $text, "'\r\n").as_bytes(),)* }
        }
    };
}

words! {
    Refusal::ServerCapacity
        | Refusal::NoServer
        | Refusal::ServerRefusesLogin
        | Refusal::HoldExpired
        | Refusal::LoginTimeout
        | Refusal::QueueFull
        | Refusal::SourceQuota
        | Refusal::SourceLeafnodeQuota
        | Refusal::SourceRate
        | Refusal::ListenerFull
        | Refusal::TlsBusy
        | Refusal::Draining
        | Refusal::Paused
        | Refusal::Kicked => "maximum connections exceeded",
    Refusal::AccountQuota
        | Refusal::AccountLeafnodeQuota
        | Refusal::AccountRate
        | Refusal::UserQuota
        | Refusal::UserRate
        | Refusal::NameQuota
        | Refusal::NameRate => "maximum account active connections exceeded",
    // What nats-server writes into its log about a leafnode that comes to its WebSocket port then.
    Refusal::NoLeafnodePort => "Not configured to accept leaf node connections",
    // The words of nats-server where a leaf node is too old. No client library looks for either text, so each takes it
    // for one failed attempt.
    Refusal::ClientTooOld => "minimum version required",
    Refusal::NameMissing => "client name required",
    Refusal::Protocol => "Unknown Protocol Operation",
    Refusal::HandshakeTimeout => "Stale Connection",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_safe_for_every_client() {
        for refusal in Refusal::ALL {
            let text = text(refusal);
            assert_eq!(line(refusal), format!("-ERR '{text}'\r\n").as_bytes());
            assert!(!text.is_empty() && text.len() <= 250 && !text.contains('\''));
            let lower = text.to_lowercase();
            for fatal in ["authorization", "authentication", "permissions", "info", "pong"] {
                assert!(!lower.contains(fatal), "{text}");
            }
        }
        assert!(!Refusal::ALL.into_iter().any(|refusal| bad_login(line(refusal)).is_some()));
        for (line, reason) in [
            (&b"-ERR 'Authorization Violation'\r\n"[..], BadLogin::Violation),
            (b"-ERR 'User Authentication Expired'\r\n", BadLogin::Expired),
            (b"-ERR 'Account Authentication Expired'\r\n", BadLogin::Expired),
            (b"-ERR 'User Authentication Revoked'\r\n", BadLogin::Revoked),
            (b"-ERR 'Authentication Timeout'\r\n", BadLogin::TimedOut),
        ] {
            assert_eq!(bad_login(line), Some(reason));
            assert_eq!(may_differ_elsewhere(line), reason != BadLogin::TimedOut);
        }
        assert!(!may_differ_elsewhere(line(Refusal::AccountQuota)));
        assert_eq!(words(b"-ERR 'Authorization Violation'\r\n"), "Authorization Violation");
        assert_eq!(words(b"nonsense\xff\n"), "nonsense\u{fffd}");
        assert!(may_differ_elsewhere(b"-ERR 'Attempted To Connect To Route Port'\r\n"));
        assert_eq!(line(Refusal::Protocol), UNKNOWN_OP);
    }
}
