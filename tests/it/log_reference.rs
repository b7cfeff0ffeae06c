//! Compares `docs/reference/log.md` with the lines in the source: each message at level info and above, with its levels
//! and its fields.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use weir_testkit::project;

/// A message, with its levels and fields.
type Lines = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

/// The lines that `text` logs, without its tests.
fn logged(text: &str, lines: &mut Lines) {
    let text = text.split("#[cfg(test)]\nmod ").next().expect("a first part");
    for level in ["info", "warn", "error"] {
        for (at, call) in text.match_indices(&format!("{level}!(")) {
            if !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                let arguments = arguments(&text[at + call.len()..]);
                let is_text = |one: &&String| one.starts_with('"');
                let message = arguments.iter().rfind(is_text).expect("a message");
                let message = unquoted(message);
                let names = arguments.iter().filter(|one| !is_text(one));
                let names =
                    names.map(|one| one.split('=').next().unwrap().trim().trim_start_matches(['%', '?']).to_owned());
                let (levels, fields) = lines.entry(message).or_default();
                levels.insert(level.to_uppercase());
                fields.extend(names);
            }
        }
    }
}

/// The arguments of a macro, up to its closing bracket.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut depth, mut in_text, mut chars) = (vec![String::new()], 1, false, text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_text => {
                found.last_mut().unwrap().push(c);
                found.last_mut().unwrap().extend(chars.next());
                continue;
            }
            '"' => in_text = !in_text,
            _ if in_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 1 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        found.last_mut().unwrap().push(c);
    }
    found.into_iter().map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

/// A literal without its quotes, in one line.
fn unquoted(literal: &str) -> String {
    let parts = literal.trim_matches('"').split("\\\n");
    parts.enumerate().map(|(n, part)| if n == 0 { part } else { part.trim_start() }).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("tests") && !path.ends_with("storm") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The words of a cell.
fn words(cell: &str) -> Vec<String> {
    let words = cell.split(", ").map(|word| word.trim_matches('`').to_owned());
    words.filter(|word| !word.is_empty() && word != "–").collect()
}

#[test]
fn every_line_is_in_the_reference_with_its_levels_and_fields() {
    let (mut files, mut program, mut all) = (Vec::new(), Lines::new(), String::new());
    sources(&project().join("src"), &mut files);
    for file in &files {
        let text = fs::read_to_string(file).expect("a source file");
        logged(&text, &mut program);
        all += &text;
    }
    assert!(program.len() > 40, "{} lines found", program.len());
    // The few whose message is put together have a sentence of their own there, or rows for what it may be.
    program.retain(|message, _| !message.contains('{'));

    let page = fs::read_to_string(project().join("docs/reference/log.md")).expect("log.md");
    let mut documented = Lines::new();
    for row in page.lines().filter(|line| line.starts_with("| `") && !line.contains("| DEBUG |")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let message = cells[0].trim_matches('`').to_owned();
        let (levels, fields) = documented.entry(message).or_default();
        levels.extend(words(cells[1]));
        fields.extend(words(cells[2]));
    }
    for (message, line) in &program {
        assert_eq!(documented.get(message), Some(line), "docs/reference/log.md: {message:?}");
    }
    for message in documented.keys() {
        let literal = program.contains_key(message) || all.contains(&format!("\"{message}\""));
        assert!(literal, "only in the reference: {message:?}");
    }
}
