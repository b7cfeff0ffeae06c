//! How long a server that fails is left alone before it is tried again.

use std::time::Duration;

/// Pauses double up to this.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pause after so many failures in a row before this one: `first`, doubled each time, half of it up or down at
/// random.
pub fn growing_pause(first: Duration, failures: u32, rng: &mut fastrand::Rng) -> Duration {
    let pause = first.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
    pause.mul_f64(0.5 + rng.f64())
}
