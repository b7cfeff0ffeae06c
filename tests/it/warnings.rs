//! What is told before it hurts: levels of fullness, outages and certificates, in the log, in metrics, at a webhook and
//! on a NATS subject. The webhook is a small HTTP server, the subscriber a client of a real nats-server.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use weir_testkit::{
    admin::AdminSocket,
    tls::{Authority, pair},
    *,
};

/// What a webhook has been sent.
struct Webhook {
    url: String,
    posts: mpsc::UnboundedReceiver<Value>,
}

impl Webhook {
    /// Answers each request with the next of these statuses, and with the last one for ever.
    async fn answering(statuses: &'static [u16], tls: Option<TlsAcceptor>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}/hook?key=s3cr3t", socket.local_addr().unwrap().port());
        let (sender, posts) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut statuses = statuses.iter().copied().peekable();
            while let Ok((stream, _)) = socket.accept().await {
                let mut status = || if statuses.len() > 1 { statuses.next() } else { statuses.peek().copied() };
                let post = match &tls {
                    None => answer(stream, status().unwrap()).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => answer(stream, status().unwrap()).await,
                        Err(_) => None,
                    },
                };
                if post.is_some_and(|post| sender.send(post).is_err()) {
                    return;
                }
            }
        });
        Self { url, posts }
    }

    /// The next event of this kind.
    async fn hears(&mut self, kind: &str) -> Value {
        let next = async {
            loop {
                let event = self.posts.recv().await.expect("the webhook runs");
                if is_of(&event, kind) {
                    return event;
                }
            }
        };
        timeout(PATIENCE, next).await.unwrap_or_else(|_| panic!("the webhook has not heard of {kind}"))
    }
}

fn is_of(event: &Value, kind: &str) -> bool {
    event["type"].as_str().is_some_and(|name| name == format!("io.weir.advisory.v1.{kind}"))
}

/// Reads one request, which is a POST of JSON, and answers it.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: u16) -> Option<Value> {
    let mut read = Vec::new();
    let body_at = loop {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(read[..body_at].to_vec()).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).expect("a length").split("\r\n").next().unwrap();
    while read.len() < body_at + length.parse::<usize>().unwrap() {
        assert!(stream.read_buf(&mut read).await.ok()? > 0);
    }
    let text = format!("HTTP/1.1 {status} Because\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    stream.write_all(text.as_bytes()).await.ok()?;
    let _ = stream.shutdown().await;
    assert!(head.starts_with("post /hook?key=s3cr3t http/1.1\r\n") && head.contains("content-type: application/json"));
    Some(serde_json::from_slice(&read[body_at..]).expect("JSON"))
}

async fn next_on(subscriber: &mut async_nats::Subscriber, kind: &str) -> (String, Value) {
    let next = async {
        loop {
            let message = subscriber.next().await.expect("subscribed");
            let event = serde_json::from_slice(&message.payload).expect("JSON");
            if is_of(&event, kind) {
                return (message.subject.to_string(), event);
            }
        }
    };
    timeout(PATIENCE, next).await.unwrap_or_else(|_| panic!("the subscriber has not heard of {kind}"))
}

const USERS: &str = "accounts {\n\
    SYS { users: [{ user: admin, password: s3cr3t }] }\n\
    OPS { users: [{ user: ops, password: 0ps },\n\
                  { user: mute, password: mute, permissions: { publish: { deny: \"weir.>\" } } }] }\n\
    A { users: [{ user: a, password: a }] } }\n\
    system_account: SYS\n\
    no_auth_user: a";

async fn join(weir: &Weir, clients: &mut Vec<RawClient>, up_to: usize) {
    while clients.len() < up_to {
        clients.push(RawClient::connect(&weir.address, &Login::user("a", "a")).await);
    }
}

async fn logs(weir: &Weir, parts: &[&str]) -> String {
    eventually(PATIENCE, &format!("a line with {parts:?}"), async || {
        let log = weir.log();
        let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
        line.map(str::to_owned).ok_or(log)
    })
    .await
}

/// The levels that the log has told of this server or account, in turn.
fn told(weir: &Weir, of: &str) -> Vec<String> {
    let log = weir.log();
    let lines = log.lines().filter(|line| line.contains(of) && line.contains("used="));
    lines.filter_map(|line| Some(line.split("level=\"").nth(1)?.split('"').next()?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fills_up_is_told_of_at_each_level_to_everybody() {
    let server = NatsServer::start(ServerOptions::default().max_connections(50).with(USERS)).await;
    let ops = async_nats::ConnectOptions::with_user_and_password("ops".into(), "0ps".into());
    let ops = ops.connect(server.url()).await.unwrap();
    let mut events = ops.subscribe("weir.events.>").await.unwrap();
    seen_by_server(&ops).await;
    let mut webhook = Webhook::answering(&[200], None).await;
    let warnings = format!(
        "[warnings]\nwebhook = \"{}\"\nsubject = \"weir.events\"\n[warnings.login]\nuser = \"ops\"\npassword = \"0ps\"",
        webhook.url
    );
    let weir = WeirConfig::of_servers(&[&server]).cluster("reserve = 0").table(&warnings).start().await;
    logs(&weir, &["events are published", "weir.events.>"]).await;

    // The subscriber and the publisher have one connection each.
    let mut clients = Vec::new();
    for (up_to, kind, level, used) in [
        (38, "server_nearly_full", "warn_at", 80),
        (43, "server_nearly_full", "90%", 90),
        (48, "server_full", "full", 100),
    ] {
        join(&weir, &mut clients, up_to).await;
        let (subject, event) = next_on(&mut events, kind).await;
        let posted = webhook.hears(kind).await;
        assert_eq!(event, posted, "one event, with one id");
        assert_eq!(subject, format!("weir.events.{kind}"));
        assert_eq!((event["server"].as_str(), event["level"].as_str()), (Some("n1"), Some(level)), "{event}");
        assert_eq!((event["used_percent"].as_u64(), event["max_connections"].as_u64()), (Some(used), Some(50)));
        assert!(event["id"].as_str().unwrap().len() >= 22 && event["text"].as_str().unwrap().contains("n1"));
        for time in ["timestamp", "since"] {
            humantime::parse_rfc3339(event[time].as_str().unwrap()).unwrap();
        }
        logs(&weir, &["server=\"n1\"", &format!("level=\"{level}\""), "advice=\"add a server"]).await;
    }
    let full = webhook.hears("cluster_full").await;
    assert_eq!((full["servers"].as_u64(), full["severity"].as_str()), (Some(1), Some("critical")));
    let metrics =
        weir.until("the level is shown", |m| m.get("weir_server_fullness_level{server=\"n1\"}") == Some(3.0)).await;
    assert_eq!(metrics.get("weir_events_total{event=\"server_full\"}"), Some(1.0));
    assert_eq!(metrics.sum_where("weir_event_deliveries_total", "outcome", "failed"), 0.0);

    // One that leaves and comes back is no news.
    drop(clients.pop());
    join(&weir, &mut clients, 48).await;
    clients.clear();
    let (_, event) = next_on(&mut events, "server_room_again").await;
    assert_eq!(webhook.hears("server_room_again").await, event);
    weir.until("no level", |m| m.get("weir_server_fullness_level{server=\"n1\"}") == Some(0.0)).await;
    assert_eq!(told(&weir, "server=\"n1\"")[..3], ["warn_at", "90%", "full"]);
    for (event, times) in [("server_nearly_full", 2.0), ("cluster_full", 1.0), ("cluster_room_again", 1.0)] {
        let sample = format!("weir_events_total{{event={event:?}}}");
        weir.until(event, |all| all.get(&sample) == Some(times)).await;
    }
    assert!(!weir.log().contains("s3cr3t") && !weir.log().contains("0ps"), "a secret is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_and_a_listener_that_fill_up_are_told_of() {
    let server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let config = WeirConfig::of_servers(&[&server]).account("A", "users = [\"a\"]\nmax_connections = 10");
    let weir = config.listener("max_clients = 12").start().await;
    let mut clients = Vec::new();
    join(&weir, &mut clients, 10).await;
    let line = logs(&weir, &["account=\"A\"", "level=\"full\"", "connections=10", "advice="]).await;
    assert!(line.contains("WARN full"), "{line}");
    logs(&weir, &["listener=", "nearly full", "max_connections=12"]).await;
    let metrics = weir.until("the levels are shown", |m| m.sum("weir_account_fullness_level") == 3.0).await;
    assert_eq!(metrics.sum("weir_listener_fullness_level"), 1.0);
    // A name that nobody has proven is no account.
    let stranger = RawClient::attempt(&weir.address, &Login::user("b", "b"), PATIENCE).await;
    assert!(stranger.refusal().is_some());
    assert_eq!(weir.metrics().await.of("weir_account_fullness_level").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_begin_and_end_in_turn() {
    let mut server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let mut webhook = Webhook::answering(&[200], None).await;
    let warnings = format!("[warnings]\nwebhook = \"{}\"", webhook.url);
    let weir = WeirConfig::of_servers(&[&server]).table(&warnings).start().await;
    server.kill9();
    weir.sees(0).await;
    // A dial shows that it has gone.
    let refused = RawClient::attempt(&weir.address, &Login::user("a", "a"), PATIENCE).await;
    assert!(refused.refusal().is_some());
    assert_eq!(webhook.hears("no_server").await["severity"], "critical");
    assert_eq!(webhook.hears("server_down").await["server"], "n1");
    server.restart().await;
    assert!(webhook.hears("server_usable_again").await["lasted_seconds"].is_u64());
    let back = webhook.hears("server_up").await;
    assert_eq!((back["server"].as_str(), back["severity"].as_str()), (Some("n1"), Some("info")));
    for line in ["server is down", "no server can be used", "a server can be used again", "server is back"] {
        logs(&weir, &[line]).await;
    }
}

/// A server without a name in its table has its address for one until it has told its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_ends_under_the_name_by_which_it_began() {
    let mut server = NatsServer::start(ServerOptions::default()).await;
    server.kill9();
    let mut webhook = Webhook::answering(&[200], None).await;
    let warnings = format!("[warnings]\nwebhook = \"{}\"", webhook.url);
    let config = WeirConfig::of_servers(&[&server]).replacing("name = \"n1\"\n", "").table(&warnings);
    let _weir = config.start_at_once().await;
    let down = webhook.hears("server_down").await;
    assert_eq!(down["server"], server.address);
    server.restart().await;
    assert_eq!(webhook.hears("server_up").await["server"], down["server"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_is_tried_again_and_given_up() {
    let mut server = NatsServer::start(ServerOptions::default()).await;
    let authority = Authority::new("hooks");
    let mut webhook = Webhook::answering(&[503, 200], Some(authority.server("localhost"))).await;
    let mut refuses = Webhook::answering(&[404], None).await;
    let with = |url: &str, ca: &str| {
        let warnings = format!("[warnings]\nwebhook = {url:?}\n{ca}");
        WeirConfig::of_servers(&[&server]).table(&warnings)
    };
    let others = Authority::new("others");
    let trusts = with(&webhook.url, &format!("ca_file = {:?}", authority.ca())).start().await;
    let refused = with(&refuses.url, "").start().await;
    let distrusts = with(&webhook.url, &format!("ca_file = {:?}", others.ca())).start().await;
    server.kill9();
    for weir in [&trusts, &refused, &distrusts] {
        let client = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
        assert!(client.refusal().is_some());
    }
    let first = webhook.hears("no_server").await;
    let again = webhook.hears("no_server").await;
    assert_eq!(first["id"], again["id"], "the receiver can tell that it is the same");
    let delivered = "weir_event_deliveries_total{receiver=\"webhook\",outcome=\"delivered\"}";
    trusts.until("it is delivered", |m| m.get(delivered) >= Some(1.0)).await;
    // What a receiver does not want is not tried again, and told once.
    refuses.hears("no_server").await;
    refuses.hears("server_down").await;
    let failed = "weir_event_deliveries_total{receiver=\"webhook\",outcome=\"failed\"}";
    refused.until("both have failed", |m| m.get(failed) >= Some(2.0)).await;
    logs(&refused, &["the webhook does not take an event", "HTTP status 404", "event=\"no_server\""]).await;
    let told = refused.log().matches("the webhook does not take an event").count();
    assert_eq!(told, 1, "{}", refused.log());
    assert!(!refused.log().contains("s3cr3t"));
    // It never came so far as to post.
    assert_eq!(distrusts.metrics().await.get(delivered), Some(0.0));
    logs(&distrusts, &["the webhook does not take an event", "certificate"]).await;
}

/// The authorities of the webhook change in their file, as those of the servers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_authorities_of_a_webhook_are_taken_over() {
    let mut server = NatsServer::start(ServerOptions::default()).await;
    let (before, now) = (Authority::new("before"), Authority::new("now"));
    let mut webhook = Webhook::answering(&[200], Some(now.server("localhost"))).await;
    let file = before.file("hooks.pem");
    std::fs::copy(before.ca(), &file).unwrap();
    let warnings = format!("[warnings]\nwebhook = {:?}\nca_file = {file:?}", webhook.url);
    let mut weir = WeirConfig::of_servers(&[&server]).table(&warnings).start().await;
    std::fs::write(&file, "no certificate").unwrap();
    weir.signal(Signal::HUP);
    logs(&weir, &["certificates not renewed", "of=\"webhook\"", "ca_file"]).await;
    std::fs::copy(now.ca(), &file).unwrap();
    weir.signal(Signal::HUP);
    server.kill9();
    let client = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    assert!(client.refusal().is_some());
    webhook.hears("no_server").await;
    logs(&weir, &["certificates renewed", "of=\"webhook\""]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_who_hears_and_from_when_on_and_tells_that_it_failed() {
    let server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let config = WeirConfig::of_servers(&[&server]).cluster("warn_at = \"80%\"");
    let config = config.account("A", "users = [\"a\"]\nmax_connections = 10").table("[names.nobody]\nrate = 1");
    let mut weir = config.start().await;
    let (mut first, mut second) = (Webhook::answering(&[200], None).await, Webhook::answering(&[200], None).await);
    weir.reconfigure("[names.nobody]", &format!("[warnings]\nwebhook = {:?}\n[names.nobody]", first.url));
    weir.reloads().await;
    // A look is at most a second away.
    let configured = |metrics: &metrics::Metrics| metrics.of("weir_event_deliveries_total").count() == 3;
    weir.until("the webhook is configured", configured).await;
    let mut clients = Vec::new();
    join(&weir, &mut clients, 5).await;
    weir.reconfigure("warn_at = \"80%\"", "warn_at = \"50%\"");
    weir.reloads().await;
    assert_eq!(first.hears("account_nearly_full").await["level"], "warn_at");

    weir.reconfigure("rate = 1", "rate = 0");
    weir.reload().await;
    let failed = first.hears("reload_failed").await;
    assert!(failed["first"].as_str().unwrap().contains("names.nobody"), "{failed}");
    weir.reconfigure("rate = 0", "rate = 2");
    weir.reconfigure(&first.url, &second.url);
    weir.reloads().await;
    logs(&weir, &["configuration changed", "[warnings] webhook"]).await;
    assert!(!weir.log().contains("s3cr3t"));
    weir.reconfigure("rate = 2", "rate = 0");
    eventually(PATIENCE, "the other webhook hears", async || {
        weir.reload().await;
        second.posts.try_recv().map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_never_answers_costs_nothing() {
    let server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let warnings = format!("[warnings]\nwebhook = \"http://{}/\"", silent.local_addr().unwrap());
    let config = WeirConfig::of_servers(&[&server]).account("A", "users = [\"a\"]\nmax_connections = 5");
    let mut weir = config.top("lame_duck_grace_period = \"0s\"").table(&warnings).start().await;
    let mut clients = Vec::new();
    join(&weir, &mut clients, 5).await;
    let (kept, _) = timeout(PATIENCE, silent.accept()).await.expect("weir posts").unwrap();
    weir.until("the next events wait", |m| m.get("weir_events_total{event=\"account_full\"}") == Some(1.0)).await;
    clients[0].round_trip().await.unwrap();
    drop(clients);
    weir.signal(rustix::process::Signal::TERM);
    let status = weir.wait(PATIENCE).await;
    assert!(status.success(), "weir stops although an event is on its way: {status}");
    drop(kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_may_not_publish_is_told_of_with_the_permission_that_is_missing() {
    let server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let warnings = |login: &str| format!("[warnings]\nsubject = \"weir.events\"\n[warnings.login]\n{login}");
    let config = WeirConfig::of_servers(&[&server]).account("A", "users = [\"a\"]\nmax_connections = 5");
    let weir = config.clone().table(&warnings("user = \"mute\"\npassword = \"mute\"")).start().await;
    let mut clients = Vec::new();
    join(&weir, &mut clients, 5).await;
    let advice = "advice=\"let the login of warnings.login publish to weir.events.>\"";
    logs(&weir, &["a server does not let weir publish an event", "Permissions Violation", advice]).await;
    let failed = "weir_event_deliveries_total{receiver=\"nats\",outcome=\"failed\"}";
    weir.until("it has failed", |m| m.get(failed) >= Some(1.0)).await;
    // A wrong password is another fault.
    let weir = config.table(&warnings("user = \"mute\"\npassword = \"wr0ng\"")).start().await;
    logs(&weir, &["no connection to publish events; weir keeps trying", "key=\"warnings.login\""]).await;
    assert!(!weir.log().contains("wr0ng"));
}

/// The only server is down for longer than publishing an event may take, while more happens than a client of NATS would
/// hold. A stream keeps what is published once it is there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_an_outage_are_published_after_it() {
    const PAUSES: usize = 40;
    let accounts = USERS.replace("OPS {", "OPS { jetstream: enabled,");
    let mut server = NatsServer::start(ServerOptions::default().jetstream().with(&accounts)).await;
    let ops = || async_nats::ConnectOptions::with_user_and_password("ops".into(), "0ps".into());
    let streams = async_nats::jetstream::new(ops().connect(server.url()).await.unwrap());
    let stream = async_nats::jetstream::stream::Config {
        name: "EVENTS".into(),
        subjects: vec!["weir.events.>".into()],
        ..Default::default()
    };
    streams.create_stream(stream).await.unwrap();
    let login = "[warnings]\nsubject = \"weir.events\"\n[warnings.login]\nuser = \"ops\"\npassword = \"0ps\"";
    let admin = AdminSocket::default();
    let weir = WeirConfig::of_servers(&[&server]).table(login).table(&admin.toml()).start().await;
    logs(&weir, &["events are published"]).await;
    server.kill9();
    weir.sees(0).await;
    for _ in 0..PAUSES {
        admin.does(&["pause"]).await;
        admin.does(&["resume"]).await;
    }
    weir.until("there is no server", |metrics| metrics.get("weir_events_total{event=\"no_server\"}") == Some(1.0))
        .await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.restart().await;
    weir.until("a server is there again", |metrics| {
        let there = ["server_usable_again", "server_up"];
        there.iter().all(|kind| metrics.get(&format!("weir_events_total{{event={kind:?}}}")) == Some(1.0))
    })
    .await;
    let metrics = weir
        .until("each event has come to its end", |metrics| {
            metrics.sum("weir_event_deliveries_total") == metrics.sum("weir_events_total")
        })
        .await;
    let delivered = "weir_event_deliveries_total{receiver=\"nats\",outcome=\"delivered\"}";
    assert_eq!(metrics.get(delivered), Some(metrics.sum("weir_events_total")));
    let streams = async_nats::jetstream::new(ops().connect(server.url()).await.unwrap());
    let kept = eventually(PATIENCE, "the stream has them all", async || {
        let stream = streams.get_stream("EVENTS").await.map_err(|err| err.to_string())?;
        let kept = stream.info_with_subjects(">").await.map_err(|err| err.to_string())?;
        let mut subjects = Vec::new();
        futures::pin_mut!(kept);
        while let Some(Ok((subject, n))) = kept.next().await {
            subjects.push((subject, n));
        }
        let all: usize = subjects.iter().map(|(_, n)| n).sum();
        if all as f64 >= metrics.sum("weir_events_total") { Ok(subjects) } else { Err(format!("{subjects:?}")) }
    })
    .await;
    for kind in ["paused", "resumed"] {
        let n = kept.iter().find(|(subject, _)| *subject == format!("weir.events.{kind}")).map(|(_, n)| *n);
        assert!(n >= Some(PAUSES), "{kind}: {kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_login_of_the_system_account_publishes_where_there_is_no_other() {
    let server = NatsServer::start(ServerOptions::default().with(USERS)).await;
    let admin = async_nats::ConnectOptions::with_user_and_password("admin".into(), "s3cr3t".into());
    let admin = admin.connect(server.url()).await.unwrap();
    let mut events = admin.subscribe("weir.events.account_full").await.unwrap();
    seen_by_server(&admin).await;
    let system = "[cluster.system]\nuser = \"admin\"\npassword = \"s3cr3t\"";
    let config = WeirConfig::of_servers(&[&server]).cluster(system).table("[warnings]\nsubject = \"weir.events\"");
    let weir = config.account("A", "users = [\"a\"]\nmax_connections = 5").start().await;
    logs(&weir, &["events are published"]).await;
    let mut clients = Vec::new();
    join(&weir, &mut clients, 5).await;
    let (_, event) = next_on(&mut events, "account_full").await;
    assert_eq!((event["account"].as_str(), event["connections"].as_u64()), (Some("A"), Some(5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_expires_soon_is_told_of_once() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let authority = Authority::new("ca");
    let soon = std::time::SystemTime::now() + Duration::from_secs(5 * 86_400 + 3600);
    let issued = authority.issue_with("weir", &["localhost"], |params| params.not_after = soon.into());
    let config = WeirConfig::of_servers(&[&server]).listener(&format!("[listeners.tls]\n{}", pair(&issued)));
    let weir = config.start().await;
    logs(&weir, &["certificate has expired or expires soon", "days=5", "CN=weir"]).await;
    let event = "weir_events_total{event=\"certificate_expires\"}";
    weir.until("it is an event", |metrics| metrics.get(event) == Some(1.0)).await;
}

/// A TLS server with a certificate of the authority.
trait Serves {
    fn server(&self, host: &str) -> TlsAcceptor;
}

impl Serves for Authority {
    fn server(&self, host: &str) -> TlsAcceptor {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let issued = self.issue(host, &[host]);
        let certificates = CertificateDer::pem_file_iter(&issued.cert).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(&issued.key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth().with_single_cert(certificates, key);
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }
}
