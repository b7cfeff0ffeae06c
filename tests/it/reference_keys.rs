//! Compares the reference of the configuration with the rules by which weir reads it: the kind, range and default of
//! every key, and whether a reload changes it.

use std::fs;

use weir::internals::config::{Key, keys};
use weir_testkit::project;

fn read(path: &str) -> String {
    fs::read_to_string(project().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// The row of a key in the table of all keys.
fn row(key: &Key) -> String {
    let live = key.live().name();
    let Key { table, key, kind, range, default } = key;
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let range = range.clone().unwrap_or_default();
    format!("| {} | {} | {kind} | {range} | {default} | {live} |", code(table), code(key))
}

#[test]
fn the_table_of_all_keys_is_the_programs() {
    let page = read("docs/reference/configuration.md");
    let documented = page.split("## All keys").nth(1).expect("a table of all keys");
    let documented: Vec<&str> = documented.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let program: Vec<String> = keys().map(row).collect();
    assert!(program.len() > 80, "{} keys", program.len());
    assert!(documented == program, "the table should be:\n{}", program.join("\n"));
}

/// The text that explains a key: in the page, and in the file with comments.
fn explanations(key: &Key) -> [Option<String>; 2] {
    let page = read("docs/reference/configuration.md");
    let heading = match &*key.table {
        "" => "## Top level".to_owned(),
        "listeners" | "cluster.servers" | "listeners.tls.certificates" => format!("## `[[{}]]`", key.table),
        table => format!("## `[{}]`", table.replace("PATTERN", "\"PATTERN\"")),
    };
    let of_page = page.split(&format!("{heading}\n")).nth(1).and_then(|below| {
        let below = below.split("\n## ").next()?;
        let entry = below.split(&format!("- **`{}`**", key.key)).nth(1)?;
        Some(entry.split("\n- **").next()?.split("\n\n").next()?.split_whitespace().collect::<Vec<_>>().join(" "))
    });

    let file = read("config/reference.toml");
    let header = match &*key.table {
        "" => String::new(),
        "accounts.NAME" => "[accounts.default]".to_owned(),
        "users.PATTERN" => "[users.\"batch-*\"]".to_owned(),
        "names.PATTERN" => "[names.\"report *\"]".to_owned(),
        "listeners" | "cluster.servers" | "listeners.tls.certificates" => format!("[[{}]]", key.table),
        table => format!("[{table}]"),
    };
    let bare = |line: &str| line.strip_prefix("# ").unwrap_or(line).to_owned();
    let lines: Vec<&str> = file.lines().collect();
    let start = lines.iter().position(|line| header.is_empty() || bare(line).starts_with(&header));
    let of_file = start.and_then(|start| {
        let at = lines.iter().skip(start).position(|line| bare(line).starts_with(&format!("{} = ", key.key)))? + start;
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with('#'));
        let mut comment: Vec<String> = above.map(|line| bare(line)).collect();
        comment.reverse();
        comment.push(lines[at].to_owned());
        Some(comment.join(" "))
    });
    [of_page, of_file]
}

#[test]
fn every_range_stands_where_the_key_is_explained() {
    let (mut missing, mut looked_at) = (Vec::new(), 0);
    for key in keys().filter(|key| key.key != "…") {
        let Some(range) = key.range.as_ref().map(|range| range.replace('"', "")) else { continue };
        for (place, text) in ["configuration.md", "reference.toml"].into_iter().zip(explanations(key)) {
            let text = text.unwrap_or_default();
            looked_at += 1;
            if !text.replace(['"', '`'], "").contains(&range) {
                missing.push(format!("{place}: [{}] {}: no {range:?} in {text:?}", key.table, key.key));
            }
        }
    }
    assert!(missing.is_empty(), "{} of {looked_at}:\n{}", missing.len(), missing.join("\n"));
    assert!(looked_at > 50, "{looked_at}");
}
