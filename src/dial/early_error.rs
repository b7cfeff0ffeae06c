//! What a server says in plain text before it does anything else, where INFO or TLS is due.
//!
//! | `-ERR` | when nats-server says it | what it means |
//! |---|---|---|
//! | `maximum connections exceeded` | behind INFO, or instead of it with TLS first | full |
//! | `Connection throttling is active. …` | the same, with `tls { connection_rate_limit }` | busy for a second |
//! | `Secure Connection - TLS Required` | its TLS timeout is over | too late |
//! | nothing, the end | it goes into lame duck mode or stops | gone |
//!
//! Only the last is a failure of the server. (nats-server: `createClient` and `tlsTimeout`, server.go.)

use crate::dial::DialError;

const FULL: &[u8] = b"-ERR 'maximum connections exceeded'";
const THROTTLED: &[u8] = b"-ERR 'Connection throttling";
const TOO_LATE: &[u8] = b"-ERR 'Secure Connection - TLS Required'";

/// Why a server is not to be used now, though nothing is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    Full,
    /// It does no more TLS handshakes in this second.
    Throttled,
}

/// Whether these first bytes of a line say that the server is busy.
pub fn busy(line: &[u8]) -> Option<Busy> {
    let begins = |with: &[u8]| line.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    match () {
        () if begins(FULL) => Some(Busy::Full),
        () if begins(THROTTLED) => Some(Busy::Throttled),
        () => None,
    }
}

/// Whether these bytes may be the beginning of such a line.
pub fn may_be_busy(bytes: &[u8]) -> bool {
    [FULL, THROTTLED].iter().any(|line| line.get(..bytes.len()).is_some_and(|start| start.eq_ignore_ascii_case(bytes)))
}

/// What a line in plain text means where TLS should have begun.
pub(super) fn instead_of_tls(line: &[u8]) -> DialError {
    match busy(line) {
        Some(busy) => busy.into(),
        None if line.starts_with(TOO_LATE) => DialError::TimedOut,
        None if line.starts_with(b"INFO ") => DialError::NotNats("it sends INFO before TLS: see handshake_first"),
        None => DialError::NotNats("it goes on without TLS"),
    }
}

impl From<Busy> for DialError {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::Full => Self::Full,
            Busy::Throttled => Self::Throttled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_server_is_no_broken_one() {
        assert_eq!(busy(b"-ERR 'maximum connections exceeded'\r\n"), Some(Busy::Full));
        let throttled = b"-ERR 'Connection throttling is active. Please try again later.'\r\n";
        assert_eq!(busy(throttled), Some(Busy::Throttled));
        assert_eq!(busy(b"-ERR 'maximum account active connections exceeded'\r\n"), None);
        assert!(may_be_busy(b"-ERR 'M") && may_be_busy(b"-err 'conn") && may_be_busy(b""));
        assert!(!may_be_busy(&[22, 3, 3]) && !may_be_busy(b"-ERR 'S"));
        assert!(matches!(instead_of_tls(throttled), DialError::Throttled));
        assert!(matches!(instead_of_tls(b"-ERR 'Secure Connection - TLS Required'\r\n"), DialError::TimedOut));
        assert!(matches!(instead_of_tls(b"INFO {}\r\n"), DialError::NotNats(_)));
    }
}
