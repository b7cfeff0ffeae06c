//! `scripts/test`: its totals, and what it does when there are none. A stand-in for cargo prints what cargo would.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use weir_testkit::*;

/// Two test binaries and the doc tests, as libtest prints them.
const PASSED: &str = "
running 3 tests
test a::one ... ok
test a::two ... ok
test a::three ... ignored, needs a Tuesday

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s


running 2 tests
test b::one ... ok
test b::two ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s


running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

/// What `scripts/test` makes of a cargo that prints this, records these skips and ends with this status.
fn with_cargo(prints: &str, records: &str, status: u8) -> Output {
    with_cargo_again(prints, records, status, prints)
}

/// The same with what cargo prints when it is called for tests by their names.
fn with_cargo_again(prints: &str, records: &str, status: u8, again: &str) -> Output {
    let dir = tempfile::TempDir::with_prefix("weir-test-script-").unwrap();
    let cargo = dir.path().join("cargo");
    for (name, text) in [("prints", prints), ("records", records), ("again", again)] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let here = dir.path().display();
    let stand_in = format!(
        "#!/bin/sh\ncase \" $* \" in *' --exact '*) cat '{here}/again'; exit 0;; esac\n\
         cat '{here}/prints'\ncat '{here}/records' >>\"$WEIR_TESTS_SKIPPED\"\nexit {status}\n"
    );
    std::fs::write(&cargo, stand_in).unwrap();
    std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{here}:{}", std::env::var("PATH").unwrap());
    let mut script: Command = script("test");
    script.env("PATH", path).env("NATS_SERVER", nats::binary()).output().unwrap()
}

/// The last line on stdout, and the exit code.
fn end_of(output: &Output) -> (String, Option<i32>) {
    let said = String::from_utf8_lossy(&output.stdout);
    (said.lines().last().unwrap_or_default().to_owned(), output.status.code())
}

#[test]
fn totals_are_of_all_binaries_and_what_was_skipped_has_not_passed() {
    let output = with_cargo(PASSED, "", 0);
    assert_eq!(end_of(&output), ("4 passed, 0 failed, 1 skipped".into(), Some(0)));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with(PASSED), "cargo's own output is shown: {said}");
    assert!(said.contains("\ntest: not run here: a::three ... ignored, needs a Tuesday\n"), "{said}");

    let records = "skipped\tb::one\tneeds Chromium\nskipped\tb::one\tneeds Chromium\npartly\tb::two\tjnats: no java\n";
    let output = with_cargo(PASSED, records, 0);
    assert_eq!(end_of(&output), ("3 passed, 0 failed, 2 skipped".into(), Some(0)));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\ntest: not run here: b::one: needs Chromium\n"), "{said}");
    assert!(said.contains("\ntest: not all run here: b::two: jnats: no java\n"), "{said}");
}

#[test]
fn failed_tests_are_counted_and_the_status_is_cargos() {
    let failed = PASSED
        .replace("test b::two ... ok", "test b::two ... FAILED")
        .replace("ok. 2 passed; 0 failed; 0 ignored", "FAILED. 1 passed; 1 failed; 0 ignored");
    assert_eq!(end_of(&with_cargo(&failed, "", 101)), ("3 passed, 1 failed, 1 skipped".into(), Some(101)));
}

/// What passes when it is run again counts as passed and is named, what fails again or was too much to run again does
/// not.
#[test]
fn a_failed_test_is_run_once_more_alone() {
    let failing = |names: &[&str]| {
        let mut prints = PASSED.to_owned();
        for name in names {
            prints = prints.replace(&format!("test {name} ... ok"), &format!("test {name} ... FAILED"));
        }
        let (a, b) = (names.iter().filter(|name| name.starts_with('a')).count(), 2);
        let b = b.min(names.len() - a);
        prints
            .replace("ok. 2 passed; 0 failed; 1 ignored", &format!("FAILED. {} passed; {a} failed; 1 ignored", 2 - a))
            .replace("ok. 2 passed; 0 failed; 0 ignored", &format!("FAILED. {} passed; {b} failed; 0 ignored", 2 - b))
    };
    let two = failing(&["a::one", "b::two"]);
    let output = with_cargo_again(&two, "", 101, PASSED);
    assert_eq!(end_of(&output), ("4 passed, 0 failed, 1 skipped".into(), Some(0)));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\ntest: passed only at the second try, alone: a::one\n"), "{said}");

    let output = with_cargo_again(&two, "", 101, &failing(&["b::two"]));
    assert_eq!(end_of(&output), ("3 passed, 1 failed, 1 skipped".into(), Some(101)));
    let all = failing(&["a::one", "a::two", "b::one", "b::two"]);
    assert_eq!(end_of(&with_cargo_again(&all, "", 101, PASSED)).0, "0 passed, 4 failed, 1 skipped");
    // What is not a failed test is not mended by any second try.
    assert_eq!(end_of(&with_cargo_again(&two, "", 1, PASSED)).1, Some(1));
}

#[test]
fn without_totals_it_fails() {
    let cut = PASSED.rsplit_once("\ntest result").unwrap().0;
    let lost = PASSED.replace("running 2 tests", "running 3 tests");
    let too_many = "skipped\tx::1\ty\nskipped\tx::2\ty\nskipped\tx::3\ty\nskipped\tx::4\ty\nskipped\tx::5\ty\n";
    for (prints, records, why) in [
        ("", "", "no test binary has told a result"),
        (cut, "", "3 test binaries have begun and 2 have told a result"),
        (&lost, "", "not every test has a result"),
        (PASSED, too_many, "more tests were skipped than passed"),
    ] {
        let (last, status) = end_of(&with_cargo(prints, records, 0));
        assert_eq!((last, status), (format!("test: the totals cannot be worked out: {why}"), Some(1)));
        // Cargo's own failure is not hidden by it.
        assert_eq!(end_of(&with_cargo(prints, records, 101)).1, Some(101));
    }
}
