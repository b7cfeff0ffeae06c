//! Tests that cannot run on this machine, wholly or in part. Cargo counts them as passed, since they return;
//! `scripts/test` reads what is recorded here, names each of them with its reason, and takes the first kind out of the
//! number of passed tests.

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::say;

/// Names the file that records are appended to. Without it they are only printed.
const FILE: &str = "WEIR_TESTS_SKIPPED";

/// Records that the calling test cannot run here at all. The test has to return at once: `return skip("needs …")`.
pub fn skip(reason: &str) {
    record("skipped", reason);
}

/// Records that the calling test runs here without one of its parts.
pub fn skip_part(part: &str, reason: &str) {
    record("partly", &format!("{part}: {reason}"));
}

fn record(kind: &str, reason: &str) {
    let test = test_name();
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    say(&format!("{kind}: {test}: {reason}"));
    let Some(file) = std::env::var_os(FILE) else { return };
    let mut file = OpenOptions::new().append(true).open(&file).unwrap_or_else(|e| panic!("{FILE}={file:?}: {e}"));
    // One write: tests of other processes append to the same file.
    file.write_all(format!("{kind}\t{test}\t{reason}\n").as_bytes()).expect("record a skipped test");
}

/// libtest runs each test in a thread of the test's name.
fn test_name() -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or_default();
    assert!(name.contains("::"), "only a test itself can be skipped, not a task or a thread of it such as {name:?}");
    name.to_owned()
}
