//! Several faults at the same time, chosen at random, round after round. After each round all has to be as it was.
//! `WEIR_CHAOS_SEED=n` plays the rounds of a run again, though not its moments; `WEIR_CHAOS_ROUNDS` says how many.

use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;
use tokio::time::sleep;
use weir_testkit::{network::Link, *};

use crate::{
    network::{Ways, behind_links, rehomed_behind_links},
    scene::{EAGER, Scene, nothing, rest},
};

/// What lasts for a while. A number is that of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lasting {
    Freeze(usize),
    Cut(usize),
    CutMonitor(usize),
    CutClients,
    FreezeWeir,
}

/// What is done in a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sudden {
    Kill(usize),
    Restart(usize),
    KillWeir,
    /// All clients end, and others with their names come.
    Anew,
    Storm,
}

impl Lasting {
    fn any(random: &mut Rng, servers: usize) -> Self {
        let server = random.usize(..servers);
        match random.u8(..5) {
            0 => Self::Freeze(server),
            1 => Self::Cut(server),
            2 => Self::CutMonitor(server),
            3 => Self::CutClients,
            _ => Self::FreezeWeir,
        }
    }

    fn begin(self, scene: &mut Scene, ways: &Ways) {
        match self {
            Self::Freeze(n) => scene.cluster.servers[n].signal(Signal::STOP),
            Self::Cut(n) => ways.servers[n].cut(),
            Self::CutMonitor(n) => ways.monitors[n].cut(),
            Self::CutClients => ways.clients.cut(),
            Self::FreezeWeir => scene.weir.stand_still(),
        }
    }

    /// Whether servers may have connections for longer than weir and the clients then: nobody tells them of an end.
    fn keeps_ends(self) -> bool {
        matches!(self, Self::Freeze(_) | Self::Cut(_) | Self::FreezeWeir | Self::CutClients)
    }
}

impl Sudden {
    fn any(random: &mut Rng, servers: usize) -> Self {
        let server = random.usize(..servers);
        match random.u8(..5) {
            0 => Self::Kill(server),
            1 => Self::Restart(server),
            2 => Self::KillWeir,
            3 => Self::Anew,
            _ => Self::Storm,
        }
    }

    async fn happens(self, scene: &mut Scene) -> Option<Crowd> {
        match self {
            Self::Kill(n) => {
                scene.watch.look().await;
                scene.cluster.servers[n].kill9();
            }
            Self::Restart(n) => {
                scene.watch.look().await;
                scene.cluster.servers[n].restart().await;
            }
            Self::KillWeir => {
                scene.weir.kill9();
                let config = scene.config.clone();
                scene.weir.start_again(&config).await;
            }
            Self::Anew => scene.come_anew().await,
            Self::Storm => {
                let login = |i| rest(&format!("storm-{i}"));
                return Some(Crowd::start_each(&scene.weir.address, 300, EAGER, login));
            }
        }
        None
    }
}

/// Whether clients come back by themselves, or stay connected through all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clients {
    ComeBack,
    Stay,
}

/// One or two faults that last, and mostly a sudden one in their middle. A server that is to be restarted is not
/// frozen, and where weir or the clients go, no server keeps their connections: it would have those of two at once. For
/// the same reason, and since nothing else may end their connections, clients that stay have servers that die and none
/// that is silent.
fn round(random: &mut Rng, servers: usize, clients: Clients) -> (Vec<Lasting>, Option<Sudden>) {
    loop {
        let mut lasting: Vec<_> = (0..random.usize(1..=2)).map(|_| Lasting::any(random, servers)).collect();
        lasting.dedup();
        let sudden = (random.u8(..4) > 0).then(|| Sudden::any(random, servers));
        let stays = |one: &Lasting| !matches!(one, Lasting::Freeze(_) | Lasting::Cut(_));
        let fits = match sudden {
            Some(Sudden::KillWeir | Sudden::Anew) if clients == Clients::Stay => false,
            _ if clients == Clients::Stay => lasting.iter().all(stays),
            Some(Sudden::Restart(n)) => !lasting.contains(&Lasting::Freeze(n)),
            Some(Sudden::KillWeir | Sudden::Anew) => !lasting.iter().any(|one| one.keeps_ends()),
            _ => true,
        };
        if fits {
            return (lasting, sudden);
        }
    }
}

async fn anything_happens(clients: Clients, meanwhile: impl AsyncFnOnce(&mut Scene)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("WEIR_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let rounds = number("WEIR_CHAOS_ROUNDS").unwrap_or(12);
    say(&format!("WEIR_CHAOS_SEED={seed}"));
    let mut random = Rng::with_seed(seed);
    let (mut scene, ways) = match clients {
        Clients::ComeBack => behind_links(EAGER).await,
        Clients::Stay => rehomed_behind_links().await,
    };
    let mut meanwhile = Some(meanwhile);
    for _ in 0..rounds {
        let (lasting, sudden) = round(&mut random, scene.cluster.servers.len(), clients);
        say(&format!("{lasting:?} {sudden:?}"));
        let (before, after) = (random.u64(..2000), random.u64(..4000));
        lasting.iter().for_each(|one| one.begin(&mut scene, &ways));
        sleep(Duration::from_millis(before)).await;
        let storm = match sudden {
            Some(sudden) => sudden.happens(&mut scene).await,
            None => None,
        };
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile(&mut scene).await;
        }
        sleep(Duration::from_millis(after)).await;
        scene.weir.go_on();
        ways.servers.iter().chain(&ways.monitors).chain([&*ways.clients]).for_each(Link::heal);
        for server in &mut scene.cluster.servers {
            match server.runs() {
                true => server.signal(Signal::CONT),
                false => server.restart().await,
            }
        }
        if let Some(storm) = storm {
            storm.end().await;
        }
        let fault = match clients {
            Clients::ComeBack => "several faults at once, chosen at random",
            Clients::Stay => "several faults at once beneath clients that stay",
        };
        scene.recovers(fault, Instant::now()).await;
        if clients == Clients::Stay {
            let ends = (scene.orders.ends(), scene.rest.ends());
            assert_eq!(scene.lost(), 0, "nobody has lost its connection: {ends:?}");
        }
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: twelve rounds of faults"]
async fn faults_at_random() {
    if network::is_own() {
        anything_happens(Clients::ComeBack, nothing).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: twelve rounds of faults"]
async fn faults_at_random_beneath_clients_that_stay() {
    if network::is_own() {
        anything_happens(Clients::Stay, nothing).await;
    }
}
