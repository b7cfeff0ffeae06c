//! Asks a running weir over its monitor port, or over its admin socket where it has none.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use crate::{
    admin::socket::Why,
    cli::verbs::{
        client::{self, Request},
        unreachable,
    },
    config::Config,
};

/// How long connecting may take, and then each read: an answer is made in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// No answer is longer than this, in bytes.
const MAX_ANSWER: u64 = 64 << 20;

/// Which weir is asked.
#[derive(Debug, Args)]
pub(super) struct MonitorOf {
    /// Configuration file, which names the monitor port or else the admin socket; `-` is standard input.
    #[arg(short, long, value_name = "FILE", default_value = "weir.toml")]
    config: PathBuf,
    /// The monitor port, such as <http://127.0.0.1:8222>, instead of a configuration file.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    monitor: Option<String>,
    /// The admin socket, instead of a configuration file.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["config", "monitor"])]
    socket: Option<PathBuf>,
}

/// Where a weir is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Monitor(SocketAddr, String),
    AdminSocket(PathBuf),
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// The arguments or the configuration name no monitor port.
    Usage(String),
    Failed(String),
}

impl MonitorOf {
    /// The body of the answer to GET `path`, which begins with a slash.
    ///
    /// # Errors
    /// The monitor port is not known, or does not answer with status 200.
    pub(super) fn get(&self, path: &str) -> Result<Vec<u8>, Unanswered> {
        let target = self.target()?;
        let failed = |err: &dyn fmt::Display| Unanswered::Failed(format!("{target}: {err}"));
        let (status, body) = target.get(path).map_err(|err| match &target {
            Target::Port { .. } => failed(&err),
            Target::Socket(socket) => Unanswered::Failed(unreachable(socket, &err)),
        })?;
        match status {
            200 => Ok(body),
            400 => Err(Unanswered::Usage(match serde_json::from_slice::<Why>(&body) {
                Ok(Why { error }) => error,
                Err(_) => String::from_utf8_lossy(&body).into_owned(),
            })),
            404 => Err(failed(&"it has no such endpoint: is it a weir of this version?")),
            status => Err(failed(&format!("it answers with status {status}"))),
        }
    }

    fn target(&self) -> Result<Target, Unanswered> {
        match (&self.monitor, &self.socket) {
            (Some(url), _) => Target::of_url(url).ok_or_else(|| {
                Unanswered::Usage(format!("--monitor {url}: write it as http://HOST:PORT, with its base path if any"))
            }),
            (None, Some(path)) => Ok(Target::Socket(path.clone())),
            (None, None) => Ok(match place(&self.config).map_err(Unanswered::Usage)? {
                Place::Monitor(listen, base_path) => Target::Port { address: reachable(listen).to_string(), base_path },
                Place::AdminSocket(path) => Target::Socket(path),
            }),
        }
    }
}

/// Where the weir with this configuration is asked: at its monitor port, or at its admin socket where it has none, or
/// one whose number only weir knows. Only this counts of the file: what else it has may be wrong, or need an
/// environment that only weir has, and files that it names are not read.
///
/// # Errors
/// It has neither; the text says what to do.
pub(super) fn place(config: &Path) -> Result<Place, String> {
    let read = Config::endpoints(config).map_err(|findings| format!("{findings}\nor name the port by --monitor"))?;
    let socket = read.admin.map(|admin| Place::AdminSocket(admin.socket));
    match read.monitor {
        Some((listen, base_path)) if listen.port() > 0 => Ok(Place::Monitor(listen, base_path)),
        Some(_) => socket.ok_or_else(|| "monitor.listen takes any free port: name it by --monitor".to_owned()),
        None => socket.ok_or_else(|| {
            let file = config.display();
            format!("{file} has no [monitor] and no [admin]: write one and start weir again")
        }),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Port {
        /// `host:port`.
        address: String,
        /// Empty, or from its slash on.
        base_path: String,
    },
    /// The path of an admin socket.
    Socket(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { address, base_path } => write!(f, "http://{address}{base_path}"),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

impl Target {
    fn of_url(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://").or_else(|| (!url.contains("://")).then_some(url))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { authority.to_owned() } else { format!("{authority}:8222") };
        (!authority.is_empty() && !authority.contains('@'))
            .then(|| Self::Port { address, base_path: path.trim_end_matches('/').to_owned() })
    }

    /// Status and body of the answer to GET `path`.
    fn get(&self, path: &str) -> io::Result<(u16, Vec<u8>)> {
        match self {
            Self::Port { address, base_path } => get(address, &format!("{base_path}{path}")),
            Self::Socket(socket) => {
                client::ask(socket, Request::get(path)).map(|answer| (answer.status, answer.body.into()))
            }
        }
    }
}

/// Where one gets at a socket that listens on `address` from the same machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Status and body of the answer.
fn get(address: &str, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let connected = address.to_socket_addrs()?.find_map(|one| {
        TcpStream::connect_timeout(&one, TIMEOUT)
            .inspect_err(|err| refused = io::Error::new(err.kind(), err.to_string()))
            .ok()
    });
    let mut stream = connected.ok_or(refused)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the answer comes whole, and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    parse(answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "what answers does not speak HTTP"))
}

fn parse(mut answer: Vec<u8>) -> Option<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body) = response.parse(&answer).ok()? else { return None };
    let status = response.code?;
    answer.drain(..body);
    Some((status, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_in_every_way_that_is_usual() {
        let target = |url: &str| match Target::of_url(url) {
            Some(Target::Port { address, base_path }) => Some((address, base_path)),
            _ => None,
        };
        let is = |address: &str, path: &str| Some((address.to_owned(), path.to_owned()));
        assert_eq!(target("http://127.0.0.1:8222"), is("127.0.0.1:8222", ""));
        assert_eq!(target("http://weir.example.com/weir/"), is("weir.example.com:8222", "/weir"));
        assert_eq!(target("http://[::1]:9222/"), is("[::1]:9222", ""));
        assert_eq!(target("localhost:8222"), is("localhost:8222", ""));
        for wrong in ["https://localhost:8222", "", "http://", "http://user:pw@host:1", "nats://n1:4222"] {
            assert_eq!(target(wrong), None, "{wrong:?}");
        }
        let reach = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(
            [reach("0.0.0.0:1"), reach("[::]:1"), reach("10.0.0.1:1")],
            ["127.0.0.1:1", "[::1]:1", "10.0.0.1:1"]
        );
    }

    #[test]
    fn an_answer_is_status_and_body() {
        let parse = |text: &str| parse(text.into());
        assert_eq!(parse("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}"), Some((200, b"{}".to_vec())));
        assert_eq!(parse("HTTP/1.1 400 Bad Request\r\n\r\n"), Some((400, Vec::new())));
        assert_eq!(parse("INFO {}\r\n"), None);
    }
}
