//! Records of tests that cannot run on this machine, wholly or in part. Such a test returns, so cargo counts it as
//! passed. `scripts/test` reads the records, names each test with its reason, and counts a test that was skipped as a
//! whole as skipped.

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::say;

/// The environment variable with the path of the file of records. Without it records are only printed.
const FILE: &str = "WEIR_TESTS_SKIPPED";

/// Records that the calling test cannot run here at all. The test has to return at once: `return skip("needs …")`.
pub fn skip(reason: &str) {
    record("skipped", reason);
}

/// Records that the calling test runs here without this part.
pub fn skip_part(part: &str, reason: &str) {
    record("partly", &format!("{part}: {reason}"));
}

fn record(kind: &str, reason: &str) {
    let test = test_name();
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    say(&format!("{kind}: {test}: {reason}"));
    let Some(file) = std::env::var_os(FILE) else { return };
    let mut file = OpenOptions::new().append(true).open(&file).unwrap_or_else(|e| panic!("{FILE}={file:?}: {e}"));
    // One write for each record, since several processes append to the same file.
    file.write_all(format!("{kind}\t{test}\t{reason}\n").as_bytes()).expect("record a skipped test");
}

/// libtest runs each test in a thread of the test's name.
fn test_name() -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or_default();
    let is_test = !name.is_empty() && name != "main" && !name.starts_with("tokio-");
    assert!(is_test, "a test itself has to call skip, not a task or a thread of it such as {name:?}");
    name.to_owned()
}
