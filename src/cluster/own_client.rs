//! weir's own clients of the servers, for the system account, the fleet and events: which server each connects to, that
//! its connection counts there from before the dial, and that it begins anew where the servers have all become others.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{
    Client, ClientError, ConnectError, ConnectOptions, Event, ReconnectToServer, Server as PoolServer, ServerAddr,
    connection::State,
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    net::timer,
    upstream::{OwnConnection, Server, Servers},
};

/// What async-nats says where a server has answered CONNECT with `Authorization Violation`.
const REFUSED: &str = "authorization violation";

/// How long a client may take to hear of other addresses. It hears of them only while it is connected.
const SET_ADDRESSES: Duration = Duration::from_secs(2);

/// How often one client tries in a row, before another one goes on in its place. A client that is not connected ends in
/// no other way than by too many tries: see [`NOWHERE`].
const MOST_TRIES: usize = 1000;

/// An address at which each try fails at once, as no server can listen at port 0. It is among the addresses of each
/// client, and the only one that is tried by a client that is to end.
const NOWHERE: &str = "127.0.0.1:0";

/// Whether a server has refused the login.
pub fn is_refusal(error: &ClientError) -> bool {
    error.to_string().ends_with(REFUSED)
}

/// The address of every server, `host:port`.
pub fn addresses(servers: &Servers) -> Vec<String> {
    servers.iter().map(|server| server.address().to_owned()).collect()
}

/// A client that connects to one of some addresses, and again after each loss, for as long as this or a clone is kept.
#[derive(Debug, Clone)]
pub struct OwnClient {
    clients: watch::Receiver<Option<Client>>,
}

impl OwnClient {
    /// Connects in the background to the one of `addresses` (`host:port`) where there is room, as soon as there is one.
    /// Its connection counts at that one of `servers`. Later it connects to those that there are then, and to no other;
    /// a connection to a server that is not among them any more lasts for as long as that server keeps it.
    ///
    /// It waits for `pause` of the number of tries before each, the first one included, and tells `heard` what happens:
    /// that no server answers only once each has been tried. `what` says for the log what it is for.
    pub fn open(
        what: &'static str,
        options: ConnectOptions,
        (addresses, servers): (watch::Receiver<Vec<String>>, &Arc<Servers>),
        pause: impl Fn(usize) -> Duration + Send + Sync + 'static,
        heard: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Self {
        let at = Place { servers: Arc::clone(servers), inner: Mutex::default() };
        // Only to the configured servers, like clients that come through weir.
        let options = options.ignore_discovered_servers().retry_on_initial_connect().max_reconnects(MOST_TRIES);
        let keeper = Arc::new(Keeper { what, options, at, pause, heard, ended: Notify::new() });
        let (current, clients) = watch::channel(None);
        tokio::spawn(keeper.keep(addresses, current));
        Self { clients }
    }

    /// The client as it is now; `None` before there is an address. What it is given while it is not connected it sends
    /// once it is. One that another one has replaced takes nothing any more.
    pub fn now(&self) -> Option<Client> {
        self.clients.borrow().clone()
    }

    /// The same, once there is one.
    pub async fn get(&self) -> Client {
        let mut clients = self.clients.clone();
        let client = clients.wait_for(Option::is_some).await.ok().and_then(|client| client.clone());
        match client {
            Some(client) => client,
            // The runtime shuts down.
            None => pending().await,
        }
    }

    /// Whether it is connected.
    pub fn is_connected(&self) -> bool {
        self.clients.borrow().as_ref().is_some_and(|client| client.connection_state() == State::Connected)
    }
}

/// What makes one client after another.
struct Keeper<P, H> {
    what: &'static str,
    options: ConnectOptions,
    at: Place,
    pause: P,
    heard: H,
    /// The client of now has tried often enough.
    ended: Notify,
}

impl<P, H> Keeper<P, H>
where
    P: Fn(usize) -> Duration + Send + Sync + 'static,
    H: Fn(&Event) + Send + Sync + 'static,
{
    /// Until nobody keeps the client.
    async fn keep(
        self: Arc<Self>,
        mut addresses: watch::Receiver<Vec<String>>,
        current: watch::Sender<Option<Client>>,
    ) {
        let mut over = CancellationToken::new();
        loop {
            let now = addresses.borrow_and_update().clone();
            if !now.is_empty() {
                let until = CancellationToken::new();
                match self.connect(&now, until.clone()).await {
                    Ok(client) => {
                        std::mem::replace(&mut over, until).cancel();
                        self.end(current.send_replace(Some(client)));
                    }
                    Err(err) => warn!(of = self.what, %err, "an address of the servers is none"),
                }
            }
            if !self.begins_anew(&mut addresses, &current).await {
                over.cancel();
                self.at.give_back();
                return self.end(current.send_replace(None));
            }
        }
    }

    /// Waits until another client is wanted. Returns whether it is: `false` where nobody keeps this one.
    async fn begins_anew(
        &self,
        addresses: &mut watch::Receiver<Vec<String>>,
        current: &watch::Sender<Option<Client>>,
    ) -> bool {
        loop {
            tokio::select! {
                () = current.closed() => return false,
                () = self.ended.notified() => return true,
                Ok(()) = addresses.changed() => {}
            }
            let (client, now) = (current.borrow().clone(), addresses.borrow_and_update().clone());
            let Some(client) = client.filter(|_| !now.is_empty()) else { return true };
            if !matches!(timeout(SET_ADDRESSES, client.set_server_pool(pool(&now))).await, Ok(Ok(()))) {
                debug!(of = self.what, servers = now.len(), "a connection begins anew: other servers are there");
                return true;
            }
            debug!(of = self.what, servers = now.len(), "a connection may go to other servers");
        }
    }

    async fn connect(self: &Arc<Self>, addresses: &[String], over: CancellationToken) -> Result<Client, ConnectError> {
        let (one, other, ended) = (Arc::clone(self), Arc::clone(self), over.clone());
        let options = self.options.clone();
        let options = options
            .reconnect_to_server_callback(move |pool, _| {
                let (own, over) = (Arc::clone(&one), over.clone());
                async move { own.choose(&pool, &over).await }
            })
            .event_callback(move |event| {
                if !ended.is_cancelled() {
                    other.happened(&event);
                }
                std::future::ready(())
            });
        options.connect(pool(addresses)).await
    }

    /// The server to dial, after a pause.
    async fn choose(&self, pool: &[PoolServer], over: &CancellationToken) -> Option<ReconnectToServer> {
        if !over.is_cancelled() {
            let tries = self.at.next_try();
            tokio::select! {
                () = sleep((self.pause)(tries)) => {}
                () = over.cancelled() => {}
            }
        }
        if over.is_cancelled() {
            return Some(ReconnectToServer { addr: NOWHERE.parse().ok()?, delay: Some(Duration::ZERO) });
        }
        self.at.choose(pool)
    }

    fn happened(&self, event: &Event) {
        if *event == Event::ClientError(ClientError::MaxReconnects) {
            self.ended.notify_one();
        } else if self.at.is_news(event) {
            (self.heard)(event);
        }
    }

    /// Ends a client that another one has replaced.
    fn end(&self, client: Option<Client>) {
        let Some(client) = client else { return };
        if client.connection_state() == State::Connected {
            (self.heard)(&Event::Disconnected);
        }
        // It hears that once it is connected: by a dial that was under way, maybe.
        tokio::spawn(async move { client.drain().await });
    }
}

/// The addresses that a client is given.
fn pool(addresses: &[String]) -> Vec<String> {
    addresses.iter().cloned().chain([NOWHERE.to_owned()]).collect()
}

/// Where one client is connected, or tries to be.
#[derive(Debug)]
struct Place {
    servers: Arc<Servers>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// `None` while nothing is dialled.
    connection: Option<OwnConnection>,
    /// Since it was last connected.
    tries: usize,
    /// Servers that have not answered since all had been tried.
    failures: usize,
    /// How many there are.
    pool: usize,
}

impl Place {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is dialled any more.
    fn give_back(&self) {
        self.inner().connection = None;
    }

    /// The connection is gone, or has not come about. Returns the number of the next try.
    fn next_try(&self) -> usize {
        let mut inner = self.inner();
        inner.connection = None;
        inner.tries += 1;
        inner.tries
    }

    /// The server to dial; the connection counts there from now on. `None` where there is none.
    fn choose(&self, pool: &[PoolServer]) -> Option<ReconnectToServer> {
        let now = timer::now();
        let at = |server: Arc<Server>| Some((server.address().parse::<ServerAddr>().ok()?, server));
        let known: HashMap<_, _> = self.servers.iter().filter_map(at).collect();
        // The reserve is for weir's own connections too.
        let takes_no_more = |server: &Server| {
            server.is_draining() || server.is_lame_duck(now) || server.load().projected() >= server.load().capacity()
        };
        // A name by which servers are discovered is none of them: what is dialled there counts with the next reading.
        let nowhere = NOWHERE.parse::<ServerAddr>().ok()?;
        let pool = || pool.iter().filter(|one| one.addr != nowhere);
        let chosen = pool().min_by_key(|one| {
            let is_worse = known.get(&one.addr).is_none_or(|server| takes_no_more(server));
            (one.failed_attempts, is_worse, fastrand::u64(..))
        })?;
        let mut inner = self.inner();
        inner.pool = pool().count();
        inner.connection = known.get(&chosen.addr).map(OwnConnection::begin);
        Some(ReconnectToServer { addr: chosen.addr.clone(), delay: Some(Duration::ZERO) })
    }

    /// Takes in what has happened. Returns whether the owner of the client is to hear of it.
    fn is_news(&self, event: &Event) -> bool {
        let mut inner = self.inner();
        match event {
            Event::Connected => {
                (inner.tries, inner.failures) = (0, 0);
                inner.connection.iter_mut().for_each(OwnConnection::opened);
                true
            }
            Event::ClientError(error) if !is_refusal(error) => {
                inner.failures += 1;
                let all = inner.failures >= inner.pool;
                if all {
                    inner.failures = 0;
                }
                all
            }
            _ => true,
        }
    }
}

/// That a server has refused the login, for tests.
#[cfg(test)]
pub fn refusal() -> Event {
    Event::ClientError(ClientError::Other(REFUSED.into()))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::upstream::{Params, ServerParams};

    fn servers(addresses: &[&str]) -> Arc<Servers> {
        let one = |address: &&str| ServerParams { max_connections: Some(10), ..ServerParams::bare(*address) };
        Arc::new(Servers::new(&Params::bare(addresses.iter().map(one).collect())))
    }

    fn place(servers: &Arc<Servers>) -> Place {
        Place { servers: Arc::clone(servers), inner: Mutex::default() }
    }

    fn pool(addresses: &[(&str, usize)]) -> Vec<PoolServer> {
        let one = |(address, failed_attempts): &(&str, usize)| PoolServer {
            addr: address.parse().expect("an address"),
            failed_attempts: *failed_attempts,
            did_connect: false,
            is_discovered: false,
            last_error: None,
        };
        addresses.iter().map(one).collect()
    }

    fn held(servers: &Servers) -> Vec<u32> {
        servers.iter().map(|one| one.load().connections().own().held).collect()
    }

    #[test]
    fn it_goes_where_it_has_failed_least_and_then_where_there_is_room() {
        let servers = servers(&["n1:4222", "[::1]:4222"]);
        let own = place(&servers);
        let chosen = |pool: &[PoolServer]| own.choose(pool).map(|chosen| chosen.addr.host().to_owned());
        for _ in 0..20 {
            let one = pool(&[("name.test:4222", 0), ("n1:4222", 1), ("[::1]:4222", 0)]);
            assert_eq!(chosen(&one).as_deref(), Some("::1"), "a name is no better");
        }
        assert_eq!(held(&servers), [0, 1], "the one before is given back");
        let full = servers.iter().next().expect("n1");
        let _clients: Vec<_> = (0..10).map(|_| OwnConnection::begin(&full)).collect();
        for _ in 0..20 {
            assert_eq!(chosen(&pool(&[("n1:4222", 0), ("[::1]:4222", 0)])).as_deref(), Some("::1"));
        }
        assert_eq!(chosen(&pool(&[("n1:4222", 0), ("[::1]:4222", 1)])).as_deref(), Some("n1"));
        assert_eq!(held(&servers), [11, 0]);
        assert_eq!(chosen(&pool(&[("name.test:4222", 0)])).as_deref(), Some("name.test"));
        assert_eq!(held(&servers), [10, 0], "what is no server counts nowhere");
        assert!(chosen(&[]).is_none());
    }

    #[test]
    fn that_no_server_answers_is_told_once_all_have_been_tried() {
        let servers = servers(&["n1:4222", "n2:4222"]);
        let own = place(&servers);
        let two = pool(&[("n1:4222", 0), ("n2:4222", 0)]);
        let error = |words: &str| Event::ClientError(ClientError::Other(words.into()));
        let happens = |event: &Event| {
            own.next_try();
            own.choose(&two).expect("a server");
            own.is_news(event)
        };
        let fails = |words: &str| happens(&error(words));
        assert_eq!([1, 2, 3, 4].map(|_| fails("nats: IO error")), [false, true, false, true]);
        assert!(happens(&refusal()), "another server may let it in: who counts has to know");
        assert!(!fails("nats: IO error") && own.next_try() == 7);
        own.choose(&two).expect("a server");
        assert!(own.is_news(&Event::Connected));
        let open: u32 = servers.iter().map(|one| one.load().connections().own().open).sum();
        assert_eq!((open, own.next_try()), (1, 1), "it begins anew");
        assert_eq!(held(&servers), [0, 0], "the connection is gone");
        assert!(!fails("nats: IO error") && fails("nats: IO error"));
    }

    /// Nobody answers at the first address, and the client is not connected when there is another one.
    #[tokio::test]
    async fn a_client_that_another_one_replaces_ends_and_so_does_one_that_nobody_keeps() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let first = listener.local_addr().unwrap().to_string();
        let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addresses, seen) = watch::channel(Vec::new());
        let servers = servers(&["n1:4222"]);
        let kept = Arc::new(());
        let of_client = Arc::clone(&kept);
        let options = ConnectOptions::new().connection_timeout(Duration::from_millis(200));
        let pause = move |_| {
            let _ = &of_client;
            Duration::from_millis(1)
        };
        let own = OwnClient::open("a test", options, (seen, &servers), pause, |_| ());
        assert!(own.now().is_none(), "there is no address");
        addresses.send_replace(vec![first]);
        let one = own.get().await;
        let mut subscription = one.subscribe("a").await.unwrap();
        drop(listener.accept().await.unwrap());
        addresses.send_replace(vec![second.local_addr().unwrap().to_string()]);
        drop(second.accept().await.unwrap());
        assert!(subscription.next().await.is_none(), "it ends with its client");
        assert!(one.publish("a", "".into()).await.is_err());
        drop(own);
        while Arc::strong_count(&kept) > 1 {
            sleep(Duration::from_millis(5)).await;
        }
    }
}
