//! Signals, with the meanings that nats-server gives them.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::server::reload::Reloader;

/// The signals that end nothing.
pub struct Maintenance {
    hangup: Signal,
    user1: Signal,
}

impl Maintenance {
    /// Registers the handlers: from now on these signals do not end the process.
    pub fn register() -> io::Result<Self> {
        Ok(Self { hangup: signal(SignalKind::hangup())?, user1: signal(SignalKind::user_defined1())? })
    }

    /// Reads the configuration again at each SIGHUP. SIGUSR1, at which nats-server reopens its log, only writes a log
    /// line that says that there is no file.
    pub async fn handle(&mut self, reloader: &Reloader, stop: CancellationToken) {
        loop {
            tokio::select! {
                // The log says what came of it.
                _ = self.hangup.recv() => drop(reloader.reload("SIGHUP").await),
                _ = self.user1.recv() => info!("SIGUSR1: no log file to reopen; weir logs to standard error"),
                () = stop.cancelled() => return,
            }
        }
    }
}

/// The signals that stop weir: SIGTERM, SIGINT, and SIGUSR2, which starts lame duck mode in nats-server.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    lame_duck: Signal,
}

impl Stop {
    /// Registers the handlers: from now on these signals do not end the process by themselves.
    pub fn register() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            lame_duck: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.lame_duck.recv() => {}
        }
    }
}
