//! What a reader may rely on in the source tree: files are short, every module says what it is, comments fit on a
//! screen, and nothing of one machine is written down. Which floor uses which is checked by the compiler:
//! `scripts/floors`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use weir_testkit::skip;

/// Most lines of a file.
const LONGEST: usize = 600;

/// Most lines of half of the files of `src/`.
const MEDIAN: usize = 150;

/// Most columns of a comment.
const WIDEST: usize = 120;

pub(crate) struct File {
    /// Relative to the root of the repository.
    path: PathBuf,
    pub(crate) text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files in a folder of the repository and below it.
pub(crate) fn files(folder: &str) -> Vec<File> {
    fn walk(folder: &Path, found: &mut Vec<File>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(File { path: path.strip_prefix(root()).unwrap().to_owned(), text });
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} holds no Rust file");
    found
}

fn all_files() -> Vec<File> {
    ["src", "tests", "benches", "examples", "fuzz/src", "fuzz/fuzz_targets"].into_iter().flat_map(files).collect()
}

/// Whether a file holds tests only.
fn is_of_tests(file: &File) -> bool {
    let names = ["tests", "simulation", "fairness"];
    file.path.with_extension("").components().any(|part| names.iter().any(|name| part.as_os_str() == *name))
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn files_are_short() {
    let lines = |file: &File| file.text.lines().count();
    let long = all_files().into_iter().filter(|file| lines(file) > LONGEST);
    let long: Vec<_> = long.map(|file| format!("{}: {} lines", file.path.display(), lines(&file))).collect();
    assert_none(&format!("longer than {LONGEST} lines"), &long);
    let mut lengths: Vec<_> = files("src").iter().filter(|file| !is_of_tests(file)).map(lines).collect();
    lengths.sort_unstable();
    let median = lengths[lengths.len() / 2];
    assert!(median <= MEDIAN, "half of src/ is longer than {median} lines; {MEDIAN} are allowed");
}

#[test]
fn every_module_says_what_it_is() {
    let silent = files("src").into_iter().filter(|file| !file.text.starts_with("//! "));
    let silent: Vec<_> = silent.map(|file| file.path.display().to_string()).collect();
    assert_none("does not begin with what it is, in //!", &silent);
}

#[test]
fn comments_fit_on_a_screen() {
    let mut wide = Vec::new();
    for file in all_files() {
        for (n, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with("//") && line.chars().count() > WIDEST {
                wide.push(format!("{}:{}", file.path.display(), n + 1));
            }
        }
    }
    assert_none(&format!("comments wider than {WIDEST} columns"), &wide);
}

/// libFuzzer does not start without the folder of inputs that it is given, and git keeps no empty folder.
#[test]
fn every_fuzz_target_has_inputs() {
    let has_inputs =
        |name: &str| fs::read_dir(root().join("fuzz/corpus").join(name)).is_ok_and(|mut dir| dir.next().is_some());
    let names = files("fuzz/fuzz_targets").into_iter().map(|file| file.path.file_stem().unwrap().display().to_string());
    let without: Vec<_> = names.filter(|name| !has_inputs(name)).collect();
    assert_none("without inputs in fuzz/corpus", &without);
}

/// What is tracked must mean the same on every machine.
#[test]
fn no_tracked_file_names_a_place_on_one_machine() {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let Some(listed) = listed.ok().filter(|output| output.status.success()) else {
        return skip("needs a git checkout to know which files are tracked");
    };
    let names = String::from_utf8(listed.stdout).unwrap();
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
    assert_none("paths of one machine", &wrong);
    assert!(looked_at > 20, "looked at {looked_at} files only");
}
