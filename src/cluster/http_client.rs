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
use tokio::{net::TcpStream, time::Instant};

use crate::{cluster::error::PollError, net::stream::Stream, tls::Connector};

/// The largest answer. `/varz` is about 2 KiB and grows with the number of JWT operators, so the bound is generous.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// How long TLS with a monitoring port may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one monitoring port.
#[derive(Debug)]
pub(super) struct MonitorClient {
    /// `host:port`.
    authority: String,
    /// Set if the URL is `https`.
    tls: Option<Arc<Connector>>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl MonitorClient {
    pub(super) fn new(url: &str, tls: Option<Arc<Connector>>) -> Self {
        Self { authority: authority(url), tls: tls.filter(|_| url.starts_with("https://")), connection: None }
    }

    /// Closes the connection; the next request opens one.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Requests `path` and parses the answer, which is JSON.
    ///
    /// # Errors
    /// [`PollError`]. After an error, and when the future is dropped, the connection is not kept.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, PollError> {
        let mut connection = match self.connection.take().filter(|kept| !kept.is_closed()) {
            Some(kept) => kept,
            None => {
                let tcp = TcpStream::connect(&self.authority).await?;
                let stream = match &self.tls {
                    None => Stream::from(tcp),
                    Some(tls) => tls.connect(tcp, &self.authority, Instant::now() + TLS_TIMEOUT).await?,
                };
                let (connection, driver) = handshake(TokioIo::new(stream)).await?;
                // Ends with the connection.
                tokio::spawn(driver);
                connection
            }
        };
        connection.ready().await?;
        let request = Request::get(path).header(header::HOST, &self.authority).body(Empty::new())?;
        let answer = connection.send_request(request).await?;
        if !answer.status().is_success() {
            return Err(PollError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await.map_err(PollError::Body)?;
        self.connection = Some(connection);
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }
}

/// `host:port` of a monitoring URL.
fn authority(url: &str) -> String {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or(url);
    rest.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_of_a_url() {
        assert_eq!(authority("http://10.0.0.1:8222"), "10.0.0.1:8222");
        assert_eq!(authority("https://10.0.0.1:8222"), "10.0.0.1:8222");
        assert_eq!(authority("http://nats.example.com:8222/"), "nats.example.com:8222");
    }
}
