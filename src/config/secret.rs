//! Secrets: given by a key, or by a file that a key beside it names. They are never shown.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    config::{
        effective::Mark,
        finding::Problem,
        leaf::{Any, Leaf, wrong_type},
        node::Node,
        section::{Found, LONGEST_FILE, Reads, Section},
        warnings::readable_by_others,
    },
    operator_file,
};

/// A secret, which is never shown.
#[derive(Clone, PartialEq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Leaf for Secret {
    fn kind() -> String {
        "text".into()
    }
    fn read(node: &Node) -> Result<Self, Problem> {
        const REMEDY: &str = "write it in quotes";
        match node {
            Node::String(text) if text.is_empty() => Err(Problem::new("it is empty", REMEDY)),
            Node::String(text) => Ok(Self(text.clone())),
            // The error must not show a number, since it may be the password.
            _ => Err(wrong_type(&Node::Table(Vec::new()), REMEDY)),
        }
    }
    fn show(&self) -> String {
        "\"…\"".into()
    }
}

/// Where a secret is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// The configuration itself holds it: whoever reads that knows it.
    InConfiguration,
    /// A file of its own, or the environment.
    Elsewhere,
}

/// Reads the secret `key`, which may be in the file that `file_key` names instead. Where files are not read, the secret
/// of a file is empty.
pub(super) fn secret(s: &mut Section<'_>, key: &'static str, file_key: &'static str) -> Found<(Secret, Kept)> {
    let given = s.leaf::<Secret>(key, "none", &Any);
    let path = s.path(key);
    let is_in_environment = s.sink.source.written(&path).is_some() || s.sink.source.is_broken(&path);
    let kept = if is_in_environment { Kept::Elsewhere } else { Kept::InConfiguration };
    if let Found::Valid(Secret(text)) = &given {
        s.hidden(key, "given, not shown", Mark::of(text), true);
    }
    let file = s.leaf::<PathBuf>(file_key, "none", &Any);
    let path = match file {
        Found::Absent => return given.map(|secret| (secret, kept)),
        Found::Invalid => return Found::Invalid,
        Found::Valid(path) => path,
    };
    s.in_force(file_key, &path, true);
    if given != Found::Absent {
        s.report(file_key, Problem::new(format!("{key} is given too"), format!("remove {key}, or {file_key}")));
        return Found::Invalid;
    }
    let (text, mark) = match read_file(s, file_key, &path) {
        Found::Valid(text) => {
            let mark = Mark::of(&text);
            (text, mark)
        }
        Found::Absent => (String::new(), Mark::Unread),
        Found::Invalid => return Found::Invalid,
    };
    s.hidden(key, &format!("from {file_key}, not shown"), mark, true);
    Found::Valid((Secret(text), Kept::Elsewhere))
}

/// The text of a file that holds a secret, without the line end behind it. [`Found::Absent`] where it is not read, and
/// need not be; [`Found::Invalid`] where it cannot be read, which is reported.
pub(super) fn read_file(s: &mut Section<'_>, key: &'static str, path: &Path) -> Found<String> {
    let at = s.path(key);
    match s.sink.reads {
        Reads::Nothing => return Found::Absent,
        Reads::All => readable_by_others(at.clone(), path, s.sink),
        Reads::IfThere => {}
    }
    let text = operator_file::read(path, LONGEST_FILE)
        .map_err(|err| format!("it cannot be read ({err})"))
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()))
        .map(without_line_end)
        .and_then(|text| if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text) });
    match text {
        Ok(text) => Found::Valid(text),
        Err(why) if s.sink.reads == Reads::IfThere => {
            s.sink.note_unread(at, path, &why);
            Found::Absent
        }
        Err(what) => {
            let what = format!("{}: {what}", path.display());
            s.report(key, Problem::new(what, "write the path of a file that holds it, and nothing else"));
            Found::Invalid
        }
    }
}

/// An editor, `echo` and most tools end a file with a line end, which belongs to no secret.
fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_cut_and_nothing_else() {
        for (text, kept) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a "), ("a\r", "a\r")]
        {
            assert_eq!(without_line_end(text.into()), kept);
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let secret = Secret("hunter2".into());
        assert!(!format!("{secret:?}{}", secret.show()).contains("hunter2"));
    }
}
