//! Builds the parts, runs them, ends them in order.

use crate::config::Config;

/// Why weir could not run, or had to stop.
#[derive(Debug, thiserror::Error)]
#[error("this build cannot serve yet")]
pub struct ServerError;

/// Serves until it is told to stop.
///
/// # Errors
/// Always, until the parts are here.
pub fn run(_config: Config) -> Result<(), ServerError> {
    Err(ServerError)
}
