//! NATS over WebSocket (RFC 6455, RFC 7692), with the rules and texts of nats-server's `websocket.go`: the request that
//! opens a WebSocket, the frames in both directions, and the close. weir is the server towards clients, and the client
//! towards servers.
//!
//! Frames are decoded and encoded as their bytes arrive. No frame or message is collected whole, so its size does not
//! matter to memory; but for a compressed message in one frame that is shorter than the state of a decompressor.

pub mod closing;
pub mod cookies;
pub mod decode;
mod deflate;
pub mod encode;
pub mod forwarded;
mod mask;
pub mod open;
pub mod origin;
#[cfg(test)]
mod tests;
pub mod upgrade;
mod whole_message;

pub use self::deflate::DeflatePool;

/// Which end of a WebSocket weir is.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// Towards a client, which masks its frames.
    Server,
    /// Towards a server. Each frame is masked with a key of its own, which nobody can foresee (RFC 6455, section 5.3).
    Client {
        /// Where the keys come from.
        next_key: fn() -> [u8; 4],
    },
}

impl Role {
    /// The key that masks the next frame that weir sends.
    fn mask(self) -> Option<[u8; 4]> {
        match self {
            Self::Server => None,
            Self::Client { next_key } => Some(next_key()),
        }
    }
}

/// What both ends agreed on when the WebSocket was opened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// permessage-deflate, without context takeover in either direction: nats-server offers nothing else.
    pub deflate: bool,
    /// The client does not mask its frames (`Nats-No-Masking`). weir as a client masks its own in any case.
    pub unmasked: bool,
    /// How long the frames that weir sends may be.
    pub frame_size: FrameSize,
}

/// How long the frames that weir sends may be.
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
