//! Environment variables in string values: `"${NAME}"` stands for what NAME holds, and `$$` for a `$`. Any other `$` is
//! itself. Variables stand in values only, not in keys, in names of tables, or in files that a key names.
//!
//! What a variable holds may be a secret. It is never shown: errors, and what `weir check` prints, have the value as it
//! is written.

use std::env::{self, VarError};

use crate::config::{
    effective::toml_string,
    finding::Problem,
    node::{Entries, Node, key_path},
    section::Sink,
};

/// Replaces the variables in every string value by what `lookup` says they hold. Reports those that hold nothing.
pub(super) fn replace(
    entries: &mut Entries,
    sink: &mut Sink,
    lookup: impl Fn(&str) -> Result<String, VarError> + Copy,
) {
    in_table("", entries, sink, lookup);
}

/// What the environment of this process holds.
pub(super) fn of_environment(name: &str) -> Result<String, VarError> {
    env::var(name)
}

fn in_table(
    path: &str,
    entries: &mut Entries,
    sink: &mut Sink,
    lookup: impl Fn(&str) -> Result<String, VarError> + Copy,
) {
    for (key, node) in entries {
        if !matches!(node, Node::Integer(_) | Node::Float(_) | Node::Bool(_) | Node::Date) {
            in_node(key_path(path, key), node, sink, lookup);
        }
    }
}

fn in_node(path: String, node: &mut Node, sink: &mut Sink, lookup: impl Fn(&str) -> Result<String, VarError> + Copy) {
    match node {
        Node::String(text) => match with_variables(text, lookup) {
            Ok(None) => {}
            Ok(Some(replaced)) => {
                let written = std::mem::replace(text, replaced);
                sink.source.note_written(path, toml_string(&written));
            }
            Err(problem) => {
                sink.report(path.clone(), problem);
                sink.source.note_broken(path);
            }
        },
        Node::List(items) => {
            let literals: Vec<_> = items.iter().map(literal).collect();
            for (i, item) in items.iter_mut().enumerate() {
                in_node(format!("{path}[{i}]"), item, sink, lookup);
            }
            let has_variables = (0..items.len()).any(|i| sink.source.written(&format!("{path}[{i}]")).is_some());
            if has_variables {
                sink.source.note_written(path, format!("[{}]", literals.join(", ")));
            }
        }
        Node::Table(entries) => in_table(&path, entries, sink, lookup),
        Node::Integer(_) | Node::Float(_) | Node::Bool(_) | Node::Date => {}
    }
}

/// An entry of a list of values as it is written. Lists with variables are lists of strings.
fn literal(node: &Node) -> String {
    match node {
        Node::String(text) => toml_string(text),
        other => format!("\"{}\"", other.kind()),
    }
}

/// The text with its variables replaced; `None` where it has none, nor a `$$`.
fn with_variables(text: &str, lookup: impl Fn(&str) -> Result<String, VarError>) -> Result<Option<String>, Problem> {
    let (mut replaced, mut rest, mut changed) = (String::new(), text, false);
    while let Some((before, behind)) = rest.split_once('$') {
        replaced.push_str(before);
        rest = behind;
        if let Some(behind) = rest.strip_prefix('$') {
            (rest, changed) = (behind, true);
            replaced.push('$');
        } else if let Some(behind) = rest.strip_prefix('{') {
            let Some((name, behind)) = behind.split_once('}') else {
                return Err(Problem::new("a ${ is not closed", "write ${NAME}, or $${ for the text itself"));
            };
            replaced.push_str(&held(name, &lookup)?);
            (rest, changed) = (behind, true);
        } else {
            replaced.push('$');
        }
    }
    replaced.push_str(rest);
    Ok(changed.then_some(replaced))
}

fn held(name: &str, lookup: impl Fn(&str) -> Result<String, VarError>) -> Result<String, Problem> {
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if name.is_empty() || !is_name || name.starts_with(|c: char| c.is_ascii_digit()) {
        let remedy = "write ${NAME}, of letters, digits and _, with no digit first; or $${ for the text itself";
        return Err(Problem::new("a ${…} names no variable", remedy));
    }
    lookup(name).map_err(|err| match err {
        VarError::NotPresent => {
            let what = format!("the environment variable {name} is not set");
            Problem::new(what, format!("set it where weir runs, or write $${{{name}}} for the text itself"))
        }
        VarError::NotUnicode(_) => {
            Problem::new(format!("the environment variable {name} does not hold UTF-8"), "set it to text")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::node;

    fn lookup(name: &str) -> Result<String, VarError> {
        match name {
            "A" => Ok("alpha".into()),
            "EMPTY" => Ok(String::new()),
            "SELF" => Ok("${A} $$".into()),
            _ => Err(VarError::NotPresent),
        }
    }

    #[test]
    fn variables_are_replaced_once_and_a_doubled_dollar_is_one() {
        for (text, replaced) in [
            ("plain", None),
            ("$G", None),
            ("5$", None),
            ("$A", None),
            ("${A}", Some("alpha")),
            ("x${A}y${A}", Some("xalphayalpha")),
            ("${EMPTY}", Some("")),
            ("$${A}", Some("${A}")),
            ("$$${A}$$", Some("$alpha$")),
            ("a$$b", Some("a$b")),
            ("$${", Some("${")),
            ("${SELF}", Some("${A} $$")),
        ] {
            assert_eq!(with_variables(text, lookup).unwrap().as_deref(), replaced, "{text}");
        }
        for (text, what) in [
            ("${B}", "the environment variable B is not set"),
            ("${A", "a ${ is not closed"),
            ("${}", "a ${…} names no variable"),
            ("${1A}", "a ${…} names no variable"),
            ("${A:-x}", "a ${…} names no variable"),
        ] {
            assert_eq!(with_variables(text, lookup).unwrap_err().what, what, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_kept_beside_what_is_meant() {
        let text = "a = \"${A}\"\nb = [\"x\", \"${A}\"]\nc = [\"x\"]\n[d.\"${A}\"]\ne = { f = \"${B}\" }\n[[g]]\nh = \"$${A}\"\n";
        let (mut entries, source) = node::parse("f", text).unwrap();
        let mut sink = Sink::new(source);
        replace(&mut entries, &mut sink, lookup);
        let written = |path: &str| sink.source.written(path);
        for (path, literal) in [
            ("a", Some("\"${A}\"")),
            ("b", Some("[\"x\", \"${A}\"]")),
            ("b[0]", None),
            ("b[1]", Some("\"${A}\"")),
            ("c", None),
            ("g[0].h", Some("\"$${A}\"")),
        ] {
            assert_eq!(written(path), literal, "{path}");
        }
        assert_eq!(entries[0].1, Node::String("alpha".into()));
        let findings: Vec<_> = sink.findings.iter().map(ToString::to_string).collect();
        let unset = "f:5: d.\"${A}\".e.f: the environment variable B is not set; set it where weir runs, or write $${B} \
                     for the text itself";
        assert_eq!(findings, [unset], "the name of a table is itself");
        assert!(sink.source.is_broken("d.\"${A}\".e.f"));
    }
}
