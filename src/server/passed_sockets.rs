//! Listening sockets that the service manager has bound and passes to weir (`LISTEN_FDS`, sd_listen_fds(3)).
//!
//! A socket is for the listener that its name names, `listeners[0]`, or for the endpoints, `monitor`. Under any other
//! name it is for whom the configuration has listen at its address.

use std::{
    collections::BTreeMap,
    env, io,
    net::{SocketAddr, TcpListener},
    os::fd::RawFd,
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{FileType, fstat};
use socket2::{Domain, SockRef, Type};

use crate::{
    config::{Config, ListenerConfig},
    net::{inherited, socket::TcpTimeouts},
};

/// The number of the first socket.
const FIRST: RawFd = 3;

/// More sockets than any unit passes.
const MOST: usize = 1024;

/// Why sockets that were passed cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassedError {
    #[error("{0}")]
    Environment(String),
    #[error("descriptor {number} ({name:?}), which the service manager has passed, {why}")]
    Descriptor { number: RawFd, name: String, why: String },
}

/// A socket that was passed.
#[derive(Debug)]
pub struct PassedSocket {
    number: RawFd,
    name: String,
    address: SocketAddr,
    socket: TcpListener,
}

/// For whom a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// By its place in the configuration.
    Listener(usize),
    Monitor,
}

/// The sockets of each listener and of the endpoints. weir keeps those of a service manager as long as it runs: a
/// listener that a reload takes away and brings back listens on them again.
#[derive(Debug, Default)]
pub struct PassedSockets(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// By the address of the listener in the configuration weir has begun with, and which of the listeners with this
    /// address it is: there may be several on port 0.
    listeners: BTreeMap<(SocketAddr, usize), Vec<TcpListener>>,
    monitor: Option<(SocketAddr, TcpListener)>,
}

/// Takes over all that have been passed. For the start of the process, before it opens anything.
///
/// # Errors
/// What was passed is no listening TCP socket, or the environment contradicts itself.
pub fn take() -> Result<Vec<PassedSocket>, PassedError> {
    let numbers = numbers(process::id(), |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))?;
    numbers.into_iter().map(|(number, name)| PassedSocket::take(number, name)).collect()
}

/// The descriptors for process `own`, with their names.
fn numbers(own: u32, variable: impl Fn(&str) -> Option<String>) -> Result<Vec<(RawFd, String)>, PassedError> {
    // The variables stay in the environment of programs that a program with sockets starts.
    if variable("LISTEN_PID").and_then(|pid| pid.parse().ok()) != Some(own) {
        return Ok(Vec::new());
    }
    let Some(count) = variable("LISTEN_FDS") else { return Ok(Vec::new()) };
    let Some(count) = count.parse::<usize>().ok().filter(|&count| count <= MOST) else {
        return Err(PassedError::Environment(format!("LISTEN_FDS: {count:?} is no number of sockets up to {MOST}")));
    };
    let names = match variable("LISTEN_FDNAMES") {
        Some(names) if count > 0 => names.split(':').map(str::to_owned).collect(),
        // systemd's word for it.
        _ => vec!["unknown".to_owned(); count],
    };
    if names.len() != count {
        let names = names.len();
        return Err(PassedError::Environment(format!("LISTEN_FDNAMES has {names} names for {count} sockets")));
    }
    Ok((FIRST..).zip(names).collect())
}

impl PassedSocket {
    fn take(number: RawFd, name: String) -> Result<Self, PassedError> {
        let because = |why: &str| PassedError::Descriptor { number, name: name.clone(), why: why.to_owned() };
        let failed = |err: io::Error| because(&format!("cannot be used: {err}"));
        let descriptor = inherited::adopt(number).map_err(failed)?;
        let is_socket = fstat(&descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
        if !is_socket {
            return Err(because("is no socket"));
        }
        let socket = SockRef::from(&descriptor);
        let domain = socket.local_addr().map_err(failed)?.domain();
        if ![Domain::IPV4, Domain::IPV6].contains(&domain) || socket.r#type().map_err(failed)? != Type::STREAM {
            return Err(because("is no TCP socket"));
        }
        if !socket.is_listener().map_err(failed)? {
            return Err(because("does not listen: weir takes listening sockets only (Accept=no in its unit)"));
        }
        socket.set_nonblocking(true).map_err(failed)?;
        let socket = TcpListener::from(descriptor);
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { number, name, address, socket })
    }

    fn target(&self, config: &Config) -> Result<Target, PassedError> {
        let because = |why: String| PassedError::Descriptor { number: self.number, name: self.name.clone(), why };
        let listeners: Vec<_> = config.listeners.iter().map(|one| one.listen).collect();
        target(&self.name, self.address, &listeners, config.monitor).map_err(because)
    }
}

/// For whom a socket with this name and address is.
fn target(
    name: &str,
    address: SocketAddr,
    listeners: &[SocketAddr],
    monitor: Option<SocketAddr>,
) -> Result<Target, String> {
    if name == "monitor" {
        return monitor
            .map(|_| Target::Monitor)
            .ok_or_else(|| "is for the endpoints, and the configuration has no [monitor]".to_owned());
    }
    let number = name.strip_prefix("listeners[").and_then(|rest| rest.strip_suffix(']'));
    if let Some(n) = number.and_then(|n| n.parse::<usize>().ok()) {
        let known = n < listeners.len();
        return known.then_some(Target::Listener(n)).ok_or_else(|| "is for a listener that is not there".to_owned());
    }
    if let Some(n) = listeners.iter().position(|&listen| listen == address) {
        return Ok(Target::Listener(n));
    }
    if monitor == Some(address) {
        return Ok(Target::Monitor);
    }
    let all: Vec<_> = listeners.iter().chain(&monitor).map(SocketAddr::to_string).collect();
    Err(format!(
        "listens on {address}, and the configuration on {}: name it \"listeners[N]\" or \"monitor\"",
        all.join(", ")
    ))
}

impl PassedSockets {
    /// Finds out for whom each is.
    ///
    /// # Errors
    /// One of them is for nobody, or nobody would accept clients from it.
    pub fn assign(passed: Vec<PassedSocket>, config: &Config, workers: usize) -> Result<Self, PassedError> {
        let mut all = All::default();
        for one in passed {
            let target = one.target(config)?;
            let PassedSocket { number, name, socket, .. } = one;
            let is_left_over = match target {
                Target::Listener(n) => {
                    let sockets = all.listeners.entry(key(&config.listeners, n)).or_default();
                    sockets.push(socket);
                    sockets.len() > workers
                }
                Target::Monitor => config.monitor.is_some_and(|at| all.monitor.replace((at, socket)).is_some()),
            };
            if is_left_over {
                let most = if target == Target::Monitor { 1 } else { workers };
                let why = format!("is one too many: this listener takes up to {most}, one for each worker");
                return Err(PassedError::Descriptor { number, name, why });
            }
        }
        Ok(Self(Mutex::new(all)))
    }

    /// Those of another process, which are for the listeners at the same places of the configuration.
    pub fn taken(
        listeners: BTreeMap<(SocketAddr, usize), Vec<TcpListener>>,
        monitor: Option<(SocketAddr, TcpListener)>,
    ) -> Self {
        Self(Mutex::new(All { listeners, monitor }))
    }

    /// Closes what no listener has. A socket of which nobody accepts would keep its clients waiting.
    pub fn forget(&self) {
        *self.all() = All::default();
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets of listener `n` of a configuration, one for each worker or more, if any was passed. Where there are
    /// fewer than workers, several workers accept from one.
    ///
    /// # Errors
    /// No descriptor is left, or the socket does not take its options.
    pub fn of_listener(
        &self,
        listeners: &[ListenerConfig],
        n: usize,
        workers: usize,
    ) -> io::Result<Option<Vec<TcpListener>>> {
        let all = self.all();
        let Some(passed) = all.listeners.get(&key(listeners, n)) else { return Ok(None) };
        let timeouts: TcpTimeouts = listeners[n].tcp;
        for socket in passed {
            // As with weir's own: connections inherit both.
            SockRef::from(socket).set_tcp_nodelay(true)?;
            timeouts.set_on(socket)?;
        }
        passed
            .iter()
            .cycle()
            .take(workers.max(passed.len()))
            .map(TcpListener::try_clone)
            .collect::<io::Result<_>>()
            .map(Some)
    }

    /// The socket of the endpoints at this address of the configuration, if one was passed.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn of_monitor(&self, configured: SocketAddr) -> io::Result<Option<TcpListener>> {
        let all = self.all();
        let passed = all.monitor.as_ref().filter(|(at, _)| *at == configured);
        passed.map(|(_, socket)| socket.try_clone()).transpose()
    }
}

/// The address of listener `n`, and how many before it have the same.
fn key(listeners: &[ListenerConfig], n: usize) -> (SocketAddr, usize) {
    let address = listeners[n].listen;
    (address, listeners[..n].iter().filter(|one| one.listen == address).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_environment(variables: &[(&str, &str)]) -> Result<Vec<(RawFd, String)>, PassedError> {
        let value = |name: &str| variables.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned());
        numbers(7, value)
    }

    #[test]
    fn descriptors_begin_at_3_and_have_names() {
        let named = |names: &[(RawFd, &str)]| Ok(names.iter().map(|&(n, name)| (n, name.to_owned())).collect());
        assert_eq!(of_environment(&[]), Ok(vec![]));
        let mine = ("LISTEN_PID", "7");
        assert_eq!(of_environment(&[mine]), Ok(vec![]));
        assert_eq!(of_environment(&[mine, ("LISTEN_FDS", "2")]), named(&[(3, "unknown"), (4, "unknown")]));
        let names = ("LISTEN_FDNAMES", "monitor:weir.socket");
        assert_eq!(of_environment(&[mine, ("LISTEN_FDS", "2"), names]), named(&[(3, "monitor"), (4, "weir.socket")]));
        assert_eq!(of_environment(&[mine, ("LISTEN_FDS", "0"), ("LISTEN_FDNAMES", "")]), Ok(vec![]));
        for not_mine in [vec![("LISTEN_FDS", "2")], vec![("LISTEN_PID", "8"), ("LISTEN_FDS", "2")]] {
            assert_eq!(of_environment(&not_mine), Ok(vec![]), "they are for another process");
        }
    }

    #[test]
    fn an_environment_that_contradicts_itself_is_an_error() {
        let mine = ("LISTEN_PID", "7");
        for count in ["", "-1", "x", "1025", "99999999999999999999"] {
            let err = of_environment(&[mine, ("LISTEN_FDS", count)]).unwrap_err().to_string();
            assert_eq!(err, format!("LISTEN_FDS: {count:?} is no number of sockets up to 1024"));
        }
        let err = of_environment(&[mine, ("LISTEN_FDS", "3"), ("LISTEN_FDNAMES", "a:b")]).unwrap_err();
        assert_eq!(err.to_string(), "LISTEN_FDNAMES has 2 names for 3 sockets");
    }

    #[test]
    fn a_name_goes_before_an_address() {
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        let listeners = [at("127.0.0.1:4222"), at("[::]:4223")];
        let target = |name, address, monitor| target(name, at(address), &listeners, monitor);
        let monitor = Some(at("127.0.0.1:8222"));
        assert_eq!(target("monitor", "127.0.0.1:4222", monitor), Ok(Target::Monitor));
        assert_eq!(target("listeners[1]", "127.0.0.1:4222", monitor), Ok(Target::Listener(1)));
        assert_eq!(target("weir.socket", "127.0.0.1:4222", monitor), Ok(Target::Listener(0)));
        assert_eq!(target("weir.socket", "[::]:4223", monitor), Ok(Target::Listener(1)));
        assert_eq!(target("weir.socket", "127.0.0.1:8222", monitor), Ok(Target::Monitor));
        for (name, address, monitor) in [
            ("monitor", "127.0.0.1:8222", None),
            ("listeners[2]", "127.0.0.1:4222", monitor),
            ("weir.socket", "0.0.0.0:4223", monitor),
            ("listeners[x]", "127.0.0.1:1", monitor),
        ] {
            assert!(target(name, address, monitor).is_err(), "{name} {address}");
        }
        assert_eq!(
            target("weir.socket", "0.0.0.0:1", monitor).unwrap_err(),
            "listens on 0.0.0.0:1, and the configuration on 127.0.0.1:4222, [::]:4223, 127.0.0.1:8222: name it \
             \"listeners[N]\" or \"monitor\""
        );
    }
}
