//! The `weir` command in a shell: its output and its exit codes.

use std::{
    fs,
    process::{Command, Output},
};

const MINIMAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/minimal.toml");

fn weir(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir")).args(args).output().expect("weir starts")
}

#[test]
fn check_prints_and_exits_0_or_1() {
    let good = weir(&["check", "-c", MINIMAL]);
    assert_eq!(good.status.code(), Some(0));
    assert!(good.stderr.is_empty());
    let shown = String::from_utf8(good.stdout).unwrap();
    assert!(shown.contains("reserve = \"2%\"  # default\n"), "{shown}");
    assert!(shown.contains("address = \"10.0.0.1:4222\"\n"), "{shown}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.toml");
    fs::write(&file, "[admission]\nrate = 0\n").unwrap();
    let file = file.to_str().unwrap();
    for (command, code) in [("check", 1), ("run", 64)] {
        let bad = weir(&[command, "-c", file]);
        assert_eq!(bad.status.code(), Some(code), "{command}");
        assert!(bad.stdout.is_empty());
        let said = String::from_utf8(bad.stderr).unwrap();
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.contains("bad.toml: cluster.servers: there is no server"), "{said}");
        assert!(said.contains("bad.toml:2: admission.rate: 0 admits nobody"), "{said}");
    }
}

#[test]
fn bad_command_lines_exit_64_and_help_exits_0() {
    for args in [
        vec!["check", "-c", "no-such-file.toml"],
        vec!["run", "--server", "n1"],
        vec!["run", "--server", "n1:1", "-c", "x"],
        vec!["paddle"],
        vec!["run", "--paddle"],
    ] {
        let output = weir(&args);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    let missing = weir(&["check", "-c", "no-such-file.toml"]);
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(said.starts_with("no-such-file.toml: it cannot be read (No such file"), "{said}");
    for args in [["--version"], ["--help"]] {
        assert_eq!(weir(&args).status.code(), Some(0));
    }
    let version = String::from_utf8(weir(&["--version"]).stdout).unwrap();
    // A release build adds its commit in brackets.
    let rest = version.strip_prefix(concat!("weir ", env!("CARGO_PKG_VERSION"))).expect("its version");
    assert!(rest == "\n" || rest.starts_with(" (") && rest.ends_with(")\n"), "{version}");
}

/// In a terminal of 80 columns, and in a pipe: text stands beside or below what it explains, and not far to the right.
#[test]
fn help_can_be_read_at_80_columns() {
    let help = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_weir")).args(args).env("COLUMNS", "80").output().expect("weir starts");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = help(&["--help"]);
    let (_, commands) = all.split_once("Commands:\n").expect("commands");
    let commands = commands.lines().map_while(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands: Vec<_> = commands.filter(|name| !["", "help"].contains(name)).collect();
    assert!(commands.contains(&"run") && commands.contains(&"top"), "{commands:?}");
    for command in commands {
        for line in help(&[command, "--help"]).lines() {
            let (columns, indent) = (line.chars().count(), line.len() - line.trim_start().len());
            // Usage is one line, however long it is.
            let is_usage = line.starts_with("Usage: ");
            assert!(
                (columns <= 100 || is_usage) && indent <= 60,
                "weir {command}: {columns} columns from {indent} on:\n{line}"
            );
        }
    }
}

#[test]
fn a_bad_log_filter_is_bad_configuration() {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["run", "-c", MINIMAL])
        .env("WEIR_LOG", "weir=loud")
        .output()
        .expect("weir starts");
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("WEIR_LOG: "), "{said}");
}

/// `weir check | head -1`, a full disk, no standard output at all: no command panics, and none hangs.
#[test]
fn output_that_nobody_takes_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join("bad.toml");
    fs::write(&bad, "[admission]\nrate = 0\n").unwrap();
    let bad = bad.to_str().unwrap();
    let plan = ["plan", "--clients", "100", "--handshakes", "1000", "--for", "10s"];
    let nowhere = ["storm", "--clients", "1", "--url", "nats://127.0.0.1:1", "--for", "100ms"];
    for (args, code) in [
        (&["check", "-c", MINIMAL][..], 0),
        (&["check", "--json", "-c", MINIMAL], 0),
        (&["check", "-c", bad], 1),
        (&["check", "--json", "-c", bad], 1),
        (&["run", "-c", bad], 64),
        (&["--help"], 0),
        (&["check", "--help"], 0),
        (&["--version"], 0),
        (&["paddle"], 64),
        (&plan, 0),
        (&nowhere, 1),
    ] {
        for to in ["1>/dev/full 2>/dev/full", "1>&- 2>&-", "| true"] {
            // Without a reader of its output: the pipe is closed before weir writes.
            let script = match to {
                "| true" => "{ { sleep 0.05; \"$0\" \"$@\" 2>&1; echo $? >&3; } | true; } 3>&1".to_owned(),
                _ => format!("\"$0\" \"$@\" {to}; echo $?"),
            };
            let mut shell = Command::new("sh");
            let said = shell.args(["-c", &script, env!("CARGO_BIN_EXE_weir")]).args(args).output().expect("sh");
            let said = String::from_utf8(said.stdout).unwrap();
            assert_eq!(said.trim(), code.to_string(), "weir {args:?} {to}");
        }
    }
}
