//! Tells of events: each has a line in the log and a count, and goes to whoever is configured to hear of it, a
//! [`webhook`] or a NATS [`subject`]. Telling never waits: what a receiver does not take in time is dropped and
//! counted.

mod log;
pub mod subject;
pub mod webhook;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use strum::{EnumCount, IntoStaticStr, VariantArray};
use tokio::sync::mpsc;

use crate::{
    events::{
        Event, Kind,
        advisory::{Origin, advisory},
    },
    telemetry::process::HOST_NAME,
};

/// Events that wait for one receiver. A receiver that takes none for an hour has missed little more than an hour.
const MAX_QUEUED: usize = 256;

/// Who hears of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Receiver {
    Webhook,
    Nats,
}

/// What becomes of an event at a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumCount, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// The webhook has taken it; to NATS it is published.
    Delivered,
    /// A webhook was tried as often as it is tried, or the server does not permit the event, or it is too large for it.
    Failed,
    /// Too many waited before it.
    Dropped,
}

/// An event on its way.
#[derive(Debug, Clone)]
pub struct Message {
    pub kind: Kind,
    /// Its JSON.
    pub body: Bytes,
}

/// Where events are told.
#[derive(Debug)]
pub struct Notifier {
    origin: Origin,
    events: [AtomicU64; Kind::COUNT],
    outcomes: [[AtomicU64; Outcome::COUNT]; Receiver::COUNT],
    queues: [ArcSwapOption<mpsc::Sender<Message>>; Receiver::COUNT],
}

impl Notifier {
    /// For a weir that calls itself `server_id`.
    pub fn new(server_id: &str) -> Self {
        let host = HOST_NAME.clone();
        Self {
            origin: Origin { id: server_id.to_owned(), host, version: env!("CARGO_PKG_VERSION") },
            events: Default::default(),
            outcomes: Default::default(),
            queues: Default::default(),
        }
    }

    /// A queue of all events from now on, for a receiver. One that it had before ends.
    pub fn receive(&self, receiver: Receiver) -> mpsc::Receiver<Message> {
        let (sender, queue) = mpsc::channel(MAX_QUEUED);
        self.queues[receiver as usize].store(Some(Arc::new(sender)));
        queue
    }

    /// The receiver hears of no further event.
    pub fn forget(&self, receiver: Receiver) {
        self.queues[receiver as usize].store(None);
    }

    /// Tells of an event, in the log too.
    pub fn tell(&self, event: &Event) {
        log::write(event);
        self.pass_on(event);
    }

    /// Tells of an event that has a line in the log of its own.
    pub fn pass_on(&self, event: &Event) {
        let kind = event.kind();
        self.events[kind as usize].fetch_add(1, Relaxed);
        let wanted: Vec<_> =
            Receiver::VARIANTS.iter().filter_map(|one| Some((*one, self.queues[*one as usize].load_full()?))).collect();
        if wanted.is_empty() {
            return;
        }
        let timestamp = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        let body = advisory(event, &nuid::next(), &timestamp, &self.origin);
        let message = Message { kind, body: body.into() };
        for (receiver, queue) in wanted {
            if queue.try_send(message.clone()).is_err() {
                self.note(receiver, Outcome::Dropped);
            }
        }
    }

    /// An event of this kind has happened, and is only counted.
    pub fn count_only(&self, kind: Kind) {
        self.events[kind as usize].fetch_add(1, Relaxed);
    }

    fn note(&self, receiver: Receiver, outcome: Outcome) {
        self.outcomes[receiver as usize][outcome as usize].fetch_add(1, Relaxed);
    }

    /// How many events of this kind there were.
    pub fn events(&self, kind: Kind) -> u64 {
        self.events[kind as usize].load(Relaxed)
    }

    /// What became of the events of each configured receiver: its name, the name of the outcome, how many.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let configured = Receiver::VARIANTS.iter().filter(|one| self.queues[**one as usize].load().is_some());
        configured.flat_map(|receiver| {
            Outcome::VARIANTS.iter().map(|outcome| {
                let count = self.outcomes[*receiver as usize][*outcome as usize].load(Relaxed);
                ((*receiver).into(), (*outcome).into(), count)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_takes_nothing_costs_nothing_and_what_it_misses_is_counted() {
        let notifier = Notifier::new("NWEIR");
        notifier.pass_on(&Event::StormBegan { held: 1 });
        let mut queue = notifier.receive(Receiver::Webhook);
        for held in 0..MAX_QUEUED + 3 {
            notifier.pass_on(&Event::StormBegan { held });
        }
        assert_eq!(notifier.events(Kind::StormBegan), MAX_QUEUED as u64 + 4);
        let dropped = notifier.outcomes().find(|(_, outcome, _)| *outcome == "dropped");
        assert_eq!((dropped, notifier.outcomes().count()), (Some(("webhook", "dropped", 3)), Outcome::COUNT));
        let first: serde_json::Value = serde_json::from_slice(&queue.try_recv().unwrap().body).unwrap();
        assert_eq!((&first["held"], &first["weir"]["id"]), (&0.into(), &"NWEIR".into()));
        notifier.forget(Receiver::Webhook);
        assert_eq!(notifier.outcomes().count(), 0);
    }
}
