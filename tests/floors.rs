//! The rules of the house, checked by reading its text: which floor may import which, what a floor may not touch, how
//! long a file may be, and that nothing of one machine is written into the repository.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// No file is longer.
const LONGEST: usize = 600;

/// Half of the files of `src/` are no longer.
const MEDIAN: usize = 150;

/// Words that need a clock, a socket, a task or a log; they have no place where decisions are made.
const NOT_IN_DECISIONS: &[&str] = &[
    "tokio",
    "Instant::now",
    "SystemTime",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::thread",
    "std::fs",
    "tracing",
    "log::",
    "println!",
    "eprintln!",
    "dbg!",
    "spawn(",
    "sleep(",
];

/// Words are plain values: nothing to wait for.
const NOT_IN_WORDS: &[&str] = &["Mutex", "RwLock", "dashmap", "arc_swap", "governor"];

/// The floor of a module of the crate, by its first name. What nobody lists is a verb: F2.
fn floor(module: &str) -> u8 {
    match module {
        "protocol" | "close" => 0,
        "identity" | "admission" | "upstream" => 1,
        "config" | "metrics" | "http" | "server" | "cli" | "kernel" | "limits" | "logging" | "storm" | "main"
        | "lib" => 3,
        _ => 2,
    }
}

/// By number.
const FLOOR_NAMES: [&str; 4] = ["F0 words", "F1 decisions", "F2 verbs", "F3 assembly"];

struct File {
    /// Relative to the root of the repository.
    path: PathBuf,
    text: String,
}

impl File {
    /// The module it belongs to: `admission` for `src/admission/hold.rs`, `relay` for `src/relay.rs`.
    fn module(&self) -> String {
        let inside = self.path.strip_prefix("src").unwrap();
        let first = inside.components().next().unwrap().as_os_str();
        let first = first.to_str().unwrap();
        first.strip_suffix(".rs").unwrap_or(first).to_owned()
    }

    /// Each line with its number, without comments and without the tests at the end of the file: tests may use a clock.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.text.find("\n#[cfg(test)]\nmod tests {");
        let code = &self.text[..tests.map_or(self.text.len(), |at| at + 1)];
        let lines = code.lines().enumerate();
        lines.map(|(i, line)| (i + 1, strip_comment(line)))
    }

    /// Where the modules that it declares live.
    fn children(&self) -> PathBuf {
        match self.path.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "lib" | "main") => self.path.parent().unwrap().to_owned(),
            _ => self.path.with_extension(""),
        }
    }

    /// Whether `super` is the crate itself.
    fn is_top(&self) -> bool {
        let parent = self.path.parent().unwrap();
        parent == "src" || (self.path.ends_with("mod.rs") && parent.parent().unwrap() == "src")
    }
}

/// A line up to its comment. `//` inside a string (a URL) ends it too, which hides no import.
fn strip_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(directory: &Path, found: &mut Vec<File>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(File {
                text: fs::read_to_string(&path).unwrap(),
                path: path.strip_prefix(root()).unwrap().to_owned(),
            });
        }
    }
}

/// All of `src/`, but for the files that are tests only.
fn sources() -> Vec<File> {
    let mut found = Vec::new();
    walk(&root().join("src"), &mut found);
    let tests: Vec<PathBuf> = found.iter().flat_map(test_modules).collect();
    found.retain(|file| {
        let module = file.path.with_extension("");
        !tests.iter().any(|test| module.starts_with(test))
    });
    assert!(found.len() > 12, "looked at {} files only", found.len());
    found
}

/// The modules that a file declares for tests only, as paths without `.rs`.
fn test_modules(file: &File) -> Vec<PathBuf> {
    let after = file.text.split("#[cfg(test)]\n").skip(1);
    let names = after.filter_map(|rest| rest.lines().next()?.trim().strip_suffix(';'));
    let names = names.filter_map(|line| line.rsplit("mod ").next());
    names.map(|name| file.children().join(name)).collect()
}

/// The modules that a file imports from the crate: `crate::x`, and each of `crate::{x, y::z}`; at the top, where `super`
/// is the crate, `super::x` too.
fn imports(file: &File) -> Vec<(usize, String)> {
    let mut found = imports_from(file, "crate::");
    if file.is_top() {
        found.extend(imports_from(file, "super::"));
    }
    found
}

fn imports_from(file: &File, root: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let lines: Vec<(usize, &str)> = file.code().collect();
    let code: String = lines.iter().map(|(_, line)| format!("{line}\n")).collect();
    for (at, _) in code.match_indices(root) {
        // `$crate::` and `some_crate::` are others.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = 1 + code[..at].matches('\n').count();
        let rest = &code[at + root.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(top_names(group).into_iter().map(|name| (line, name)));
        } else {
            found.push((line, word(rest)));
        }
    }
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first names in a `use` group, from behind its opening brace.
fn top_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 1;
    let mut at_start = true;
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => at_start = true,
            c if at_start && (c.is_alphanumeric() || c == '_') => {
                names.push(word(&group[i..]));
                at_start = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn report(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn no_file_imports_a_higher_floor() {
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    let files = sources();
    let modules: BTreeSet<String> = files.iter().map(File::module).collect();
    for file in &files {
        let module = file.module();
        for (line, import) in imports(file) {
            // `crate::Something` re-exported at the root would hide a floor, so it must be a module.
            if !modules.contains(&import) {
                wrong.push(format!(
                    "{}:{line}: crate::{import} is no module; import it from where it lives",
                    file.path.display()
                ));
                continue;
            }
            looked_at += 1;
            let (from, to) = (floor(&module), floor(&import));
            if to > from {
                wrong.push(format!(
                    "{}:{line}: {} may not import crate::{import} of {}",
                    file.path.display(),
                    FLOOR_NAMES[usize::from(from)],
                    FLOOR_NAMES[usize::from(to)],
                ));
            }
        }
    }
    report("imports that go up", &wrong);
    assert!(looked_at >= 8, "looked at {looked_at} imports only");
}

#[test]
fn words_and_decisions_know_no_clock_socket_task_or_log() {
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for file in sources() {
        if floor(&file.module()) > 1 {
            continue;
        }
        looked_at += 1;
        let words = if floor(&file.module()) == 0 { NOT_IN_WORDS } else { &[] };
        let all: Vec<&str> = NOT_IN_DECISIONS.iter().chain(words).copied().collect();
        for (line, code) in file.code() {
            for word in all.iter().filter(|word| holds(code, word)) {
                wrong.push(format!("{}:{line}: {word}", file.path.display()));
            }
        }
    }
    report("no place for it on F0 and F1", &wrong);
    assert!(looked_at >= 4, "looked at {looked_at} files only");
}

/// Whether a line holds a word that is not the end of a longer one (`catalog::` is not `log::`).
fn holds(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn files_are_short() {
    let mut wrong = Vec::new();
    let mut lengths = Vec::new();
    let mut files = sources();
    for directory in ["tests", "benches", "fuzz/fuzz_targets"] {
        let directory = root().join(directory);
        if directory.is_dir() {
            walk(&directory, &mut files);
        }
    }
    for file in &files {
        let length = file.text.lines().count();
        if file.path.starts_with("src") {
            lengths.push(length);
        }
        if length > LONGEST {
            wrong.push(format!("{}: {length} lines", file.path.display()));
        }
    }
    report(&format!("longer than {LONGEST} lines"), &wrong);
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(median <= MEDIAN, "the median of src/ is {median} lines, over {MEDIAN}");
}

#[test]
fn no_unsafe_code_and_every_module_says_what_it_is() {
    let mut wrong = Vec::new();
    for file in sources() {
        let path = file.path.display();
        if !file.text.starts_with("//!") {
            wrong.push(format!("{path}: does not begin with //!"));
        }
        for (line, _) in file.code().filter(|(_, code)| holds(code, "unsafe ")) {
            wrong.push(format!("{path}:{line}: unsafe"));
        }
    }
    report("house rules", &wrong);
}

/// What is tracked must mean the same on every machine.
#[test]
fn no_tracked_file_names_a_place_on_one_machine() {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let Ok(output) = output
        .map_err(|e| e.to_string())
        .and_then(|o| if o.status.success() { Ok(o) } else { Err(String::from_utf8_lossy(&o.stderr).into()) })
    else {
        // A source archive without git has nothing to look at.
        eprintln!("skipped: this is no git checkout");
        return;
    };
    let names = String::from_utf8(output.stdout).unwrap();
    // Put together here, so that this file does not hold them.
    let places = ["home", "root", "Users", "tmp", "work"].map(|place| format!("/{place}/"));
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let Ok(text) = fs::read_to_string(root().join(name)) else {
            continue; // binary, or deleted and not committed yet
        };
        looked_at += 1;
        for (i, line) in text.lines().enumerate() {
            // A path begins a word; `$HOME/work/` and `https://host/root/` do not.
            let found = places.iter().any(|place| {
                line.match_indices(place.as_str())
                    .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-./}~".contains(c)))
            });
            if found {
                wrong.push(format!("{name}:{}: {}", i + 1, line.trim()));
            }
        }
    }
    report("paths of one machine", &wrong);
    assert!(looked_at > 20, "looked at {looked_at} files only");
}

#[test]
fn the_checks_see_what_they_look_for() {
    let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
    let names = |text: &str| -> Vec<String> {
        let found = imports(&file("src/relay.rs", text));
        found.into_iter().map(|(_, name)| name).collect()
    };
    assert_eq!(names("use crate::config::Config;"), ["config"]);
    assert_eq!(names("use crate::{\n  a::{b, c},\n  d,\n  e::f as g,\n};"), ["a", "d", "e"]);
    assert_eq!(names("fn f() -> crate::close::Close {}\n// crate::config\n"), ["close"]);
    assert_eq!(names("a_crate::b; $crate::c;\n#[cfg(test)]\nmod tests {\nuse crate::d;"), [""; 0]);
    assert_eq!(names("use super::config::Config;"), ["config"]);
    let inner = file("src/admission/hold.rs", "use super::rate;");
    assert!(imports(&inner).is_empty());
    let declares = file("src/upstream/mod.rs", "#[cfg(test)]\nmod simulation;\nmod load;\n");
    assert_eq!(test_modules(&declares), [PathBuf::from("src/upstream/simulation")]);
    assert_eq!(inner.module(), "admission");
    assert_eq!(file("src/relay.rs", "").module(), "relay");
    assert!(holds("use log::info", "log::") && !holds("catalog::x", "log::"));
    assert!(floor("relay") > floor("upstream") && floor("config") > floor("session"));
}
