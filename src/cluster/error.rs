//! Why a server could not be read.

use crate::dial::DialError;

/// Why asking a server failed.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// No connection, a reset, or credentials of the system account that cannot be used.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// No connection to the monitoring port.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The monitoring port does not speak HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The monitoring address makes no valid request.
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
    #[error("HTTP status {0}")]
    Status(hyper::StatusCode),
    /// A reset within the body, or a body beyond the limit.
    #[error("the body cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The answer is some other program's.
    #[error("not the answer of a nats-server: {0}")]
    NotNats(#[from] serde_json::Error),
    /// A number that no nats-server has.
    #[error("it says {field} = {value}, which cannot be")]
    Impossible { field: &'static str, value: u64 },
    #[error("no answer in time")]
    TimedOut,
    /// The system account cannot be asked now.
    #[error("the system account cannot be asked (cluster.system)")]
    NoSystem,
    /// Nobody answers on that subject, or not in time.
    #[error("{0}")]
    Ask(#[from] async_nats::RequestError),
    /// The connection to the system account is closed.
    #[error("{0}")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// The connection to the system account is closed.
    #[error("{0}")]
    Publish(#[from] async_nats::PublishError),
    /// The reading is another server's.
    #[error("the monitoring URL leads to another server, {0}")]
    OtherServer(String),
    /// The server has answered without the data.
    #[error("the server does not say")]
    NoAnswer,
}
