//! Follows what stands for the servers of the cluster (`[cluster] discover`, `discover_connect_urls`): servers come and
//! go with its addresses. Whoever is asked and fails, hangs or answers nothing changes nothing.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{self, Arc, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use serde::{Deserialize, Serialize};
use tokio::{
    net::lookup_host,
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    cluster::{
        self, ClusterAccess,
        discover::{AFTER_FAILURE, Answer, Discover, NoAnswer},
    },
    config::DiscoverConfig,
    net::timer,
    server::members::Members,
    session::Shared,
    upstream::{Discovered, DiscoveredChange, Drain, MOST_DISCOVERED, Params, Server, ServerId, ServerParams, Servers},
};

/// Who adds and removes the servers of a name, for the log.
const BY_NAME: &str = "discover";
/// The same of those that other servers have named.
const BY_SERVERS: &str = "discover_connect_urls";
/// How long the first answer may take before weir serves without it.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// How many names are looked up at a time: each takes a thread, which may hang.
const LOOK_UPS_AT_A_TIME: usize = 8;
/// How often the servers are asked for the others: it takes a connection to each.
const ASK_SERVERS: Duration = Duration::from_secs(30);
/// The same until one has answered.
const ASK_SERVERS_AGAIN: Duration = Duration::from_secs(1);
/// The most addresses that are tried in one round for who answers there.
const MOST_TRIED: usize = 64;

/// The servers that are discovered, for the process that takes over: it has them from its start on, as sessions are
/// there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiscoveredServers {
    /// The name that they are discovered by, and their addresses.
    by_name: Option<(String, Vec<String>)>,
    /// Those that other servers have named.
    by_servers: Vec<String>,
}

/// The same as they are now: of the name, and of other servers.
#[derive(Debug, Clone, Default)]
pub struct DiscoveredNow {
    by_name: Arc<sync::Mutex<Discovered>>,
    by_servers: Arc<sync::Mutex<Discovered>>,
}

fn lock(discovered: &sync::Mutex<Discovered>) -> MutexGuard<'_, Discovered> {
    discovered.lock().unwrap_or_else(PoisonError::into_inner)
}

fn addresses(discovered: &sync::Mutex<Discovered>) -> Vec<String> {
    lock(discovered).iter().map(|(address, _)| address.clone()).collect()
}

impl DiscoveredNow {
    /// As another process is told of them that has this configuration.
    pub fn servers(&self, config: Option<&DiscoverConfig>) -> DiscoveredServers {
        let name = config.and_then(|config| config.from.as_ref());
        let by_name = name.map(|from| (from.name().to_owned(), addresses(&self.by_name)));
        DiscoveredServers { by_name, by_servers: addresses(&self.by_servers) }
    }
}

/// Where names lead.
type LeadsTo = HashMap<String, Vec<SocketAddr>>;

/// Servers that stand for addresses.
struct Found {
    config: DiscoverConfig,
    discovered: Arc<sync::Mutex<Discovered>>,
}

impl Found {
    /// With the servers of a process before this one, before anything watches them.
    fn new(
        config: &DiscoverConfig,
        discovered: &Arc<sync::Mutex<Discovered>>,
        before: &[String],
        servers: &Servers,
    ) -> Self {
        let mut found = Self { config: config.clone(), discovered: Arc::clone(discovered) };
        found.answered(before, &LeadsTo::new(), servers, |params| servers.add(params), |_| ());
        found
    }

    /// The addresses that servers stand for.
    fn addresses(&self) -> Vec<String> {
        addresses(&self.discovered)
    }

    /// Whether another server than those that stand for an address is there: it has this address, or one that this
    /// leads to.
    fn is_taken(&self, servers: &Servers, address: &str, leads_to: &LeadsTo) -> bool {
        let standing = lock(&self.discovered).iter().find(|(known, _)| *known == address).map(|(_, id)| id);
        let standing = standing.and_then(|id| servers.get(id));
        let leads_to: Vec<SocketAddr> = match (address.parse(), standing) {
            (Ok(address), _) => vec![address],
            (Err(_), Some(server)) => server.endpoint().resolved().to_vec(),
            (Err(_), None) => leads_to.get(address).cloned().unwrap_or_default(),
        };
        let list = servers.list();
        let mut others = list.iter().filter(|server| server.drain() != Drain::Leaves && !self.stands(server.id()));
        others.any(|server| server.address() == address || uses(server).any(|one| leads_to.contains(&one)))
    }

    fn stands(&self, server: ServerId) -> bool {
        lock(&self.discovered).stands(server)
    }

    /// Where the names lead that have been found, apart from those of servers that there are: their names are looked up
    /// anyway. [`Self::is_taken`] needs it of an SRV record. One that leads nowhere now is judged anew with the next
    /// answer.
    async fn look_up_new(&self, found: &[String], servers: &Servers) -> LeadsTo {
        let list = servers.iter().collect::<Vec<_>>();
        let is_there = |address: &str| {
            let stands = lock(&self.discovered).iter().any(|(known, _)| *known == address);
            stands || list.iter().any(|server| server.address() == address)
        };
        let is_new = |address: &str| address.parse::<SocketAddr>().is_err() && !is_there(address);
        let mut new = found.to_vec();
        new.retain(|address| is_new(address));
        new.truncate(MOST_DISCOVERED);
        let looked_up = stream::iter(new).map(look_up).buffer_unordered(LOOK_UPS_AT_A_TIME);
        looked_up.filter_map(std::future::ready).collect().await
    }

    /// Takes in an answer.
    fn answered(
        &mut self,
        found: &[String],
        leads_to: &LeadsTo,
        servers: &Servers,
        mut add: impl FnMut(ServerParams) -> Arc<Server>,
        mut remove: impl FnMut(ServerId),
    ) {
        let taken: HashSet<_> = found.iter().filter(|address| self.is_taken(servers, address, leads_to)).collect();
        let changes = lock(&self.discovered).answered(found, |address| taken.iter().any(|taken| *taken == address));
        for change in changes {
            match change {
                DiscoveredChange::Add(address) => {
                    let server = add(self.config.server_at(&address));
                    lock(&self.discovered).added(address, server.id());
                }
                DiscoveredChange::Remove(server) => remove(server),
            }
        }
    }
}

/// A name and where it leads, if anywhere.
async fn look_up(name: String) -> Option<(String, Vec<SocketAddr>)> {
    let found = lookup_host(&name).await.ok()?.collect();
    Some((name, found))
}

/// The addresses of a server that has a name: those of a machine, which may have one of each family. Of a name that
/// leads to more, weir uses one at a time; at the others are other servers.
fn uses(server: &Server) -> impl Iterator<Item = SocketAddr> {
    let (resolved, are_several) = (server.endpoint().resolved(), server.endpoint().most_of_a_family() > 1);
    let addresses = if are_several { 1 } else { resolved.len() };
    (0..addresses).filter_map(move |n| resolved.get(n).copied())
}

/// The servers of one name.
pub struct Discovery {
    from: Discover,
    found: Found,
    /// When to ask again.
    next: Instant,
    /// The log has been told that there is no answer.
    told: bool,
}

impl Discovery {
    /// Asks once, and adds what is found to the servers, before anything watches them. Without an answer in time weir
    /// goes on, and finds them later. Those that a process `before` has found by the same name are there until answers
    /// lack them.
    pub async fn begin(
        config: &DiscoverConfig,
        from: &Discover,
        (now, before): (&DiscoveredNow, &DiscoveredServers),
        servers: &Servers,
    ) -> Self {
        let before = before.by_name.as_ref().filter(|(name, _)| name == from.name());
        let before = before.map_or(&[][..], |(_, addresses)| addresses);
        let found = Found::new(config, &now.by_name, before, servers);
        let mut new = Self { from: from.clone(), found, next: Instant::now(), told: false };
        let until = Instant::now() + FIRST_ANSWER;
        if let Ok(answer) = timeout_at(until, from.look_up(&new.found.addresses())).await {
            let addresses = new.addresses(answer);
            // Nobody has looked up the names of the servers that have tables. Those that are not answered in time, and
            // stand here twice for that, stand here once when the next answers come.
            let all: Vec<_> = servers.iter().collect();
            let with_tables = join_all(all.iter().map(|server| cluster::look_up_first(server.endpoint())));
            let names = async { tokio::join!(with_tables, new.found.look_up_new(&addresses, servers)).1 };
            let leads_to = timeout_at(until, names).await.unwrap_or_default();
            new.found.answered(&addresses, &leads_to, servers, |params| servers.add(params), |_| ());
        }
        new
    }

    /// The addresses of an answer; none of one that is a failure, or empty.
    fn addresses(&mut self, answer: Result<Answer, NoAnswer>) -> Vec<String> {
        let name = self.from.name();
        let (addresses, again_after) = match answer {
            Ok(Answer { addresses, .. }) if addresses.is_empty() => (Err("it leads nowhere".to_owned()), AFTER_FAILURE),
            Ok(Answer { addresses, again_after }) => (Ok(addresses), again_after),
            Err(err) => (Err(err.to_string()), AFTER_FAILURE),
        };
        self.next = Instant::now() + again_after;
        match &addresses {
            Err(err) if !std::mem::replace(&mut self.told, true) => {
                warn!(name, %err, "the name of the servers cannot be looked up: the servers stay as they are");
            }
            Ok(_) if std::mem::replace(&mut self.told, false) => {
                info!(name, "the name of the servers is looked up again")
            }
            _ => {}
        }
        addresses.unwrap_or_default()
    }
}

/// Follows a name until `stop`.
pub async fn follow_name(
    discovery: Arc<Mutex<Discovery>>,
    shared: Arc<Shared>,
    members: Members,
    stop: CancellationToken,
) {
    let following = async {
        let mut discovery = discovery.lock().await;
        loop {
            sleep(discovery.next.saturating_duration_since(Instant::now())).await;
            // However long it hangs: nobody waits for it, and the servers stay.
            let answer = discovery.from.look_up(&discovery.found.addresses()).await;
            let addresses = discovery.addresses(answer);
            let leads_to = discovery.found.look_up_new(&addresses, &shared.servers).await;
            let (add, remove) = (|params| members.add(params, BY_NAME), |id| drop(members.remove(id, BY_NAME)));
            discovery.found.answered(&addresses, &leads_to, &shared.servers, add, remove);
        }
    };
    tokio::select! {
        () = following => {}
        () = stop.cancelled() => {}
    }
}

/// The servers that others have named.
pub struct ConnectUrls {
    found: Found,
    access: ClusterAccess,
    /// The cluster as configured.
    params: Params,
}

/// The servers that others have named to a process before this one, before anything watches them.
pub struct NamedByServers(Found);

impl NamedByServers {
    pub fn new(
        config: &DiscoverConfig,
        (now, before): (&DiscoveredNow, &DiscoveredServers),
        servers: &Servers,
    ) -> Self {
        Self(Found::new(config, &now.by_servers, &before.by_servers, servers))
    }
}

impl ConnectUrls {
    pub fn new(NamedByServers(found): NamedByServers, access: ClusterAccess, params: &Params) -> Self {
        Self { found, access, params: params.clone() }
    }

    /// Asks the servers that there are for all others. Returns whether one has answered.
    async fn ask(&mut self, shared: &Shared, members: &Members) -> bool {
        let (mut named, mut answered) = (Vec::new(), false);
        let (mut ids, now) = (HashSet::new(), timer::now());
        for server in shared.servers.iter().filter(|server| server.drain() != Drain::Leaves) {
            ids.extend(shared.advertised_info.server_id(&server));
            if !server.is_reachable(now) {
                continue;
            }
            if let Some(info) = cluster::read_info(&server, &self.access, self.params.compatibility).await {
                answered = true;
                ids.insert(info.server_id().to_owned());
                named.extend(info.connect_urls());
            }
        }
        named.sort();
        named.dedup();
        // A server that answers stays, whoever names it: where the cluster is split, each half names its own.
        let reachable = |id| shared.servers.get(id).is_some_and(|server| server.is_reachable(now));
        let known: Vec<_> = lock(&self.found.discovered).iter().map(|(address, id)| (address.clone(), id)).collect();
        let stays = known.iter().filter(|(_, id)| reachable(*id)).map(|(address, _)| address.clone());
        let mut found: Vec<_> = stays.collect();
        // What they name are mostly addresses, and who answers there is asked besides.
        let (mut tried, nowhere) = (0, LeadsTo::new());
        for address in named {
            if known.iter().any(|(known, _)| *known == address) {
                found.push(address);
            } else if tried < MOST_TRIED && !self.found.is_taken(&shared.servers, &address, &nowhere) {
                tried += 1;
                // One server may be named by several addresses, and by some that weir does not reach.
                if let Some(id) = self.server_id_at(&address).await
                    && ids.insert(id)
                {
                    found.push(address);
                }
            }
        }
        if answered {
            let add = |params| members.add(params, BY_SERVERS);
            let remove = |id| drop(members.remove(id, BY_SERVERS));
            self.found.answered(&found, &nowhere, &shared.servers, add, remove);
        }
        answered
    }

    /// Who answers at an address, if anybody does.
    async fn server_id_at(&self, address: &str) -> Option<String> {
        let servers = vec![self.found.config.server_at(address)];
        let there = Servers::new(&Params { servers, ..self.params.clone() });
        let server = there.iter().next()?;
        let info = cluster::read_info(&server, &self.access, self.params.compatibility).await?;
        Some(info.server_id().to_owned())
    }
}

/// Follows what the servers say of each other, until `stop`.
pub async fn follow_servers(
    urls: Arc<Mutex<ConnectUrls>>,
    shared: Arc<Shared>,
    members: Members,
    stop: CancellationToken,
) {
    let following = async {
        let mut urls = urls.lock().await;
        loop {
            let answered = urls.ask(&shared, &members).await;
            sleep(if answered { ASK_SERVERS } else { ASK_SERVERS_AGAIN }).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = stop.cancelled() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, upstream::Params};

    /// The addresses of the servers after the name has been looked up once, where this one has a table.
    async fn with_table(table: &str, discover: &str) -> Vec<String> {
        let config = format!("[cluster]\ndiscover = {discover:?}\n[[cluster.servers]]\naddress = {table:?}\n");
        let config = Config::parse("weir.toml", &config).unwrap();
        let servers = Servers::new(&config.upstream);
        let (discover, from) = config.discover.as_ref().and_then(|one| Some((one, one.from.as_ref()?))).unwrap();
        let (now, before) = (DiscoveredNow::default(), DiscoveredServers::default());
        let _discovery = Discovery::begin(discover, from, (&now, &before), &servers).await;
        servers.iter().map(|server| server.address().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_server_with_a_table_is_not_there_twice() {
        assert_eq!(with_table("localhost:14222", "127.0.0.1:14222").await, ["localhost:14222"]);
        assert_eq!(with_table("127.0.0.1:14222", "localhost:14222").await, ["127.0.0.1:14222"]);
        assert_eq!(with_table("localhost:14223", "127.0.0.1:14222").await, ["localhost:14223", "127.0.0.1:14222"]);
    }

    /// An SRV record names a host.
    #[tokio::test]
    async fn a_name_that_leads_to_a_server_with_a_table_is_no_other_server() {
        let servers = Servers::new(&Params::bare(vec![ServerParams::bare("127.0.0.1:14222")]));
        let config = Config::parse("weir.toml", "[cluster]\ndiscover = \"n:1\"\n").unwrap().discover.unwrap();
        let mut found = Found::new(&config, &Arc::default(), &[], &servers);
        let addresses = ["localhost:14222".to_owned(), "localhost:14223".to_owned()];
        let leads_to = found.look_up_new(&addresses, &servers).await;
        found.answered(&addresses, &leads_to, &servers, |params| servers.add(params), |_| panic!("none has gone"));
        let addresses: Vec<_> = servers.iter().map(|server| server.address().to_owned()).collect();
        assert_eq!(addresses, ["127.0.0.1:14222", "localhost:14223"]);
    }
}
