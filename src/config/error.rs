//! Configuration errors: all of them at once, each with file, line, key, and what would be right.

use std::fmt;

/// One error. Values appear as they were written, except secrets and credentials inside addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub(super) place: Place,
    /// The path of the key, such as `cluster.servers[1].address`; empty where the whole file is meant.
    pub(super) key: String,
    pub(super) wrong: Wrong,
}

/// Where an error is: `weir.toml:12`, `weir.toml:12:5` or `--server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The file's name as it was given, or `--server`.
    pub(super) file: String,
    /// Counted from 1. `None` for an argument of the command line, and for a table that the file does not have.
    pub(super) line: Option<usize>,
    /// In characters, counted from 1. Only syntax errors have one: everything else is named by its key.
    pub(super) column: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.wrong.what, self.wrong.right)
    }
}

/// What is wrong with a value, and what would be right: the two halves of an error line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Such as `"10.0.0.2" has no port`.
    pub(super) what: String,
    /// Such as `write "10.0.0.2:4222"`.
    pub(super) right: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, right: impl Into<String>) -> Self {
        Self { what: what.into(), right: right.into() }
    }
}

/// All errors of a configuration, in the order of reading; never empty. Displays one error per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub(super) Vec<ConfigError>);

impl Errors {
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// A value as an error may show it: quoted, control characters escaped, at most 80 characters, and without the part
/// before `@`, which is where people put passwords.
pub(super) fn quote(text: &str) -> String {
    let shown = match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            format!("{}…{}", &text[..scheme + 3], &text[at..])
        }
        (_, Some(at)) => format!("…{}", &text[at..]),
        (_, None) => text.to_owned(),
    };
    if shown.chars().count() > 80 {
        let short: String = shown.chars().take(79).collect();
        format!("{:?}", format!("{short}…"))
    } else {
        format!("{shown:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_inside_an_address_are_not_shown() {
        assert_eq!(quote("nats://joe:secret@10.0.0.1"), "\"nats://…@10.0.0.1\"");
        assert_eq!(quote("token@host:4222"), "\"…@host:4222\"");
        assert_eq!(quote("a@b://c"), "\"…@b://c\"");
        assert_eq!(quote("plain\n"), "\"plain\\n\"");
        assert_eq!(quote(&"x".repeat(500)).chars().count(), 82);
    }
}
