//! The subjects of a fleet, the name of its bucket, and the permissions that follow from them.

use crate::fleet::lease::Holder;

/// The subjects of one fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subjects {
    name: String,
}

impl Subjects {
    /// Of the fleet of this name.
    pub fn of(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Where every weir publishes what it holds, and hears the others.
    pub fn beats(&self) -> String {
        format!("weir.fleet.{}.beat", self.name)
    }

    /// Where a weir says that it ends.
    pub fn byes(&self) -> String {
        format!("weir.fleet.{}.bye", self.name)
    }

    /// To which only this process of a weir subscribes: without it *no responders* is the answer.
    pub fn interest(&self, holder: &Holder) -> String {
        format!("weir.fleet.{}.is.{holder}", self.name)
    }

    /// What inboxes begin with: where JetStream, the servers and other weirs answer. Not one of the subjects of beats,
    /// so that who may publish beats, and hears what weirs ask, cannot answer for them.
    pub fn inboxes(&self) -> String {
        format!("_INBOX_weir-fleet-{}", self.name)
    }

    /// Whether a weir of this fleet asks for an answer there.
    pub fn is_inbox(&self, subject: &str) -> bool {
        subject.strip_prefix(&self.inboxes()).is_some_and(|rest| rest.starts_with('.'))
    }

    /// The bucket of the leases.
    pub fn bucket(&self) -> String {
        format!("weir-fleet-{}", self.name)
    }

    /// The stream that keeps the bucket.
    pub fn stream(&self) -> String {
        format!("KV_{}", self.bucket())
    }

    /// The subject of one key of the bucket.
    pub fn key(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.bucket())
    }

    /// What a login needs to publish to: all that weir ever publishes to, and nothing else.
    pub fn to_publish(&self, has_leases: bool) -> Vec<String> {
        let mut all = self.to_subscribe();
        if has_leases {
            let (bucket, stream) = (self.bucket(), self.stream());
            all.extend([
                format!("$KV.{bucket}.>"),
                format!("$JS.API.STREAM.INFO.{stream}"),
                format!("$JS.API.STREAM.CREATE.{stream}"),
                format!("$JS.API.STREAM.MSG.GET.{stream}"),
                format!("$JS.API.CONSUMER.CREATE.{stream}"),
                format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
                format!("$JS.API.CONSUMER.DELETE.{stream}.>"),
                format!("$JS.FC.{stream}.>"),
            ]);
        }
        all
    }

    /// What a login needs to subscribe to.
    pub fn to_subscribe(&self) -> Vec<String> {
        vec![format!("weir.fleet.{}.>", self.name), format!("{}.>", self.inboxes())]
    }
}
