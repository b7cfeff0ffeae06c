//! Tells a release build of this repository its commit, for the log and `weir --version`. Other builds have none: they
//! would be compiled anew after each commit.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = env::var("PROFILE").is_ok_and(|profile| profile == "release").then(commit).flatten();
    match commit {
        Some(commit) => {
            println!("cargo::rustc-env=WEIR_COMMIT={commit}");
            println!("cargo::rustc-env=WEIR_VERSION={version} ({commit})");
        }
        None => println!("cargo::rustc-env=WEIR_VERSION={version}"),
    }
}

/// The commit of this folder; `None` where it is not the top of a repository: a source package that is unpacked inside
/// somebody else's repository is not of that one's commit.
fn commit() -> Option<String> {
    let folder = env::var("CARGO_MANIFEST_DIR").ok()?;
    let git = |args: &[&str]| {
        let done = Command::new("git").arg("-C").arg(&folder).args(args).output().ok()?;
        let said = String::from_utf8(done.stdout).ok()?;
        done.status.success().then(|| said.trim().to_owned())
    };
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&folder).canonicalize().ok()? {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // It changes with each commit and each checkout.
    let log = Path::new(&folder).join(git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    if log.exists() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    Some(commit)
}
