//! NATS over WebSocket (RFC 6455, RFC 7692), with the rules and texts of nats-server's `websocket.go`: the request that
//! opens a WebSocket, the frames in both directions, and the close.
//!
//! Frames are decoded and encoded as their bytes arrive. No frame or message is ever collected whole, so its size does
//! not matter to memory.

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

pub use self::deflate::DeflatePool;

/// What client and weir agreed on when the WebSocket was opened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// permessage-deflate, without context takeover in either direction: nats-server offers nothing else.
    pub deflate: bool,
    /// The client does not mask its frames (`Nats-No-Masking`).
    pub unmasked: bool,
    /// How long frames to the client may be.
    pub frame_size: FrameSize,
}

/// How long frames to a client may be.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum FrameSize {
    /// As long as the bytes at hand.
    #[default]
    Unlimited,
    /// 4096 bytes of payload: browsers cope better with short frames (nats-server's `wsFrameSizeForBrowsers`).
    Small,
    /// 4096 bytes, but a compressed message is one frame: Safari does not accept fragments of a compressed message.
    SmallUnlessDeflated,
}

impl FrameSize {
    /// The most bytes of a frame's payload.
    fn max_payload(self, deflated: bool) -> usize {
        const FOR_BROWSERS: usize = 4096;
        match self {
            Self::Small => FOR_BROWSERS,
            Self::SmallUnlessDeflated if !deflated => FOR_BROWSERS,
            _ => usize::MAX,
        }
    }
}
