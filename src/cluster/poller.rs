//! Polls one server for readings: over the system account where that answers, else at its monitoring port.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::{
    advertised_info::AdvertisedInfo,
    cluster::{error::PollError, http_client::MonitorClient, system_account::SystemAccount, varz::Varz},
    net::timer,
    upstream::{Server, reconciled_count::ReadingEpoch},
};

/// Where the last reading came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    SystemAccount,
    MonitoringPort,
    /// Nowhere: the last poll failed.
    None,
}

/// The polls of one server.
pub(super) struct Poller {
    system: Option<SystemAccount>,
    monitor: Option<MonitorClient>,
    /// `None` before the first poll.
    source: Option<Source>,
    /// Polls in a row that the system account did not answer although it is up.
    unanswered: u32,
}

impl Poller {
    pub(super) fn new(system: Option<SystemAccount>, monitor: Option<MonitorClient>) -> Self {
        Self { system, monitor, source: None, unanswered: 0 }
    }

    /// Polls once. Returns whether the server is another process than at the last reading.
    pub(super) async fn poll(&mut self, server: &Server, advertised_info: &AdvertisedInfo, interval: Duration) -> bool {
        // An answer that takes longer than the interval is of no use. The next poll starts after this one has ended, so
        // polls never pile up.
        let longest = interval.max(Duration::from_millis(500));
        let mut why = PollError::NoSystem;
        if let (Some(system), Some(id)) = (&self.system, advertised_info.server_id(server.index())) {
            let epoch = server.load().begin_reading();
            let subject = format!("$SYS.REQ.SERVER.{id}.VARZ");
            let varz = timeout(longest, system.ask(subject, "".into())).await.unwrap_or(Err(PollError::TimedOut));
            match varz {
                Ok(varz) => {
                    self.monitor.as_mut().map(MonitorClient::disconnect);
                    return self.record(server, Source::SystemAccount, epoch, varz);
                }
                Err(err) => why = err,
            }
        }
        if let Some(monitor) = &mut self.monitor {
            let epoch = server.load().begin_reading();
            match timeout(longest, monitor.get("/varz")).await.unwrap_or(Err(PollError::TimedOut)) {
                Ok(varz) => return self.record(server, Source::MonitoringPort, epoch, varz),
                Err(err) => why = err,
            }
        }
        if self.system.is_none() {
            server.reading_failed();
        }
        if server.has_readings() && self.source.replace(Source::None) != Some(Source::None) {
            warn!(server = server.name(), %why, "no reading; weir uses a server without one only as a last resort");
        }
        false
    }

    fn record(&mut self, server: &Server, source: Source, epoch: ReadingEpoch, varz: Varz) -> bool {
        match (self.source.replace(source), source) {
            (Some(Source::None), _) => info!(server = server.name(), "readings are back"),
            (Some(Source::SystemAccount), Source::MonitoringPort) => {
                warn!(server = server.name(), "no answer over the system account; reading the monitoring port instead");
            }
            (Some(Source::MonitoringPort), Source::SystemAccount) => {
                info!(server = server.name(), "reading over the system account again");
            }
            _ => {}
        }
        let restarted = server.read(timer::now(), epoch, varz.into());
        if restarted {
            info!(server = server.name(), "server has restarted");
        }
        restarted
    }

    /// Whether it is time to look for a new `server_id`: the system account is up, and the server does not answer there
    /// under the id that weir knows.
    pub(super) fn may_have_new_id(&mut self, server: &Server) -> bool {
        let is_silent = self.system.as_ref().is_some_and(SystemAccount::is_up)
            && server.has_readings()
            && self.source != Some(Source::SystemAccount);
        self.unanswered = if is_silent { self.unanswered.saturating_add(1) } else { 0 };
        // A server of another cluster never answers there. A look takes a connection, so weir looks less and less
        // often.
        is_silent && (self.unanswered.is_power_of_two() || self.unanswered.is_multiple_of(16))
    }
}
