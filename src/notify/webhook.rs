//! Posts events to a webhook: one JSON object each, one after another, each tried a few times. A webhook that does not
//! answer costs one connection and a bounded queue.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode, client::conn::http1::handshake, header};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    dial::{self, DialError},
    net::stream::Stream,
    notify::{Message, Notifier, Outcome, Receiver},
    tls::Connector,
    upstream::Endpoint,
};

/// How long one try may take, from the look-up of the name to the end of the answer.
const TRY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long weir waits before each further try, with jitter.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(25)];
/// What is read of an answer, whose text nobody needs.
const MAX_ANSWER: usize = 64 * 1024;

/// Where events are posted.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Webhook {
    /// `host:port`.
    authority: String,
    /// From the slash on. It may hold a secret, as the webhooks of chats do.
    path: String,
    is_https: bool,
}

/// Shows no path.
impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Webhook {
    /// `authority` is `host` or `host:port`, `path` what stands behind it.
    pub fn new(is_https: bool, authority: &str, path: &str) -> Self {
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let authority = match has_port {
            true => authority.to_owned(),
            false => format!("{authority}:{}", if is_https { 443 } else { 80 }),
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Self { authority, path, is_https }
    }

    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Its scheme, host and port, for people.
    pub fn shown(&self) -> String {
        format!("{}://{}", if self.is_https { "https" } else { "http" }, self.authority)
    }
}

/// Why a try has failed.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("TLS: {0}")]
    Tls(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the URL cannot be asked for: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("HTTP status {0}")]
    Status(StatusCode),
    #[error("no answer in time")]
    TimedOut,
}

impl PostError {
    /// Whether another try may end otherwise.
    fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => {
                status.is_server_error()
                    || matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
            }
            Self::Request(_) => false,
            _ => true,
        }
    }
}

/// Posts what comes, until `stop`.
pub async fn run(
    webhook: Webhook,
    tls: Option<Arc<Connector>>,
    notifier: Arc<Notifier>,
    queue: Arc<Mutex<mpsc::Receiver<Message>>>,
    stop: CancellationToken,
) {
    let endpoint = Endpoint::new(webhook.authority.clone(), Vec::new());
    let mut missed = 0_u64;
    let posting = async {
        let mut queue = queue.lock().await;
        while let Some(message) = queue.recv().await {
            match post(&webhook, &endpoint, tls.as_deref(), &message.body).await {
                Ok(()) => {
                    notifier.note(Receiver::Webhook, Outcome::Delivered);
                    if missed > 0 {
                        info!(webhook = webhook.shown(), missed, "the webhook takes events again");
                    }
                    missed = 0;
                }
                Err(err) => {
                    notifier.note(Receiver::Webhook, Outcome::Failed);
                    if missed == 0 {
                        let event = message.kind.name();
                        warn!(webhook = webhook.shown(), event, %err, "the webhook does not take an event");
                    }
                    missed += 1;
                }
            }
        }
    };
    tokio::select! {
        () = posting => {}
        () = stop.cancelled() => {}
    }
    stop.cancelled().await;
}

async fn post(webhook: &Webhook, endpoint: &Endpoint, tls: Option<&Connector>, body: &Bytes) -> Result<(), PostError> {
    let mut pauses = PAUSES.iter();
    loop {
        let tried = timeout(TRY_TIMEOUT, try_to_post(webhook, endpoint, tls, body)).await;
        let err = match tried.unwrap_or(Err(PostError::TimedOut)) {
            Ok(()) => return Ok(()),
            Err(err) => err,
        };
        match pauses.next().filter(|_| err.may_pass()) {
            Some(pause) => sleep(pause.mul_f64(0.75 + 0.5 * fastrand::f64())).await,
            None => return Err(err),
        }
    }
}

/// On a connection of its own: events are rare.
async fn try_to_post(
    webhook: &Webhook,
    endpoint: &Endpoint,
    tls: Option<&Connector>,
    body: &Bytes,
) -> Result<(), PostError> {
    let deadline = Instant::now() + TRY_TIMEOUT;
    let tcp = dial::connect(endpoint, b"", deadline).await?;
    let stream = match tls {
        None => Stream::from(tcp),
        Some(tls) => tls.connect(tcp, &webhook.authority, deadline).await.map_err(std::io::Error::from)?,
    };
    let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
    let request = Request::post(&webhook.path)
        .header(header::HOST, &webhook.authority)
        .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body.clone()))?;
    let exchange = async {
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        // The connection ends with it either way.
        let _ = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        if status.is_success() { Ok(()) } else { Err(PostError::Status(status)) }
    };
    let drive = async {
        let _ = driver.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = exchange => answer,
        () = drive => Err(PostError::TimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_port_and_show_no_path() {
        let of = |is_https, authority, path| Webhook::new(is_https, authority, path);
        assert_eq!(format!("{:?}", of(true, "hooks.example.com", "/T0/s3cr3t")), "https://hooks.example.com:443");
        assert_eq!(of(false, "[::1]", "").shown(), "http://[::1]:80");
        assert_eq!(of(false, "[::1]:9000", "").path, "/");
    }

    #[test]
    fn what_the_webhook_does_not_want_is_not_tried_again() {
        let may = |status: u16| PostError::Status(StatusCode::from_u16(status).unwrap()).may_pass();
        assert_eq!([400, 401, 404, 301].map(may), [false; 4]);
        assert_eq!([500, 503, 429, 408].map(may), [true; 4]);
        assert!(PostError::TimedOut.may_pass());
    }
}
