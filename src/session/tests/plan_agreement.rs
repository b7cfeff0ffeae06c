//! The same storm twice, both in virtual time: by what sessions wait with (`wait`, the tasks and the timers that hand
//! out turns), and by `weir plan`. Both take the steps of [`Wait`]. What is compared is how they turn a step into
//! waiting.

use std::{
    future::pending,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant, sleep, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{Admission, Client, Deadlines, Limit, Pass, Proof, QuotaIdentity, Rate, Source, Wait},
    advertised_info::{Advertise, AdvertisedInfo, AdvertisedTls},
    client_library::{
        behaviour::{Ending, Memory, Next},
        library::Library,
        table::ALL,
    },
    config::{Config, ServerArg},
    dispatch::{self, TurnSender},
    identity::{ClientKey, Directory, Keys},
    net::{
        socket::TcpTimeouts,
        timer::{self, TICK},
    },
    notify::Notifier,
    protocol::s2::Mode,
    reports::Reports,
    session::{
        await_turn::{Waited, await_turn},
        context::Context,
        damped_dials::DampedDials,
        descriptors::Descriptors,
        ghosts::Ghosts,
        listener::Listener,
        move_orders::MoveOrders,
        read_ahead::ReadAhead,
        shared::Shared,
    },
    storm::{
        client_mix::ClientMix,
        plan::{Discipline, Outcome, Plan, reading},
    },
    tally::Tallies,
    telemetry::counters::Counters,
    upstream::{self, Port, Servers, concurrency::baseline::MeasuredFrom},
    worker::Heartbeats,
};

/// Where the clients come from, and what they come to.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

const SERVERS: u16 = 3;
const CLIENTS: u32 = 1500;
const LOGINS: f64 = 400.0;
/// One login on a server that has no other.
const ALONE: Duration = Duration::from_millis(5);
const SEEDS: u64 = 5;

/// All at once, and no time passes on the way.
fn plan(library: &'static Library, rate: Option<Rate>, seed: u64) -> Plan {
    let config = config(rate);
    Plan {
        clients: CLIENTS,
        accounts: Vec::new(),
        mix: ClientMix::One(library),
        servers: SERVERS,
        handshakes: LOGINS,
        handshake_time: Some(ALONE),
        discipline: Some(Discipline::Fifo),
        max_connections: Some(CLIENTS),
        reserve: config.upstream.reserve,
        round_trip: Duration::ZERO,
        at_once: true,
        servers_died: false,
        close_spread: config.upstream.close_spread,
        weirs: 1,
        beat_interval: Duration::ZERO,
        beat_delay: Duration::ZERO,
        admission: config.admission,
        bucket: self::rate(1, 1),
        time_limit: Duration::from_secs(600),
        seed,
    }
}

fn rate(per_second: u32, burst: u32) -> Rate {
    Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() }
}

pub(super) fn config(rate: Option<Rate>) -> Config {
    let server = |n| ServerArg(format!("n{n}:4222,monitor=http://n{n}:8222"));
    let mut config = Config::from_servers(&(0..SERVERS).map(server).collect::<Vec<_>>()).unwrap();
    config.admission.pace = rate;
    config
}

pub(super) fn shared(config: &Config) -> Arc<Shared> {
    let cluster = upstream::Params { slow_start: Duration::ZERO, ..config.upstream.clone() };
    let servers = Arc::new(Servers::new(&cluster));
    Arc::new(Shared {
        fleet: None,
        admission: Arc::new(Admission::new(&config.admission, Arc::clone(&servers))),
        arrived: Arc::default(),
        directory: Arc::new(Directory::new(&[]).unwrap()),
        keys: Arc::<Keys>::default(),
        account_lookups: mpsc::channel(1).0,
        advertised_info: Arc::new(AdvertisedInfo::new(Arc::clone(&servers), "weir".to_owned())),
        counters: Arc::new(Counters::default()),
        tallies: Tallies::default(),
        policies: Default::default(),
        reports: Reports::default(),
        damped_dials: DampedDials::default(),
        move_orders: MoveOrders::default(),
        ghosts: Ghosts::default(),
        unanswered: Arc::default(),
        flight: Default::default(),
        notifier: Arc::new(Notifier::new("")),
        usage: ArcSwap::default(),
        moves_under_way: ArcSwap::default(),
        takeover: crate::session::takeover::Takeover::default(),
        sessions: Arc::default(),
        held: Arc::default(),
        heartbeats: Heartbeats::new(0, timer::now()),
        descriptors: Descriptors::new(u32::MAX, 0),
        read_ahead: ReadAhead::default(),
        proxy_key: None,
        sends_proxy_headers: false,
        listeners: Default::default(),
        terminators: Default::default(),
        servers_tcp: TcpTimeouts::default(),
        servers_tls: None,
        websocket_tls: None,
        dials_websockets: Default::default(),
        next_id: AtomicU64::new(1),
        servers,
    })
}

fn listener(shared: &Shared) -> Arc<Listener> {
    Arc::new(Listener {
        name: Arc::default(),
        info: shared.advertised_info.of_listener(NOWHERE, Advertise::default(), AdvertisedTls::None, Port::Client),
        max_clients: Limit::new(CLIENTS),
        before_check: Arc::default(),
        handshake_timeout: None,
        trusted_proxies: Vec::new(),
        header_is_optional: false,
        tls: None,
        websocket: None,
        passthrough: None,
        is_for_leafnodes: false,
        compression: Mode::Off,
    })
}

/// The other end of the dials: works off one login after another.
#[derive(Default)]
struct Far {
    connections: AtomicU32,
    last_finished_at: std::sync::Mutex<Option<Instant>>,
}

impl Far {
    /// When a login is over that begins now.
    fn finishes(&self, now: Instant) -> Instant {
        self.connections.fetch_add(1, Relaxed);
        let mut last = self.last_finished_at.lock().unwrap();
        let each = Duration::from_secs_f64(f64::from(SERVERS) / LOGINS);
        let at = (now + ALONE).max(last.map_or(now, |last| last + each));
        *last.insert(at)
    }
}

/// A reading of each server each second, and sweeping.
async fn read(shared: Arc<Shared>, far: Arc<Vec<Far>>) {
    loop {
        let now = timer::now();
        shared.admission.sweep(now);
        for (server, far) in shared.servers.iter().zip(&*far) {
            server.read(now, server.load().begin_reading(now), reading(far.connections.load(Relaxed), CLIENTS));
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// One client until it is in; returns its tries.
async fn client(shared: &Arc<Shared>, listener: &Arc<Listener>, far: &[Far], n: u32, library: &Library) -> (u64, Pass) {
    let (mut memory, mut rng) = (Memory::default(), fastrand::Rng::new());
    for tries in 1.. {
        let accepted = Instant::now();
        let now = accepted.into_std();
        let Deadlines { hold_until, answer_by, returns } =
            shared.admission.deadline_policy().deadlines(Some(library.lang), now, now);
        let client = ClientKey::from_raw(u64::from(n));
        let quota_identity = QuotaIdentity::default();
        let client = Client {
            account: "plan".into(),
            key: client,
            names_its_account: false,
            is_leafnode: false,
            source: Source::NOWHERE,
            proof: Proof::Known,
            may_use_reserve: false,
            would_refuse: None,
            quota_identity,
            hold_until,
            answer_by,
            returns,
        };
        let (turn, turn_comes) = oneshot::channel();
        let begun = Wait::at_connect(&shared.admission, client, now, &mut rng, || TurnSender::new(turn));
        let mut cx = Context::new(Arc::clone(shared), Arc::clone(listener), NOWHERE);
        if let Waited::Turn(mut pass) = await_turn(&mut cx, begun, turn_comes, pending::<()>()).await {
            let (began, server) = (Instant::now(), Arc::clone(pass.server.server()));
            server.dial_answered();
            pass.server.opened();
            let finished = sleep_until(far[server.id().number()].finishes(began));
            if timeout_at(Instant::from_std(answer_by), finished).await.is_ok() {
                shared.admission.handshake_finished(
                    &mut pass,
                    began.elapsed(),
                    (MeasuredFrom::Dial, Duration::ZERO),
                    None,
                    timer::now(),
                );
                pass.account.session_began();
                dispatch::run_now(&shared.admission);
                return (tries, pass);
            }
            let (account, login) = (pass.account.account(), (began.into_std(), false));
            shared.admission.login_unanswered(account, &server, login, None, timer::now());
            drop(pass);
            dispatch::run_now(&shared.admission);
        }
        match library.failed(&mut memory, 1, Ending::Refused, accepted.elapsed(), &mut rng) {
            Next::TryAfter(wait) => sleep(wait).await,
            Next::GivesUpAfter(_) => panic!("{n} gives up"),
        }
    }
    unreachable!()
}

/// Seconds until half, nine tenths and all are in, and tries.
type Result = [f64; 4];

/// By the sessions' own means.
fn for_real(library: &'static Library, rate: Option<Rate>, seed: u64) -> Result {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (shared, began) = (shared(&config(rate)), Instant::now());
        let far: Arc<Vec<Far>> = Arc::new((0..SERVERS).map(|_| Far::default()).collect());
        tokio::spawn(read(Arc::clone(&shared), Arc::clone(&far)));
        tokio::task::yield_now().await;
        let (admission, arrived) = (Arc::clone(&shared.admission), Arc::clone(&shared.arrived));
        tokio::spawn(dispatch::run(admission, arrived, CancellationToken::new()));
        let listener = listener(&shared);
        let clients = (0..CLIENTS).map(|n| {
            let (shared, listener, far) = (Arc::clone(&shared), Arc::clone(&listener), Arc::clone(&far));
            tokio::spawn(async move {
                let (tries, pass) = client(&shared, &listener, &far, n, library).await;
                (began.elapsed().as_secs_f64(), tries, pass)
            })
        });
        let (mut times, mut all_tries, mut passes) = (Vec::new(), 0, Vec::new());
        for client in clients.collect::<Vec<_>>() {
            let (at, tries, pass) = client.await.unwrap();
            times.push(at);
            all_tries += tries;
            passes.push(pass);
        }
        times.sort_by(f64::total_cmp);
        let until = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
        [until(50), until(90), until(100), all_tries as f64]
    })
}

fn foretold(library: &'static Library, rate: Option<Rate>, seed: u64) -> Result {
    let Outcome { count, tries, .. } = plan(library, rate, seed).weir();
    let times = [count.seconds_to_50, count.seconds_to_90, count.seconds_to_100];
    let [half, most, all] = times.map(|time| time.expect("all are in"));
    [half, most, all, tries as f64]
}

fn medians(of: impl Fn(u64) -> Result) -> Result {
    let all: Vec<Result> = (1..=SEEDS).map(of).collect();
    std::array::from_fn(|n| {
        let mut one: Vec<f64> = all.iter().map(|result| result[n]).collect();
        one.sort_by(f64::total_cmp);
        one[one.len() / 2]
    })
}

/// Within 3 %, and twice what the sessions' clock may be late.
fn agree(library: &'static Library, rate: Option<Rate>) {
    let real = medians(|seed| for_real(library, rate, seed));
    let plan = medians(|seed| foretold(library, rate, seed));
    let far_apart = |(a, b): (&f64, &f64)| (a - b).abs() > 0.03 * b + 2.0 * TICK.as_secs_f64();
    assert!(!real.iter().zip(&plan).any(far_apart), "{}: {real:.3?}, plan {plan:.3?}", library.lang);
}

#[test]
fn sessions_wait_as_plans_say() {
    ALL.iter().for_each(|library| agree(library, None));
}

#[test]
fn sessions_wait_as_plans_say_at_a_configured_rate() {
    for lang in ["go", "rust", "java"] {
        let library = ALL.iter().find(|library| library.lang == lang).unwrap();
        agree(library, Some(rate(250, 25)));
    }
}
