//! TLS as the clients of a storm speak it.

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
    client_library::{behaviour::Ending, table::Library},
    net::stream::Stream,
    storm::live::{
        attempt::{Clock, Failure, describe},
        own,
        seen::SeenTls,
    },
    tls::{BadFile, Connector, ServersTls},
};

/// A client keeps this many tickets of each server.
const TICKETS: usize = 8;

/// TLS as asked for.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Before INFO, as libraries do when they are told to; else behind it.
    pub first: bool,
    /// The authorities of the servers' certificates; `None` takes the system's.
    pub ca_file: Option<PathBuf>,
}

/// TLS, ready for clients.
#[derive(Debug)]
pub(super) struct Security {
    first: bool,
    config: ClientConfig,
    without_tickets: Arc<ClientConfig>,
    names: Arc<[ServerName<'static>]>,
}

impl Security {
    /// `names` are the hosts that certificates have to be for.
    pub(super) fn new(tls: &Tls, names: Arc<[ServerName<'static>]>) -> Result<Self, Vec<BadFile>> {
        let mut config = Connector::load(ServersTls { ca_file: tls.ca_file.clone(), ..Default::default() })?.config();
        config.resumption = Resumption::disabled();
        Ok(Self { first: tls.first, without_tickets: Arc::new(config.clone()), config, names })
    }

    /// For one client: whoever resumes has tickets of its own.
    pub(super) fn of(&self, library: &Library) -> OwnTls {
        let config = if library.over_tls.resumes {
            let mut config = self.config.clone();
            config.resumption = Resumption::in_memory_sessions(TICKETS * self.names.len());
            Arc::new(config)
        } else {
            Arc::clone(&self.without_tickets)
        };
        OwnTls { first: self.first, config, names: Arc::clone(&self.names) }
    }
}

/// TLS of one client.
pub(super) struct OwnTls {
    /// Before INFO.
    pub(super) first: bool,
    config: Arc<ClientConfig>,
    names: Arc<[ServerName<'static>]>,
}

impl OwnTls {
    /// The client's part of a handshake with the `n`th server. What it takes of the CPU is counted apart.
    pub(super) async fn shake(
        &self,
        tcp: TcpStream,
        n: usize,
        clock: &mut Clock,
        seen: &SeenTls,
    ) -> Result<Stream, Failure> {
        clock.step();
        let mut handshake = TlsConnector::from(Arc::clone(&self.config)).connect(self.names[n].clone(), tcp);
        let steps = poll_fn(|cx| {
            let before = own::thread_time();
            let polled = Pin::new(&mut handshake).poll(cx);
            seen.took(own::thread_time().saturating_sub(before));
            polled
        });
        match timeout_at(clock.until, steps).await {
            Ok(Ok(tls)) => {
                seen.done(tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed));
                Ok(Stream::Tls(Box::new(TlsStream::Client(tls))))
            }
            // No library waits any longer for a stream that is no TLS.
            Ok(Err(err)) => Err(Failure::error(Ending::BeforeInfo, describe("TLS", &err))),
            Err(_) => {
                let mut failure = Failure::error(Ending::TimedOut, "timed out: TLS");
                failure.left_open(handshake.get_ref());
                Err(failure)
            }
        }
    }
}
