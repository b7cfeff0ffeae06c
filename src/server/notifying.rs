//! Who hears of events beside the log: the webhook and the NATS subject of `[warnings]`, started with weir and again
//! when a reload has changed them.

use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, watch};
use tracing::warn;

use crate::{
    config::{Config, NotifyConfig, PublishConfig},
    notify::{self, Receiver, subject::Publish},
    server::supervisor::Supervisor,
    session::Shared,
    tls::{BadFile, Connector},
};

/// The tasks that bring events to their receivers.
#[derive(Debug, Clone)]
pub(super) struct Notifying(Arc<StdMutex<Inner>>);

#[derive(Debug)]
struct Inner {
    tasks: Supervisor,
    shared: Arc<Shared>,
    in_force: NotifyConfig,
    /// Where the servers are; `None` before weir knows.
    addresses: Option<watch::Receiver<Vec<String>>>,
    webhook: Option<Supervisor>,
    webhook_tls: Option<Arc<Connector>>,
    publisher: Option<Supervisor>,
}

impl Notifying {
    pub(super) fn new(tasks: &Supervisor, shared: &Arc<Shared>) -> Self {
        let (tasks, shared, in_force) = (tasks.child(), Arc::clone(shared), NotifyConfig::default());
        Self(Arc::new(StdMutex::new(Inner {
            tasks,
            shared,
            in_force,
            addresses: None,
            webhook: None,
            webhook_tls: None,
            publisher: None,
        })))
    }

    /// Events are published at these addresses, whatever servers come and go.
    pub(super) fn follow(&self, addresses: watch::Receiver<Vec<String>>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).addresses = Some(addresses);
    }

    /// The TLS of the webhook by now, whose files may change.
    pub(super) fn webhook_tls(&self) -> Option<Arc<Connector>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).webhook_tls.clone()
    }

    /// Has events go where the configuration says, from now on. What waits for a receiver that changes is lost.
    ///
    /// # Errors
    /// The authorities of the webhook cannot be read any more; everything stays as it was.
    pub(super) fn apply(&self, config: &Config) -> Result<(), Vec<BadFile>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.in_force == config.notify {
            return Ok(());
        }
        let before = std::mem::replace(&mut inner.in_force, config.notify.clone());
        if before.webhook != config.notify.webhook
            && let Err(bad) = inner.post_to_webhook()
        {
            inner.in_force = before;
            return Err(bad);
        }
        if before.publish != config.notify.publish {
            inner.publish();
        }
        Ok(())
    }

    /// The same for a configuration that is in force already.
    pub(super) fn keep(&self, config: &Config) {
        for err in self.apply(config).err().into_iter().flatten() {
            warn!(of = "webhook", %err, "certificates not renewed");
        }
    }
}

impl Inner {
    fn post_to_webhook(&mut self) -> Result<(), Vec<BadFile>> {
        let configured = match self.in_force.webhook.clone() {
            Some((webhook, tls)) => Some((webhook, tls.map(|tls| Connector::load(tls).map(Arc::new)).transpose()?)),
            None => None,
        };
        self.webhook.take().iter().for_each(Supervisor::stop);
        self.webhook_tls = configured.as_ref().and_then(|(_, tls)| tls.clone());
        let Some((webhook, tls)) = configured else {
            self.shared.notifier.forget(Receiver::Webhook);
            return Ok(());
        };
        let tasks = self.tasks.child();
        let queue = Arc::new(Mutex::new(self.shared.notifier.receive(Receiver::Webhook)));
        let notifier = Arc::clone(&self.shared.notifier);
        tasks.spawn("webhook", move |stop| {
            notify::webhook::run(webhook.clone(), tls.clone(), Arc::clone(&notifier), Arc::clone(&queue), stop)
        });
        self.webhook = Some(tasks);
        Ok(())
    }

    fn publish(&mut self) {
        self.publisher.take().iter().for_each(Supervisor::stop);
        let (Some(PublishConfig { subject, login, table }), Some(addresses)) =
            (self.in_force.publish.clone(), self.addresses.clone())
        else {
            return self.shared.notifier.forget(Receiver::Nats);
        };
        let servers = Arc::clone(&self.shared.servers);
        let (tasks, publish) = (self.tasks.child(), Publish { subject, login, table, addresses, servers });
        let queue = Arc::new(Mutex::new(self.shared.notifier.receive(Receiver::Nats)));
        let (tls, notifier) = (self.shared.servers_tls.clone(), Arc::clone(&self.shared.notifier));
        tasks.spawn("events to NATS", move |stop| {
            notify::subject::run(publish.clone(), tls.clone(), Arc::clone(&notifier), Arc::clone(&queue), stop)
        });
        self.publisher = Some(tasks);
    }
}
