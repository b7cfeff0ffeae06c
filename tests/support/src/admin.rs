//! The admin socket of a weir under test, and weir's own command line at it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::weir::binary;

/// A folder for an admin socket.
#[derive(Debug)]
pub struct AdminSocket {
    dir: TempDir,
}

/// What a verb of the command line has printed, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Default for AdminSocket {
    fn default() -> Self {
        Self { dir: TempDir::with_prefix("weir-test-").expect("temporary folder") }
    }
}

impl AdminSocket {
    /// The path of the socket.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("weir.sock")
    }

    /// The folder that it is in.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// The table of the configuration that opens it.
    pub fn toml(&self) -> String {
        format!("[admin]\nsocket = {:?}", self.path())
    }

    /// Runs a verb, such as `["drain", "n1"]`, at this socket.
    pub async fn says(&self, verb: &[&str]) -> Said {
        let path = self.path();
        let at = ["--socket", path.to_str().expect("a path in UTF-8")];
        says(&[verb, &at].concat()).await
    }

    /// What a verb prints that must be done.
    pub async fn does(&self, verb: &[&str]) -> String {
        let said = self.says(verb).await;
        assert_eq!((said.code, &*said.err), (0, ""), "{verb:?}: {said:?}");
        said.out
    }

    /// The same with `--json`.
    pub async fn answers(&self, verb: &[&str]) -> Value {
        let out = self.does(&[verb, &["--json"]].concat()).await;
        serde_json::from_str(&out).unwrap_or_else(|err| panic!("{verb:?}: {err}: {out}"))
    }
}

/// Runs weir with these arguments, which must end by itself.
pub async fn says(arguments: &[&str]) -> Said {
    let mut command = Command::new(binary());
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().expect("weir runs"));
    let output = output.await.expect("weir has ended");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let code = output.status.code().expect("a code");
    Said { code, out: text(output.stdout), err: text(output.stderr) }
}
