//! Where the overview is asked for: a monitor port, by its URL, or an admin socket, by its path.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes, client::conn::http1::handshake, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime,
    time::timeout,
};

use crate::overview::Overview;

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// No answer is longer than this, in bytes: ten minutes and 17 storms are some 100 KiB.
const MAX_BODY: usize = 8 << 20;

/// A monitor port or an admin socket of a weir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Monitor {
        /// `host:port`.
        authority: String,
        /// What stands in front of the paths: empty, or from its slash on.
        base_path: String,
    },
    /// Its path.
    AdminSocket(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Monitor { authority, base_path } => write!(f, "{authority}{base_path}"),
            Self::AdminSocket(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Source {
    /// The admin socket at a path.
    pub fn socket(path: &Path) -> Self {
        Self::AdminSocket(path.to_owned())
    }

    /// The monitor port that a configuration names. One on all addresses is asked on loopback.
    pub fn configured(monitor: SocketAddr, base_path: &str) -> Self {
        let mut address = monitor;
        if monitor.ip().is_unspecified() {
            address.set_ip(match monitor {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        Self::Monitor { authority: address.to_string(), base_path: base_path.to_owned() }
    }

    /// The one at a URL: `http://host:port`, with the path below which weir's paths are, or `host:port` alone.
    ///
    /// # Errors
    /// It is no such URL; the text says what would be.
    pub fn at(url: &str) -> Result<Self, String> {
        let rest = match url.split_once("://") {
            None => url,
            Some(("http", rest)) => rest,
            Some(_) => return Err(format!("{url:?} is not http://HOST:PORT: weir's monitor port speaks plain HTTP")),
        };
        let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        let authority = match host.rsplit_once(':') {
            Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => host.to_owned(),
            _ => return Err(format!("{url:?} has no host and port; write http://127.0.0.1:8222")),
        };
        let path = path.trim_end_matches('/');
        let base_path = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self::Monitor { authority, base_path })
    }

    /// Asks for the overview, of the past only what came after the second `since`.
    ///
    /// # Errors
    /// Nobody answers there, or something else than weir does; the text says which.
    pub fn ask(&self, since: u64) -> Result<Overview, String> {
        let asked = || -> io::Result<Overview> {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}"));
            runtime.block_on(async { timeout(PATIENCE, self.exchange(since)).await.unwrap_or_else(|_| Err(late())) })
        };
        asked().map_err(|err| format!("{self}: {err}"))
    }

    async fn exchange(&self, since: u64) -> io::Result<Overview> {
        let path = format!("/overviewz?since={since}");
        match self {
            Self::Monitor { authority, base_path } => {
                let stream = TcpStream::connect(&**authority).await?;
                exchange_over(stream, authority, &format!("{base_path}{path}")).await
            }
            Self::AdminSocket(socket) => exchange_over(UnixStream::connect(socket).await?, "weir", &path).await,
        }
    }
}

async fn exchange_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    path: &str,
) -> io::Result<Overview> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, host).header(header::CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    if !answer.status().is_success() {
        let why = format!("it answers {}: it is no weir, or an older one", answer.status());
        return Err(io::Error::other(why));
    }
    let body = Limited::new(answer.into_body(), MAX_BODY).collect().await.map_err(io::Error::other)?;
    serde_json::from_slice(&body.to_bytes()).map_err(|err| io::Error::other(format!("its answer is not weir's: {err}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_port_and_a_path() {
        let shown = |url: &str| Source::at(url).map(|source| source.to_string());
        for (url, expected) in [
            ("http://10.0.0.1:8222", "10.0.0.1:8222"),
            ("localhost:8222", "localhost:8222"),
            ("http://[::1]:8222/ops/weir/", "[::1]:8222/ops/weir"),
        ] {
            assert_eq!(shown(url).as_deref(), Ok(expected));
        }
        for wrong in ["https://h:1", "h", "http://:8222", "http://h:port", "unix:///run/weir.sock"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
        let configured = |address: &str| Source::configured(address.parse().unwrap(), "/w").to_string();
        assert_eq!((&*configured("0.0.0.0:1"), &*configured("[::]:1")), ("127.0.0.1:1/w", "[::1]:1/w"));
        assert_eq!(configured("10.1.2.3:9"), "10.1.2.3:9/w");
    }
}
