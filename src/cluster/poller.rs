//! Polls one server for readings: over the system account where that answers, else at its monitoring port.

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::{
    cluster::{
        error::PollError, http_client::MonitorClient, own_dial::OwnDial, system_account::SystemAccount, varz::Varz,
    },
    net::timer,
    upstream::{Reading, Server, reconciled_count::ReadingEpoch},
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
    /// The `server_id` of a reading that was another server's, and how many such readings have come in a row.
    other: (String, u32),
    /// The log has been told of such readings.
    told_other: bool,
}

impl Poller {
    pub(super) fn new(own: &OwnDial) -> Self {
        let OwnDial { server, access, .. } = own;
        let monitor = MonitorClient::new(server, access.tls.clone());
        let (other, told_other) = Default::default();
        Self { system: access.system.clone(), monitor, source: None, unanswered: 0, other, told_other }
    }

    /// Polls once. Returns whether there is a reading.
    pub(super) async fn poll(&mut self, own: &OwnDial, interval: Duration) -> bool {
        let server = &own.server;
        // An answer that takes longer than the interval is of no use. The next poll starts after this one has ended, so
        // polls never pile up.
        let longest = interval.max(Duration::from_millis(500));
        let mut why = PollError::NoSystem;
        if let (Some(system), Some(id)) = (&self.system, own.advertised_info.server_id(server)) {
            let epoch = server.load().begin_reading(timer::now());
            let subject = format!("$SYS.REQ.SERVER.{id}.VARZ");
            let varz: Result<Varz, _> =
                timeout(longest, system.ask(subject, "".into())).await.unwrap_or(Err(PollError::TimedOut));
            match varz.and_then(Reading::try_from) {
                Ok(reading) => {
                    self.monitor.as_mut().map(MonitorClient::disconnect);
                    self.record(server, Source::SystemAccount, epoch, reading);
                    return true;
                }
                Err(err) => why = err,
            }
        }
        if let Some(monitor) = &mut self.monitor {
            let epoch = server.load().begin_reading(timer::now());
            let varz: Result<Varz, _> =
                timeout(longest, monitor.get("/varz")).await.unwrap_or(Err(PollError::TimedOut));
            let reading = match varz.and_then(Reading::try_from) {
                Ok(reading) if self.is_of_server(own, &reading).await => Ok(reading),
                Ok(reading) => Err(PollError::OtherServer(reading.server_name)),
                Err(err) => Err(err),
            };
            match reading {
                Ok(reading) => {
                    self.record(server, Source::MonitoringPort, epoch, reading);
                    return true;
                }
                Err(err) => why = err,
            }
        }
        if self.system.is_none() {
            server.reading_failed();
        }
        let is_open = self.system.as_ref().is_some_and(SystemAccount::is_open) && matches!(why, PollError::NoSystem);
        let told = matches!(why, PollError::OtherServer(_)) || is_open;
        if server.has_readings() && !told && self.source.replace(Source::None) != Some(Source::None) {
            warn!(server = server.name(), err = %why, "no reading; weir uses a server without one only as a last resort");
        }
        false
    }

    /// Whether a reading of the monitoring port is one of the process that clients are sent to. Another process may be
    /// the same server after a restart, of which INFO tells.
    async fn is_of_server(&mut self, own: &OwnDial, reading: &Reading) -> bool {
        let server = &own.server;
        let is_of_last = || match own.advertised_info.server_id(server) {
            Some(id) => id == reading.server_id,
            None => true,
        };
        let (id, times) = &mut self.other;
        if is_of_last() {
            *times = 0;
            return true;
        }
        if *id != reading.server_id {
            (*id, *times) = (reading.server_id.clone(), 0);
        }
        *times = times.saturating_add(1);
        // While the URL leads elsewhere each reading is another server's: weir dials less and less often.
        let is_answered = is_due(*times) && own.look(true).await;
        let is_of_server = is_of_last();
        if !is_of_server {
            // The next connection may lead to the server.
            self.monitor.as_mut().map(MonitorClient::disconnect);
            if is_answered {
                server.forget_reading_of(&reading.server_id);
            }
            if is_answered && !std::mem::replace(&mut self.told_other, true) {
                warn!(
                    server = server.name(),
                    monitor = server.monitor().map(|monitor| monitor.url.clone()),
                    other = Some(&*reading.server_name).filter(|name| !name.is_empty()),
                    "the monitoring URL leads to another server: weir does not use its readings"
                );
            }
        }
        is_of_server
    }

    fn record(&mut self, server: &Server, source: Source, epoch: ReadingEpoch, reading: Reading) {
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
        server.read(timer::now(), epoch, reading);
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
        is_silent && is_due(self.unanswered)
    }
}

/// Whether to look after so many polls in vain: less and less often, but never not at all.
pub(super) fn is_due(times: u32) -> bool {
    times.is_power_of_two() || times.is_multiple_of(16)
}
