//! What weir tells the service manager that has started it, systemd for example: over `NOTIFY_SOCKET`, and by a line
//! for `--ready-fd`.

use std::{
    fs,
    io::{PipeWriter, Read, pipe},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    process::Command,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use rustix::process::Signal;
use tempfile::TempDir;
use weir_testkit::{admin::AdminSocket, process::Process, weir::binary, *};

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = TempDir::with_prefix("weir-test-").expect("temporary folder");
        let socket = UnixDatagram::bind(dir.path().join("notify")).expect("bind");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, dir }
    }

    fn path(&self) -> String {
        self.dir.path().join("notify").display().to_string()
    }

    /// The next message; `None` when none comes in time.
    fn next(&self) -> Option<String> {
        let mut space = [0; 4096];
        let length = self.socket.recv(&mut space).ok()?;
        Some(String::from_utf8(space[..length].to_vec()).expect("text"))
    }

    /// The next message that begins so. None of those before it may begin with one of the others.
    fn until(&self, begin: &str, never: &[&str]) -> String {
        loop {
            let message = self.next().unwrap_or_else(|| panic!("no {begin:?}"));
            if message.starts_with(begin) {
                return message;
            }
            assert!(!never.iter().any(|never| message.starts_with(never)), "{message:?} before {begin:?}");
        }
    }
}

/// The values of a message, by their names.
fn value<'a>(message: &'a str, name: &str) -> &'a str {
    let value = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name} in {message:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_hears_that_weir_is_ready_reloads_and_stops() {
    let manager = Manager::new();
    let cluster = Cluster::start(2, |server| server).await;
    let config = WeirConfig::of(&cluster);
    let top = "workers = 2\nlame_duck_grace_period = \"1s\"\nlame_duck_duration = \"30s\"";
    let mut weir = config.top(top).environment("NOTIFY_SOCKET", &manager.path()).start().await;
    let ready = manager.until("READY=1", &["RELOADING", "STOPPING", "WATCHDOG"]);
    assert_eq!(value(&ready, "STATUS"), "0 sessions, 0 clients held, 2 of 2 servers usable");
    let mut session = RawClient::connect(&weir.address, &Login::nobody()).await;
    session.round_trip().await.expect("weir is ready, and serves");

    weir.signal(Signal::HUP);
    let reloading = manager.until("RELOADING=1", &["READY", "STOPPING"]);
    let at: i64 = value(&reloading, "MONOTONIC_USEC").parse().expect("microseconds");
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    assert!(at > 0 && at <= now.tv_sec * 1_000_000 + now.tv_nsec / 1000);
    manager.until("READY=1", &["RELOADING", "STOPPING"]);

    weir.signal(Signal::TERM);
    let stopping = manager.until("STOPPING=1", &["READY", "RELOADING"]);
    assert_eq!(value(&stopping, "EXTEND_TIMEOUT_USEC"), "40000000", "the drain, and 10 s");
    // It is too late for a reload.
    weir.signal(Signal::HUP);
    assert!(weir.wait(PATIENCE).await.success());
    manager.socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
    while let Some(message) = manager.next() {
        assert!(message.starts_with("STATUS="), "{message:?} after STOPPING=1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_fails_ends_too_and_the_status_says_so() {
    let manager = Manager::new();
    let cluster = Cluster::start(1, |server| server).await;
    let dir = TempDir::with_prefix("weir-test-").expect("temporary folder");
    let toml = WeirConfig::of(&cluster).toml(&dir.path().join("ports.json").display().to_string());
    let (file, mut command) = (dir.path().join("weir.toml"), Command::new(binary()));
    command.env("NOTIFY_SOCKET", manager.path());
    let mut weir = Weir::spawn_with(&toml, dir, command, None).await;
    manager.until("READY=1", &[]);
    fs::write(&file, "nonsense").expect("write");
    weir.signal(Signal::HUP);
    manager.until("RELOADING=1", &["READY"]);
    let status = manager.until("READY=1", &[]);
    assert!(value(&status, "STATUS").ends_with("; the last reload has changed nothing: the log says why"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_follows_the_sessions() {
    let manager = Manager::new();
    let cluster = Cluster::start(1, |server| server).await;
    let weir = WeirConfig::of(&cluster).environment("NOTIFY_SOCKET", &manager.path()).start().await;
    manager.until("READY=1", &[]);
    let _session = RawClient::connect(&weir.address, &Login::nobody()).await;
    manager.until("STATUS=1 sessions, 0 clients held, 1 of 1 servers usable", &["READY"]);
}

/// One thread of a process, which stands still.
struct Stopped {
    release: mpsc::Sender<()>,
    holds: JoinHandle<()>,
}

impl Stopped {
    /// Stops the thread with this name, as a debugger does.
    fn thread(process: u32, name: &'static str) -> Self {
        let (release, released) = mpsc::channel();
        let (held, is_held) = mpsc::channel();
        let tasks = Path::new("/proc").join(process.to_string()).join("task");
        let holds = thread::spawn(move || {
            let all = fs::read_dir(tasks).expect("threads").map(|entry| entry.expect("a thread").path());
            let named =
                |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|is| is.trim() == name);
            let path = all.into_iter().find(named).unwrap_or_else(|| panic!("no thread {name}"));
            let thread = path.file_name().and_then(|id| id.to_str()?.parse().ok()).map(Pid::from_raw).expect("an id");
            ptrace::attach(thread).expect("attach");
            waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
            held.send(()).expect("the test waits");
            let _ = released.recv();
            ptrace::detach(thread, None).expect("detach");
        });
        is_held.recv().expect("it is held");
        Self { release, holds }
    }

    fn release(self) {
        drop(self.release);
        self.holds.join().expect("released");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchdog_hears_weir_while_all_of_its_threads_make_progress() {
    let manager = Manager::new();
    let cluster = Cluster::start(1, |server| server).await;
    let config = WeirConfig::of(&cluster).environment("NOTIFY_SOCKET", &manager.path());
    let weir = config.environment("WATCHDOG_USEC", "400000").start().await;
    manager.until("READY=1", &[]);
    for _ in 0..5 {
        manager.until("WATCHDOG=1", &["READY"]);
    }
    let stopped = Stopped::thread(weir.pid(), "worker-1");
    let is_stuck = async || match http::get(&weir.monitor, "/livez").await {
        Ok((503, text)) => Ok(text),
        other => Err(other),
    };
    let text = eventually(PATIENCE, "a worker that makes no progress", is_stuck).await;
    assert!(text.contains("worker 1 has made no progress"), "{text}");
    // What was sent before.
    manager.socket.set_nonblocking(true).expect("not blocking");
    while manager.next().is_some() {}
    manager.socket.set_nonblocking(false).expect("blocking");
    manager.socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    while let Some(message) = manager.next() {
        assert!(!message.starts_with("WATCHDOG"), "a worker stands still");
    }
    stopped.release();
    manager.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    manager.until("WATCHDOG=1", &["READY"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchdog_of_another_process_and_a_manager_that_is_not_there_cost_nothing() {
    let manager = Manager::new();
    let cluster = Cluster::start(1, |server| server).await;
    let config = || WeirConfig::of(&cluster).environment("WATCHDOG_USEC", "100000");
    let weir = config().environment("NOTIFY_SOCKET", &manager.path()).environment("WATCHDOG_PID", "1").start().await;
    manager.until("STATUS=", &["WATCHDOG"]);
    drop(weir);
    for nobody in ["/nowhere/notify", "@weir-test-nobody", "vsock:2:1", "relative"] {
        let mut weir = config().environment("NOTIFY_SOCKET", nobody).start().await;
        RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.expect("it serves");
        weir.signal(Signal::TERM);
        assert!(weir.wait(PATIENCE).await.success(), "{nobody}");
        assert_eq!(weir.log().matches("the service manager").count(), 1, "{nobody}: it is told once:\n{}", weir.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_reads_nothing_keeps_nobody_waiting() {
    let manager = Manager::new();
    let cluster = Cluster::start(1, |server| server).await;
    // Its queue (net.unix.max_dgram_qlen) is soon full.
    let full = UnixDatagram::unbound().expect("a socket");
    full.set_nonblocking(true).expect("not blocking");
    while full.send_to(b"STATUS=full", manager.path()).is_ok() {}
    let weir = WeirConfig::of(&cluster).environment("NOTIFY_SOCKET", &manager.path()).start().await;
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.expect("it serves");
    weir.says("the service manager does not hear weir").await;
}

/// A command that becomes weir with descriptor `number` open, and `--ready-fd number`.
fn with_ready_fd(descriptor: impl Into<OwnedFd>, number: i32) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec \"$0\" \"$@\" --ready-fd {number}")).arg(binary());
    command.fd_mappings(vec![FdMapping { parent_fd: descriptor.into(), child_fd: number }]).expect("one descriptor");
    command
}

async fn started_with(writer: PipeWriter, cluster: &Cluster) -> Weir {
    let dir = TempDir::with_prefix("weir-test-").expect("temporary folder");
    let toml = WeirConfig::of(cluster).toml(&dir.path().join("ports.json").display().to_string());
    Weir::spawn_with(&toml, dir, with_ready_fd(writer, 9), None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_fd_has_one_line_once_weir_serves_and_is_closed() {
    let cluster = Cluster::start(1, |server| server).await;
    let (mut reader, writer) = pipe().expect("a pipe");
    let weir = started_with(writer, &cluster).await;
    let told = tokio::task::spawn_blocking(move || {
        let mut told = String::new();
        reader.read_to_string(&mut told).map(|_| told)
    });
    // The end comes while weir runs.
    let told = tokio::time::timeout(PATIENCE, told).await.expect("weir closes it").expect("no panic").expect("text");
    assert_eq!(told, "ready\n");
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.expect("it serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_fd_without_a_reader_costs_nothing() {
    let cluster = Cluster::start(1, |server| server).await;
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let weir = started_with(writer, &cluster).await;
    weir.says("nobody reads from --ready-fd").await;
    RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.expect("it serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ready_fd_that_is_not_open_or_a_standard_stream_is_wrong_usage() {
    let dir = TempDir::with_prefix("weir-test-").expect("temporary folder");
    for (n, number) in ["3", "4", "9", "65000", "2147483647", "0", "1", "2", "-1", "x", ""].into_iter().enumerate() {
        let (mut command, log) = (Command::new(binary()), dir.path().join(n.to_string()));
        command.args(["run", "--server", "127.0.0.1:9", "--listen", "127.0.0.1:0", &format!("--ready-fd={number}")]);
        let mut process = Process::start("weir", &mut command, &log);
        let (code, said) = (process.wait(PATIENCE).await.code(), process.log());
        assert_eq!(code, Some(64), "{number}: {said}");
        assert!(said.contains("--ready-fd"), "{number}: {said}");
    }
}

/// A process that weir has started, and that outlives it.
struct Successor(rustix::process::Pid);

impl Drop for Successor {
    fn drop(&mut self) {
        // Mostly it has ended.
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
    }
}

/// A copy of weir, which can be replaced by another executable.
fn installed(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("weir");
    fs::copy(binary(), &path).expect("a copy of weir");
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_starts_what_is_installed_and_the_manager_hears_which_process_goes_on() {
    let (manager, admin) = (Manager::new(), AdminSocket::default());
    let cluster = Cluster::start(1, |server| server).await;
    let (dir, installed_in) =
        (TempDir::with_prefix("weir-test-").expect("a folder"), TempDir::new().expect("a folder"));
    let executable = installed(installed_in.path());
    let config = WeirConfig::of(&cluster).table(&admin.toml());
    let toml = config.toml(&dir.path().join("ports.json").display().to_string());
    let mut command = Command::new(&executable);
    command.env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", "400000");
    let mut weir = Weir::spawn_with(&toml, dir, command, None).await;
    let before = weir.pid();
    manager.until("READY=1", &["STOPPING"]);
    let mut session = RawClient::connect(&weir.address, &Login::nobody()).await;

    // What is installed now does not run.
    fs::rename(&executable, installed_in.path().join("works")).expect("renamed");
    fs::write(&executable, "#!/bin/sh\nexit 7\n").expect("written");
    fs::set_permissions(&executable, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let said = admin.says(&["upgrade"]).await;
    assert!(said.err.contains("has ended before it took over (exit status: 7)"), "{said:?}");
    assert_eq!(said.code, 1);
    session.round_trip().await.expect("the session goes on");

    fs::rename(installed_in.path().join("works"), &executable).expect("renamed");
    let answer = admin.does(&["upgrade"]).await;
    let main = manager.until("MAINPID=", &["STOPPING"]);
    let pid: u32 = value(&main, "MAINPID").parse().expect("a process id");
    let successor = Successor(rustix::process::Pid::from_raw(pid as i32).expect("a process id"));
    assert_eq!(answer.trim_end(), format!("process {pid} has taken over"));
    assert_ne!(pid, before);
    assert!(weir.wait(PATIENCE).await.success(), "nothing is left to the process before");
    session.round_trip().await.expect("the session goes on");
    // It is the one whose signs of life count, and that a stop ends.
    manager.socket.set_nonblocking(true).expect("not blocking");
    while manager.next().is_some() {}
    manager.socket.set_nonblocking(false).expect("blocking");
    manager.until("WATCHDOG=1", &["STOPPING"]);
    rustix::process::kill_process(successor.0, Signal::TERM).expect("it runs");
    manager.until("STOPPING=1", &["READY"]);
    drop(session);
    let is_gone = async || rustix::process::test_kill_process(successor.0).err().ok_or("it runs");
    eventually(PATIENCE, "it has ended", is_gone).await;
}
