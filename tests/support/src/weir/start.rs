//! How a weir under test is started, and started again where it was.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{Weir, WeirConfig, binary};
use crate::process::Process;
use crate::{PATIENCE, eventually};

impl Weir {
    /// Starts weir with this configuration, which must set `ports_file` to `ports.json` in `dir`.
    pub async fn spawn(toml: &str, dir: TempDir) -> Self {
        Self::spawn_with(toml, dir, Command::new(binary()), None).await
    }

    /// Starts `command`, which has to become weir when `run -c FILE` are its last arguments.
    pub async fn spawn_with(toml: &str, dir: TempDir, command: Command, standard_error: Option<File>) -> Self {
        write(toml, dir.path());
        let (process, ports) = run(command, dir.path(), standard_error).await;
        let (address, monitor) = (text(&ports["listeners"][0]), text(&ports["monitor"]));
        let all = ports["listeners"].as_array().expect("a list of addresses");
        let other_listeners = all[1..].iter().map(text).collect();
        let (monitors, has_system, others_at_start) = (Vec::new(), false, 0);
        Self { address, other_listeners, monitor, process, monitors, has_system, others_at_start, _dir: dir }
    }

    /// Starts weir again once it has ended, at the addresses that it had, as a service manager does. `config` is the
    /// one that it was started with. What it logs comes behind what it has logged.
    pub async fn start_again(&mut self, config: &WeirConfig) {
        assert!(self.exited().is_some(), "it still runs");
        let toml = std::fs::read_to_string(self.config_file()).expect("weir.toml");
        // Its first start was at port 0: its first listener, its endpoints, and its further listeners, in this order.
        let had = [&self.address, &self.monitor].into_iter().chain(&self.other_listeners);
        let toml = had.fold(toml, |toml, address| {
            let host = address.rsplit_once(':').expect("a port").0;
            toml.replacen(&format!("listen = \"{host}:0\""), &format!("listen = \"{address}\""), 1)
        });
        write(&toml, self._dir.path());
        std::fs::remove_file(self.ports_file()).expect("the ports file of the first start");
        let standard_error = config.standard_error.as_deref().map(|file| file.try_clone().expect("a descriptor"));
        let (process, ports) = run(config.command(), self._dir.path(), standard_error).await;
        assert_eq!(text(&ports["listeners"][0]), self.address, "it is where it was");
        self.process = process;
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("an address").to_owned()
}

fn write(toml: &str, dir: &Path) {
    let file = dir.join("weir.toml");
    std::fs::write(&file, toml).expect("write weir.toml");
    // weir warns of a secret in a file that everybody may read.
    std::fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("weir.toml is for its owner");
}

/// Runs `command` with the configuration in `dir` until it has said where it listens.
async fn run(mut command: Command, dir: &Path, standard_error: Option<File>) -> (Process, Value) {
    let (file, log, ports) = (dir.join("weir.toml"), dir.join("log"), dir.join("ports.json"));
    command.arg("run").arg("-c").arg(&file);
    let mut process = Process::start_with_standard_error("weir", &mut command, &log, standard_error);
    let ports = eventually(PATIENCE, "ports file of weir", async || {
        if let Some(status) = process.exited() {
            let toml = std::fs::read_to_string(&file).unwrap_or_default();
            panic!("weir ended ({status}) instead of starting:\n{}\nwith:\n{toml}", process.log_tail(20));
        }
        std::fs::read(&ports)
    })
    .await;
    let ports: Value = serde_json::from_slice(&ports).expect("the ports file is JSON, written whole");
    assert_eq!(ports["pid"], process.pid(), "the ports file names weir's pid");
    (process, ports)
}
