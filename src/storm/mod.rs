//! Storms: the reconnect behaviour of the official client libraries, played against a real address ([`live`], `weir storm`)
//! or against the admission code itself in virtual time ([`plan`], `weir plan`).

pub mod live;
pub mod plan;
pub mod text;
