//! `weir run --takeover`: another process in the place of the one under test.

mod between;

use std::mem;
use std::process::{Command, ExitStatus};

use serde_json::Value;

use crate::process::Process;
use crate::weir::{Weir, binary};
use crate::{PATIENCE, eventually};

pub use between::Between;

impl Weir {
    /// Starts another process, with the configuration as it is by now, that takes over from this one, and waits until
    /// it serves. Returns the one before, which may have sessions left.
    pub async fn is_taken_over(&mut self) -> Process {
        let new = self.start_takeover();
        self.is_replaced_by(new).await
    }

    /// Waits until this process serves in the place of the one under test. Returns the one before.
    pub async fn is_replaced_by(&mut self, new: Process) -> Process {
        let before = self.replace(new);
        self.serves().await;
        before
    }

    /// This process is the one under test from now on. Returns the one before.
    pub fn replace(&mut self, new: Process) -> Process {
        mem::replace(&mut self.process, new)
    }

    /// Waits until the process serves.
    pub async fn serves(&mut self) {
        let (ports, new) = (self.ports_file(), &mut self.process);
        let what = "another process has taken over";
        eventually(PATIENCE, what, async || {
            if let Some(status) = new.exited() {
                panic!("weir ended ({status}) instead of taking over:\n{}", new.log_tail(20));
            }
            let ports: Value = serde_json::from_slice(&std::fs::read(&ports).unwrap_or_default()).unwrap_or_default();
            if ports["pid"] == new.pid() { Ok(()) } else { Err(new.log_tail(5)) }
        })
        .await;
    }

    /// Starts another process that is to take over from this one.
    pub fn start_takeover(&self) -> Process {
        let mut command = Command::new(binary());
        command.arg("run").arg("-c").arg(self.config_file()).arg("--takeover");
        let nth = (1..).find(|n| !self._dir.path().join(format!("log.{n}")).exists()).expect("a number");
        Process::start("weir", &mut command, &self._dir.path().join(format!("log.{nth}")))
    }

    /// The same, and the process before ends by itself: it has nothing left.
    pub async fn is_taken_over_whole(&mut self) -> ExitStatus {
        let mut before = self.is_taken_over().await;
        before.wait(PATIENCE).await
    }
}
