//! The JetStream bucket with the leases of a fleet: a key-value bucket as every NATS tool reads it, in which each key
//! changes only by a write that names the revision before it.

use std::{error::Error as _, time::Duration};

use async_nats::jetstream::{
    self, Context, ErrorCode,
    consumer::{DeliverPolicy, push},
    context::{CreateStreamErrorKind, GetStreamErrorKind, PublishError, PublishErrorKind},
    message::PublishMessage,
    stream::{self, DiscardPolicy, LastRawMessageErrorKind, StorageType},
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

use crate::{
    fleet::lease::MARK_STAYS,
    fleet_link::{connection::Connection, subjects::Subjects},
};

/// How long the servers may take to answer. A write whose answer comes later may still have been made: its outcome is
/// unknown. Less than leases are in force without a write (2.5 s), so that there is time for another try.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1500);

/// How often it is looked whether a new bucket has a leader by now.
const LEADER_CHECK: Duration = Duration::from_millis(20);

/// The header by which a bucket knows a deleted key.
const OPERATION: &str = "KV-Operation";

/// Of a bucket whose `replicas` nobody has configured: one for each server, and no more than these.
const MOST_REPLICAS: usize = 3;

/// Why there is no bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoBucket {
    #[error("JetStream is not enabled for the account of the fleet")]
    NotEnabled,
    #[error("JetStream does not answer")]
    NoAnswer,
    #[error("the bucket has no leader")]
    NoLeader,
    #[error("JetStream makes no bucket: {0}")]
    NotMade(String),
    #[error("the bucket is not fit for leases: {0}")]
    Unfit(String),
    #[error("changes of the bucket cannot be watched: {0}")]
    NotWatched(String),
}

impl NoBucket {
    /// What an operator can do.
    pub fn remedy(&self, stream: &str) -> String {
        match self {
            Self::NotEnabled => "enable JetStream for the account (accounts { A: { jetstream: enabled } }), or write \
                                 quota = \"split\""
                .to_owned(),
            Self::NoAnswer => "look at the JetStream meta group (`nats server report jetstream`) and at the \
                               permissions of the login (`weir check --connect`)"
                .to_owned(),
            Self::NoLeader => {
                "look at its copies (`nats stream info`): more than half of their servers must be there".to_owned()
            }
            Self::NotMade(_) => "look at the limits of the account, or write replicas in [fleet]".to_owned(),
            Self::NotWatched(_) => format!(
                "look at the limits of the account and of {stream} (max_consumers): each weir has one consumer of the \
                 bucket"
            ),
            Self::Unfit(_) => format!("remove it (`nats stream rm {stream}`): weir makes it anew"),
        }
    }
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has this revision.
    Written(u64),
    /// The key has another revision than the write named.
    Conflict,
    /// Nobody knows: it may be made yet.
    Unknown,
    /// The same, and no stream takes such writes now: the bucket has no leader, or is gone.
    NoStream,
    /// The servers answer that they do not make it, for a reason that another write will meet as well.
    Rejected(Rejection),
}

/// Why a write is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The number that nats-server gives the error (`err_code`).
    pub code: u64,
    /// In nats-server's words.
    pub words: String,
}

/// One key as it is in the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    /// The revision of its last write, that of a deletion included.
    pub revision: u64,
    /// `None` where it is deleted.
    pub value: Option<Bytes>,
}

/// The bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    context: Context,
    stream: stream::Stream,
    subjects: Subjects,
}

impl Bucket {
    /// The bucket of the fleet, made where there is none. `servers` is how many servers the cluster has.
    ///
    /// # Errors
    /// [`NoBucket`].
    pub async fn open(
        connection: &Connection,
        subjects: &Subjects,
        replicas: Option<usize>,
        servers: usize,
    ) -> Result<Self, NoBucket> {
        let context = jetstream::ContextBuilder::new().timeout(ANSWER_TIMEOUT).build(connection.get_client().await);
        let stream = match find(&context, subjects).await? {
            Some(stream) => stream,
            None => make(&context, subjects, replicas, servers).await?,
        };
        is_fit(&stream.cached_info().config)?;
        let stream = with_leader(stream).await?;
        Ok(Self { context, stream, subjects: subjects.clone() })
    }

    /// When it was made, in nanoseconds: another one is another bucket, whose revisions begin anew.
    pub fn made_at(&self) -> i128 {
        self.stream.cached_info().created.unix_timestamp_nanos()
    }

    /// The revision of its last write when it was opened.
    pub fn last_revision(&self) -> u64 {
        self.stream.cached_info().state.last_sequence
    }

    /// Copies of it.
    pub fn replicas(&self) -> usize {
        self.stream.cached_info().config.num_replicas
    }

    /// Writes a key whose last revision is `revision`; 0 where it has none.
    pub async fn write(&self, key: &str, value: Bytes, revision: u64) -> Outcome {
        self.send(key, PublishMessage::build().payload(value), revision).await
    }

    /// Deletes a key whose last revision is `revision`.
    pub async fn delete(&self, key: &str, revision: u64) -> Outcome {
        let mut mark = PublishMessage::build().header(OPERATION, "DEL");
        if self.stream.cached_info().config.allow_message_ttl {
            mark = mark.ttl(MARK_STAYS);
        }
        self.send(key, mark, revision).await
    }

    async fn send(&self, key: &str, message: PublishMessage, revision: u64) -> Outcome {
        let message = message.expected_last_subject_sequence(revision);
        let sent = async { self.context.send_publish(self.subjects.key(key), message).await?.await };
        match timeout(ANSWER_TIMEOUT, sent).await {
            Ok(Ok(ack)) => Outcome::Written(ack.sequence),
            Ok(Err(err)) => of_error(&err),
            Err(_) => Outcome::Unknown,
        }
    }

    /// The key as the leader of the bucket has it; `None` where it was never written, or the mark of its deletion has
    /// gone.
    ///
    /// # Errors
    /// No answer in time.
    pub async fn read(&self, key: &str) -> Result<Option<Entry>, String> {
        let subject = self.subjects.key(key);
        match timeout(ANSWER_TIMEOUT, self.stream.get_last_raw_message_by_subject(&subject)).await {
            Ok(Ok(message)) => {
                let is_deleted = message.headers.get(OPERATION).is_some();
                let value = (!is_deleted).then_some(message.payload);
                Ok(Some(Entry { key: key.to_owned(), revision: message.sequence, value }))
            }
            Ok(Err(err)) if err.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Ok(Err(err)) => match err.kind() {
                LastRawMessageErrorKind::JetStream(err) if err.code() == 404 => Ok(None),
                _ => Err(err.to_string()),
            },
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Every key as it is, and then every change of one. It ends where the servers have lost track of it.
    ///
    /// # Errors
    /// It does not begin.
    pub async fn watch(&self) -> Result<impl futures_util::Stream<Item = Option<Entry>> + Send + use<>, String> {
        let prefix = self.subjects.key("");
        let config = push::OrderedConfig {
            deliver_subject: self.context.client().new_inbox(),
            filter_subject: format!("{prefix}>"),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ..Default::default()
        };
        let began = async {
            let consumer = self.stream.create_consumer(config).await.map_err(|err| err.to_string())?;
            consumer.messages().await.map_err(|err| err.to_string())
        };
        let messages = timeout(ANSWER_TIMEOUT, began).await.map_err(|_| "no answer in time".to_owned())??;
        Ok(messages.map(move |message| {
            let message = message.ok()?;
            let revision = message.info().ok()?.stream_sequence;
            let key = message.subject.strip_prefix(&prefix)?.to_owned();
            let is_deleted = message.headers.as_ref().is_some_and(|headers| headers.get(OPERATION).is_some());
            Some(Entry { key, revision, value: (!is_deleted).then(|| message.payload.clone()) })
        }))
    }
}

fn of_error(err: &PublishError) -> Outcome {
    match err.kind() {
        PublishErrorKind::WrongLastSequence => return Outcome::Conflict,
        PublishErrorKind::StreamNotFound => return Outcome::NoStream,
        _ => {}
    }
    match err.source().and_then(|source| source.downcast_ref::<jetstream::Error>()) {
        // Of copies the leader answers so while another write of the key is under way, whose revision it cannot tell.
        Some(err) if err.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => Outcome::Conflict,
        Some(err) => Outcome::Rejected(Rejection { code: err.error_code().0, words: err.to_string() }),
        None => Outcome::Unknown,
    }
}

/// Waits until the copies of the bucket have a leader. They elect it once the bucket is made, and nobody answers a
/// write before.
async fn with_leader(mut stream: stream::Stream) -> Result<stream::Stream, NoBucket> {
    let elected = async {
        while stream.cached_info().cluster.as_ref().is_some_and(|cluster| cluster.leader.is_none()) {
            sleep(LEADER_CHECK).await;
            // Where this fails nobody knows more than before.
            let _ = stream.info().await;
        }
        stream
    };
    timeout(ANSWER_TIMEOUT, elected).await.map_err(|_| NoBucket::NoLeader)
}

async fn find(context: &Context, subjects: &Subjects) -> Result<Option<stream::Stream>, NoBucket> {
    let asked = timeout(ANSWER_TIMEOUT, context.get_stream(subjects.stream())).await;
    match asked.map_err(|_| NoBucket::NoAnswer)? {
        Ok(stream) => Ok(Some(stream)),
        Err(err) => match err.kind() {
            GetStreamErrorKind::JetStream(err) if err.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            GetStreamErrorKind::JetStream(err) => Err(failed(&err)),
            _ => Err(NoBucket::NoAnswer),
        },
    }
}

async fn make(
    context: &Context,
    subjects: &Subjects,
    replicas: Option<usize>,
    servers: usize,
) -> Result<stream::Stream, NoBucket> {
    let mut copies = replicas.unwrap_or(servers.clamp(1, MOST_REPLICAS));
    loop {
        let made = timeout(ANSWER_TIMEOUT, context.create_stream(config(subjects, copies))).await;
        let err = match made.map_err(|_| NoBucket::NoAnswer)? {
            Ok(stream) => return Ok(stream),
            Err(err) => err,
        };
        match err.kind() {
            // Another weir was faster, and its configuration is another.
            CreateStreamErrorKind::JetStream(err) if err.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                return find(context, subjects).await?.ok_or(NoBucket::NoAnswer);
            }
            // Some servers have no JetStream, or the cluster has fewer than weir knows.
            CreateStreamErrorKind::JetStream(err)
                if is_too_many(err.error_code()) && replicas.is_none() && copies > 1 =>
            {
                copies -= 1;
            }
            CreateStreamErrorKind::JetStream(err) => return Err(failed(&err)),
            _ => return Err(NoBucket::NoAnswer),
        }
    }
}

fn is_too_many(code: ErrorCode) -> bool {
    const TOO_MANY: [ErrorCode; 3] =
        [ErrorCode::CLUSTER_NO_PEERS, ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED, ErrorCode::INSUFFICIENT_RESOURCES];
    TOO_MANY.contains(&code)
}

fn failed(err: &jetstream::Error) -> NoBucket {
    match err.error_code() {
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => NoBucket::NotEnabled,
        ErrorCode::CLUSTER_NOT_AVAILABLE => NoBucket::NoAnswer,
        _ => NoBucket::NotMade(err.to_string()),
    }
}

/// As the client libraries make a bucket of one value for each key.
fn config(subjects: &Subjects, replicas: usize) -> stream::Config {
    stream::Config {
        name: subjects.stream(),
        description: Some("leases of a fleet of weirs".to_owned()),
        subjects: vec![subjects.key(">")],
        max_messages_per_subject: 1,
        // No loss when all servers restart.
        storage: StorageType::File,
        num_replicas: replicas,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_message_ttl: true,
        // A record is some hundred bytes for each weir.
        max_message_size: 256 * 1024,
        ..Default::default()
    }
}

/// Whether a bucket that somebody has made loses no lease by itself.
fn is_fit(config: &stream::Config) -> Result<(), NoBucket> {
    let unfit = |what: &str| Err(NoBucket::Unfit(what.to_owned()));
    if config.max_age > Duration::ZERO {
        return unfit("its keys expire (max_age)");
    }
    if config.discard == DiscardPolicy::Old && (config.max_bytes > 0 || config.max_messages > 0) {
        return unfit("it drops the oldest keys (discard: old)");
    }
    if config.storage == StorageType::Memory && config.num_replicas < 2 {
        return unfit("it is in the memory of one server");
    }
    if config.mirror.is_some() || config.sources.as_ref().is_some_and(|sources| !sources.is_empty()) {
        return unfit("it is a copy of another");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_of_weir_is_fit_and_one_that_forgets_is_not() {
        let ours = config(&Subjects::of("edge"), 3);
        assert_eq!((is_fit(&ours), &*ours.name), (Ok(()), "KV_weir-fleet-edge"));
        let expires = stream::Config { max_age: Duration::from_secs(60), ..ours.clone() };
        let drops = stream::Config { max_bytes: 1000, discard: DiscardPolicy::Old, ..ours.clone() };
        let memory = stream::Config { storage: StorageType::Memory, num_replicas: 1, ..ours };
        for unfit in [expires, drops, memory] {
            assert!(matches!(is_fit(&unfit), Err(NoBucket::Unfit(_))), "{unfit:?}");
        }
    }

    #[test]
    fn an_answer_that_a_write_is_not_made_is_no_silence() {
        let answered = |code: u64| {
            let error = format!(r#"{{"code":400,"err_code":{code},"description":"words"}}"#);
            let error: jetstream::Error = serde_json::from_str(&error).unwrap();
            of_error(&PublishError::with_source(PublishErrorKind::Other, error))
        };
        assert_eq!(answered(10164), Outcome::Conflict, "another write of the key is under way");
        assert!(matches!(answered(10109), Outcome::Rejected(Rejection { code: 10109, .. })), "it is sealed");
        assert_eq!(of_error(&PublishError::new(PublishErrorKind::TimedOut)), Outcome::Unknown);
    }
}
