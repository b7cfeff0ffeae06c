//! weir with listening sockets that somebody else has bound, as systemd does: it serves on them, and goes on with them
//! through reloads and restarts.

use std::{
    fs,
    io::pipe,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::Command,
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::Signal;
use tempfile::TempDir;
use weir_testkit::{process::Process, weir::binary, *};

fn bound() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("bind")
}

fn at(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("an address")
}

/// A command that becomes weir with these descriptors from 3 on, under these names.
fn with(passed: Vec<(&str, OwnedFd)>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(binary());
    let names: Vec<_> = passed.iter().map(|(name, _)| *name).collect();
    command.env("LISTEN_FDS", passed.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let descriptors = passed.into_iter().map(|(_, descriptor)| descriptor).zip(3..);
    let mappings = descriptors.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).expect("numbers of their own");
    command
}

/// The same as a socket of the service manager, which keeps it.
fn passed<'a>(name: &'a str, listener: &TcpListener) -> (&'a str, OwnedFd) {
    (name, listener.try_clone().expect("a descriptor").into())
}

fn folder() -> TempDir {
    TempDir::with_prefix("weir-test-").expect("temporary folder")
}

fn toml(cluster: &Cluster, dir: &TempDir) -> String {
    WeirConfig::of(cluster).toml(&dir.path().join("ports.json").display().to_string())
}

/// The configuration with these addresses.
fn listening(toml: &str, listener: SocketAddr, monitor: SocketAddr) -> String {
    let toml = toml.replacen("listen = \"127.0.0.1:0\"", &format!("listen = \"{listener}\""), 1);
    toml.replacen("listen = \"127.0.0.1:0\"", &format!("listen = \"{monitor}\""), 1)
}

async fn serves(weir: &Weir, clients: usize) {
    for _ in 0..clients {
        RawClient::connect(&weir.address, &Login::nobody()).await.round_trip().await.expect("it serves");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_known_by_their_address_and_outlast_restarts() {
    let cluster = Cluster::start(1, |server| server).await;
    let (listener, monitor) = (bound(), bound());
    for _ in 0..2 {
        let dir = folder();
        let toml = listening(&toml(&cluster, &dir), at(&listener), at(&monitor));
        let command = with(vec![passed("weir.socket", &monitor), passed("weir.socket", &listener)]);
        let mut weir = Weir::spawn_with(&toml, dir, command, None).await;
        assert_eq!((weir.address.clone(), weir.monitor.clone()), (at(&listener).to_string(), at(&monitor).to_string()));
        weir.sees(1).await;
        // Both workers accept from it.
        serves(&weir, 20).await;
        assert_eq!(weir.health().await, 200);
        weir.signal(Signal::TERM);
        weir.signal(Signal::TERM);
        assert!(weir.wait(PATIENCE).await.success());
        // A client that comes while no weir runs waits for the next one.
        drop(std::net::TcpStream::connect(at(&listener)).expect("the service manager has the socket still"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_known_by_their_names_wherever_they_listen() {
    let cluster = Cluster::start(1, |server| server).await;
    // Two for one listener: one for each worker.
    let (first, monitor) = (socket2_listener(0), bound());
    let second = socket2_listener(at(&first).port());
    let dir = folder();
    let toml = toml(&cluster, &dir);
    let passed = vec![passed("listeners[0]", &first), passed("monitor", &monitor), passed("listeners[0]", &second)];
    let weir = Weir::spawn_with(&toml, dir, with(passed), None).await;
    assert_eq!((weir.address.clone(), weir.monitor.clone()), (at(&first).to_string(), at(&monitor).to_string()));
    drop((first, second));
    serves(&weir, 40).await;
}

/// With SO_REUSEPORT (`ReusePort=yes`).
fn socket2_listener(port: u16) -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("bind");
    socket.listen(128).expect("listen");
    socket.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_a_reload_takes_away_and_brings_back_listens_on_its_socket_again() {
    let cluster = Cluster::start(1, |server| server).await;
    let (listener, monitor) = (bound(), bound());
    let dir = folder();
    let file = dir.path().join("weir.toml");
    let first = listening(&toml(&cluster, &dir), at(&listener), at(&monitor));
    // Elsewhere, by sockets that weir binds itself.
    let other = toml(&cluster, &dir);
    let command = with(vec![passed("weir.socket", &listener), passed("weir.socket", &monitor)]);
    let mut weir = Weir::spawn_with(&first, dir, command, None).await;
    weir.sees(1).await;
    for _ in 0..2 {
        for (text, gone) in [(&other, true), (&first, false)] {
            let reloads = weir.log().matches("configuration reloaded").count();
            fs::write(&file, text).expect("write");
            weir.signal(Signal::HUP);
            weir.says_times("configuration reloaded", reloads + 1).await;
            if !gone {
                serves(&weir, 10).await;
                assert_eq!(weir.health().await, 200);
            }
        }
    }
}

/// The end of a weir that cannot start, and what it says.
async fn fails(toml: &str, dir: &TempDir, mut command: Command) -> (Option<i32>, String) {
    let (file, log) = (dir.path().join("weir.toml"), dir.path().join("log"));
    fs::write(&file, toml).expect("write");
    let _ = fs::remove_file(&log);
    let mut process = Process::start("weir", command.arg("run").arg("-c").arg(&file), &log);
    (process.wait(PATIENCE).await.code(), process.log())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_without_a_use_is_an_error_that_names_it() {
    let cluster = Cluster::start(1, |server| server).await;
    let (dir, listener) = (folder(), bound());
    let toml = toml(&cluster, &dir);
    let address = at(&listener);
    let not_listening = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let local = UnixListener::bind(dir.path().join("socket")).expect("bind");
    let unused = "which the service manager has passed, ";
    let cases: Vec<(Vec<(&str, OwnedFd)>, String)> = vec![
        (
            vec![passed("weir.socket", &listener)],
            format!("descriptor 3 (\"weir.socket\"), {unused}listens on {address}, and the configuration on "),
        ),
        (vec![passed("listeners[1]", &listener)], format!("{unused}is for a listener that is not there")),
        (
            (0..3).map(|_| passed("listeners[0]", &listener)).collect(),
            format!("descriptor 5 (\"listeners[0]\"), {unused}is one too many: this listener takes up to 2, one"),
        ),
        (
            vec![passed("monitor", &listener), passed("monitor", &listener)],
            format!("descriptor 4 (\"monitor\"), {unused}is one too many: this listener takes up to 1"),
        ),
        (vec![("listeners[0]", datagrams.into())], format!("{unused}is no TCP socket")),
        (vec![("listeners[0]", local.into())], format!("{unused}is no TCP socket")),
        (vec![("listeners[0]", not_listening.into())], format!("{unused}does not listen")),
        (vec![("listeners[0]", pipe().expect("a pipe").1.into())], format!("{unused}is no socket")),
    ];
    for (passed, expected) in cases {
        let (code, said) = fails(&toml, &dir, with(passed)).await;
        let said = said.replace('\\', "");
        assert!(said.contains(&expected), "{expected}:\n{said}");
        assert!([Some(1), Some(64)].contains(&code), "{expected}");
        assert!(!dir.path().join("ports.json").exists(), "it has not started");
    }
    let mut missing = with(vec![passed("listeners[0]", &listener)]);
    missing.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "listeners[0]:monitor");
    let (_, said) = fails(&toml, &dir, missing).await;
    assert!(said.contains(&format!("descriptor 4 (\"monitor\"), {unused}cannot be used")), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_for_another_process_are_left_alone() {
    let cluster = Cluster::start(1, |server| server).await;
    let dir = folder();
    let toml = toml(&cluster, &dir);
    let mut command = Command::new(binary());
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "7");
    let weir = Weir::spawn_with(&toml, dir, command, None).await;
    serves(&weir, 1).await;
}
