//! Servers that are known by name: a name with two addresses of which the first swallows packets, one that appears
//! late, one that moves, and a resolver that hangs. And a server whose limit changes.
//!
//! weir gets an `/etc` of its own, in a mount namespace, so that the test says what its resolver answers.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};
use weir_testkit::*;

/// Of Linux.
const O_NONBLOCK: i32 = 0o4000;

/// An `/etc` with a table of hosts, and no other resolver.
pub(crate) struct Etc(TempDir);

impl Etc {
    /// `None` where this machine allows no mount namespaces: the test is skipped then, and says so.
    pub(crate) fn new() -> Option<Self> {
        let allowed = Command::new("unshare").args(["-Urm", "true"]).stderr(Stdio::null()).status();
        if !allowed.is_ok_and(|status| status.success()) {
            skip("this machine allows no mount namespaces of ours (unshare -Urm)");
            return None;
        }
        let etc = Self(TempDir::with_prefix("weir-etc-").expect("temporary folder"));
        fs::write(etc.0.path().join("nsswitch.conf"), "hosts: files\n").unwrap();
        fs::write(etc.0.path().join("host.conf"), "multi on\n").unwrap();
        etc.hosts("");
        Some(etc)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn hosts(&self, text: &str) {
        self.write("hosts", text);
    }

    /// Writes a file there, whole.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.0.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.0.path().join(name)).unwrap();
    }

    /// From now on every look-up hangs, for as long as the file lives that this returns once one does.
    pub(crate) async fn hang(&self) -> fs::File {
        let hosts = self.0.path().join("hosts");
        fs::remove_file(&hosts).unwrap();
        assert!(Command::new("mkfifo").arg(&hosts).status().unwrap().success());
        // It can be opened only while a look-up waits at the other end.
        let mut options = fs::OpenOptions::new();
        options.write(true).custom_flags(O_NONBLOCK);
        eventually(2 * PATIENCE, "a look-up hangs", async || options.open(&hosts)).await
    }
}

/// A configuration in which the server is known by a name of its own.
fn named(server: &NatsServer, etc: &Etc) -> WeirConfig {
    let config = WeirConfig::of_servers(&[server]).default_settings();
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    let config = config.replacing(
        &format!("address = \"{}\"", server.address),
        &format!("address = \"n1.test:{}\"", port(&server.address)),
    );
    let monitor = format!("n1.test:{}", port(&server.monitor));
    config.replacing(&server.monitor, &monitor).etc(etc.0.path())
}

async fn connect(weir: &Weir, n: usize) -> Vec<RawClient> {
    let address = weir.address.clone();
    at_once(n, |_| {
        let address = address.clone();
        async move { RawClient::connect(&address, &Login::nobody()).await }
    })
    .await
}

/// An address whose every SYN is dropped, since its queue of connections is full. It lives as long as what this
/// returns.
async fn swallows(address: SocketAddr) -> (socket2::Socket, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    let mut kept = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        kept.push(stream.unwrap());
    }
    (socket, kept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_swallows_packets_keeps_nobody_from_the_other_one() {
    let Some(etc) = Etc::new() else { return };
    let server = NatsServer::start(ServerOptions::named("n1").default_timeouts()).await;
    let address: SocketAddr = server.address.parse().unwrap();
    let _dead = swallows(SocketAddr::new([127, 0, 0, 2].into(), address.port())).await;
    etc.hosts("127.0.0.2 n1.test\n127.0.0.1 n1.test\n");
    let weir = named(&server, &etc).start().await;
    let mut clients = connect(&weir, 40).await;
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    assert_eq!(weir.health().await, 200);
    server.settles_at(40).await;
    for client in &mut clients {
        client.round_trip().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_may_appear_late_and_move() {
    let Some(etc) = Etc::new() else { return };
    let mut server = NatsServer::start(ServerOptions::named("n1").default_timeouts()).await;
    let weir = named(&server, &etc).start_before(0).await;
    etc.hosts("127.0.0.1 n1.test\n");
    weir.sees(1).await;
    connect(&weir, 5).await;

    let address: SocketAddr = server.address.parse().unwrap();
    server.stop().await;
    for port in [address.port(), server.monitor.parse::<SocketAddr>().unwrap().port()] {
        server.reconfigure(&format!("127.0.0.1:{port}"), &format!("127.0.0.3:{port}"));
    }
    server.restart().await;
    weir.sees(0).await;
    etc.hosts("127.0.0.3 n1.test\n");
    weir.sees(1).await;
    connect(&weir, 5).await;
    assert_eq!(weir.health().await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_that_hangs_costs_nobody_anything() {
    let Some(etc) = Etc::new() else { return };
    let server = NatsServer::start(ServerOptions::named("n1").default_timeouts()).await;
    etc.hosts("127.0.0.1 n1.test\n");
    let mut weir = named(&server, &etc).top("workers = 2\nlame_duck_grace_period = \"1s\"").start().await;
    let before = connect(&weir, 5).await;
    let _hanging = etc.hang().await;
    // Longer than a reading may be old.
    for _ in 0..10 {
        connect(&weir, 3).await;
        let metrics = weir.metrics().await;
        assert_eq!((metrics.sum("weir_server_up"), metrics.sum("weir_refused_total")), (1.0, 0.0));
        assert!(metrics.sum("weir_server_reading_age_seconds") < 4.0);
        let (status, body) = http::get(&weir.monitor, "/healthz").await.unwrap();
        assert_eq!((status, body.contains("\"servers_without_reading\":0")), (200, true), "{body}");
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    drop(before);
    weir.signal(Signal::TERM);
    assert!(weir.wait(PATIENCE).await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_change_its_limit_by_a_reload_and_at_a_restart() {
    let mut server = NatsServer::start(ServerOptions::named("n1").default_timeouts().max_connections(5)).await;
    let weir = WeirConfig::of_servers(&[&server]).default_settings().cluster("reserve = 0").start().await;
    let has_room = async |n: f64| {
        weir.until(&format!("room for {n}"), |metrics| metrics.sum("weir_server_headroom") == n).await;
    };
    has_room(5.0).await;
    let mut clients = connect(&weir, 5).await;
    has_room(0.0).await;
    server.reconfigure("max_connections: 5", "max_connections: 12");
    server.signal(Signal::HUP);
    has_room(7.0).await;
    clients.extend(connect(&weir, 7).await);
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    server.reconfigure("max_connections: 12", "max_connections: 3");
    server.restart().await;
    drop(clients);
    has_room(3.0).await;
    let clients = connect(&weir, 3).await;
    assert_eq!(weir.metrics().await.sum("weir_refused_total"), 0.0);
    drop(clients);
    weir.assert_nothing_leaked().await;
}
