//! A server's monitoring port: one connection that is kept, one answer at a time.

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

use crate::{cluster::PollError, net::stream::Stream, tls::Connector};

/// A `/varz` answer is about 2 KiB; with many JWT operators it grows, so the bound is generous.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// How long TLS with a monitoring port may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(5);

/// A monitoring port.
#[derive(Debug)]
pub(super) struct Http {
    authority: String,
    /// For `https`.
    tls: Option<Arc<Connector>>,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Http {
    /// That of a URL.
    pub(super) fn new(url: &str, tls: Option<Arc<Connector>>) -> Self {
        Self { authority: authority(url), tls: tls.filter(|_| url.starts_with("https://")), connection: None }
    }

    /// Keeps no connection while it is not needed.
    pub(super) fn rest(&mut self) {
        self.connection = None;
    }

    /// What the server says at `path`.
    ///
    /// # Errors
    /// [`PollError`]; the connection is not kept then, nor when the future is dropped.
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
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await.map_err(PollError::Body)?;
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
