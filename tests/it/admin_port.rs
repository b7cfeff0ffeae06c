//! The admin port: whoever connects there takes nothing from clients and keeps weir from nothing.

use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weir_testkit::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_request_does_not_keep_weir_from_ending() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let mut weir = WeirConfig::of_servers(&[&server]).start().await;
    let mut half = TcpStream::connect(&weir.monitor).await.unwrap();
    half.write_all(b"GET /metrics HTTP/1.1\r\nhost: weir\r\n").await.unwrap();
    let mut whole = TcpStream::connect(&weir.monitor).await.unwrap();
    whole.write_all(b"GET /healthz HTTP/1.1\r\nhost: weir\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    whole.read_exact(&mut answer).await.unwrap(); // weir has begun to read both
    weir.signal(Signal::TERM);
    weir.signal(Signal::TERM); // the second one ends the drain
    assert!(weir.wait(PATIENCE).await.success());
    drop((half, whole));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_take_no_descriptor_from_clients_and_no_scrape() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).file_limit(300).start().await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(&weir.monitor).await.unwrap());
    }
    weir.metrics().await; // by now weir has accepted all of them
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    weir.metrics().await;
    drop((silent, clients));
    weir.assert_nothing_leaked().await;
}

const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_prometheus_text_but_for_those_who_ask_for_openmetrics() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    RawClient::connect(&weir.address, &Login::nobody()).await;
    weir.until("it is counted", |metrics| metrics.sum("weir_admitted_total") == 1.0).await;
    for (accept, kind) in [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        (Some("*/*"), "text/plain; version=0.0.4; charset=utf-8"),
        (Some("text/plain;version=0.0.4"), "text/plain; version=0.0.4; charset=utf-8"),
        (Some(PROMETHEUS), "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ] {
        let (status, answered, body) = http::get_accepting(&weir.monitor, "/metrics", accept).await.unwrap();
        assert_eq!((status, &*answered), (200, kind));
        let is_open = kind.starts_with("application");
        assert_eq!((body.ends_with("# EOF\n"), body.contains("# TYPE weir_admitted counter\n")), (is_open, is_open));
        assert_eq!(body.contains("# TYPE weir_admitted_total counter\n"), !is_open);
        let metrics = metrics::Metrics::parse(&body);
        assert_eq!((metrics.sum("weir_admitted_total"), metrics.sum("weir_build_info")), (1.0, 1.0));
        let [fds, most, memory, cpu] = ["open_fds", "max_fds", "resident_memory_bytes", "cpu_seconds_total"]
            .map(|name| metrics.get(&format!("process_{name}")).expect("it is shown"));
        assert!(fds > 5.0 && fds < most && memory > 1e6 && cpu > 0.0, "{fds} {most} {memory} {cpu}");
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let began = metrics.get("process_start_time_seconds").unwrap();
        assert!((now - 600.0..=now).contains(&began), "{began} {now}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_stand_beside_counts() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server])
        .listener("max_clients = 7")
        .account("\"$G\"", "max_connections = 2")
        .start()
        .await;
    let _clients = [
        RawClient::connect(&weir.address, &Login::nobody()).await,
        RawClient::connect(&weir.address, &Login::nobody()).await,
    ];
    let in_account = |metrics: &metrics::Metrics| metrics.get("weir_account_connections{account=\"$G\"}") == Some(2.0);
    weir.until("the server has named the account of both", in_account).await;
    let third = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    assert_eq!(third.refusal(), Some("maximum account active connections exceeded"));
    let refused = "weir_account_refused_total{account=\"$G\",reason=\"account_quota\"}";
    let shown =
        |metrics: &metrics::Metrics| metrics.sum("weir_listener_clients") == 2.0 && metrics.get(refused) == Some(1.0);
    let metrics = weir.until("the third one has left, and is counted", shown).await;
    assert_eq!(metrics.sum("weir_listener_max_clients"), 7.0);
    for (name, value) in [("connections", 2.0), ("max_connections", 2.0)] {
        assert_eq!(metrics.get(&format!("weir_account_{name}{{account=\"$G\"}}")), Some(value), "{name}");
    }
}

/// Why a test that needs promtool does not run.
pub(crate) const NO_PROMTOOL: &str =
    "needs promtool, of Debian's package prometheus: PROMTOOL names none, and none is on PATH";

/// promtool, where there is one.
pub(crate) fn promtool() -> Option<std::path::PathBuf> {
    let unpacked = project().join("target/peers/unpacked/usr/bin/promtool");
    let named = std::env::var_os("PROMTOOL").map(std::path::PathBuf::from);
    let promtool = named.unwrap_or_else(|| if unpacked.exists() { unpacked } else { "promtool".into() });
    std::process::Command::new(&promtool).arg("--version").output().is_ok().then_some(promtool)
}

/// `promtool check metrics` knows the rules of names, and that each has a help text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_has_nothing_to_say() {
    let Some(promtool) = promtool() else { return skip(NO_PROMTOOL) };
    let scene = crate::reference_docs::Scene::used().await;
    let (_, shown) = http::get(&scene.weir.monitor, "/metrics").await.unwrap();
    let dir = tempfile::TempDir::with_prefix("weir-test-").unwrap();
    let file = dir.path().join("metrics");
    std::fs::write(&file, &shown).unwrap();
    let said = std::process::Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    let said_text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success() && said_text.is_empty(), "{said_text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_may_stand_below_another() {
    let server = NatsServer::start(ServerOptions::default().with("http_base_path: \"/nats/n1\"")).await;
    let monitor = format!("{}/nats/n1/", server.monitor);
    // It starts with a reading of the server.
    let config = WeirConfig::of_servers(&[&server]).with_monitor(&monitor);
    let weir = config.start().await;
    assert_eq!(weir.gauge("weir_server_up{server=\"n1\"}").await, 1.0);
    assert_eq!(server.monitoring("/varz").await, None, "the server has it below its base path only");
    drop(weir);

    let dir = tempfile::TempDir::with_prefix("weir-test-").unwrap();
    let ports = dir.path().join("ports.json").display().to_string();
    let toml = config.toml(&ports).replace("[monitor]\n", "[monitor]\nhttp_base_path = \"weir\"\n");
    let weir = Weir::spawn(&toml, dir).await;
    for (path, status) in
        [("/weir/metrics", 200), ("/weir/healthz", 200), ("/weir/livez", 200), ("/weir/storms", 200), ("/metrics", 404)]
    {
        assert_eq!(http::get(&weir.monitor, path).await.unwrap().0, status, "{path}");
    }
}

/// What Kubernetes asks: a weir whose servers are gone is alive, and not ready; while it starts it is neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_tell_a_weir_that_is_alive_from_one_that_is_ready() {
    let mut server = NatsServer::start(ServerOptions::default()).await;
    let weir = WeirConfig::of_servers(&[&server]).start().await;
    let status = async |path: &str| http::get(&weir.monitor, path).await.unwrap().0;
    for path in ["/livez", "/readyz", "/healthz", "/healthz?live", "/healthz?ready=true", "/healthz?startup"] {
        assert_eq!(status(path).await, 200, "{path}");
    }
    server.kill9();
    let is_not_ready = async || if status("/readyz").await == 503 { Ok(()) } else { Err(()) };
    eventually(PATIENCE, "it is not ready", is_not_ready).await;
    for (path, code) in [("/livez", 200), ("/healthz?startup", 200), ("/healthz?ready", 503), ("/healthz", 503)] {
        assert_eq!(status(path).await, code, "{path}");
    }
    drop(weir);

    // Nobody answers at the monitoring port: the first readings take their time, in which weir does not serve yet.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (monitor, dir) =
        (format!("127.0.0.1:{}", ports::free()), tempfile::TempDir::with_prefix("weir-test-").unwrap());
    let toml = WeirConfig::of_servers(&[&server]).with_monitor(&silent.local_addr().unwrap().to_string());
    let toml = toml.toml(&dir.path().join("ports.json").display().to_string());
    let toml = toml.replace("[monitor]\nlisten = \"127.0.0.1:0\"", &format!("[monitor]\nlisten = \"{monitor}\""));
    let asking = async {
        let asked = async || http::get(&monitor, "/healthz?startup").await;
        let (status, said) = eventually(PATIENCE, "it answers", asked).await;
        assert!(status == 503 && said.contains("\"starting\""), "{status} {said}");
        assert_eq!(http::get(&monitor, "/livez").await.unwrap().0, 200);
    };
    let (_weir, ()) = tokio::join!(Weir::spawn(&toml, dir), asking);
    assert_eq!(http::get(&monitor, "/healthz?startup").await.unwrap().0, 200);
}
