//! Logs to standard error, as text or as one JSON object per line, panics included.

use std::{
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
};

use tracing::error;
use tracing_subscriber::{EnvFilter, filter::LevelFilter, reload};

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
    let (filter, level) = match std::env::var(LEVEL_VARIABLE) {
        Ok(text) if !text.is_empty() => (filter(&text).map_err(LoggingError::Filter)?, text),
        _ => (EnvFilter::new(directives(config.level)), config.level.name().to_owned()),
    };
    let queue = LogQueue::start(io::stderr())?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // By default the formatter prints its own errors to standard error, and panics where that cannot be written.
        .log_internal_errors(false)
        .with_writer(queue.clone());
    let (done, reload): (_, Reload) = match config.format {
        LogFormat::Text => {
            let builder = builder.with_ansi(io::stderr().is_terminal()).with_target(false).with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Box::new(move |filter| handle.reload(filter)))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            (builder.try_init(), Box::new(move |filter| handle.reload(filter)))
        }
    };
    done.map_err(|_| LoggingError::Twice)?;
    let level = Mutex::new(Level { in_force: level.clone(), configured: level });
    let _ = CONTROL.set(Control { reload, level });
    panic::set_hook(Box::new(log_panic));
    Ok(Logging(queue))
}

type Reload = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// How the level of a running log is changed.
struct Control {
    reload: Reload,
    level: Mutex<Level>,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

/// What the log shows: a level, or a filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Level {
    /// Now.
    pub in_force: String,
    /// By the configuration, or by [`LEVEL_VARIABLE`].
    pub configured: String,
}

impl Control {
    fn level(&self) -> MutexGuard<'_, Level> {
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the log shows now.
pub fn level() -> Level {
    CONTROL.get().map(|control| control.level().clone()).unwrap_or_default()
}

/// Logs at this level from now on: the configuration says so.
pub fn set_level(level: LogLevel) {
    let Some(control) = CONTROL.get() else { return };
    let mut shown = control.level();
    // It fails only where the log has gone.
    if (control.reload)(EnvFilter::new(directives(level))).is_ok() {
        *shown = Level { in_force: level.name().to_owned(), configured: level.name().to_owned() };
    }
}

/// Whether the environment has set the level, so that the configuration's does not count.
pub fn is_level_of_environment() -> bool {
    std::env::var(LEVEL_VARIABLE).is_ok_and(|text| !text.is_empty())
}

/// A change of the level that has been checked and not made yet.
pub struct LevelChange {
    filter: EnvFilter,
    /// The level, or the filter.
    pub wanted: String,
}

impl LevelChange {
    /// A level as in the configuration (for weir itself; libraries log warnings only), or a filter as in
    /// [`LEVEL_VARIABLE`].
    ///
    /// # Errors
    /// It is neither, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = text.trim().to_ascii_lowercase();
        let level = <LogLevel as strum::VariantArray>::VARIANTS.iter().find(|level| level.name() == wanted);
        let filter = match level {
            Some(level) => EnvFilter::new(directives(*level)),
            None if wanted.is_empty() => return Err("it is empty".to_owned()),
            None => filter(text.trim())?,
        };
        Ok(Self { filter, wanted: if level.is_some() { wanted } else { text.trim().to_owned() } })
    }

    /// Makes it. It holds until the next one.
    ///
    /// # Errors
    /// The log has not been started.
    pub fn make(self) -> Result<(), String> {
        let control = CONTROL.get().ok_or("the log has not been started")?;
        let mut level = control.level();
        (control.reload)(self.filter).map_err(|err| err.to_string())?;
        level.in_force = self.wanted;
        Ok(())
    }
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
fn filter(text: &str) -> Result<EnvFilter, String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let mut words = text.split(',').filter(|word| !word.is_empty() && !word.contains(['=', '[']));
    match words.find(|word| !is_level(word)) {
        Some(word) => Err(format!("{word:?} is not a level")),
        None => EnvFilter::try_new(text).map_err(|error| error.to_string()),
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
            let error = filter(text).map(drop).unwrap_err();
            assert!(LoggingError::Filter(error).to_string().starts_with("WEIR_LOG: "), "{text}");
        }
    }

    #[test]
    fn a_level_is_that_of_weir_and_a_filter_is_taken_as_it_is() {
        for (text, wanted, filter) in [
            (" DEBUG", "debug", "warn,async_nats=off,weir=debug"),
            ("error", "error", "error,async_nats=off,weir=error"),
            ("weir=debug,warn", "weir=debug,warn", "weir=debug,warn"),
            ("off", "off", "off"),
        ] {
            let change = LevelChange::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!((&*change.wanted, change.filter.to_string()), (wanted, EnvFilter::new(filter).to_string()));
        }
        for text in ["", "verbose", "weir=verbose"] {
            assert!(LevelChange::parse(text).is_err(), "{text}");
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
