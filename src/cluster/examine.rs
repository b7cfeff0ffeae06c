//! Looks at each server once, as `weir check --connect` does: whether weir gets at it as it is configured, and what
//! will not work. It logs nothing and changes nothing.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    io::AsyncReadExt,
    net::lookup_host,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{
        ClusterAccess,
        discover::Discover,
        http_client::MonitorClient,
        own_client,
        own_dial::INFO_TIMEOUT,
        system_account::{Login, SystemAccount},
        varz::Varz,
    },
    dial::{self, DialError},
    protocol::{info::Info, proxy_header},
    upstream::{Endpoint, Params, Reading, Server, Servers},
};

/// How long a monitoring port may take for its answer.
const READING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the servers may take to let weir's own login in, and to answer it.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The key of the configuration that it is about, such as `cluster.servers[0].monitor`.
    pub key: String,
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// Whether weir does not get at the server by this key; else it does, and something may not be as it is meant.
    pub is_wrong: bool,
}

/// The addresses of the servers that a name stands for.
///
/// # Errors
/// It leads nowhere.
pub async fn look_up_servers(discover: &Discover) -> Result<Vec<String>, Observation> {
    let why = match timeout(INFO_TIMEOUT, discover.look_up(&[])).await {
        Ok(Ok(answer)) if !answer.addresses.is_empty() => return Ok(answer.addresses),
        Ok(Ok(_)) => "it has no address".to_owned(),
        Ok(Err(err)) => err.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    let remedy = "write a name that leads to the servers, or look at the resolver of this machine".to_owned();
    let what = format!("the name leads to no server ({why})");
    Err(Observation { key: "cluster.discover".to_owned(), what, remedy, is_wrong: true })
}

/// What the listeners need of the servers: each is the first listener that needs it, by its place in the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs {
    /// TLS of their own, which it passes through.
    pub tls: Option<usize>,
    /// A port for leafnodes.
    pub leafnode_port: Option<usize>,
}

/// What a look at one server has shown beside what is wrong with it.
#[derive(Debug, Default)]
struct Seen {
    info: Option<Arc<Info>>,
    /// Whether it takes leafnodes; `None` where that cannot be seen.
    takes_leafnodes: Option<bool>,
}

/// Looks at all servers at once; it takes some seconds at most. The first `named` of them have a table each, the others
/// were discovered.
pub async fn examine(
    servers: &Servers,
    (params, named): (&Params, usize),
    needs: Needs,
    access: &ClusterAccess,
) -> Vec<Observation> {
    let all: Vec<_> = servers.iter().collect();
    let looks = all.iter().zip(&params.servers);
    let looks = looks.map(|(server, own)| examine_one(server, own.max_connections, params, needs, access));
    let (seen, observations): (Vec<_>, Vec<_>) = join_all(looks).await.into_iter().unzip();
    let mut all = observations.concat();
    if let Some(listener) = needs.leafnode_port {
        leafnode_ports(&seen, listener, &mut all);
    }
    compare(&seen, named, &mut all);
    for one in &mut all {
        let at = one.key.strip_prefix("cluster.servers[").and_then(|rest| rest.split(']').next()?.parse().ok());
        if let Some(server) = at.filter(|at| *at >= named).and_then(|at: usize| params.servers.get(at)) {
            one.what = format!("{}: {}", server.address, one.what);
            one.key = "cluster.discover".to_owned();
        }
    }
    all
}

/// Whether servers let this login ask them.
pub async fn examine_login(login: &Login, servers: &Arc<Servers>, access: &ClusterAccess) -> Option<Observation> {
    let wrong = |what: String| {
        let remedy = "write a login of a user of the system account, which may publish to $SYS.REQ.>".to_owned();
        Some(Observation { key: login.key().to_owned(), what, remedy, is_wrong: true })
    };
    let addresses = own_client::addresses(servers);
    let system = match SystemAccount::connect(login, &addresses, access.tls.as_deref(), servers) {
        Ok(system) => system,
        Err(err) => return wrong(format!("it cannot be used ({err})")),
    };
    let stop = CancellationToken::new();
    tokio::spawn(system.clone().watch_login(stop.clone()));
    let is_up = async {
        while !system.is_up() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let answered = timeout(LOGIN_TIMEOUT, is_up).await;
    stop.cancel();
    if answered.is_ok() { None } else { wrong("no server lets weir in with it and answers".to_owned()) }
}

/// Whether servers let the login of this table in, with which weir publishes events.
pub async fn examine_events_login(
    table: &str,
    login: &Login,
    servers: &Servers,
    access: &ClusterAccess,
) -> Option<Observation> {
    let wrong = |what: String| {
        let remedy = "write a login of a user who may publish events".to_owned();
        Some(Observation { key: format!("{table}.{}", login.leaf()), what, remedy, is_wrong: true })
    };
    let options = match login.options(access.tls.as_deref()) {
        Ok(options) => options.name("weir check").ignore_discovered_servers().connection_timeout(INFO_TIMEOUT),
        Err(err) => return wrong(format!("it cannot be used ({err})")),
    };
    match timeout(LOGIN_TIMEOUT, options.connect(own_client::addresses(servers))).await {
        Ok(Ok(_)) => None,
        Ok(Err(err)) => wrong(format!("no server lets weir in with it ({err})")),
        Err(_) => wrong("no server lets weir in with it".to_owned()),
    }
}

async fn examine_one(
    server: &Arc<Server>,
    capped: Option<u32>,
    Params { compatibility, reserve, .. }: &Params,
    needs: Needs,
    access: &ClusterAccess,
) -> (Seen, Vec<Observation>) {
    let mut seen = Vec::new();
    let mut see = |key: &str, is_wrong, what: String, remedy: &str| {
        let key = format!("cluster.servers[{}].{key}", server.id());
        seen.push(Observation { key, what, remedy: remedy.to_owned(), is_wrong });
    };
    if let Some(addresses) = look_up(server.endpoint()).await.filter(|&addresses| addresses > 1) {
        let what = format!("the name leads to {addresses} addresses, of which weir uses one at a time");
        see("address", false, what, "if they are several servers, name each one in [[cluster.servers]]");
    }
    let mut refuses_header = false;
    let header = if compatibility.proxy_protocol { proxy_header::LOCAL } else { b"" };
    let info = match access.server_tls() {
        None => {
            match first_bytes_before_tls(server, header, Instant::now() + INFO_TIMEOUT).await {
                Err(err) => {
                    let what = format!("nobody lets weir in at {} ({err})", server.address());
                    see("address", true, what, "start the server, or write where it listens");
                }
                Ok(first) if first.starts_with(b"INFO") => {
                    let what = "it sends INFO before TLS, and the passthrough listener has TLS first";
                    let remedy =
                        "write handshake_first = false at the listener, or handshake_first: true at the server";
                    see("address", true, what.to_owned(), remedy);
                }
                Ok(_) => {}
            }
            None
        }
        Some(tls) => {
            let by = Instant::now() + INFO_TIMEOUT;
            match dial::dial(server, tls, header, by).await {
                Ok(mut connection) => {
                    refuses_header = connection.refuses_header(by).await;
                    Some(Arc::clone(connection.info()))
                }
                Err(DialError::RefusesHeader) => {
                    refuses_header = true;
                    None
                }
                Err(err) => {
                    let what = format!("no nats-server lets weir in at {} ({err})", server.address());
                    let remedy = match compatibility.proxy_protocol {
                        true => {
                            "start the server, or write where it listens, whether it has TLS, and whether it reads \
                                 the header of cluster.proxy_protocol"
                        }
                        false => "start the server, or write where it listens and whether it has TLS",
                    };
                    see("address", true, what, remedy);
                    None
                }
            }
        }
    };
    if refuses_header {
        let what = "the server refuses the PROXY header of cluster.proxy_protocol, and every client with it";
        let remedy = "write proxy_protocol: true at the nats-server (2.12.2 or later), or remove the key";
        see("address", true, what.to_owned(), remedy);
    }
    for missing in info.iter().flat_map(|info| compatibility.missing_features(info)) {
        if !refuses_header || !missing.shuts_out {
            let remedy = "update or configure the server, or remove the key that needs it";
            see("address", missing.shuts_out, missing.what.to_owned(), remedy);
        }
    }
    if let Some(info) = &info {
        if info.is_for_servers() {
            let what = "it is a port for leafnodes or other servers, not for clients";
            see("address", true, what.to_owned(), "write the host and port at which this server takes clients");
        }
        if let Some(listener) = needs.tls.filter(|_| !info.does_tls()) {
            let what = format!("the server has no TLS, and listeners[{listener}] passes TLS through to it");
            see("address", true, what, "configure TLS at the server, or write kind = \"client\" at the listener");
        }
    }
    if server.websocket().is_some() {
        let by = Instant::now() + INFO_TIMEOUT;
        let remedy = "write the ws:// or wss:// address of this server's own WebSocket port";
        match dial::dial_websocket(server, access.websocket_tls.as_deref(), None, by).await {
            Err(err) => see("websocket", true, format!("its WebSocket port does not answer ({err})"), remedy),
            Ok(connection) => {
                let id = connection.info().server_id().to_owned();
                if info.as_ref().is_some_and(|info| info.server_id() != id) {
                    see("websocket", true, "it is the port of another server".to_owned(), remedy);
                }
            }
        }
    }
    if server.leafnode().is_configured() {
        let by = Instant::now() + INFO_TIMEOUT;
        let remedy = "write the host and port at which this server takes leafnodes, and whether it has TLS there";
        match dial::dial_leafnode(server, access.tls.as_deref().into(), b"", by).await {
            Err(err) => see("leafnode", true, format!("its leafnode port does not answer ({err})"), remedy),
            Ok(connection) => {
                let id = connection.info().server_id().to_owned();
                let there = connection.info();
                if !there.is_for_servers() && (there.names_client_ip() || there.nonce().is_none()) {
                    see("leafnode", true, "it is a port for clients, not for leafnodes".to_owned(), remedy);
                } else if info.as_ref().is_some_and(|info| info.server_id() != id) {
                    see("leafnode", true, "it is the port of another server".to_owned(), remedy);
                }
            }
        }
    }
    let remedy = "write the URL of this server's own monitoring port (http_port or https_port of nats-server)";
    let read = |varz: Result<Varz, _>| varz.and_then(Reading::try_from);
    let reading = match MonitorClient::new(server, access.tls.clone()) {
        None => None,
        Some(mut client) => match timeout(READING_TIMEOUT, client.get::<Varz>("/varz")).await.map(read) {
            Err(_) => {
                see("monitor", true, "it does not answer in time".to_owned(), remedy);
                None
            }
            Ok(Err(err)) => {
                see("monitor", true, format!("it cannot be read ({err})"), remedy);
                None
            }
            Ok(Ok(reading)) => Some(reading),
        },
    };
    if let (Some(info), Some(reading)) = (&info, &reading)
        && info.server_id() != reading.server_id
    {
        let what = format!("it is the monitoring port of another server, {:?}", reading.server_name);
        see("monitor", true, what, remedy);
    }
    match reading.as_ref().map(|reading| reading.max_connections) {
        Some(Some(own)) if own > 0 && reserve.ceiling(own.min(capped.unwrap_or(u32::MAX))) == 0 => {
            let what = format!("the server's limit is {own}, and cluster.reserve leaves no client a connection of it");
            see("address", true, what, "write a smaller cluster.reserve, or raise the server's max_connections");
        }
        Some(Some(0)) => {
            see("address", true, "the server lets nobody in (max_connections)".to_owned(), "raise its max_connections");
        }
        Some(None) if capped.is_none() => {
            let what = "the server has no limit of connections, so weir never holds clients for want of room";
            see("monitor", false, what.to_owned(), "set its max_connections, or write max_connections here");
        }
        Some(Some(own)) if capped.is_some_and(|capped| capped > own) => {
            let what = format!("the server's own limit is {own}, and that holds");
            see("max_connections", false, what, "write less, or raise the server's own max_connections");
        }
        _ => {}
    }
    let has_port = || reading.as_ref().map(|reading| reading.leafnode_port.is_some());
    let takes_leafnodes = if server.leafnode().is_configured() { Some(true) } else { has_port() };
    (Seen { info, takes_leafnodes }, seen)
}

/// The first bytes of a server to which weir speaks no TLS of its own, behind the beginning of somebody's TLS.
async fn first_bytes_before_tls(server: &Server, header: &[u8], by: Instant) -> Result<Vec<u8>, DialError> {
    // A handshake record with one byte: whoever waits for TLS answers it with an alert.
    const TLS_RECORD: [u8; 6] = [22, 3, 1, 0, 1, 0];
    let mut tcp = dial::connect(server.endpoint(), &[header, &TLS_RECORD].concat(), by).await?;
    let mut first = [0; 4];
    // What says nothing is not what is looked for.
    let read = timeout_at(by, tcp.read(&mut first)).await.unwrap_or(Ok(0)).unwrap_or(0);
    Ok(first.into_iter().take(read).collect())
}

/// Which servers take none of the leafnodes of this listener. Where none does, nobody can use it.
fn leafnode_ports(seen: &[Seen], listener: usize, all: &mut Vec<Observation>) {
    let is_wrong = seen.iter().all(|one| one.takes_leafnodes == Some(false));
    for (i, _) in seen.iter().enumerate().filter(|(_, one)| one.takes_leafnodes == Some(false)) {
        let what = format!("the server takes no leafnodes, for which listeners[{listener}] is");
        let remedy = "configure leafnodes { listen } at the server, or remove the listener".to_owned();
        all.push(Observation { key: format!("cluster.servers[{i}].leafnode"), what, remedy, is_wrong });
    }
}

/// Looks a name up, and returns how many addresses of one family it has; `None` if there is none.
async fn look_up(endpoint: &Endpoint) -> Option<usize> {
    let found = timeout(INFO_TIMEOUT, lookup_host(endpoint.address())).await.ok()?.ok()?;
    endpoint.set_resolved(found.collect());
    Some(endpoint.most_of_a_family())
}

/// What shows only beside the other servers: one process under two addresses, and servers of several clusters. That a
/// server with a table is discovered too is as it should be: it counts once.
fn compare(seen: &[Seen], named: usize, all: &mut Vec<Observation>) {
    let infos = || seen.iter().enumerate().filter_map(|(i, one)| Some((i, one.info.as_deref()?)));
    for (i, info) in infos() {
        let mut see = |is_wrong, what: String, remedy: &str| {
            let key = format!("cluster.servers[{i}].address");
            all.push(Observation { key, what, remedy: remedy.to_owned(), is_wrong });
        };
        let same = infos().find(|(j, other)| *j < i && other.server_id() == info.server_id());
        if let Some((same, _)) = same.filter(|(same, _)| i < named || *same >= named) {
            see(true, format!("it is the same process as cluster.servers[{same}]"), "write each server once");
        }
        let [cluster, _] = info.cluster_and_domain();
        let of_first = infos().next().and_then(|(_, first)| first.cluster_and_domain()[0]);
        if cluster != of_first {
            let named =
                |name: Option<&str>| name.map_or("no cluster".to_owned(), |name| format!("the cluster {name:?}"));
            let what = format!("it is of {}, and the first server of {}", named(cluster), named(of_first));
            see(false, what, "name the servers of one cluster; clients of one are not seen in another");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_written_twice_is_wrong_and_one_that_is_discovered_too_is_not() {
        let info = Info::parse(br#"{"server_id":"a","version":"2.15.1"}"#).unwrap();
        let all = [(); 3].map(|()| Seen { info: Some(Arc::new(info.clone())), takes_leafnodes: None });
        let wrong = |named| {
            let mut seen = Vec::new();
            compare(&all, named, &mut seen);
            seen.into_iter().map(|one| one.key).collect::<Vec<_>>()
        };
        assert_eq!(wrong(3), ["cluster.servers[1].address", "cluster.servers[2].address"]);
        assert_eq!(wrong(2), ["cluster.servers[1].address"]);
        assert!(wrong(1).is_empty());
    }
}
