//! Faults of one server among several, at weir's and nats-server's default timeouts: a server that is stopped, one
//! whose monitoring port misbehaves in every way, and a rolling restart by lame duck mode. No client is refused.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};
use weir_testkit::*;

async fn connect(weir: &Weir) -> RawClient {
    RawClient::connect(&weir.address, &Login::nobody()).await
}

async fn nobody_was_refused(weir: &Weir, when: &str) {
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum("weir_refused_total"), 0.0, "{when}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_costs_nobody_the_connection_and_is_used_again() {
    let mut cluster = Cluster::start(3, ServerOptions::default_timeouts).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    cluster.servers[0].signal(Signal::STOP);
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(connect(&weir).await);
        sleep(Duration::from_millis(50)).await;
    }
    nobody_was_refused(&weir, "while one of three servers was stopped").await;
    weir.sees(2).await;
    cluster.servers[0].signal(Signal::CONT);
    weir.sees(3).await;
    weir.agrees_with(&cluster).await; // the server has seen the end of what weir gave up meanwhile
    let before = cluster.servers[0].connections().await;
    // It is the emptiest, so the first clients that come go there.
    for _ in 0..5 {
        clients.push(connect(&weir).await);
    }
    cluster.servers[0].settles_at(before + 5).await;
    nobody_was_refused(&weir, "after the server went on").await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

/// What a monitoring port does instead of answering.
#[derive(Clone)]
enum Fault {
    None,
    /// It closes each connection as soon as a request has come.
    Closes,
    /// It says this and nothing more, and leaves the connection open.
    Says(Vec<u8>),
    /// It says that this field of the server's answer has this value.
    Lies(&'static str, i64),
    /// It says the first, and then the second again and again.
    SaysForEver(&'static str, &'static str),
}

/// A server's monitoring port behind a switch: a real nats-server cannot be made to misbehave so.
struct FaultyMonitor {
    address: String,
    fault: Arc<Mutex<Fault>>,
    accepting: JoinHandle<()>,
}

impl FaultyMonitor {
    async fn before(server: &NatsServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fault = Arc::new(Mutex::new(Fault::None));
        let (behind, now) = (server.monitor.clone(), Arc::clone(&fault));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, behind.clone(), Arc::clone(&now)));
            }
        });
        Self { address, fault, accepting }
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
}

impl Drop for FaultyMonitor {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Answers the requests of one connection, each by the fault of its moment.
async fn answer(mut stream: TcpStream, behind: String, fault: Arc<Mutex<Fault>>) {
    let mut request = vec![0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut request).await {
        let fault = fault.lock().unwrap().clone();
        match fault {
            Fault::None | Fault::Lies(..) => {
                let line = String::from_utf8_lossy(&request[..n]).into_owned();
                let path = line.split(' ').nth(1).unwrap_or("/varz").to_owned();
                let Ok((status, mut body)) = http::get(&behind, &path).await else { return };
                if let Fault::Lies(field, value) = fault {
                    let mut varz: serde_json::Value = serde_json::from_str(&body).unwrap();
                    varz[field] = value.into();
                    body = varz.to_string();
                }
                let head = format!("HTTP/1.1 {status} OK\r\ncontent-length: {}\r\n\r\n", body.len());
                if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                    return;
                }
            }
            Fault::Closes => return,
            Fault::Says(words) => {
                let _ = stream.write_all(&words).await;
            }
            Fault::SaysForEver(first, then) => {
                let mut written = stream.write_all(first.as_bytes()).await;
                while written.is_ok() {
                    written = stream.write_all(then.repeat(100).as_bytes()).await;
                    sleep(Duration::from_millis(1)).await;
                }
                return;
            }
        }
    }
}

fn says(text: &str) -> Fault {
    Fault::Says(text.as_bytes().to_vec())
}

fn ok(body: &str) -> Fault {
    Fault::Says(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// Every fault that gives no reading at all.
fn silent_faults() -> Vec<(&'static str, Fault)> {
    vec![
        ("closes", Fault::Closes),
        ("says nothing", says("")),
        ("half a status line", says("HTTP/1.1 20")),
        ("not HTTP", says("-ERR 'Unknown Protocol Operation'\r\n")),
        ("500", says("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")),
        ("404", says("HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nno\n")),
        ("a redirect", says("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/varz\r\ncontent-length: 0\r\n\r\n")),
        ("half a body", says("HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"connections\": 1,")),
        ("two lengths", says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}")),
        ("a negative length", says("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{}")),
        ("endless headers", Fault::SaysForEver("HTTP/1.1 200 OK\r\n", "x: y\r\n")),
        ("an endless body", Fault::SaysForEver("HTTP/1.1 200 OK\r\n\r\n", "          ")),
        ("endless chunks", Fault::SaysForEver("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "2\r\n{ \r\n")),
        ("not JSON", ok("<html>hello</html>")),
        ("no object", ok("[1, 2, 3]")),
        ("an empty object", ok("{}")),
        ("words for numbers", ok("{\"connections\": \"many\", \"max_connections\": \"enough\"}")),
        ("negative connections", ok("{\"connections\": -7, \"max_connections\": 100}")),
        ("deep JSON", ok(&"[".repeat(100_000))),
    ]
}

/// Two or three servers behind monitors that can be made to misbehave.
async fn behind_faulty_monitors(n: usize) -> (Vec<NatsServer>, Vec<FaultyMonitor>, Weir) {
    let (mut servers, mut monitors) = (Vec::new(), Vec::new());
    for i in 1..=n {
        let options = ServerOptions::named(&format!("n{i}")).default_timeouts();
        let mut server = NatsServer::start(options).await;
        let monitor = FaultyMonitor::before(&server).await;
        server.monitor.clone_from(&monitor.address);
        servers.push(server);
        monitors.push(monitor);
    }
    // Polls come five times as often as by default: each fault has to last until the last reading is old.
    let config = WeirConfig::of_servers(&servers.iter().collect::<Vec<_>>()).default_settings();
    let weir = config.cluster("poll_interval = \"200ms\"").start().await;
    (servers, monitors, weir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_one_monitor_says_clients_get_in_and_the_server_is_back_afterwards() {
    let (_servers, monitors, weir) = behind_faulty_monitors(2).await;
    let before = weir.rss();
    for (what, fault) in silent_faults() {
        monitors[0].set(fault);
        weir.sees(1).await;
        let clients = at_once(10, |_| {
            let address = weir.address.clone();
            async move { RawClient::connect(&address, &Login::nobody()).await }
        })
        .await;
        nobody_was_refused(&weir, what).await;
        assert_eq!(weir.health().await, 200, "{what}");
        monitors[0].set(Fault::None);
        weir.sees(2).await;
        drop(clients);
    }
    let grown = weir.rss().saturating_sub(before) >> 20;
    assert!(grown < 16, "weir grew by {grown} MiB");
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_monitor_makes_up_costs_nobody_the_connection() {
    let (_servers, monitors, weir) = behind_faulty_monitors(2).await;
    for (field, value, up) in [
        // It cannot be: no reading.
        ("connections", i64::from(u32::MAX), 1),
        ("connections", -1, 1),
        // It would be odd.
        ("connections", 70_000, 2),
        ("max_connections", -1, 2),
        ("max_connections", 1, 2),
        ("max_control_line", 1, 2),
        ("max_control_line", i64::from(i32::MAX), 2),
        ("auth_timeout", -1, 2),
        ("cpu", 1_000_000_000, 2),
    ] {
        monitors[0].set(Fault::Lies(field, value));
        weir.sees(up).await;
        sleep(Duration::from_millis(500)).await; // at least one more reading
        let clients = at_once(10, |_| {
            let address = weir.address.clone();
            async move { RawClient::connect(&address, &Login::nobody()).await }
        })
        .await;
        nobody_was_refused(&weir, &format!("{field} = {value}")).await;
        assert_eq!(weir.health().await, 200, "{field} = {value}");
        monitors[0].set(Fault::None);
        weir.sees(2).await;
        drop(clients);
    }
    weir.says("it says connections = 4294967295, which cannot be").await;
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_reading_clients_get_in() {
    let (_servers, monitors, weir) = behind_faulty_monitors(2).await;
    monitors.iter().for_each(|monitor| monitor.set(Fault::Closes));
    weir.sees(0).await;
    let clients = at_once(40, |_| {
        let address = weir.address.clone();
        async move { RawClient::connect(&address, &Login::nobody()).await }
    })
    .await;
    nobody_was_refused(&weir, "without readings").await;
    let (status, body) = http::get(&weir.monitor, "/healthz").await.unwrap();
    assert_eq!((status, body.as_str()), (200, "{\"status\":\"ok\",\"servers_without_reading\":2}"));
    monitors.iter().for_each(|monitor| monitor.set(Fault::None));
    weir.sees(2).await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_by_lame_duck_mode_refuses_nobody() {
    let duck = "lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"5s\"";
    let mut cluster = Cluster::start(3, |server| server.default_timeouts().with(duck)).await;
    let weir = WeirConfig::of(&cluster).default_settings().start().await;
    let crowd = Crowd::start(&weir.address, 60, &Login::nobody(), Habit::PATIENT);
    crowd.settles_at(60).await;
    for server in &mut cluster.servers {
        server.signal(Signal::USR2);
        weir.sees(2).await;
        // Left alone, it would end its clients one after the other until its 30 s are over.
        server.kill9();
        server.restart().await;
        weir.sees(3).await;
        crowd.settles_at(60).await;
    }
    assert!(crowd.lost() >= 60, "{} connections were on servers that ended", crowd.lost());
    let ends = crowd.ends();
    assert!(ends.keys().all(|end| end.starts_with("established, then")), "an attempt failed: {ends:?}");
    nobody_was_refused(&weir, "in a rolling restart").await;
    weir.agrees_with(&cluster).await;
    crowd.end().await;
    weir.assert_nothing_leaked().await;
}
