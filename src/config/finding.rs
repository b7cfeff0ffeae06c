//! What is wrong with a configuration, or leaves something to chance: a list of findings, each with file, line, key,
//! message and what would be right. `weir check` prints it as lines or as JSON.

use std::fmt;

use serde::Serialize;

/// What follows from a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// weir does not start; or, asked to connect, it does not get at a server as it is configured.
    Error,
    /// weir starts, and something may not be as it is meant.
    Warning,
}

/// One finding. Values appear as they were written, except secrets and credentials inside addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub(super) severity: Severity,
    #[serde(flatten)]
    pub(super) place: Place,
    /// The path of the key, such as `cluster.servers[1].address`; empty where the whole file is meant.
    pub(super) key: String,
    #[serde(flatten)]
    pub(super) problem: Problem,
}

/// Where a finding is: `weir.toml:12`, or `--server`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Place {
    /// The file's name as it was given, `standard input`, or `--server`.
    pub(super) file: String,
    /// Counted from 1. `None` for an argument of the command line, and for a table that the file does not have.
    pub(super) line: Option<usize>,
    /// In characters, counted from 1. Lines of text show it for syntax errors only: all else is named by its key.
    pub(super) column: Option<usize>,
}

/// Longer keys are cut, in characters: a key may be as long as the file.
const LONGEST_KEY: usize = 200;

impl Finding {
    /// Whether weir does not start.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The finding without the word for its severity, for a log that has a word of its own.
    pub fn statement(&self) -> String {
        self.text("")
    }

    fn text(&self, severity: &str) -> String {
        let Self { place: Place { file, line, column }, key, problem, .. } = self;
        let column = column.filter(|_| key.is_empty());
        let numbers = [*line, column].into_iter().flatten().map(|number| format!(":{number}"));
        let place: String = std::iter::once(file.clone()).chain(numbers).collect();
        let mut shown: String = key.chars().take(LONGEST_KEY).collect();
        if shown.len() < key.len() {
            shown.push('…');
        }
        if !shown.is_empty() {
            shown.push_str(": ");
        }
        format!("{place}: {severity}{shown}{}; {}", problem.what, problem.remedy)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(if self.is_error() { "" } else { "warning: " }))
    }
}

/// What is wrong with a value, and what would be right: the two halves of a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    /// Such as `"10.0.0.2" has no port`.
    #[serde(rename = "message")]
    pub(super) what: String,
    /// Such as `write "10.0.0.2:4222"`.
    #[serde(rename = "cure")]
    pub(super) remedy: String,
}

impl Problem {
    pub(super) fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

/// The findings of one configuration, in the order of the file; those without a line come first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn new(mut all: Vec<Finding>) -> Self {
        all.sort_by_key(|finding| (finding.place.line, finding.place.column));
        Self(all)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }

    /// Whether they are about the file as such: it cannot be read.
    pub fn are_of_the_file(&self) -> bool {
        self.0.iter().all(|finding| finding.key.is_empty() && finding.place.line.is_none())
    }

    /// The same with more.
    pub fn with(self, more: impl IntoIterator<Item = Finding>) -> Self {
        Self::new(self.0.into_iter().chain(more).collect())
    }

    /// Whether one of them keeps weir from starting.
    pub fn have_errors(&self) -> bool {
        self.0.iter().any(Finding::is_error)
    }
}

/// One finding per line, at most [`MOST_LINES`].
impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.0.iter().take(MOST_LINES).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        match self.0.len().saturating_sub(MOST_LINES) {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

/// A file that is not meant for weir may have an error in each line.
const MOST_LINES: usize = 100;

impl std::error::Error for Findings {}

/// A value as an error shows it: quoted, with control characters escaped, cut at 80 characters, and without the part
/// before `@`, where passwords stand in addresses.
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
