//! `weir run --takeover`: another process in the place of the one under test.

use std::mem;
use std::process::{Command, ExitStatus};

use serde_json::Value;

use crate::process::Process;
use crate::weir::{Weir, binary};
use crate::{PATIENCE, eventually};

impl Weir {
    /// Starts another process, with the configuration as it is by now, that takes over from this one, and waits until
    /// it serves. Returns the one before, which may have sessions left.
    pub async fn is_taken_over(&mut self) -> Process {
        let mut new = self.start_takeover();
        let ports = self.ports_file();
        let what = "another process has taken over";
        eventually(PATIENCE, what, async || {
            if let Some(status) = new.exited() {
                panic!("weir ended ({status}) instead of taking over:\n{}", new.log_tail(20));
            }
            let ports: Value = serde_json::from_slice(&std::fs::read(&ports).unwrap_or_default()).unwrap_or_default();
            if ports["pid"] == new.pid() { Ok(()) } else { Err(new.log_tail(5)) }
        })
        .await;
        mem::replace(&mut self.process, new)
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
