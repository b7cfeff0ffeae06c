//! The configuration in force, as TOML: the output of `weir check`. It is recorded while the file is read, so that it
//! cannot miss a key.

use std::{
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::OnceLock,
};

/// One line of the effective configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// `[cluster]` or `[[listeners]]`.
    Header { text: String, given: bool },
    /// A table that is absent, and what that means.
    Absent { text: String },
    /// What holds for keys that the operator may add.
    Comment { text: String },
    /// `key = literal`. The argument of the command line is the one that gives it.
    /// `mark` is that of the content where the value is the path of a file that weir does not read again by itself.
    Value { key: String, literal: String, given: bool, argument: Option<&'static str>, mark: Mark },
    /// A key that is absent, or whose value must not be shown.
    Note { key: String, text: String, given: bool },
    /// A key whose value must not be shown.
    Hidden { key: String, text: String, given: bool, mark: Mark },
}

/// Tells apart what is not shown: values that must not be, and contents of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Everything is shown.
    Shown,
    /// The same for the same value, in this process only.
    Of(u64),
    /// It is in a file that was not read.
    Unread,
}

impl Mark {
    /// That of a value: whoever does not have the key of this process learns nothing from it.
    pub(super) fn of(value: &impl Hash) -> Self {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        Self::Of(KEY.get_or_init(RandomState::new).hash_one(value))
    }
}

/// The configuration in force. It displays as TOML, with `# default` behind each default, and an argument behind what
/// it gives; loading that yields the same configuration, except for `users`, which are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Effective {
    pub(super) lines: Vec<Line>,
}

impl Effective {
    /// Whether the file has this key in some table with this header.
    pub fn gives(&self, header: &str, key: &str) -> bool {
        let mut table = "";
        self.lines.iter().any(|line| match line {
            Line::Header { text, .. } => {
                table = text;
                false
            }
            Line::Value { key: name, given, .. } => *given && table == header && name == key,
            _ => false,
        })
    }

    /// Every key that was read, with the header of its table: `("[cluster]", "reserve")`. At the top level that is
    /// `""`.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut table = "";
        self.lines.iter().filter_map(move |line| match line {
            Line::Header { text, .. } => {
                table = text;
                None
            }
            Line::Absent { .. } | Line::Comment { .. } => None,
            Line::Value { key, .. } | Line::Note { key, .. } | Line::Hidden { key, .. } => Some((table, key.as_str())),
        })
    }
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = |given: bool| if given { "" } else { "  # default" };
        for line in &self.lines {
            match line {
                Line::Header { text, given } => writeln!(f, "\n{text}{}", mark(*given))?,
                Line::Absent { text } => writeln!(f, "\n# {text}{}", mark(false))?,
                Line::Comment { text } => writeln!(f, "# {text}{}", mark(false))?,
                Line::Value { key, literal, argument: Some(argument), .. } => {
                    writeln!(f, "{} = {literal}  # {argument}", toml_key(key))?;
                }
                Line::Value { key, literal, given, .. } => {
                    writeln!(f, "{} = {literal}{}", toml_key(key), mark(*given))?;
                }
                Line::Note { key, text, given } | Line::Hidden { key, text, given, .. } => {
                    writeln!(f, "# {}: {text}{}", toml_key(key), mark(*given))?;
                }
            }
        }
        Ok(())
    }
}

/// A key as TOML writes it: quoted unless it is bare.
pub(super) fn toml_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { toml_string(key) }
}

/// A basic TOML string, on one line.
pub(super) fn toml_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
