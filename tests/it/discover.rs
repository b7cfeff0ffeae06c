//! Servers that a name stands for (`[cluster] discover`): they come, share the clients, and are drained when the name
//! does not lead to them any more. A resolver that says nothing, or hangs, changes nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SRV},
};
use tokio::net::UdpSocket;
use weir_testkit::{admin::AdminSocket, *};

use crate::{
    names::Etc,
    own_connections::{OWN_ACCOUNTS, OWN_OTHERS, OWN_SYSTEM, has_its_own_connections},
};

/// A server at this address of loopback, at the ports of another one.
async fn server_at(name: &str, ip: [u8; 4], ports_of: &NatsServer) -> NatsServer {
    let mut server = NatsServer::start(ServerOptions::named(name)).await;
    server.stop().await;
    let there = |theirs: &str| {
        let theirs: SocketAddr = theirs.parse().expect("an address");
        SocketAddr::new(IpAddr::from(ip), theirs.port()).to_string()
    };
    for (own, theirs) in [(server.address.clone(), &ports_of.address), (server.monitor.clone(), &ports_of.monitor)] {
        server.reconfigure(&own, &there(theirs));
    }
    (server.address, server.monitor) = (there(&ports_of.address), there(&ports_of.monitor));
    server.restart().await;
    server
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().expect("a port")
}

/// The keys of a weir whose servers are those that `nats.test` leads to, at the ports of this one.
fn keys(like: &NatsServer) -> String {
    format!(
        "discover = \"nats.test:{}\"\ndiscover_monitor = \"http://{{host}}:{}\"",
        port(&like.address),
        port(&like.monitor)
    )
}

/// Such a weir.
async fn discovering(etc: &Etc, like: &NatsServer, up: usize) -> Weir {
    WeirConfig::of_servers(&[]).cluster(&keys(like)).etc(etc.path()).start_before(up).await
}

/// Clients that come one after another: of several at once, whoever comes while a server is busy goes to the next one.
async fn connect(weir: &Weir, n: usize) -> Vec<RawClient> {
    let mut clients = Vec::new();
    for _ in 0..n {
        clients.push(RawClient::connect(&weir.address, &Login::nobody()).await);
    }
    clients
}

/// Clients come until this server has so many: it is the emptiest, and the others take some while it is busy.
async fn gets_clients(weir: &Weir, clients: &mut Vec<RawClient>, server: &NatsServer, n: u64) {
    eventually(PATIENCE, "the new server gets clients", async || {
        clients.extend(connect(weir, 1).await);
        let there = server.connections().await;
        if there >= n { Ok(()) } else { Err((there, clients.len())) }
    })
    .await;
}

/// Those that are still there.
async fn alive(clients: Vec<RawClient>) -> Vec<RawClient> {
    let mut alive = Vec::new();
    for mut client in clients {
        if client.round_trip().await.is_ok() {
            alive.push(client);
        }
    }
    alive
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_come_and_go_as_the_name_says() {
    let Some(etc) = Etc::new() else { return };
    let n1 = NatsServer::start(ServerOptions::named("n1")).await;
    let (n2, n3) = tokio::join!(server_at("n2", [127, 0, 0, 2], &n1), server_at("n3", [127, 0, 0, 3], &n1));
    etc.hosts("127.0.0.1 nats.test\n127.0.0.2 nats.test\n");
    let mut weir = discovering(&etc, &n1, 2).await;
    weir.polls(&[&n1, &n2, &n3]);
    let mut clients = connect(&weir, 40).await;
    let both = async || (n1.connections().await, n2.connections().await);
    eventually(PATIENCE, "both have their share", async || match both().await {
        (on_n1, on_n2) if on_n1 + on_n2 == 40 && on_n1.min(on_n2) >= 10 => Ok(()),
        counts => Err(counts),
    })
    .await;

    etc.hosts("127.0.0.1 nats.test\n127.0.0.2 nats.test\n127.0.0.3 nats.test\n");
    weir.sees(3).await;
    gets_clients(&weir, &mut clients, &n3, 15).await;
    assert!(clients.len() <= 40 + 60, "n3 has 15 of {} that came", clients.len() - 40);
    let on_n2 = eventually(PATIENCE, "each client is on one", async || {
        let (n1, n2, n3) = (n1.connections().await, n2.connections().await, n3.connections().await);
        if n1 + n2 + n3 == clients.len() as u64 { Ok(n2) } else { Err((n1, n2, n3)) }
    })
    .await;

    // The pod has moved: its clients are closed one after another, and come back elsewhere.
    etc.hosts("127.0.0.1 nats.test\n127.0.0.3 nats.test\n");
    let gone = |metrics: &metrics::Metrics| metrics.get("weir_server_up{server=\"n2\"}").is_none();
    let metrics = weir.until("the server is forgotten", gone).await;
    assert_eq!(metrics.sum_where("weir_closed_total", "reason", "drain"), on_n2 as f64);
    assert!(metrics.of("weir_sessions_active").all(|(sample, _)| !sample.contains("n2")), "its series have ended");
    n2.settles_at(0).await;
    let others = clients.len() - on_n2 as usize;
    let mut clients = alive(clients).await;
    assert_eq!(clients.len(), others, "those of the others notice nothing");
    clients.extend(connect(&weir, 20).await);
    eventually(PATIENCE, "all are on the other two", async || {
        let there = n1.connections().await + n3.connections().await;
        if there == clients.len() as u64 { Ok(()) } else { Err(there) }
    })
    .await;

    // Back again: another server as far as weir is concerned.
    etc.hosts("127.0.0.1 nats.test\n127.0.0.2 nats.test\n127.0.0.3 nats.test\n");
    weir.sees(3).await;
    let metrics = weir.metrics().await;
    assert_eq!(metrics.get("weir_admitted_total{server=\"n2\"}"), Some(0.0), "nothing is left of the one before");
    gets_clients(&weir, &mut clients, &n2, 5).await;
    weir.agrees_with_servers(&[&n1, &n2, &n3]).await;
    drop(clients);
    weir.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_cannot_be_looked_up_takes_no_server_away() {
    let Some(etc) = Etc::new() else { return };
    let n1 = NatsServer::start(ServerOptions::named("n1")).await;
    let n2 = server_at("n2", [127, 0, 0, 2], &n1).await;
    let weir = discovering(&etc, &n1, 0).await;
    let refused = RawClient::attempt(&weir.address, &Login::nobody(), PATIENCE).await;
    assert_eq!(refused.refusal(), Some("maximum connections exceeded"), "there is no server yet");
    etc.hosts("127.0.0.1 nats.test\n127.0.0.2 nats.test\n");
    weir.sees(2).await;
    let told = || weir.log().matches("the name of the servers cannot be looked up").count();
    weir.says_times("the name of the servers is looked up again", 1).await;
    assert_eq!(told(), 1, "{}", weir.log());
    connect(&weir, 4).await;

    etc.hosts("127.0.0.1 another.test\n");
    eventually(PATIENCE, "it is told again", async || if told() == 2 { Ok(()) } else { Err(told()) }).await;
    assert_eq!(weir.metrics().await.sum("weir_server_up"), 2.0);
    connect(&weir, 4).await;

    let hanging = etc.hang().await;
    connect(&weir, 4).await;
    assert_eq!(weir.metrics().await.sum("weir_server_up"), 2.0);
    assert_eq!(weir.health().await, 200);
    drop(hanging);
    drop((n1, n2));
}

/// A name server for the tests: it has SRV records of one name.
struct NameServer {
    records: Arc<Mutex<Vec<SRV>>>,
    task: tokio::task::JoinHandle<()>,
}

impl NameServer {
    /// `None` where this user may not bind the port that resolvers ask.
    async fn start(ip: [u8; 4]) -> Option<Self> {
        let Ok(socket) = UdpSocket::bind(SocketAddr::new(IpAddr::from(ip), 53)).await else {
            skip("this user may not bind port 53 of loopback");
            return None;
        };
        let records = Arc::<Mutex<Vec<SRV>>>::default();
        let answers = Arc::clone(&records);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let (n, from) = socket.recv_from(&mut buffer).await.expect("a question");
                let Ok(asked) = Message::from_vec(&buffer[..n]) else { continue };
                let mut answer = Message::response(asked.id, asked.op_code);
                answer.metadata.message_type = MessageType::Response;
                answer.metadata.recursion_desired = asked.recursion_desired;
                answer.metadata.recursion_available = true;
                for query in &asked.queries {
                    answer.add_query(query.clone());
                    let is_ours = query.name().to_utf8().starts_with("_nats._tcp.nats.test.");
                    if is_ours && query.query_type() == RecordType::SRV {
                        for srv in answers.lock().expect("records").iter() {
                            let record = Record::from_rdata(query.name().clone(), 1, RData::SRV(srv.clone()));
                            answer.add_answer(record);
                        }
                    } else {
                        answer.metadata.response_code = ResponseCode::NXDomain;
                    }
                }
                socket.send_to(&answer.to_vec().expect("an answer"), from).await.expect("send");
            }
        });
        Some(Self { records, task })
    }

    fn has(&self, targets: &[(&str, &NatsServer)]) {
        let srv = |(host, server): &(&str, &NatsServer)| {
            let port = port(&server.address).parse().expect("a port");
            SRV::new(0, 0, port, Name::from_utf8(host).expect("a name"))
        };
        *self.records.lock().expect("records") = targets.iter().map(srv).collect();
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn srv_records_are_followed() {
    let Some(etc) = Etc::new() else { return };
    let Some(names) = NameServer::start([127, 53, 0, 1]).await else { return };
    etc.hosts("127.0.0.1 n1.test\n127.0.0.1 n2.test\n");
    etc.write("resolv.conf", "nameserver 127.53.0.1\noptions timeout:1\n");
    let (n1, n2) =
        tokio::join!(NatsServer::start(ServerOptions::named("n1")), NatsServer::start(ServerOptions::named("n2")));
    names.has(&[("n1.test.", &n1)]);
    let config = WeirConfig::of_servers(&[]).cluster("discover = \"_nats._tcp.nats.test\"").etc(etc.path());
    let weir = config.start_before(1).await;
    let first = connect(&weir, 4).await;
    n1.settles_at(4).await;
    names.has(&[("n1.test.", &n1), ("n2.test.", &n2)]);
    weir.sees(2).await;
    let mut second = Vec::new();
    gets_clients(&weir, &mut second, &n2, 4).await;
    names.has(&[("n2.test.", &n2)]);
    weir.sees(1).await;
    n1.settles_at(0).await;
    let second = alive(second).await;
    assert!(alive(first).await.is_empty() && second.len() >= 4, "{}", second.len());
    n2.settles_at(second.len() as u64).await;
}

/// Events of `[warnings]` are published through servers that came later, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_published_through_the_servers_that_there_are() {
    let Some(etc) = Etc::new() else { return };
    let Some(names) = NameServer::start([127, 53, 0, 2]).await else { return };
    etc.hosts("127.0.0.1 n1.test\n127.0.0.1 n2.test\n");
    etc.write("resolv.conf", "nameserver 127.53.0.2\noptions timeout:1\n");
    let start = |name: &str| NatsServer::start(ServerOptions::named(name));
    let (mut n1, n2) = tokio::join!(start("n1"), start("n2"));
    names.has(&[("n1.test.", &n1)]);
    // The servers ask for no login, so any does.
    let warnings = "[warnings]\nsubject = \"weir.events\"\n[warnings.login]\nuser = \"ops\"\npassword = \"ops\"";
    let config = WeirConfig::of_servers(&[]).cluster("discover = \"_nats._tcp.nats.test\"").table(warnings);
    let config = config.listener("max_clients = 1").etc(etc.path()).log_level("debug");
    let weir = config.start_before(1).await;
    weir.says("events are published").await;
    let listener = async_nats::connect(n2.url()).await.expect("n2");
    let mut events = listener.subscribe("weir.events.listener_full").await.expect("subscribed");
    listener.flush().await.expect("flushed");
    names.has(&[("n1.test.", &n1), ("n2.test.", &n2)]);
    weir.sees(2).await;
    weir.says("a connection may go to other servers of=\"events\"").await;
    n1.kill9();
    weir.says_times("events are published", 2).await;
    let _only = RawClient::connect(&weir.address, &Login::nobody()).await;
    let event = tokio::time::timeout(PATIENCE, futures::StreamExt::next(&mut events)).await;
    let event = event.expect("in time").expect("an event");
    let told: serde_json::Value = serde_json::from_slice(&event.payload).expect("JSON");
    assert!(told["text"].as_str().is_some_and(|text| text.contains("is full")), "{told}");
}

/// Nothing leads to a server at first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weirs_own_connections_begin_with_the_first_server_that_is_found() {
    let Some(etc) = Etc::new() else { return };
    let Some(names) = NameServer::start([127, 53, 0, 3]).await else { return };
    etc.hosts("127.0.0.1 n1.test\n");
    etc.write("resolv.conf", "nameserver 127.53.0.3\noptions timeout:1\n");
    let n1 = NatsServer::start(ServerOptions::named("n1").with(OWN_ACCOUNTS)).await;
    let discover = format!("discover = \"_nats._tcp.nats.test\"\n{OWN_SYSTEM}");
    let config = WeirConfig::of_servers(&[]).cluster(&discover).table(OWN_OTHERS).etc(etc.path());
    let weir = config.start_before(0).await;
    weir.says("the name of the servers cannot be looked up").await;
    names.has(&[("n1.test.", &n1)]);
    weir.sees(1).await;
    has_its_own_connections(&weir, 1).await;
}

/// The resolver of the new process does not know the name: it has the servers from the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_while_the_name_cannot_be_looked_up_takes_no_server_away() {
    let Some(etc) = Etc::new() else { return };
    let (n1, admin) = (NatsServer::start(ServerOptions::named("n1")).await, AdminSocket::default());
    let n2 = server_at("n2", [127, 0, 0, 2], &n1).await;
    etc.hosts("127.0.0.1 nats.test\n127.0.0.2 nats.test\n");
    let config = WeirConfig::of_servers(&[]).cluster(&keys(&n1)).table(&admin.toml());
    let mut weir = config.etc(etc.path()).start_before(2).await;
    let mut clients = connect(&weir, 20).await;
    assert!(weir.is_taken_over_whole().await.success());
    weir.says("the name of the servers cannot be looked up").await;
    weir.says("sessions=20 stay=0").await;
    clients.extend(connect(&weir, 4).await);
    let clients = alive(clients).await;
    assert_eq!(clients.len(), 24);
    assert!(n2.connections().await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_name_each_other() {
    let cluster = Cluster::start(3, |options| options).await;
    let first = &cluster.servers[0];
    let config = WeirConfig::of_servers(&[first]).cluster("discover_connect_urls = true");
    let weir = config.start_before(3).await;
    let clients = connect(&weir, 30).await;
    eventually(PATIENCE, "all servers have clients", async || {
        let counts = cluster.connections().await;
        if counts.iter().all(|&n| n > 0) { Ok(()) } else { Err(counts) }
    })
    .await;
    let metrics = weir.metrics().await;
    assert_eq!(metrics.of("weir_server_up").count(), 3, "none is there twice");
    drop(clients);
}
