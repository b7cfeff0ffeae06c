//! Tells a release build its commit, for the log and `weir --version`: the one that `WEIR_BUILD_COMMIT` names, for who
//! builds without a repository, that of the package from crates.io, or that of this repository. Other builds have none:
//! they would be compiled anew after each commit.

use std::{env, fs, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WEIR_BUILD_COMMIT");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = env::var("PROFILE").is_ok_and(|profile| profile == "release").then(release_commit).flatten();
    match commit {
        Some(commit) => {
            println!("cargo::rustc-env=WEIR_COMMIT={commit}");
            println!("cargo::rustc-env=WEIR_VERSION={version} ({commit})");
        }
        None => println!("cargo::rustc-env=WEIR_VERSION={version}"),
    }
}

fn release_commit() -> Option<String> {
    let named = env::var("WEIR_BUILD_COMMIT").ok().filter(|commit| !commit.is_empty());
    named.or_else(packaged_commit).or_else(commit)
}

/// The commit that this folder was packaged from by cargo; `None` where it is no package. Its repository then is not
/// this one.
fn packaged_commit() -> Option<String> {
    let folder = env::var("CARGO_MANIFEST_DIR").ok()?;
    let told = fs::read_to_string(Path::new(&folder).join(".cargo_vcs_info.json")).ok()?;
    let (_, rest) = told.split_once("\"sha1\": \"")?;
    rest.get(..12).filter(|commit| commit.bytes().all(|byte| byte.is_ascii_hexdigit())).map(str::to_owned)
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
