//! Reads bytes in the notation of TLS (RFC 8446, 3): numbers, and vectors behind their lengths.

/// What has not been read yet. A read that finds too little takes nothing, and returns `None`.
pub struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of `width` bytes, the highest first.
    pub fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |n, &byte| n << 8 | usize::from(byte)))
    }

    /// A vector: its length in `width` bytes, then its content.
    pub fn counted(&mut self, width: usize) -> Option<&'a [u8]> {
        let n = self.number(width)?;
        self.take(n)
    }
}
