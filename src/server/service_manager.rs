//! What weir tells the service manager that has started it (systemd's `sd_notify`): that it is ready, reloads, stops,
//! how it is, that its threads make progress, and which process goes on with it. A service manager that does not listen
//! costs nobody anything.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    io,
    os::unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram},
    },
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{net::timer, server::drain::Drain, session::Shared, telemetry::reloads::RELOADS};

/// How often the status is sent at most, and only where it is another one.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// What is left for the end of weir after its drain, when workers and tasks end.
const AFTER_DRAIN: Duration = Duration::from_secs(10);

/// So many times, and so far apart, the service manager is told of another process until it takes it.
const MAIN_PID_TRIES: usize = 20;
const MAIN_PID_AGAIN: Duration = Duration::from_millis(50);

/// The service manager; without `NOTIFY_SOCKET` there is none.
///
/// The crate `sd-notify` sends on a socket that blocks. The control thread, which hands out turns, must not wait for a
/// service manager that stands still.
#[derive(Debug, Clone, Default)]
pub struct ServiceManager {
    address: Option<Arc<SocketAddr>>,
    /// It ends weir where it hears no sign of life for so long.
    watchdog: Option<Duration>,
    has_failed: Arc<AtomicBool>,
    /// Another process is the service's main one.
    is_another: Arc<AtomicBool>,
}

impl ServiceManager {
    /// The one that the environment names.
    pub fn of_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Self::default() };
        let address = match address(&name) {
            Ok(address) => Some(Arc::new(address)),
            Err(err) => {
                warn!(socket = %name.display(), %err, "the service manager cannot be told of anything");
                None
            }
        };
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_for_weir = env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(process::id().into());
        let watchdog = number("WATCHDOG_USEC").filter(|&micros| micros > 0 && is_for_weir).map(Duration::from_micros);
        Self { address, watchdog, ..Self::default() }
    }

    /// weir serves clients. When it is about to end, it says so no more.
    pub fn ready(&self, shared: &Shared) {
        if shared.admission.is_lame_duck() {
            return;
        }
        self.tell(&format!("READY=1\nSTATUS={}", status(shared)));
    }

    /// weir reads its configuration again. [`Self::ready`] follows, whatever comes of it.
    pub fn reloading(&self, shared: &Shared) {
        if shared.admission.is_lame_duck() {
            return;
        }
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// weir drains, and may take as long for it as it is configured to.
    pub fn stopping(&self, drain: &Drain) {
        let micros = (drain.duration.max(drain.grace) + AFTER_DRAIN).as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}"));
    }

    /// Another process has taken over: the service goes on with that, and hears of it from that. A service manager that
    /// has not heard so takes the end of this process for that of the service, so it is told until it takes it.
    pub async fn another_process(&self, pid: u32) {
        for _ in 0..MAIN_PID_TRIES {
            if self.tell(&format!("MAINPID={pid}")) {
                break;
            }
            sleep(MAIN_PID_AGAIN).await;
        }
        self.is_another.store(true, Relaxed);
    }

    /// Sends the status when it changes, and a sign of life twice in the time of the watchdog, as long as all threads
    /// make progress. Until `stop`.
    pub async fn keep_told(self, shared: Arc<Shared>, stop: CancellationToken) {
        if self.address.is_none() {
            return stop.cancelled().await;
        }
        let pause = self.watchdog.map_or(STATUS_EVERY, |watchdog| STATUS_EVERY.min(watchdog / 2));
        let (mut told, mut told_at) = (String::new(), None::<Instant>);
        let work = async {
            loop {
                let now = timer::now();
                // Before the start too: it may take longer than the watchdog allows.
                if self.watchdog.is_some() && shared.heartbeats.stuck(now).is_none() {
                    self.tell("WATCHDOG=1");
                }
                let is_due = told_at.is_none_or(|at| now.saturating_duration_since(at) >= STATUS_EVERY);
                if shared.heartbeats.has_started() && is_due {
                    let status = status(&shared);
                    if status != told {
                        self.tell(&format!("STATUS={status}"));
                        (told, told_at) = (status, Some(now));
                    }
                }
                sleep(pause).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    /// Returns whether nobody is left to be told.
    fn tell(&self, state: &str) -> bool {
        let Some(address) = self.address.as_ref().filter(|_| !self.is_another.load(Relaxed)) else { return true };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to_addr(state.as_bytes(), address)
        });
        let is_told = sent.is_ok();
        match sent {
            Ok(_) => self.has_failed.store(false, Relaxed),
            Err(err) if !self.has_failed.swap(true, Relaxed) => warn!(%err, "the service manager does not hear weir"),
            Err(_) => {}
        }
        is_told
    }
}

/// Where `NOTIFY_SOCKET` leads: a path, or a name without a file after an `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor a name after @")),
    }
}

/// What `systemctl status` shows, on one line.
fn status(shared: &Shared) -> String {
    let now = timer::now();
    let servers = shared.servers.list();
    let usable = servers.iter().filter(|server| server.is_reachable(now)).count();
    let mut status = String::new();
    if shared.admission.is_lame_duck() {
        status.push_str("lame duck mode: ");
    } else if shared.admission.is_paused() {
        status.push_str("paused: ");
    }
    let (sessions, held, all) = (shared.sessions.len(), shared.admission.waiting().held(), servers.len());
    let _ = write!(status, "{sessions} sessions, {held} clients held, {usable} of {all} servers usable");
    if RELOADS.last_failed() {
        status.push_str("; the last reload has changed nothing: the log says why");
    }
    status
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::linux::net::SocketAddrExt;

    use super::*;

    #[test]
    fn a_socket_is_a_path_or_an_abstract_name() {
        let path = address(OsStr::new("/run/systemd/notify")).unwrap();
        assert_eq!(path.as_pathname().and_then(|path| path.to_str()), Some("/run/systemd/notify"));
        let name = address(OsStr::new("@notify")).unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"notify"[..]));
        for wrong in ["", "notify", "vsock:2:1"] {
            assert!(address(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }
}
