//! One request over the admin socket.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime, time::timeout};

/// A verb that changes much, such as a reload with many certificates, takes its time.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);
/// No answer is longer than this, in bytes.
const MAX_BODY: usize = 16 << 20;

/// A request.
pub(in crate::cli) struct Request {
    method: Method,
    path: String,
    query: form_urlencoded::Serializer<'static, String>,
    body: Bytes,
    /// The longest time until the answer.
    within: Duration,
}

/// What weir has answered.
#[derive(Debug)]
pub(in crate::cli) struct Answer {
    /// The status of HTTP.
    pub status: u16,
    pub body: Bytes,
}

impl Request {
    pub(in crate::cli) fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: &str) -> Self {
        Self::new(Method::POST, path)
    }

    pub(super) fn delete(path: &str) -> Self {
        Self::new(Method::DELETE, path)
    }

    fn new(method: Method, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            query: form_urlencoded::Serializer::new(String::new()),
            body: Bytes::new(),
            within: LONGEST_ANSWER,
        }
    }

    /// The same, answered within this time.
    pub(super) fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// The same with this body.
    pub(super) fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The same with one more argument.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.query.append_pair(name, value);
        self
    }
}

/// Asks, and waits for the answer.
///
/// # Errors
/// Nobody listens at `socket`, it is not for this user, or no answer comes in time.
pub(in crate::cli) fn ask(socket: &Path, request: Request) -> io::Result<Answer> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let within = request.within;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {within:?}"));
    // The timeout is made on the runtime, whose timer it needs.
    let answered = runtime.block_on(async { timeout(within, exchange(socket, request)).await });
    answered.unwrap_or_else(|_| Err(late()))
}

async fn exchange(socket: &Path, request: Request) -> io::Result<Answer> {
    let Request { method, path, mut query, body, .. } = request;
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let query = query.finish();
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    let request = hyper::Request::builder().method(method).uri(uri).header("host", "weir").body(Full::new(body));
    let answer = sender.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), MAX_BODY).collect().await.map_err(io::Error::other)?;
    Ok(Answer { status, body: body.to_bytes() })
}
