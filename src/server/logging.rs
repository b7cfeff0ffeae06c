//! Logs to standard error, as text or as one JSON object per line, panics included.

use std::{
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
    sync::OnceLock,
    thread,
};

use tracing::error;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    config::{LogConfig, LogFormat, LogLevel},
    server::log_thread::LogQueue,
    telemetry::process::PANICS,
};

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
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

/// The log of the process. Its drop waits for a moment until the last lines are written.
#[derive(Debug)]
pub struct Logging(LogQueue);

impl Drop for Logging {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Starts logging for the whole process. From now on a panic is a line of the log, and is counted.
///
/// # Errors
/// [`LEVEL_VARIABLE`] is set and is no filter, logging has been started before, or there is no thread to write the log.
pub fn init(config: LogConfig) -> Result<Logging, LoggingError> {
    let filter = match std::env::var(LEVEL_VARIABLE) {
        Ok(text) if !text.is_empty() => filter(&text)?,
        _ => EnvFilter::new(directives(config.level)),
    };
    let queue = LogQueue::start(io::stderr())?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // By default the formatter prints its own errors to standard error, and panics where that cannot be written.
        .log_internal_errors(false)
        .with_writer(queue.clone());
    // The two formats are two types, and so are their handles.
    let done = match config.format {
        LogFormat::Text => {
            let builder = builder.with_ansi(io::stderr().is_terminal()).with_target(false).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = SET_FILTER.set(Box::new(move |filter| drop(handle.reload(filter))));
            builder.try_init()
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = SET_FILTER.set(Box::new(move |filter| drop(handle.reload(filter))));
            builder.try_init()
        }
    };
    done.map_err(|_| LoggingError::Twice)?;
    panic::set_hook(Box::new(log_panic));
    Ok(Logging(queue))
}

/// Changes the filter of the log that runs.
static SET_FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Logs at this level from now on, whatever the environment says.
pub fn set_level(level: LogLevel) {
    if let Some(set) = SET_FILTER.get() {
        set(EnvFilter::new(directives(level)));
    }
}

/// Whether the environment has set the level, so that the configuration's does not count.
pub fn is_level_of_environment() -> bool {
    std::env::var(LEVEL_VARIABLE).is_ok_and(|text| !text.is_empty())
}

/// Instead of the standard library's hook, which writes to standard error and so may block.
fn log_panic(info: &PanicHookInfo<'_>) {
    PANICS.add_one();
    let place = info.location().map(ToString::to_string);
    let thread = thread::current();
    let what = info.payload_as_str().unwrap_or("of an unknown kind");
    error!(thread = thread.name(), place, "panic: {what}");
}

/// The filter that the environment asks for. `EnvFilter` takes a bare word that is no level for the name of a module,
/// and then shows nothing else: a misspelt level would switch the log off.
fn filter(text: &str) -> Result<EnvFilter, LoggingError> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let mut words = text.split(',').filter(|word| !word.is_empty() && !word.contains(['=', '[']));
    match words.find(|word| !is_level(word)) {
        Some(word) => Err(LoggingError::Filter(format!("{word:?} is not a level"))),
        None => EnvFilter::try_new(text).map_err(|error| LoggingError::Filter(error.to_string())),
    }
}

/// The filter for a configured level. The level is for weir itself. Libraries log warnings and errors only, or weir's
/// one debug line per session would drown in theirs. The client library of the system account logs an error at every
/// try with a wrong login, without the key of the configuration: weir tells of it in its own words, once.
fn directives(level: LogLevel) -> String {
    let libraries = level.min(LogLevel::Warn).name();
    format!("{libraries},async_nats=off,weir={}", level.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_does_not_switch_the_log_off() {
        for text in ["debug", "DEBUG", "weir=debug,warn", "warn,weir::session=trace", "off", "weir[session]=debug"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["verbose", "weir=verbose", "weir", "debug,everything"] {
            let error = filter(text).map(drop).unwrap_err().to_string();
            assert!(error.starts_with("WEIR_LOG: "), "{error}");
        }
    }

    #[test]
    fn libraries_are_quieter_than_weir() {
        assert_eq!(directives(LogLevel::Debug), "warn,async_nats=off,weir=debug");
        assert_eq!(directives(LogLevel::Error), "error,async_nats=off,weir=error");
        for &level in <LogLevel as strum::VariantArray>::VARIANTS {
            assert!(EnvFilter::try_new(directives(level)).is_ok());
        }
    }
}
