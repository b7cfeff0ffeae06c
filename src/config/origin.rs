//! Where a configuration comes from: a file, or arguments. A reload reads it again from there.

use std::{fmt, path::PathBuf};

use crate::config::{Config, Findings, ServerArg, text};

/// The arguments of `weir run` that say what the configuration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This file; `-` is standard input, which can be read once only.
    File(PathBuf),
    /// `--server` arguments. They do not change, but the files that they name may.
    Servers(Vec<ServerArg>),
}

impl Origin {
    /// Reads the configuration.
    ///
    /// # Errors
    /// As [`Config::load`] and [`Config::from_servers`].
    pub fn load(&self) -> Result<Config, Findings> {
        match self {
            Self::File(path) => Config::load(path),
            Self::Servers(servers) => Config::from_servers(servers),
        }
    }

    /// Whether it can be read more than once.
    pub fn can_be_read_again(&self) -> bool {
        !matches!(self, Self::File(path) if text::is_standard_input(path))
    }
}

/// As errors name it.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(&text::name(path)),
            Self::Servers(_) => f.write_str("--server"),
        }
    }
}
