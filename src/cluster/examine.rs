//! Looks at each server once, as `weir check --connect` does: whether weir gets at it as it is configured, and what
//! will not work. It logs nothing and changes nothing.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    net::lookup_host,
    time::{Instant, sleep, timeout},
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
    upstream::{Compatibility, Endpoint, Params, Reading, Server, Servers},
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
    let why = match timeout(INFO_TIMEOUT, discover.look_up()).await {
        Ok(Ok(answer)) if !answer.addresses.is_empty() => return Ok(answer.addresses),
        Ok(Ok(_)) => "it has no address".to_owned(),
        Ok(Err(err)) => err.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    let remedy = "write a name that leads to the servers, or look at the resolver of this machine".to_owned();
    let what = format!("the name leads to no server ({why})");
    Err(Observation { key: "cluster.discover".to_owned(), what, remedy, is_wrong: true })
}

/// Looks at all servers at once; it takes some seconds at most. The first `named` of them have a table each, the others
/// were discovered.
pub async fn examine(servers: &Servers, (params, named): (&Params, usize), access: &ClusterAccess) -> Vec<Observation> {
    let all: Vec<_> = servers.iter().collect();
    let looks = all.iter().zip(&params.servers);
    let looks = looks.map(|(server, own)| examine_one(server, own.max_connections, access, params.compatibility));
    let (infos, observations): (Vec<_>, Vec<_>) = join_all(looks).await.into_iter().unzip();
    let mut all = observations.concat();
    compare(&infos, named, &mut all);
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
    let system = match SystemAccount::connect(login, &addresses, access.tls.as_deref(), servers).await {
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

async fn examine_one(
    server: &Arc<Server>,
    capped: Option<u32>,
    access: &ClusterAccess,
    compatibility: Compatibility,
) -> (Option<Arc<Info>>, Vec<Observation>) {
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
    let info = match access.server_tls() {
        None => None,
        Some(tls) => {
            let header = if compatibility.proxy_protocol { proxy_header::LOCAL } else { b"" };
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
                if info.as_ref().is_some_and(|info| info.server_id() != id) {
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
    (info, seen)
}

/// Looks a name up, and returns how many addresses of one family it has; `None` if there is none.
async fn look_up(endpoint: &Endpoint) -> Option<usize> {
    let found = timeout(INFO_TIMEOUT, lookup_host(endpoint.address())).await.ok()?.ok()?;
    endpoint.set_resolved(found.collect());
    Some(endpoint.most_of_a_family())
}

/// What shows only beside the other servers: one process under two addresses, and servers of several clusters. That a
/// server with a table is discovered too is as it should be: it counts once.
fn compare(infos: &[Option<Arc<Info>>], named: usize, all: &mut Vec<Observation>) {
    let infos = || infos.iter().enumerate().filter_map(|(i, info)| Some((i, info.as_deref()?)));
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
        let infos = [(); 3].map(|()| Some(Arc::new(info.clone())));
        let wrong = |named| {
            let mut seen = Vec::new();
            compare(&infos, named, &mut seen);
            seen.into_iter().map(|one| one.key).collect::<Vec<_>>()
        };
        assert_eq!(wrong(3), ["cluster.servers[1].address", "cluster.servers[2].address"]);
        assert_eq!(wrong(2), ["cluster.servers[1].address"]);
        assert!(wrong(1).is_empty());
    }
}
