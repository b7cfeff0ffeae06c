//! Asks a server's monitoring port over HTTP, one request at a time, on a connection that is kept.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::{
    cluster::error::PollError,
    dial,
    net::stream::Stream,
    tls::Connector,
    upstream::{Monitor, Server},
};

/// The largest answer. `/varz` is about 2 KiB and grows with the number of JWT operators, so the bound is generous.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// How long connecting to a monitoring port, and then TLS with it, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one server's monitoring port.
#[derive(Debug)]
pub(super) struct MonitorClient {
    server: Arc<Server>,
    monitor: Arc<Monitor>,
    /// Set if the URL is `https`.
    tls: Option<Arc<Connector>>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl MonitorClient {
    /// `None` for a server without monitoring URL.
    pub(super) fn new(server: &Arc<Server>, tls: Option<Arc<Connector>>) -> Option<Self> {
        let monitor = server.monitor()?;
        let tls = tls.filter(|_| monitor.url.starts_with("https://"));
        Some(Self { server: Arc::clone(server), monitor, tls, connection: None })
    }

    /// Closes the connection; the next request opens one.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Requests `path`, below the server's `http_base_path`, and parses the answer, which is JSON.
    ///
    /// # Errors
    /// [`PollError`]. After an error, and when the future is dropped, the connection is not kept.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, PollError> {
        let endpoint = &self.monitor.endpoint;
        let mut connection = match self.connection.take().filter(|kept| !kept.is_closed()) {
            Some(kept) => kept,
            None => {
                // Where the name leads to several machines, the reading is to be of the one that clients are sent to.
                if let Some(clients) = self.server.endpoint().resolved().first() {
                    endpoint.prefer_ip(clients.ip());
                }
                let tcp = dial::connect(endpoint, b"", Instant::now() + CONNECT_TIMEOUT).await?;
                let stream = match &self.tls {
                    None => Stream::from(tcp),
                    Some(tls) => {
                        let by = Instant::now() + CONNECT_TIMEOUT;
                        tls.connect(tcp, endpoint.address(), by).await.map_err(std::io::Error::from)?
                    }
                };
                let (connection, driver) = handshake(TokioIo::new(stream)).await?;
                // Ends with the connection.
                tokio::spawn(driver);
                connection
            }
        };
        connection.ready().await?;
        let path = format!("{}{path}", self.monitor.base_path());
        let request = Request::get(path).header(header::HOST, endpoint.address()).body(Empty::new())?;
        let answer = connection.send_request(request).await?;
        if !answer.status().is_success() {
            return Err(PollError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await.map_err(PollError::Body)?;
        self.connection = Some(connection);
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::{
        config::{Config, ServerArg},
        upstream::{ServerParams, Servers},
    };

    #[tokio::test]
    async fn an_address_that_swallows_packets_keeps_no_reading_away() {
        let dead = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        dead.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        dead.listen(0).unwrap();
        let dead_address = dead.local_addr().unwrap().as_socket().unwrap();
        // Its queue of connections is full once a connection does not come about.
        let mut kept = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(dead_address)).await {
            kept.push(stream.unwrap());
        }
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut params = Config::from_servers(&[ServerArg("n1:4222".into())]).unwrap().upstream;
        let monitor = Some("http://n1:8222".into());
        params.servers = vec![ServerParams { monitor, ..params.servers[0].clone() }];
        let servers = Servers::new(&params);
        let server = servers.iter().next().unwrap();
        server.monitor().unwrap().endpoint.set_resolved(vec![dead_address, good.local_addr().unwrap()]);
        let answer = async {
            let (mut stream, _) = good.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
            stream
        };
        let mut client = MonitorClient::new(&server, None).unwrap();
        let (read, _stream) = tokio::join!(client.get::<Value>("/varz"), answer);
        assert_eq!(read.unwrap(), serde_json::json!({}));
    }
}
