//! `tcp_keepalive` and `tcp_user_timeout`: what the kernel has, who is given up, and who lives.

use std::time::Duration;

use rustix::process::Signal;
use weir_testkit::{client::End, *};

/// A second listener of weir's, with these keys.
fn and_another(keys: &str) -> String {
    format!("[[listeners]]\nlisten = \"127.0.0.1:0\"\n{keys}")
}

fn port(address: &str) -> u16 {
    address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
}

/// Where the kernel's keepalive timer of an established connection stands, in seconds; `None` without one. The columns
/// of /proc/net/tcp are: number, local address, remote address, state, queues, timer and its time in 1/100 s.
fn keepalive_timer(is_it: impl Fn(u16, u16) -> bool) -> Option<Option<u64>> {
    let text = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    text.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let port = |column: usize| {
            let (_, port) = columns[column].split_once(':').expect("address:port");
            u16::from_str_radix(port, 16).expect("a port")
        };
        if columns[3] != "01" || !is_it(port(1), port(2)) {
            return None;
        }
        let (timer, when) = columns[5].split_once(':').expect("timer:time");
        let seconds = u64::from_str_radix(when, 16).expect("a time") / 100;
        Some((timer == "02").then_some(seconds))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_have_the_keepalive_that_is_configured() {
    let server = NatsServer::start(ServerOptions::default()).await;
    let to_server = |_, remote| remote == port(&server.address);
    for (cluster, expected) in
        [("", Some(30..=60)), ("tcp_keepalive = \"20m\"", Some(900..=1200)), ("tcp_keepalive = \"off\"", None)]
    {
        let listeners = and_another("tcp_keepalive = \"10m\"");
        let config = WeirConfig::of_servers(&[&server]).default_settings().cluster(cluster).listener(&listeners);
        let weir = config.start().await;
        let client = RawClient::connect(&weir.address, &Login::nobody()).await;
        // As nats-server's own.
        // The kernel's table may lack a connection while others come and go.
        let timer_of = async |address: &str| {
            let timer = async || keepalive_timer(|local, _| local == port(address)).ok_or("not in the table");
            eventually(PATIENCE, "the connection is in the table", timer).await
        };
        assert_eq!(timer_of(&weir.address).await, None, "by default a client has none");
        assert_eq!(timer_of(&server.address).await, None, "nats-server's");
        // It is set once a session has lived for a second, and a retransmission hides it for a moment.
        eventually(PATIENCE, "the connection to the server has what is configured", async || {
            let timer = keepalive_timer(to_server);
            match (&timer, &expected) {
                (Some(Some(seconds)), Some(range)) if range.contains(seconds) => Ok(()),
                (Some(None), None) => Ok(()),
                _ => Err(timer),
            }
        })
        .await;
        drop(client);
        weir.assert_nothing_leaked().await;

        let client = RawClient::connect(&weir.other_listeners[0], &Login::nobody()).await;
        eventually(PATIENCE, "a client of the other listener has keepalive", async || {
            match keepalive_timer(|local, _| local == port(&weir.other_listeners[0])) {
                Some(Some(seconds)) if (300..=600).contains(&seconds) => Ok(()),
                other => Err(other),
            }
        })
        .await;
        drop(client);
    }
}

/// Sends 32 MiB, which no stopped server takes, and waits for the answer of the server.
async fn publish_much(mut client: RawClient) -> std::io::Result<RawClient> {
    let payload = vec![b'x'; 512 * 1024];
    for _ in 0..64 {
        client.publish("much", &payload).await?;
    }
    client.round_trip().await?;
    Ok(client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stands_still_keeps_the_sessions_that_may_wait_for_it() {
    let mut server = NatsServer::start(ServerOptions::default()).await;
    let patient = WeirConfig::of_servers(&[&server]).default_settings().start().await;
    let hasty = WeirConfig::of_servers(&[&server]).default_settings().cluster("tcp_user_timeout = \"2s\"");
    let hasty = hasty.start().await;
    let connect = async |weir: &Weir| RawClient::connect(&weir.address, &Login::nobody()).await;
    let (waits, cut) = (connect(&patient).await, connect(&hasty).await);
    server.signal(Signal::STOP);
    let (waits, cut) = (tokio::spawn(publish_much(waits)), tokio::spawn(publish_much(cut)));
    hasty.until("the hasty weir has given the server up", |metrics| metrics.sum("weir_sessions_active") == 0.0).await;
    assert!(cut.await.unwrap().is_err());
    let reason = "weir_closed_total{party=\"upstream\",phase=\"relay\",reason=\"socket_error\"}";
    hasty.until("it is counted", |metrics| metrics.get(reason) == Some(1.0)).await;
    assert!(!waits.is_finished() && patient.gauge("weir_sessions_active{server=\"n1\"}").await == 1.0);
    server.signal(Signal::CONT);
    let lives = waits.await.unwrap().expect("everything has arrived");
    drop(lives);
    patient.assert_nothing_leaked().await;
    hasty.assert_nothing_leaked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_lives_as_long_as_its_server_lets_it() {
    // The server itself would close them after 10 s.
    let server = NatsServer::start(ServerOptions::default().with("write_deadline: \"120s\"")).await;
    let keys = format!("tcp_user_timeout = \"2s\"\n{}", and_another(""));
    let weir = WeirConfig::of_servers(&[&server]).default_settings().listener(&keys).start().await;
    let mut subscribers = Vec::new();
    for address in [&weir.address, &weir.other_listeners[0]] {
        let mut client = RawClient::connect(address, &Login::nobody()).await;
        client.subscribe("flood", 1).await.unwrap();
        subscribers.push(client);
    }
    let mut publisher = RawClient::connect(&server.address, &Login::nobody()).await;
    let payload = vec![b'x'; 256 * 1024];
    const MESSAGES: usize = 96; // 24 MiB: more than all buffers on the way, less than the server's max_pending
    for _ in 0..MESSAGES {
        publisher.publish("flood", &payload).await.unwrap();
    }
    publisher.round_trip().await.unwrap();
    let reason = "weir_closed_total{party=\"downstream\",phase=\"relay\",reason=\"socket_error\"}";
    weir.until("the one with a user timeout is given up", |metrics| metrics.get(reason) == Some(1.0)).await;
    let (mut lives, mut given_up) = (subscribers.pop().unwrap(), subscribers.pop().unwrap());
    for _ in 0..MESSAGES {
        assert_eq!(lives.next_msg().await.1.len(), payload.len());
    }
    assert_ne!(given_up.end(PATIENCE).await, End::StillOpen);
    weir.until("one session is left", |metrics| metrics.sum("weir_sessions_active") == 1.0).await;
    drop((lives, given_up));
    weir.assert_nothing_leaked().await;
}

/// Nothing of TCP tells a client that has vanished from one that is silent: the servers' PINGs do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_answers_no_ping_gives_its_places_back() {
    let own = "ping_interval: \"1s\"\naccounts { A { users: [{user: u, password: up}] } }";
    let server = NatsServer::start(ServerOptions::default().with(own)).await;
    let config = WeirConfig::of_servers(&[&server]).default_settings();
    let weir = config.account("A", "users = [\"u\"]\nmax_connections = 1").start().await;
    let login = Login::user("u", "up");
    let silent = RawClient::connect(&weir.address, &login).await;
    eventually(PATIENCE, "its place is another's", async || {
        let attempt = RawClient::attempt(&weir.address, &login, Duration::from_secs(2)).await;
        match attempt {
            Attempt::In(client) => Ok(client),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    drop(silent);
    weir.assert_nothing_leaked().await;
}
