//! weir's own dials: they read a server's INFO and leave again. They find a server out before any client comes, and
//! again once it has gone or may be another process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    advertised_info::AdvertisedInfo,
    cluster::access::ClusterAccess,
    dial::{self, DialError, ServerConnection},
    net::timer,
    protocol::{info::Info, proxy_header},
    upstream::{Compatibility, OwnConnection, Port, Server, Slot},
};

/// How long a server may take to send its INFO.
pub(super) const INFO_TIMEOUT: Duration = Duration::from_secs(2);

/// Whom weir dials, and how.
pub(super) struct OwnDial {
    pub(super) server: Arc<Server>,
    pub(super) advertised_info: Arc<AdvertisedInfo>,
    pub(super) access: ClusterAccess,
    pub(super) compatibility: Compatibility,
    /// Of which of the processes at its address weir has seen what it does with a PROXY header, by
    /// [`Server::restarts`].
    header_seen_at: AtomicU64,
}

/// None of the processes yet.
const OF_NONE: u64 = u64::MAX;

impl OwnDial {
    pub(super) fn new(
        server: Arc<Server>,
        advertised_info: Arc<AdvertisedInfo>,
        access: ClusterAccess,
        compatibility: Compatibility,
    ) -> Self {
        Self { server, advertised_info, access, compatibility, header_seen_at: AtomicU64::new(OF_NONE) }
    }

    /// Whether the server is to be dialled without another reason: weir does not know its INFO, or it does not answer,
    /// or clients have found another process there, which may refuse their PROXY headers.
    pub(super) fn is_needed(&self) -> bool {
        let Self { server, advertised_info, .. } = self;
        !advertised_info.knows(server) || server.is_ejected() || self.may_refuse_header()
    }

    fn may_refuse_header(&self) -> bool {
        self.compatibility.proxy_protocol
            && self.header_seen_at.load(Relaxed) != self.server.restarts()
            && self.server.port_info(Port::Client).load().as_ref().is_some_and(|info| info.names_client_ip())
    }

    /// Dials. What comes of it is evidence like that of a client's dial. Returns whether the server has sent its INFO.
    ///
    /// That takes one of the server's slots for a moment, so weir does not do it on a full server, unless
    /// `whatever_the_load`: what weir counts may be that of another process.
    pub(super) async fn look(&self, whatever_the_load: bool) -> bool {
        let Self { server, advertised_info, access, compatibility, .. } = self;
        let Some(tls) = access.server_tls() else { return false };
        let slot = Slot::reserve(server, timer::now());
        if slot.is_none() && !whatever_the_load && !server.is_ejected() {
            return false;
        }
        let header = if compatibility.proxy_protocol { proxy_header::LOCAL } else { b"" };
        let before = advertised_info.server_id(server);
        let began = Instant::now();
        let dialled = dial::dial_to_look(server, tls, header, began + INFO_TIMEOUT).await;
        let took = began.elapsed();
        let err = match self.unless_header_refused(dialled, began + INFO_TIMEOUT).await {
            Ok(connection) => {
                server.dial_answered_in(Port::Client, took);
                let info = connection.info();
                advertised_info.learn(server, info);
                // A server without a name calls itself by its id, which is another one after its next start.
                if info.server_name() != info.server_id() {
                    server.names_itself(info.server_name());
                }
                if before.as_deref() != Some(info.server_id()) {
                    self.tell(info);
                }
                return true;
            }
            Err(err) => err,
        };
        debug!(server = server.name(), %err, "no INFO");
        // A lame duck does not listen any more, which is no news.
        if server.is_lame_duck(timer::now()) {
            return false;
        }
        let was_up = !server.is_ejected();
        if let Some(pause) = err.note_at(server, Port::Client, (began, INFO_TIMEOUT)).filter(|_| was_up) {
            warn!(server = server.name(), %err, ?pause, "server ejected");
        }
        false
    }

    /// Sees to it that no client is sent to a server that refuses the PROXY headers with which weir would begin.
    async fn unless_header_refused(
        &self,
        dialled: Result<ServerConnection, DialError>,
        until: Instant,
    ) -> Result<ServerConnection, DialError> {
        let server = &self.server;
        let dialled = match dialled {
            Ok(mut connection) => match connection.refuses_header(until).await {
                true => Err(DialError::RefusesHeader),
                false => Ok(connection),
            },
            other => other,
        };
        let refuses = matches!(dialled, Err(DialError::RefusesHeader));
        if refuses || dialled.is_ok() {
            self.header_seen_at.store(server.restarts(), Relaxed);
            if server.set_refuses_proxy_header(refuses) && refuses {
                warn!(
                    server = server.name(),
                    address = server.address(),
                    "a server refuses PROXY headers, so weir sends it no client: write proxy_protocol: true at that \
                     nats-server (2.12.2 or later), or remove cluster.proxy_protocol"
                );
            }
        }
        dialled
    }

    fn tell(&self, info: &Info) {
        info!(
            server = self.server.name(),
            address = self.server.address(),
            version = Some(info.version()).filter(|version| !version.is_empty()),
            nonce = info.nonce().is_some(),
            "server found"
        );
        for missing in self.compatibility.missing_features(info) {
            warn!(server = self.server.name(), missing = missing.what, "a server lacks what the configuration needs");
        }
    }
}

/// The INFO of a server, read by a dial of weir's own that is no evidence about the server; `None` where there is none
/// in time.
pub async fn read_info(
    server: &Arc<Server>,
    access: &ClusterAccess,
    compatibility: Compatibility,
) -> Option<Arc<Info>> {
    let _counts = OwnConnection::begin(server);
    let header = if compatibility.proxy_protocol { proxy_header::LOCAL } else { b"" };
    let dialled = dial::dial(server, access.server_tls()?, header, Instant::now() + INFO_TIMEOUT).await;
    dialled.ok().map(|connection| Arc::clone(connection.info()))
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::{
        cluster::access::PlainInfo,
        config::{Config, ServerArg},
        upstream::{Servers, placement::Tier},
    };

    #[tokio::test]
    async fn what_comes_of_it_counts_as_the_trial_of_an_ejected_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = Config::from_servers(&[ServerArg(address)]).unwrap();
        let servers = Arc::new(Servers::new(&config.upstream));
        let server = servers.iter().next().unwrap();
        let advertised_info = Arc::new(AdvertisedInfo::new(Arc::clone(&servers), "weir".to_owned()));
        let plain_info = Arc::new(ArcSwap::from_pointee(PlainInfo::NoTls));
        let access = ClusterAccess { system: None, tls: None, websocket_tls: None, plain_info };
        let own = OwnDial::new(Arc::clone(&server), advertised_info, access, Compatibility::default());
        let mut rng = fastrand::Rng::with_seed(1);
        // The same server, of which a reading has said that it has restarted: a trial is due.
        for _ in 0..5 {
            let _ = server.dial_failed(Port::Client, timer::now(), &mut rng);
        }
        assert!(server.is_ejected() && own.is_needed());
        let accept = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"INFO {\"server_id\":\"a\",\"version\":\"2.15.1\"}\r\n").await.unwrap();
            stream
        };
        let (answered, _stream) = tokio::join!(own.look(false), accept);
        assert!(answered);
        assert_eq!(server.view(timer::now()).tier, Tier::Eligible);
        assert!(!own.is_needed());

        drop(listener);
        assert!(!own.look(false).await);
        assert!(server.is_ejected(), "a dial that is refused is evidence too");
    }
}
