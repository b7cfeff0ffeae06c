//! What a server is called by in tables and lists.

use std::fmt;

/// Stands for one server for as long as weir runs. A server that is added gets one that none had before, so that what
/// is remembered of a server that has gone is never taken for another one's.
///
/// The servers of the configuration have the numbers of their positions there, from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(u32);

impl ServerId {
    pub const fn from_raw(number: u32) -> Self {
        Self(number)
    }

    /// Its number; also the position of a server in a list from which none has gone.
    pub const fn number(self) -> usize {
        self.0 as usize
    }

    /// The one of the server that is added next.
    #[must_use]
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
