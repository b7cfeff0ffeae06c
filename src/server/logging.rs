//! Logs to standard error, as text or as one JSON object per line.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// The environment variable that overrides the configured level. Its syntax is that of `RUST_LOG`: `debug`, or
/// `weir=debug,hyper=info`.
pub const LEVEL_VARIABLE: &str = "WEIR_LOG";

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The value of the environment variable is no filter.
    #[error("{LEVEL_VARIABLE}: {0}; write a level, such as \"debug\", or \"weir=debug,warn\"")]
    Filter(String),
    #[error("logging is set up already in this process")]
    Twice,
}

/// Starts logging for the whole process.
///
/// # Errors
/// [`LEVEL_VARIABLE`] is set and is no filter, or logging has been started before.
pub fn init(config: LogConfig) -> Result<(), LoggingError> {
    let filter = match std::env::var(LEVEL_VARIABLE) {
        Ok(text) if !text.is_empty() => {
            EnvFilter::try_new(text).map_err(|error| LoggingError::Filter(error.to_string()))?
        }
        _ => EnvFilter::new(directives(config.level)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match config.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|_| LoggingError::Twice)
}

/// The filter for a configured level. The level is for weir itself. Libraries log warnings and errors only, or weir's
/// one debug line per session would drown in theirs.
fn directives(level: LogLevel) -> String {
    let libraries = level.min(LogLevel::Warn).name();
    format!("{libraries},weir={}", level.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quieter_than_weir() {
        assert_eq!(directives(LogLevel::Debug), "warn,weir=debug");
        assert_eq!(directives(LogLevel::Error), "error,weir=error");
        for level in LogLevel::ALL {
            assert!(EnvFilter::try_new(directives(level)).is_ok());
        }
    }
}
