//! `/metrics`: every family in one place. What sessions counted is read when asked for, so counting costs an atomic add.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    outcome::{BadLogin, Cause, Close, Party, Phase, Refusal},
    session::Shared,
};

/// Accounts shown by name; the others' connections are summed up as `other`.
const TOP_ACCOUNTS: usize = 50;

/// What can be asked for.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The metrics of a house.
    pub fn new(shared: Arc<Shared>) -> Self {
        let mut registry = Registry::with_prefix("weir");
        registry.register_collector(Box::new(FromShared { shared }));
        Self { registry }
    }

    /// The Prometheus text form, OpenMetrics 1.0.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct FromShared {
    shared: Arc<Shared>,
}

/// Writes families; each has its samples with their labels.
struct Families<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Families<'_, '_> {
    fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'static str, String)>, M)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        let Some((_, first)) = samples.peek() else { return Ok(()) };
        let mut family = self.0.encode_descriptor(name, help, None, first.metric_type())?;
        for (labels, metric) in samples {
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A family of one sample without labels.
    fn single(&mut self, name: &str, help: &str, metric: impl EncodeMetric) -> fmt::Result {
        metric.encode(self.0.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.single(name, help, ConstGauge::new(value))
    }
}

impl Collector for FromShared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(&mut encoder);
        self.servers(&mut families)?;
        self.admission(&mut families)?;
        self.ends(&mut families)
    }
}

impl FromShared {
    fn servers(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let (shared, now) = (&self.shared, Instant::now());
        let each = |value: &dyn Fn(&crate::upstream::Server) -> f64| {
            let sample = |s: &Arc<crate::upstream::Server>| (server_label(s.name()), ConstGauge::new(value(s)));
            shared.servers.iter().map(sample).collect::<Vec<_>>()
        };
        families.family(
            "sessions_active",
            "Sessions on each server that weir relays",
            each(&|s| s.load().sessions().into()),
        )?;
        families.family(
            "handshakes_active",
            "Handshakes with each server that are under way",
            each(&|s| s.load().handshakes().into()),
        )?;
        families.family(
            "handshake_limit",
            "Handshakes with each server that may be under way at once, as found so far",
            each(&|s| s.view(now).handshake_limit.into()),
        )?;
        families.family(
            "server_connections",
            "Connections of each server: its last count, corrected by what weir opened and closed since",
            each(&|s| s.load().projected().into()),
        )?;
        families.family(
            "server_max_connections",
            "The most connections of each server, by its own limit or the configured one",
            each(&|s| s.load().capacity().into()),
        )?;
        families.family(
            "server_headroom",
            "Clients that weir would still send to each server",
            each(&|s| s.load().ceiling().saturating_sub(s.load().projected()).into()),
        )?;
        families.family(
            "server_up",
            "Whether each server is used for new clients: it answers, its reading is fresh, it is not leaving",
            each(&|s| if s.is_up(now) { 1.0 } else { 0.0 }),
        )?;
        let tallies = || shared.servers.iter().zip(&shared.counters.servers);
        families.family(
            "admitted",
            "Clients that got their PONG from each server",
            tallies().map(|(s, t)| (server_label(s.name()), ConstCounter::new(t.admitted.load(Relaxed)))),
        )?;
        families.family(
            "handshake_seconds",
            "From the dial, or from CONNECT where it came before, to the server's PONG",
            tallies().map(|(s, t)| (server_label(s.name()), t.handshake_seconds.clone())),
        )
    }

    fn admission(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let admission = &self.shared.admission;
        families.gauge("held", "Clients that wait for their turn", admission.waiting().held() as f64)?;
        families.gauge(
            "refusals_delayed",
            "Clients that are being refused: their answer waits for its random delay, or they have not closed yet",
            (admission.waiting().answered_later as u32 + self.shared.refusing.in_use()).into(),
        )?;
        if let Some(pace) = admission.pace(Instant::now()) {
            families.gauge("pace", "New clients per second that weir lets onto the cluster", pace)?;
        }
        families.single(
            "hold_seconds",
            "How long held clients waited, whatever came of it",
            self.shared.counters.hold_seconds.clone(),
        )?;
        let mut accounts = admission.accounts().connections();
        accounts.sort_by(|(a_name, a), (b_name, b)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
        let others: u32 = accounts.iter().skip(TOP_ACCOUNTS).map(|(_, n)| n).sum();
        let named = accounts.into_iter().take(TOP_ACCOUNTS).map(|(name, n)| (name.to_string(), n));
        families.family(
            "account_connections",
            "Connections of each account, the largest by name and the rest as `other`",
            named
                .chain((others > 0).then(|| ("other".to_owned(), others)))
                .map(|(name, n)| (vec![("account", name)], ConstGauge::new(f64::from(n)))),
        )
    }

    fn ends(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let counters = &self.shared.counters;
        families.family(
            "refused",
            "Clients refused, by reason",
            Refusal::ALL.map(|r| (vec![("reason", r.name().to_owned())], ConstCounter::new(counters.refused(r)))),
        )?;
        families.family(
            "would_refuse",
            "Clients let in over a quota that only warns, by the reason they would have been refused for",
            Refusal::ALL.into_iter().filter_map(|r| {
                let n = self.shared.admission.warned().of(r);
                (n > 0).then(|| (vec![("reason", r.name().to_owned())], ConstCounter::new(n)))
            }),
        )?;
        families.family(
            "bad_logins",
            "Logins that servers refused, by account as claimed and reason; the largest by name",
            BadLogin::ALL.into_iter().flat_map(|why| {
                let labels = move |account: Option<String>| {
                    let account = account.unwrap_or_else(|| "other".to_owned());
                    vec![("account", account), ("reason", why.name().to_owned())]
                };
                let counts = counters.bad_logins.by_account(why).into_iter();
                counts.map(move |(account, n)| (labels(account), ConstCounter::new(n)))
            }),
        )?;
        families.family(
            "bad_logins_by_source",
            "The same by source, the largest by address",
            counters.bad_logins.by_source().into_iter().map(|(source, n)| {
                let source = source.map_or_else(|| "other".to_owned(), |source| source.to_string());
                (vec![("source", source)], ConstCounter::new(n))
            }),
        )?;
        let mut closed = Vec::new();
        for party in Party::ALL {
            for phase in Phase::ALL {
                for cause in Cause::ALL {
                    let n = counters.closed(Close { party, phase, cause });
                    let labels = vec![
                        ("party", party.name().to_owned()),
                        ("phase", phase.name().to_owned()),
                        ("reason", cause.name().to_owned()),
                    ];
                    // 72 combinations, most of which never happen: shown from their first time on.
                    if n > 0 {
                        closed.push((labels, ConstCounter::new(n)));
                    }
                }
            }
        }
        families.family("closed", "Connections that ended without a refusal", closed)?;
        families.family(
            "tls_handshakes",
            "TLS handshakes with clients, `full` or `resumed` with a ticket",
            [("full", &counters.tls_full), ("resumed", &counters.tls_resumed)]
                .map(|(kind, n)| (vec![("kind", kind.to_owned())], ConstCounter::new(n.load(Relaxed)))),
        )?;
        let certificates = self.shared.terminators.iter().flat_map(|(listener, tls)| {
            tls.in_use().into_iter().map(move |one| {
                let days = ConstGauge::new(one.days_left());
                (vec![("listener", listener.to_string()), ("subject", one.subject)], days)
            })
        });
        families.family(
            "tls_certificate_expires_days",
            "Days until each certificate of a listener expires, below 0 once it has",
            certificates.collect::<Vec<_>>(),
        )?;
        families.single(
            "probes",
            "Connections that opened and closed without a word",
            ConstCounter::new(counters.probes.load(Relaxed)),
        )?;
        let totals = counters.totals();
        let directions = |up: u64, down: u64| {
            [("up", up), ("down", down)].map(|(d, n)| (vec![("direction", d.to_owned())], ConstCounter::new(n)))
        };
        families.family(
            "relayed_bytes",
            "Bytes relayed: `up` from clients to servers, `down` from servers to clients",
            directions(totals.bytes_up, totals.bytes_down),
        )?;
        families.family(
            "relayed_messages",
            "Messages relayed, counted like the bytes",
            directions(totals.messages_up, totals.messages_down),
        )
    }
}

fn server_label(name: &str) -> Vec<(&'static str, String)> {
    vec![("server", name.to_owned())]
}
