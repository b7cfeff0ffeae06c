//! `/metrics`: all metric families. Counters and gauges are read at each scrape, so sessions only pay for an atomic
//! add.

mod accounts;
mod fleet;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Instant, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use strum::VariantArray;

use self::accounts::accounts;
use crate::{
    admin::{
        exposition::{Form, text_of},
        process::ProcessCollector,
    },
    admission::{Limit, WouldHold},
    events::{Kind, Thing, fullness::Level, watch::Row},
    outcome::{BadLogin, Cause, Close, MoveCause, MoveResult, Party, Phase, Refusal},
    relay,
    session::Shared,
    telemetry::{
        process::{LOG_LINES_UNQUEUED, LOG_LINES_UNWRITTEN, PANICS, ProcessCounter},
        reloads::{Outcome, RELOADS},
    },
    upstream::{BOUNDS, Drain, LoginFailure, Server, Times},
};

/// The commit that weir was built from. A release build in weir's own repository has one (build.rs).
const COMMIT: &str = match option_env!("WEIR_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// The accounts that are shown by name. The connections of all others are summed up as `other`.
const TOP_ACCOUNTS: usize = 50;

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub fn new(shared: Arc<Shared>) -> Self {
        let mut registry = Registry::default();
        registry.sub_registry_with_prefix("weir").register_collector(Box::new(SharedCollector { shared }));
        registry.register_collector(Box::new(ProcessCollector));
        Self { registry }
    }

    /// All metrics in this form.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn text(&self, form: Form) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(match form {
            Form::OpenMetrics => text,
            Form::Text => text_of(&text),
        })
    }
}

#[derive(Debug)]
struct SharedCollector {
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

impl Collector for SharedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(&mut encoder);
        build_info(&mut families)?;
        configuration(&mut families)?;
        self.listeners(&mut families)?;
        self.servers(&mut families)?;
        self.admission(&mut families)?;
        self.refusals(&mut families)?;
        self.events(&mut families)?;
        self.closes(&mut families)?;
        self.tls(&mut families)?;
        self.probes(&mut families)?;
        self.relayed(&mut families)?;
        fleet::fleet(&self.shared, &mut families)?;
        process(&mut families)
    }
}

/// What this weir was built from.
fn build_info(families: &mut Families<'_, '_>) -> fmt::Result {
    let labels = [("version", env!("CARGO_PKG_VERSION")), ("commit", COMMIT)];
    let labels = labels.map(|(name, value)| (name, value.to_owned())).to_vec();
    let one = [(labels, ConstGauge::new(1_u64))];
    families.family("build_info", "The version of weir, and the commit that it was built from; always 1", one)
}

/// The configuration in force, and what became of reloads.
fn configuration(families: &mut Families<'_, '_>) -> fmt::Result {
    if let Some(in_force) = RELOADS.in_force() {
        let since = in_force.since.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let labels = vec![("digest", format!("sha256:{}", in_force.digest))];
        let help = "SHA-256 of the configuration in force as `weir check` prints it; always 1";
        families.family("config_info", help, [(labels, ConstGauge::new(1_u64))])?;
        let help = "When the configuration was last read without an error, in seconds since 1970";
        families.gauge("config_last_reload_success_timestamp_seconds", help, since)?;
    }
    let help = "Whether the configuration was without an error when it was last read";
    families.gauge("config_last_reload_successful", help, u8::from(!RELOADS.last_failed()).into())?;
    families.gauge(
        "config_keys_awaiting_restart",
        "Keys of the file whose value is not in force, since it needs a restart",
        RELOADS.awaiting_restart() as f64,
    )?;
    families.family(
        "config_reloads",
        "Reloads of the configuration, by what became of them",
        Outcome::VARIANTS.iter().map(|&outcome| {
            let name: &str = outcome.into();
            (vec![("result", name.to_owned())], ConstCounter::new(RELOADS.count(outcome)))
        }),
    )
}

/// What weir counts about its own process.
fn process(families: &mut Families<'_, '_>) -> fmt::Result {
    let counter = |counter: &ProcessCounter| ConstCounter::new(counter.get());
    families.single("panics", "Panics in any thread or task of weir, each of which is a defect", counter(&PANICS))?;
    let reasons = [("queue_full", &LOG_LINES_UNQUEUED), ("write_failed", &LOG_LINES_UNWRITTEN)];
    families.family(
        "log_lines_dropped",
        "Log lines that are lost, since standard error was too slow or could not be written",
        reasons.map(|(reason, count)| (vec![("reason", reason.to_owned())], counter(count))),
    )
}

impl SharedCollector {
    fn listeners(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let each = |value: fn(&Limit) -> u32| {
            let sample = move |(address, limit): &(SocketAddr, Arc<Limit>)| {
                (vec![("listener", address.to_string())], ConstGauge::new(u64::from(value(limit))))
            };
            self.shared.listeners.load().iter().map(sample).collect::<Vec<_>>()
        };
        families.family(
            "listener_clients",
            "Clients of each listener now, whether they are in yet or not",
            each(Limit::in_use),
        )?;
        families.family(
            "listener_max_clients",
            "The most clients that each listener takes: `max_clients`",
            each(Limit::most),
        )
    }

    fn servers(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let now = Instant::now();
        let named = by_name(self.shared.servers.iter());
        let each = |value: &dyn Fn(&Server) -> f64| {
            named.iter().map(|(name, s)| (server_label(name), ConstGauge::new(value(s)))).collect::<Vec<_>>()
        };
        families.family(
            "sessions_active",
            "Sessions that weir relays to each server now",
            each(&|s| s.load().sessions().into()),
        )?;
        families.family(
            "leafnodes_active",
            "Of these sessions, leafnodes",
            each(&|s| s.leafnode().sessions().into()),
        )?;
        families.family(
            "handshakes_active",
            "Logins of clients at each server that are under way now",
            each(&|s| s.load().handshakes().into()),
        )?;
        families.family(
            "handshakes_overdue",
            "Logins at each server that take longer than others there do, and count in a limit of their account instead",
            each(&|s| s.load().overdue().into()),
        )?;
        families.family(
            "handshake_limit",
            "The most logins at each server that weir allows to be under way at once, as measured so far",
            each(&|s| s.whole_limit(now).into()),
        )?;
        let age = |(name, s): &(String, Arc<Server>)| {
            s.reading_age(now).map(|age| (server_label(name), ConstGauge::new(age.as_secs_f64())))
        };
        families.family(
            "server_reading_age_seconds",
            "How old the last reading of each server is",
            named.iter().filter_map(age),
        )?;
        families.family(
            "server_connections",
            "Connections of each server: its own last count, corrected by what weir has opened and closed since",
            each(&|s| s.load().projected().into()),
        )?;
        let known = |value: fn((f64, f64)) -> f64| {
            let each = named.iter().filter_map(move |(name, s)| Some((name, s.load().shown_capacity()?)));
            each.map(move |(name, shown)| (server_label(name), ConstGauge::new(value(shown)))).collect::<Vec<_>>()
        };
        families.family(
            "server_max_connections",
            "The most connections of each server, by its own limit or by the configured one; none where it is unknown",
            known(|(capacity, _)| capacity),
        )?;
        families.family(
            "server_headroom",
            "Clients that weir would still send to each server; none where the server's limit is unknown",
            known(|(_, headroom)| headroom),
        )?;
        families.family(
            "server_up",
            "1 if the server gets new clients: it answers, its reading is fresh and it is no lame duck; else 0",
            each(&|s| if s.is_up(now) { 1.0 } else { 0.0 }),
        )?;
        families.family(
            "server_draining",
            "1 while its operator drains the server, or has removed it and it has sessions still; else 0",
            each(&|s| if s.is_draining() { 1.0 } else { 0.0 }),
        )?;
        families.family(
            "server_logins_failing",
            "1 while a server fails logins that other servers let in, so that other servers go first; else 0",
            each(&|s| if s.logins_fail() { 1.0 } else { 0.0 }),
        )?;
        let counters = || named.iter().map(|(name, s)| (name, s.counters()));
        families.family(
            "server_login_failures",
            "Logins that a server refused or did not answer, and that another server let in",
            counters().flat_map(|(name, c)| {
                LoginFailure::ALL.map(|how| {
                    let mut labels = server_label(name);
                    labels.push(("reason", how.name().to_owned()));
                    (labels, ConstCounter::new(c.login_failures[how as usize].load(Relaxed)))
                })
            }),
        )?;
        families.family(
            "server_info_errors",
            "INFO lines of each server that weir did not understand in full; those that many sessions get alike count once",
            named.iter().map(|(name, s)| (server_label(name), ConstCounter::new(s.info_errors()))),
        )?;
        families.family(
            "admitted",
            "Clients admitted to each server: those that got their PONG",
            counters().map(|(name, c)| (server_label(name), ConstCounter::new(c.admitted.load(Relaxed)))),
        )?;
        families.family(
            "leafnodes_admitted",
            "Leafnodes admitted to each server, which are among the clients admitted",
            counters().map(|(name, c)| (server_label(name), ConstCounter::new(c.admitted_leafnodes.load(Relaxed)))),
        )?;
        families.family(
            "handshake_seconds",
            "Seconds from the dial, or from CONNECT where the server was dialled before, to the PONG of each server",
            counters().map(|(name, c)| (server_label(name), TimesMetric(&c.handshakes))),
        )
    }

    fn admission(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let admission = &self.shared.admission;
        families.gauge("held", "Clients that wait for their turn now", admission.waiting().held() as f64)?;
        families.gauge(
            "refusals_delayed",
            "Clients that are being refused now: their refusal is delayed, or they have not closed the connection yet",
            (admission.waiting().answered_later as u32 + self.shared.descriptors.refusing.in_use()).into(),
        )?;
        families.gauge(
            "paused",
            "1 while an operator holds everybody (`weir pause`), else 0",
            if admission.is_paused() { 1.0 } else { 0.0 },
        )?;
        families.gauge(
            "kicked_clients",
            "Clients that an operator keeps away for a time (`weir kick --for`)",
            admission.kicked().len() as f64,
        )?;
        if let Some(pace) = admission.pace(Instant::now()) {
            families.gauge("pace", "New clients per second that weir sends to the cluster", pace)?;
        }
        families.single(
            "hold_seconds",
            "Seconds that clients waited for their turn, whether they were admitted in the end or not",
            self.shared.counters.hold_seconds.clone(),
        )?;
        accounts(admission.accounts(), families)
    }

    fn refusals(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let counters = &self.shared.counters;
        families.family(
            "refused",
            "Clients refused, by reason",
            Refusal::ALL.map(|r| (vec![("reason", r.name().to_owned())], ConstCounter::new(counters.refused(r)))),
        )?;
        families.family(
            "account_refused",
            "Clients refused, by account and reason; the 50 accounts with the most by name, the rest as `other`",
            counters.refused_by_account.counts().into_iter().map(|(account, reason, n)| {
                let account = account.map_or_else(|| "other".to_owned(), |name| name.to_string());
                let labels = vec![("account", account), ("reason", reason.name().to_owned())];
                (labels, ConstCounter::new(n))
            }),
        )?;
        let admission = &self.shared.admission;
        families.family(
            "would_refuse",
            "Clients let in by observe mode, or over a quota or policy that only warns, by the reason to refuse them",
            Refusal::ALL.into_iter().filter_map(|r| {
                let n = admission.warned().of(r);
                (n > 0).then(|| (vec![("reason", r.name().to_owned())], ConstCounter::new(n)))
            }),
        )?;
        families.family(
            "would_hold",
            "Clients let in by observe mode that would have had to wait, by the reason to refuse them if it is in vain",
            WouldHold::REASONS
                .map(|r| (vec![("reason", r.name().to_owned())], ConstCounter::new(admission.would_hold().of(r)))),
        )?;
        families.gauge(
            "observing",
            "1 if weir observes: it refuses and holds nobody; 0 if it enforces",
            if admission.is_observing() { 1.0 } else { 0.0 },
        )?;
        families.family(
            "bad_logins",
            "Logins that servers refused, by reason and claimed account; the 50 largest by name, the rest as `other`",
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
            "Logins that servers refused, by source address; the 50 largest by name, the rest as `other`",
            counters.bad_logins.by_source().into_iter().map(|(source, n)| {
                let source = source.map_or_else(|| "other".to_owned(), |source| source.to_string());
                (vec![("source", source)], ConstCounter::new(n))
            }),
        )
    }

    fn events(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let (shared, usage) = (&self.shared, self.shared.usage.load());
        let of = |of: Thing| usage.iter().filter(move |row| row.of == of && row.limit.is_some());
        let label = |row: &Row| vec![(<&str>::from(row.of), row.name.to_string())];
        let level = |row: &Row| u64::from(row.level.map_or(0, Level::number));
        let levels =
            |rows: &[&Row]| rows.iter().map(|row| (label(row), ConstGauge::new(level(row)))).collect::<Vec<_>>();
        let full_in = |row: &Row| row.full_in().map_or(f64::INFINITY, |left| left.as_secs_f64());
        let times =
            |rows: &[&Row]| rows.iter().map(|row| (label(row), ConstGauge::new(full_in(row)))).collect::<Vec<_>>();
        let servers: Vec<_> = of(Thing::Server).collect();
        let mut accounts: Vec<_> = of(Thing::Account).collect();
        accounts.sort_unstable_by_key(|row| (std::cmp::Reverse((level(row), row.connections)), Arc::clone(&row.name)));
        accounts.truncate(TOP_ACCOUNTS);
        families.family(
            "server_fullness_level",
            "How full each server is, as told: 0 below `warn_at` of its limit, 1 from there on, 2 from 90 % on, 3 full",
            levels(&servers),
        )?;
        families.family(
            "account_fullness_level",
            "The same of accounts with a limit: the 50 that are fullest",
            levels(&accounts),
        )?;
        families.family(
            "listener_fullness_level",
            "The same of listeners and their `max_clients`",
            levels(&of(Thing::Listener).collect::<Vec<_>>()),
        )?;
        families.family(
            "server_full_in_seconds",
            "When each server is full at its present growth; +Inf where it does not grow, or that may be chance",
            times(&servers),
        )?;
        families.family(
            "account_full_in_seconds",
            "The same of accounts with a limit: the 50 that are fullest",
            times(&accounts),
        )?;
        families.family(
            "events",
            "Events that an operator should hear of, by kind",
            Kind::ALL.iter().map(|&kind| {
                (vec![("event", kind.name().to_owned())], ConstCounter::new(shared.notifier.events(kind)))
            }),
        )?;
        families.family(
            "event_deliveries",
            "What became of the events at the webhook and the NATS subject that are configured",
            shared.notifier.outcomes().map(|(receiver, outcome, n)| {
                let labels = vec![("receiver", receiver.to_owned()), ("outcome", outcome.to_owned())];
                (labels, ConstCounter::new(n))
            }),
        )
    }

    fn closes(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let counters = &self.shared.counters;
        let mut moves = Vec::new();
        for cause in MoveCause::ALL {
            for result in MoveResult::ALL {
                let labels = vec![("cause", cause.name().to_owned()), ("result", result.name().to_owned())];
                moves.push((labels, ConstCounter::new(counters.moves(cause, result))));
            }
        }
        families.family(
            "moves",
            "Clients that weir has moved to another server, by why and what became of them",
            moves,
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
                    // Most combinations never occur, so each is shown from its first time on.
                    if n > 0 {
                        closed.push((labels, ConstCounter::new(n)));
                    }
                }
            }
        }
        families.family(
            "closed",
            "Connections that ended without a refusal, by who ended them, when and why",
            closed,
        )?;
        let idle = ConstCounter::new(counters.would_end_idle.load(Relaxed));
        families.family(
            "would_close",
            "Sessions that a policy that only warns would have closed, by reason",
            [(vec![("reason", Cause::Idle.name().to_owned())], idle)],
        )
    }

    fn tls(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let counters = &self.shared.counters;
        families.family(
            "tls_handshakes",
            "TLS handshakes with clients, `full` or `resumed` with a ticket",
            [("full", &counters.tls_full), ("resumed", &counters.tls_resumed)]
                .map(|(kind, n)| (vec![("kind", kind.to_owned())], ConstCounter::new(n.load(Relaxed)))),
        )?;
        let terminators = self.shared.terminators.load();
        // Certificates of one subject, such as one with RSA and one with ECDSA, have one sample: the alert is for the
        // one that expires first.
        let mut first = BTreeMap::new();
        for (listener, tls) in terminators.iter() {
            for one in tls.in_use() {
                let expires = first.entry((listener.to_string(), one.subject)).or_insert(one.expires);
                *expires = one.expires.min(*expires);
            }
        }
        let certificates = first.into_iter().map(|((listener, subject), expires)| {
            (vec![("listener", listener), ("subject", subject)], ConstGauge::new(expires))
        });
        families.family(
            "tls_certificate_expiry_timestamp_seconds",
            "When the certificate of each subject at a listener expires, in seconds since 1970; of several the first",
            certificates.collect::<Vec<_>>(),
        )
    }

    fn probes(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let probes = ConstCounter::new(self.shared.counters.probes.load(Relaxed));
        families.single("probes", "Connections that opened and closed without sending anything", probes)
    }

    fn relayed(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let totals = self.shared.counters.totals();
        let directions = |up: u64, down: u64| {
            [("up", up), ("down", down)].map(|(d, n)| (vec![("direction", d.to_owned())], ConstCounter::new(n)))
        };
        families.family(
            "relayed_bytes",
            "Bytes relayed, `up` from clients to servers and `down` from servers to clients",
            directions(totals.bytes_up, totals.bytes_down),
        )?;
        families.family(
            "relayed_messages",
            "Messages relayed, `up` from clients to servers and `down` from servers to clients",
            directions(totals.messages_up, totals.messages_down),
        )?;
        families.gauge(
            "relay_waiting_bytes",
            "Bytes of memory in which sessions hold what one of their sides does not take yet",
            relay::held_bytes() as f64,
        )
    }
}

/// The servers with the names that their series have. No two series may be the same: one that has the name of another,
/// mostly a removed one whose place another has taken, has its id behind the name.
pub fn by_name(servers: impl Iterator<Item = Arc<Server>>) -> Vec<(String, Arc<Server>)> {
    let (leaving, mut all): (Vec<_>, Vec<_>) = servers.partition(|server| server.drain() == Drain::Leaves);
    all.extend(leaving);
    let mut taken = HashSet::new();
    let named = all.into_iter().map(|server| {
        let name = server.name().to_owned();
        let name = if taken.insert(name.clone()) { name } else { format!("{name}#{}", server.id()) };
        (name, server)
    });
    named.collect()
}

/// Times as a histogram.
#[derive(Debug)]
struct TimesMetric<'a>(&'a Times);

impl EncodeMetric for TimesMetric<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let buckets = self.0.buckets();
        let bounds = BOUNDS.into_iter().chain([f64::MAX]);
        let counted: Vec<_> = bounds.zip(buckets).collect();
        encoder.encode_histogram::<NoLabelSet>(self.0.sum(), buckets.iter().sum(), &counted, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

fn server_label(name: &str) -> Vec<(&'static str, String)> {
    vec![("server", name.to_owned())]
}
