//! NATS over WebSocket (RFC 6455, RFC 7692) as nats-server speaks it: the request that opens one, frames in both directions,
//! and how it ends. Rules and texts are those of its `websocket.go`.
//!
//! Frames come and go by the piece: no frame or message is ever collected, so that its size does not matter to memory.

pub mod closing;
pub mod cookies;
pub mod decode;
mod deflate;
pub mod encode;
pub mod forwarded;
mod mask;
pub mod origin;
#[cfg(test)]
mod tests;
pub mod upgrade;

pub use self::deflate::Tools;

/// What was agreed upon when a WebSocket was opened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// permessage-deflate, without context takeover in either direction: nats-server offers nothing else.
    pub deflate: bool,
    /// The client asked not to have to mask (`Nats-No-Masking`).
    pub unmasked: bool,
    /// Into what frames the client's bytes are put.
    pub pieces: Pieces,
}

/// Into what frames the bytes for a client are put.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Pieces {
    /// As they come.
    #[default]
    Whole,
    /// Of 4096 bytes at most, which browsers take better (nats-server's `wsFrameSizeForBrowsers`).
    Small,
    /// The same, but a compressed message stays whole: Safari takes no fragments of one.
    SmallUnlessDeflated,
}

impl Pieces {
    /// The most bytes of a frame's payload.
    fn longest(self, deflated: bool) -> usize {
        const FOR_BROWSERS: usize = 4096;
        match self {
            Self::Small => FOR_BROWSERS,
            Self::SmallUnlessDeflated if !deflated => FOR_BROWSERS,
            _ => usize::MAX,
        }
    }
}
