//! Which mode holds, from what both sides say; names and rules are nats-server's.

use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};

/// The `compression` of the side that takes leafnodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Mode {
    /// Nothing is compressed.
    #[default]
    Off,
    /// As the leafnode wants it.
    Accept,
    /// The longer the round trip, the more is compressed.
    S2Auto,
    /// Of each block only what is found fast.
    S2Fast,
    /// More, at some three times the cost.
    S2Better,
    /// All that can be found.
    S2Best,
}

/// What is sent, by the names of nats-server's `/leafz`. Each side has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case", prefix = "s2_")]
pub enum Level {
    /// Blocks as they are.
    Uncompressed,
    /// See [`Mode::S2Fast`].
    Fast,
    /// See [`Mode::S2Better`].
    Better,
    /// See [`Mode::S2Best`].
    Best,
}

/// A mode of the leafnode's that nats-server does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the leafnode's INFO has a mode of compression that nats-server does not know")]
pub struct Unsupported;

/// Up to which round trip `s2_auto` sends at which level (`defaultCompressionS2AutoRTTThresholds`).
const BY_ROUND_TRIP: [(Duration, Level); 3] = [
    (Duration::from_millis(10), Level::Uncompressed),
    (Duration::from_millis(50), Level::Fast),
    (Duration::from_millis(100), Level::Better),
];

impl Mode {
    /// Its name in INFO; `None` where INFO is silent, so that leafnodes speak plainly.
    pub fn offered(self) -> Option<&'static str> {
        (self != Self::Off).then(|| self.into())
    }

    /// What both sides do, once the leafnode has named a mode in its INFO (`selectCompressionMode`). `None`: they speak
    /// plainly.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn with_leafnode(self, named: &str) -> Result<Option<Self>, Unsupported> {
        let both = match named {
            "" | "not supported" | "off" => Self::Off,
            "accept" if self == Self::Accept => Self::Off,
            "s2_auto" | "s2_fast" | "s2_uncompressed" if self == Self::Accept => Self::S2Fast,
            "s2_better" if self == Self::Accept => Self::S2Better,
            "s2_best" if self == Self::Accept => Self::S2Best,
            "accept" | "s2_auto" | "s2_uncompressed" | "s2_fast" | "s2_better" | "s2_best" => self,
            _ => return Err(Unsupported),
        };
        Ok((both != Self::Off).then_some(both))
    }

    /// The level at which this side sends, at this round trip.
    pub fn level(self, rtt: Duration) -> Level {
        match self {
            Self::Off => Level::Uncompressed,
            Self::Accept | Self::S2Fast => Level::Fast,
            Self::S2Better => Level::Better,
            Self::S2Best => Level::Best,
            Self::S2Auto => {
                BY_ROUND_TRIP.iter().find(|(most, _)| rtt <= *most).map_or(Level::Best, |(_, level)| *level)
            }
        }
    }
}
