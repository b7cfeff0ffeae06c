//! Where TLS records end (RFC 8446, 5.1), in bytes that come in pieces. A server can answer a whole record only.

/// The record header: type, version, length.
const HEADER: usize = 5;
/// The types: change_cipher_spec, alert, handshake, application_data, heartbeat.
const TYPES: std::ops::RangeInclusive<u8> = 20..=24;
/// The longest record (RFC 5246, 6.2.3).
const LONGEST: u16 = 16384 + 2048;

/// Follows the records of one side.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct TlsRecords {
    header: [u8; HEADER],
    /// How much of the header has come.
    filled: usize,
    /// How much of the record is still to come.
    rest: usize,
    /// What came is no TLS: a server need not wait for more of it.
    broken: bool,
}

impl TlsRecords {
    /// Takes in the next bytes. Returns how many records have ended with them; of bytes that are no TLS, at least 1.
    pub fn advance(&mut self, mut bytes: &[u8]) -> u64 {
        let mut ended = 0_u64;
        while !bytes.is_empty() && !self.broken {
            let Some(free) = self.header.get_mut(self.filled..).filter(|free| !free.is_empty()) else {
                let taken = self.rest.min(bytes.len());
                bytes = bytes.get(taken..).unwrap_or_default();
                self.rest = self.rest.saturating_sub(taken);
                if self.rest == 0 {
                    (self.filled, ended) = (0, ended.saturating_add(1));
                }
                continue;
            };
            let taken = free.len().min(bytes.len());
            let (now, later) = bytes.split_at(taken);
            free.iter_mut().zip(now).for_each(|(to, from)| *to = *from);
            (self.filled, bytes) = (self.filled.saturating_add(taken), later);
            if self.filled == HEADER {
                let [kind, major, _, high, low] = self.header;
                let length = u16::from_be_bytes([high, low]);
                self.broken = !TYPES.contains(&kind) || major != 3 || length > LONGEST;
                self.rest = usize::from(length);
                if length == 0 {
                    (self.filled, ended) = (0, ended.saturating_add(1));
                }
            }
        }
        ended.saturating_add(u64::from(self.broken))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_a_record_is_none() {
        let mut records = TlsRecords::default();
        assert_eq!([&[22, 3, 1][..], &[0, 2], &[1], &[7], &[23]].map(|bytes| records.advance(bytes)), [0, 0, 0, 1, 0]);
        assert_eq!(records.advance(&[3, 3, 0, 0, 21, 3, 3, 0, 1, 9, 22]), 2);
    }

    #[test]
    fn what_is_no_tls_is_answered_at_once() {
        for bytes in [b"CONNECT {}", &[22, 2, 0, 0, 1][..], &[22, 3, 3, 0xff, 0xff]] {
            let mut records = TlsRecords::default();
            assert_eq!((records.advance(bytes), records.advance(b"x")), (1, 1), "{bytes:?}");
        }
    }

    proptest! {
        /// However the bytes are cut, the records are the same.
        #[test]
        fn cuts_make_no_difference(lengths in prop::collection::vec(0..600_usize, 1..8), seed: u64) {
            let mut bytes = Vec::new();
            for length in &lengths {
                bytes.extend_from_slice(&[23, 3, 3, (length >> 8) as u8, *length as u8]);
                bytes.resize(bytes.len() + length, 7);
            }
            bytes.extend_from_slice(&[22, 3, 3, 0, 9, 1]);
            let (mut rng, mut records, mut ended, mut rest) =
                (fastrand::Rng::with_seed(seed), TlsRecords::default(), 0, &bytes[..]);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rng.usize(1..=rest.len().min(40)));
                ended += records.advance(now);
                rest = later;
            }
            prop_assert_eq!(ended, lengths.len() as u64);
        }
    }
}
