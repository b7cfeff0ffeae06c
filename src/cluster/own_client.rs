//! weir's own clients of the servers, for the system account, the fleet and events: which server each connects to, and
//! that its connection counts there from before the dial.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{ClientError, ConnectOptions, Event, ReconnectToServer, Server as PoolServer, ServerAddr};
use tokio::time::sleep;

use crate::{
    net::timer,
    upstream::{OwnConnection, Server, Servers},
};

/// What async-nats says where a server has answered CONNECT with `Authorization Violation`.
const REFUSED: &str = "authorization violation";

/// Whether a server has refused the login.
pub fn is_refusal(error: &ClientError) -> bool {
    error.to_string().ends_with(REFUSED)
}

/// The address of every server, `host:port`.
pub fn addresses(servers: &Servers) -> Vec<String> {
    servers.iter().map(|server| server.address().to_owned()).collect()
}

/// Has a client connect to one server after another, and its connection count there. It waits for `pause` of the number
/// of tries before each, the first one included, and tells `heard` what happens: that no server answers only once each
/// has been tried.
pub fn with_servers(
    options: ConnectOptions,
    servers: &Arc<Servers>,
    pause: impl Fn(usize) -> Duration + Send + Sync + 'static,
    heard: impl Fn(&Event) + Send + Sync + 'static,
) -> ConnectOptions {
    let own = Arc::new(OwnClient { servers: Arc::clone(servers), inner: Mutex::default() });
    let (pause, events) = (Arc::new(pause), Arc::clone(&own));
    options
        // Only to the configured servers, like clients that come through weir.
        .ignore_discovered_servers()
        .retry_on_initial_connect()
        .reconnect_to_server_callback(move |pool, _| {
            let (own, pause) = (Arc::clone(&own), Arc::clone(&pause));
            async move {
                let tries = own.next_try();
                sleep(pause(tries)).await;
                own.choose(&pool)
            }
        })
        .event_callback(move |event| {
            if events.is_news(&event) {
                heard(&event);
            }
            std::future::ready(())
        })
}

/// Where one client is connected, or tries to be.
#[derive(Debug)]
struct OwnClient {
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

impl OwnClient {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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
        let chosen = pool.iter().min_by_key(|one| {
            let is_worse = known.get(&one.addr).is_none_or(|server| takes_no_more(server));
            (one.failed_attempts, is_worse, fastrand::u64(..))
        })?;
        let mut inner = self.inner();
        inner.pool = pool.len();
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
    use super::*;
    use crate::upstream::{Params, ServerParams};

    fn servers(addresses: &[&str]) -> Arc<Servers> {
        let one = |address: &&str| ServerParams { max_connections: Some(10), ..ServerParams::bare(*address) };
        Arc::new(Servers::new(&Params::bare(addresses.iter().map(one).collect())))
    }

    fn client(servers: &Arc<Servers>) -> OwnClient {
        OwnClient { servers: Arc::clone(servers), inner: Mutex::default() }
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
        let own = client(&servers);
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
        let own = client(&servers);
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
}
