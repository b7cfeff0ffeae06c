//! `weir upgrade`: the running process itself starts the one that takes over from it. So the new process is among those
//! of the service manager that has started this one.

use std::{
    env,
    ffi::{OsStr, OsString},
    future,
    path::{self, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// The new process may need the whole time of a takeover: a minute to be ready, and some seconds for the sessions.
const SERVES_WITHIN: Duration = Duration::from_secs(90);
/// A process that has not taken over ends by itself within this time, or is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked at whether the process has ended. tokio's own way has each worker look for ended processes
/// each time it goes to sleep: 280 instructions of a connect.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the service manager has told this process about itself, which is not true of another one.
const OF_THIS_PROCESS: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// How this process was started.
#[derive(Debug)]
pub(super) struct Start {
    /// As it was called: what is found there by now is another executable after an update.
    executable: PathBuf,
    arguments: Vec<OsString>,
}

/// Why there is no other process in the place of this one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuccessor {
    #[error("its configuration came on standard input, and is not there to be read again")]
    StandardInput,
    #[error("it is process 1, whose end ends its container: start another container, and drain this one")]
    FirstProcess,
    #[error("{0} cannot be started: {1}")]
    NotStarted(String, String),
    #[error("process {0} has ended before it took over ({1}): its lines in the log say why")]
    Ended(u32, ExitStatus),
    #[error("process {0} has not taken over within {SERVES_WITHIN:?}")]
    Late(u32),
}

impl Start {
    /// To be called before anything changes the working directory.
    pub(super) fn of_this_process() -> Self {
        let mut arguments = env::args_os();
        let called = arguments.next().unwrap_or_else(|| "weir".into());
        // A name without a slash is looked up in PATH, then as now.
        let executable = match called.to_string_lossy().contains('/') {
            true => path::absolute(&called).unwrap_or_else(|_| called.into()),
            false => called.into(),
        };
        Self { executable, arguments: taking_over(arguments) }
    }

    fn command(&self) -> Result<Command, NoSuccessor> {
        if self.arguments.iter().any(|one| one == "-" || one == "-c-" || one == "--config=-") {
            return Err(NoSuccessor::StandardInput);
        }
        if std::process::id() == 1 {
            return Err(NoSuccessor::FirstProcess);
        }
        let mut command = Command::new(&self.executable);
        command.args(&self.arguments).stdin(Stdio::null());
        OF_THIS_PROCESS.iter().for_each(|name| _ = command.env_remove(name));
        Ok(command)
    }

    /// Starts a process that is to take over from this one.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn begin(&self) -> Result<(u32, Child), NoSuccessor> {
        let not = |err: String| NoSuccessor::NotStarted(self.executable.display().to_string(), err);
        let child = self.command()?.spawn().map_err(|err| not(err.to_string()))?;
        Ok((child.id(), child))
    }
}

/// Another process in the place of this one, by its process id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Successor {
    #[default]
    None,
    /// It serves. This process has logins under way.
    Serves(u32),
    /// It has all that goes to it.
    HasAll(u32),
}

/// Waits until the process has all in the place of this one.
///
/// # Errors
/// It does not serve.
pub(super) async fn has_all(
    pid: u32,
    mut child: Child,
    mut successor: watch::Receiver<Successor>,
) -> Result<(), NoSuccessor> {
    let mut serving = successor.clone();
    let late = async {
        sleep(SERVES_WITHIN).await;
        // It may still end by itself, or serve: with one that was told to serve this process waits for either.
        let serves = async { serving.wait_for(|one| *one == Successor::Serves(pid)).await.is_ok() };
        if timeout(ENDS_WITHIN, serves).await == Ok(true) {
            // It has clients and sessions.
            future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        biased;
        _ = successor.wait_for(|one| *one == Successor::HasAll(pid)) => Ok(()),
        status = ended(&mut child) => Err(NoSuccessor::Ended(pid, status)),
        () = late => Err(NoSuccessor::Late(pid)),
    };
    if result == Err(NoSuccessor::Late(pid)) {
        // Whatever it still does, it is nobody's any more. Where it was told to serve its end is waited for.
        let _ = child.kill();
        let _ = timeout(ENDS_WITHIN, ended(&mut child)).await;
    }
    result
}

/// Waits until the process has ended.
async fn ended(child: &mut Child) -> ExitStatus {
    loop {
        // An error would say that it is no child of this process.
        if let Ok(Some(status)) = child.try_wait() {
            return status;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The same arguments for a process that takes over: what was for this process alone is left out.
fn taking_over(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut all, mut skips) = (Vec::new(), false);
    for one in arguments {
        let is_ready_fd = one == "--ready-fd";
        if !skips && !is_ready_fd && one != "--takeover" && !begins_with(&one, "--ready-fd=") {
            all.push(one);
        }
        skips = is_ready_fd && !skips;
    }
    all.push("--takeover".into());
    all
}

fn begins_with(argument: &OsStr, begin: &str) -> bool {
    argument.as_encoded_bytes().starts_with(begin.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(all: &[&str]) -> Vec<OsString> {
        all.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_new_process_has_the_same_arguments_and_takes_over() {
        let of = |all: &[&str]| taking_over(words(all).into_iter());
        assert_eq!(of(&["run", "-c", "w.toml"]), words(&["run", "-c", "w.toml", "--takeover"]));
        assert_eq!(of(&["run", "--takeover", "-c", "w.toml"]), words(&["run", "-c", "w.toml", "--takeover"]));
        assert_eq!(
            of(&["run", "--ready-fd", "3", "--server", "a:1"]),
            words(&["run", "--server", "a:1", "--takeover"])
        );
        assert_eq!(of(&["run", "--ready-fd=3"]), words(&["run", "--takeover"]));
    }

    #[test]
    fn what_came_on_standard_input_is_not_read_again() {
        for all in [&["run", "-c", "-"][..], &["run", "--config=-", "--server", "a:1"], &["run", "-c-"]] {
            let start = Start { executable: "weir".into(), arguments: words(all) };
            assert_eq!(start.command().err(), Some(NoSuccessor::StandardInput), "{all:?}");
        }
    }

    #[tokio::test]
    async fn one_that_ends_or_cannot_be_started_is_told_of() {
        let start = |executable: &str| Start { executable: executable.into(), arguments: words(&["--takeover"]) };
        let not = start("/nowhere/weir").begin().unwrap_err().to_string();
        assert!(not.starts_with("/nowhere/weir cannot be started: "), "{not}");
        let (pid, child) = start("false").begin().unwrap();
        let (_successor, never) = watch::channel(Successor::None);
        let ended = has_all(pid, child, never).await.unwrap_err();
        assert!(matches!(ended, NoSuccessor::Ended(of, status) if of == pid && !status.success()), "{ended}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_late_is_killed_unless_it_serves() {
        let start = || {
            let start = Start { executable: "sh".into(), arguments: words(&["-c", "exec sleep 600"]) };
            start.begin().unwrap()
        };
        let (pid, child) = start();
        let (successor, receiver) = watch::channel(Successor::None);
        assert_eq!(has_all(pid, child, receiver).await, Err(NoSuccessor::Late(pid)));
        let (pid, child) = start();
        let receiver = successor.subscribe();
        successor.send_replace(Successor::Serves(pid));
        tokio::spawn(async move {
            sleep(SERVES_WITHIN * 2).await;
            successor.send_replace(Successor::HasAll(pid));
        });
        assert_eq!(has_all(pid, child, receiver).await, Ok(()));
        // One that was told to serve, and does so just after the time.
        let (other, late) = start();
        let (successor, receiver) = watch::channel(Successor::None);
        tokio::spawn(async move {
            sleep(SERVES_WITHIN + ENDS_WITHIN / 2).await;
            successor.send_replace(Successor::Serves(other));
            sleep(SERVES_WITHIN).await;
            successor.send_replace(Successor::HasAll(other));
        });
        assert_eq!(has_all(other, late, receiver).await, Ok(()));
        for pid in [pid, other] {
            let child = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("it is there still");
        }
    }
}
