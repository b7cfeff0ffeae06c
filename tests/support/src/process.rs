//! A child process: its output goes into a file, signals go to its own pid, and it is killed on drop.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::descriptors::{self, Descriptor};
use crate::{eventually, say};

/// Whether children get a process group of their own, so that Ctrl-C in the terminal does not reach them. That is for a
/// program that ends its children itself. In tests Ctrl-C must reach them, because it ends the test process without
/// running `Drop`.
pub static OWN_GROUP: AtomicBool = AtomicBool::new(false);

/// A running (or ended) child process.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        Self::start_with_standard_error(name, command, log, None)
    }

    /// The same, but with its standard error into this file or pipe instead.
    pub fn start_with_standard_error(name: &str, command: &mut Command, log: &Path, other: Option<File>) -> Self {
        raise_file_limit();
        let open = || -> File { OpenOptions::new().create(true).append(true).open(log).expect("log file") };
        if OWN_GROUP.load(SeqCst) {
            command.process_group(0);
        }
        command.env("RUST_BACKTRACE", "0"); // a backtrace would fill the last lines of a log, which failed tests print
        let child = command.stdin(Stdio::null()).stdout(open()).stderr(other.unwrap_or_else(open)).spawn();
        let child = child.unwrap_or_else(|e| panic!("cannot start {name} ({:?}): {e}", command.get_program()));
        Self { name: name.into(), child, log: log.into(), status: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. Does nothing if the process has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).unwrap_or_else(|e| panic!("signal to {}: {e}", self.name));
        }
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for a child");
        }
        self.status
    }

    /// Waits until the process has ended.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("end of {}", self.name);
        eventually(deadline, &what, async || self.exited().ok_or("still running")).await
    }

    /// Kills the process with SIGKILL and waits for it.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }

    /// Everything that the process has printed, and everything in the file before it.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines that the process has printed.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The open descriptors of the process.
    pub fn descriptors(&self) -> Vec<Descriptor> {
        descriptors::of(self.pid())
    }

    /// The resident memory of the process, in bytes.
    pub fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("kB") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            say(&format!("--- {} (ended: {:?}), its last lines:\n{}", self.name, self.status, self.log_tail(25)));
        }
    }
}

/// Raises the limit of open files to the hard limit, for this process and for children that it starts later.
pub fn raise_file_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).expect("raise the limit of open files");
    });
}
