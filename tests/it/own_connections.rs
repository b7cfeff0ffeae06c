//! weir's own connections to the servers, for its fleet and its events, count from when they are opened, whatever the
//! last reading of a server says.

use weir_testkit::{crowd::*, *};

/// Accounts of a server, and the tables of weir's own connections to it.
pub const OWN_ACCOUNTS: &str = "accounts { SYS { users: [{user: admin, password: p}] }, \
                            OPS { users: [{user: ops, password: p}] } }\nsystem_account: SYS";
pub const OWN_SYSTEM: &str = "[cluster.system]\nuser = \"admin\"\npassword = \"p\"";
pub const OWN_OTHERS: &str = "[warnings]\nsubject = \"weir.events\"\n\
                              [warnings.login]\nuser = \"ops\"\npassword = \"p\"\n\
                              [fleet]\nname = \"edge\"\nuser = \"ops\"\npassword = \"p\"\nquota = \"split\"";

/// They have been made so many times, at least.
pub async fn has_its_own_connections(weir: &Weir, n: usize) {
    for line in ["connected to the system account", "connected to the fleet", "events are published"] {
        eventually(PATIENCE, line, async || {
            let log = weir.log();
            if log.matches(line).count() >= n { Ok(()) } else { Err(log) }
        })
        .await;
    }
}

/// The `max_connections` of the server.
const MOST: usize = 12;

const READ_OFTEN: &str = "poll_interval = \"200ms\"";
/// The only reading is the first one, before any of weir's own connections.
const READ_ONCE: &str = "poll_interval = \"1h\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_gets_the_place_of_a_connection_that_no_reading_shows() {
    let accounts = fleet::accounts("OPS { users: [{user: ops, password: p}] }, A { users: [{user: a, password: p}] }");
    let server =
        NatsServer::start(ServerOptions::default().jetstream().max_connections(MOST as u64).with(&accounts)).await;
    let of_all = WeirConfig::of_servers(&[&server])
        .replacing(READ_OFTEN, READ_ONCE)
        .cluster("reserve = 0")
        .admission("rate = 20000\nburst = 20000\nmax_hold = \"1s\"\nrefusal_spread = \"5ms\"")
        .table("[warnings]\nsubject = \"weir.events\"\n[warnings.login]\nuser = \"ops\"\npassword = \"p\"");
    let fleet = Fleet::start(2, &of_all).await;
    for weir in &fleet.weirs {
        weir.says("connected to the fleet").await;
        weir.says("events are published").await;
    }
    server.settles_at(4).await;
    let counted = |metrics: &metrics::Metrics| metrics.sum("weir_server_connections") == 4.0;
    for weir in &fleet.weirs {
        weir.until("it counts its own connections and those of the other weir", counted).await;
    }
    let crowd = Crowd::spread(&fleet.addresses(), 30, Habit::NATS_GO, |_| Login::user("a", "p"));
    crowd.settles_at(MOST - 4).await;
    crowd.decided().await;
    assert_eq!((crowd.connected(), server.connections().await), (MOST - 4, MOST as u64));
    assert!(!server.log_contains("maximum connections exceeded"), "no server ever had to refuse");
    crowd.end().await;
    for weir in &fleet.weirs {
        weir.until("only its own and those of the other weir are left", counted).await;
    }
    fleet.assert_idle().await;
}

/// Its place is given back with the connection, and taken where the next one is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_elsewhere_counts_there() {
    let accounts = "accounts { OPS { users: [{user: ops, password: p}] }, A { users: [{user: a, password: p}] } }";
    let mut cluster = Cluster::start(2, |one| one.with(accounts)).await;
    let weir = WeirConfig::of(&cluster)
        .replacing(READ_OFTEN, READ_ONCE)
        .table("[warnings]\nsubject = \"weir.events\"\n[warnings.login]\nuser = \"ops\"\npassword = \"p\"")
        .start()
        .await;
    weir.says("events are published").await;
    let at = |metrics: &metrics::Metrics| -> Vec<f64> {
        ["n1", "n2"].iter().map(|name| metrics.sum_where("weir_server_connections", "server", name)).collect()
    };
    weir.until("one server has the connection", |metrics| at(metrics).iter().sum::<f64>() == 1.0).await;
    let first = usize::from(at(&weir.metrics().await)[0] == 0.0);
    cluster.servers[first].kill9();
    weir.says_times("events are published", 2).await;
    weir.until("the other one has it", |metrics| at(metrics)[first] == 0.0 && at(metrics)[1 - first] == 1.0).await;
}

/// The only server is gone for good, and a reload writes another one in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_lost_go_on_at_the_servers_of_a_reload() {
    let start = |name: &str| NatsServer::start(ServerOptions::named(name).with(OWN_ACCOUNTS));
    let (mut n1, n2) = tokio::join!(start("n1"), start("n2"));
    let mut weir = WeirConfig::of_servers(&[&n1]).table(OWN_SYSTEM).table(OWN_OTHERS).start().await;
    has_its_own_connections(&weir, 1).await;
    n1.kill9();
    weir.says("lost the connection to the system account").await;
    weir.reconfigure(&n1.address, &n2.address);
    weir.reconfigure(&n1.monitor, &n2.monitor);
    weir.reloads().await;
    has_its_own_connections(&weir, 2).await;
}
