//! Where a configuration comes from: a file, arguments of the command line, or both. A reload reads it again from
//! there.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::config::{Config, Findings, ServerArg, text};

/// The arguments of a command that say what the configuration is. An argument wins over the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// `-c`; `-` is standard input, which can be read once only. Without a file there are the defaults.
    pub file: Option<PathBuf>,
    /// `--server`: all servers of the cluster, instead of those of the file.
    pub servers: Vec<ServerArg>,
    /// `--listen`: the address of the first listener.
    pub listen: Option<String>,
    /// `--monitor`: the address of the endpoints.
    pub monitor: Option<String>,
}

impl Origin {
    /// A file alone.
    pub fn file(path: &Path) -> Self {
        Self { file: Some(path.to_owned()), ..Self::default() }
    }

    /// Reads the configuration, and every file that it names.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Config, Findings> {
        Config::load_from(self)
    }

    /// The text of the file, if there is one: it can be loaded once it has been read.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn text(&self) -> Result<Option<String>, Findings> {
        self.file.as_deref().map(|path| text::read(path, text::NAME_ONE_OR_SERVERS)).transpose()
    }

    /// Whether it can be read more than once.
    pub fn can_be_read_again(&self) -> bool {
        !self.file.as_deref().is_some_and(text::is_standard_input)
    }
}

/// The file, as errors name it; without one, the arguments.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(path) => f.write_str(&text::name(path)),
            None => f.write_str("the command line"),
        }
    }
}
