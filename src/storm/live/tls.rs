//! TLS of the clients.

use std::{
    future::{Future, poll_fn},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
};

use rustls::{ClientConfig, HandshakeKind, client::Resumption, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout_at};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::{
    client_library::{behaviour::Ending, library::Library},
    net::stream::Stream,
    storm::live::{
        attempt::{DeadlineTimer, Failure, describe},
        self_load,
        stats::TlsStats,
    },
    tls::{BadFile, Connector, ServersTls},
};

/// How many tickets of each server a client keeps.
const TICKETS: usize = 8;

/// The TLS options of a run.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// Whether the handshake comes before INFO. Libraries do that only if the application says so.
    pub first: bool,
    /// The authorities of the servers' certificates; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
}

/// Makes the TLS of each client.
#[derive(Debug)]
pub(super) struct ClientTlsFactory {
    first: bool,
    config: ClientConfig,
    without_tickets: Arc<ClientConfig>,
    names: Arc<[ServerName<'static>]>,
}

impl ClientTlsFactory {
    /// `names` are the hosts that the servers' certificates must name.
    pub(super) fn new(tls: &TlsOptions, names: Arc<[ServerName<'static>]>) -> Result<Self, Vec<BadFile>> {
        let mut config = Connector::load(ServersTls { ca_file: tls.ca_file.clone(), ..Default::default() })?.config();
        config.resumption = Resumption::disabled();
        Ok(Self { first: tls.first, without_tickets: Arc::new(config.clone()), config, names })
    }

    /// The TLS of one client. A client that resumes keeps its own tickets.
    pub(super) fn client(&self, library: &Library) -> ClientTls {
        let config = if library.over_tls.resumes {
            let mut config = self.config.clone();
            config.resumption = Resumption::in_memory_sessions(TICKETS * self.names.len());
            Arc::new(config)
        } else {
            Arc::clone(&self.without_tickets)
        };
        ClientTls { first: self.first, config, names: Arc::clone(&self.names) }
    }
}

/// TLS of one client.
pub(super) struct ClientTls {
    /// Whether the handshake comes before INFO.
    pub(super) first: bool,
    config: Arc<ClientConfig>,
    names: Arc<[ServerName<'static>]>,
}

impl ClientTls {
    /// The client's part of a handshake with the `n`th server. Its CPU time is counted separately.
    pub(super) async fn handshake(
        &self,
        tcp: TcpStream,
        n: usize,
        timer: &mut DeadlineTimer,
        stats: &TlsStats,
    ) -> Result<Stream, Failure> {
        timer.next_step();
        let mut handshake = TlsConnector::from(Arc::clone(&self.config)).connect(self.names[n].clone(), tcp);
        let steps = poll_fn(|cx| {
            let before = self_load::thread_time();
            let polled = Pin::new(&mut handshake).poll(cx);
            stats.took(self_load::thread_time().saturating_sub(before));
            polled
        });
        match timeout_at(timer.until, steps).await {
            Ok(Ok(tls)) => {
                stats.done(tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed));
                Ok(Stream::Tls(Box::new(TlsStream::Client(tls))))
            }
            // Every library fails the attempt as soon as the peer does not speak TLS.
            Ok(Err(err)) => Err(Failure::error(Ending::BeforeInfo, describe("TLS", &err))),
            Err(_) => {
                let mut failure = Failure::error(Ending::TimedOut, "timed out: TLS");
                failure.keep_socket(handshake.get_ref());
                Err(failure)
            }
        }
    }
}
