//! Seeded histories of one server behind several weirs: connections come and go through each and past all of them,
//! beats are late, lost, out of order or twice, and readings count at some moment between question and answer.

use std::time::{Duration, Instant};

use super::*;
use crate::fleet::{
    beat::{Beat, ServerBeat},
    key::Key,
    member::MemberId,
    peers::{Peers, Vouch},
};

const PEERS: usize = 3;

/// One connection of a weir: whether the server counts it, and whether its weir knows that it does.
#[derive(Clone, Copy, Default)]
struct Connection {
    counted: bool,
    opened: bool,
}

#[derive(Default)]
struct Weir {
    count: ReconciledCount,
    connections: Vec<Connection>,
    beats: u64,
}

impl Weir {
    fn step(&mut self, rng: &mut fastrand::Rng) {
        match rng.u32(0..8) {
            0..=2 => {
                if self.count.reserve(u32::MAX) {
                    self.connections.push(Connection::default());
                }
            }
            // The server counts it; a while later weir reads its INFO.
            3..=5 => {
                let Some(one) = self.connections.iter_mut().find(|one| !one.opened) else { return };
                match one.counted {
                    false => one.counted = true,
                    true => {
                        one.opened = true;
                        self.count.opened();
                    }
                }
            }
            _ if self.connections.is_empty() => {}
            _ => {
                let one = self.connections.swap_remove(rng.usize(0..self.connections.len()));
                self.count.release(one.opened);
            }
        }
    }

    fn settle(&mut self) {
        for one in &mut self.connections {
            if !one.opened {
                *one = Connection { counted: true, opened: true };
                self.count.opened();
            }
        }
    }

    fn counted(&self) -> u32 {
        self.connections.iter().filter(|one| one.counted).count() as u32
    }
}

struct World {
    now: Instant,
    start: Instant,
    rng: fastrand::Rng,
    own: Weir,
    peers: Vec<Weir>,
    known: Peers,
    direct: u32,
    /// Messages under way, with when they arrive.
    under_way: Vec<(Instant, Beat)>,
    /// When the reading under way was asked for, when it is answered, and when the server counts.
    reading: Option<(ReadingEpoch, Instant, Instant)>,
    /// What the server has counted for it, and how many of those came through no weir.
    counted: Option<(u32, u32)>,
    /// How many came through no weir when the server last counted for a reading that has been answered.
    true_direct: u32,
    lossy: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let start = Instant::now() + Duration::from_secs(1000);
        Self {
            now: start,
            start,
            rng: fastrand::Rng::with_seed(seed),
            own: Weir::default(),
            peers: (0..PEERS).map(|_| Weir::default()).collect(),
            known: Peers::new(MemberId::new("own").unwrap()),
            direct: 0,
            under_way: Vec::new(),
            reading: None,
            counted: None,
            true_direct: 0,
            lossy: false,
        }
    }

    fn ms(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.rng.u64(0..=most))
    }

    fn beat(&mut self, n: usize) {
        let peer = &mut self.peers[n];
        peer.beats += 1;
        let OwnCounts { held, open, taken, released } = peer.count.own();
        let server = ServerBeat { held, open, taken, released, ..Default::default() };
        // Each peer's clock began at another moment.
        let up = self.now.saturating_duration_since(self.start) + Duration::from_secs(n as u64);
        let beat = Beat {
            n: peer.beats,
            up_ms: up.as_millis() as u64,
            servers: [(Key::LOWEST, server)].into(),
            ..Beat::new(MemberId::new(&format!("w{n}")).unwrap(), n as u64 + 1)
        };
        let times = if self.lossy { [0, 1, 1, 1, 1, 1, 1, 2][self.rng.usize(0..8)] } else { 1 };
        for _ in 0..times {
            let late = if self.lossy && self.rng.u32(0..4) == 0 { self.ms(400) } else { self.ms(20) };
            self.under_way.push((self.now + late, beat.clone()));
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.under_way).into_iter().partition(|(at, _)| *at <= now);
        self.under_way = later;
        for (_, beat) in due {
            if let Ok(heard) = self.known.heard(now, beat, Vouch::Unknown) {
                self.own.count.peer_says(&heard.of_server(Key::LOWEST));
            }
        }
    }

    fn read(&mut self) {
        match self.reading {
            None if self.rng.u32(0..20) == 0 => {
                let answered = self.now + self.ms(if self.lossy { 300 } else { 3 });
                let takes = answered.saturating_duration_since(self.now);
                let counts = self.now + takes.mul_f64(self.rng.f64());
                self.reading = Some((self.own.count.begin_reading(self.now), answered, counts));
                self.counted = None;
            }
            Some((_, _, counts)) if self.counted.is_none() && self.now >= counts => {
                let weirs: u32 = self.peers.iter().map(Weir::counted).sum();
                self.counted = Some((self.own.counted() + weirs + self.direct, self.direct));
            }
            Some((epoch, answered, _)) if self.now >= answered => {
                if let Some((counted, direct)) = self.counted.take() {
                    self.reading = None;
                    self.own.count.reconcile(epoch, self.now, counted);
                    self.true_direct = direct;
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, with_direct: bool, busy: bool) {
        self.now += Duration::from_millis(self.rng.u64(1..=8));
        if busy {
            for n in 0..PEERS {
                self.peers[n].step(&mut self.rng);
            }
            self.own.step(&mut self.rng);
            if with_direct && self.rng.u32(0..10) == 0 {
                self.direct = (self.direct + self.rng.u32(0..3)).saturating_sub(1);
            }
        }
        for n in 0..PEERS {
            if self.rng.u32(0..40) == 0 {
                self.beat(n);
            }
        }
        self.deliver();
        self.read();
    }

    /// The bounds of the last reading, where no later beat changes them.
    fn bounds(&self) -> Option<(u32, u32)> {
        let others = self.own.count.shared();
        let reading = others.reading.filter(|reading| reading.is_settled)?;
        let had: Vec<_> = others.peers.iter().map(|peer| peer.had(reading.asked, reading.answered)).collect();
        Some(reading.bounds(had.iter().map(|had| had.least).sum(), had.iter().map(|had| had.most).sum()))
    }

    fn really(&self) -> u32 {
        self.own.counted() + self.peers.iter().map(Weir::counted).sum::<u32>() + self.direct
    }
}

fn run(seed: u64, with_direct: bool) -> u32 {
    let (mut world, mut settled) = (World::new(seed), 0);
    // Peers that have said something before: a beat is dated by the quickest one.
    (0..PEERS).for_each(|n| world.beat(n));
    for _ in 0..100 {
        world.step(false, false);
    }
    world.lossy = true;
    for _ in 0..3000 {
        world.step(with_direct, true);
        if let Some((least, most)) = world.bounds() {
            settled += 1;
            let direct = world.true_direct;
            assert!((least..=most).contains(&direct), "{least} to {most}, and there were {direct}; seed {seed}");
            assert!((least..=most).contains(&world.own.count.direct()));
            if !with_direct {
                assert_eq!(world.own.count.direct(), 0, "connections of weirs are no others; seed {seed}");
            }
        }
    }
    // All is still: the next reading says how it is.
    world.lossy = false;
    world.own.settle();
    world.peers.iter_mut().for_each(Weir::settle);
    for _ in 0..2000 {
        world.step(false, false);
    }
    assert_eq!((world.own.count.direct(), world.own.count.total()), (world.direct, world.really()), "seed {seed}");
    settled
}

#[test]
fn a_reading_never_counts_a_peers_connection_twice() {
    let settled: u32 = (0..150).map(|seed| run(seed, seed % 2 == 0)).sum();
    assert!(settled > 20_000, "{settled} moments were judged");
}

/// A count that holds `own` and has a peer that holds `peer`, of which a reading has told.
fn with_peer(own: u32, peer: u32, direct: u32) -> (ReconciledCount, Instant, PeerReport) {
    let (count, now) = (ReconciledCount::default(), Instant::now() + Duration::from_secs(100));
    for _ in 0..own {
        assert!(count.reserve(u32::MAX));
        count.opened();
    }
    let began = now - Duration::from_secs(50);
    let report = PeerReport { run: 1, sent: now, began, held: peer, open: peer, taken: peer.into(), released: 0 };
    count.peer_says(&report);
    let later = now + Duration::from_secs(1);
    count.reconcile(count.begin_reading(later), later, own + peer + direct);
    assert_eq!((count.direct(), count.peers(), count.total()), (direct, peer, own + peer + direct));
    (count, later, report)
}

#[test]
fn what_a_silent_peer_held_counts_until_a_reading_says_otherwise() {
    let (count, now, report) = with_peer(5, 20, 3);
    count.peer_lost(report.run);
    assert_eq!((count.direct(), count.peers(), count.total()), (23, 0, 28));
    // It was only cut off, and is heard again.
    let back = PeerReport { sent: now + Duration::from_secs(1), ..report };
    count.peer_says(&back);
    let later = now + Duration::from_secs(2);
    count.reconcile(count.begin_reading(later), later, 28);
    assert_eq!((count.direct(), count.peers(), count.total()), (3, 20, 28));
    // It is dead.
    count.peer_lost(report.run);
    count.reconcile(count.begin_reading(later), later, 8);
    assert_eq!((count.direct(), count.total()), (3, 8));
}

#[test]
fn a_reading_that_is_kept_is_judged_by_what_peers_tell_of_it_later() {
    let (count, now, report) = with_peer(5, 20, 3);
    assert!(count.settle_reading().is_none(), "none is kept");
    assert!(count.keep_reading() && !count.keep_reading());
    assert_eq!(count.settle_reading().map(|(direct, _)| direct), Some((3, 3)));
    // Ten more come through the peer, and are counted before its beat comes; then one more reading is taken.
    let [asked, later] = [1, 2].map(|seconds| now + Duration::from_secs(seconds));
    count.reconcile(count.begin_reading(asked), asked, 38);
    assert!(count.keep_reading());
    count.reconcile(count.begin_reading(later), later, 38);
    assert!(!count.keep_reading() && count.direct() == 13, "one at a time");
    count.peer_says(&PeerReport { sent: later, held: 30, open: 30, taken: 30, ..report });
    assert_eq!(count.settle_reading(), Some(((3, 13), asked)), "nobody knows which of the ten were counted");
    count.keep_reading();
    count.forget_others();
    assert!(count.settle_reading().is_none());
}

#[test]
fn a_reading_that_lacks_servers_takes_nothing_back() {
    let (count, now, report) = with_peer(5, 20, 3);
    let at = |seconds| now + Duration::from_secs(seconds);
    count.reconcile_partial(count.begin_reading(at(1)), at(1), 12);
    assert_eq!((count.direct(), count.peers(), count.total()), (3, 20, 28));
    count.keep_reading();
    assert_eq!(count.settle_reading(), Some(((0, u32::MAX), at(1))), "nobody knows how many there are");
    // What it shows beyond that is there.
    count.reconcile_partial(count.begin_reading(at(2)), at(2), 40);
    count.peer_says(&PeerReport { sent: at(3), ..report });
    assert_eq!((count.direct(), count.total()), (15, 40));
    count.reconcile_partial(count.begin_reading(at(4)), at(4), 0);
    assert_eq!((count.direct(), count.total()), (15, 40));
    count.reconcile(count.begin_reading(at(5)), at(5), 26);
    count.peer_says(&PeerReport { sent: at(6), ..report });
    assert_eq!((count.direct(), count.total()), (1, 26));
}

#[test]
fn a_reading_that_lacks_servers_makes_no_peer_a_liar() {
    let (count, now, report) = with_peer(5, 20, 3);
    for second in 1..20 {
        let at = now + Duration::from_secs(second);
        count.reconcile_partial(count.begin_reading(at), at, 5);
        count.peer_says(&PeerReport { sent: at, ..report });
    }
    assert_eq!((count.peers(), count.total()), (20, 28));
}

#[test]
fn what_a_peer_held_that_has_ended_counts_no_more() {
    let (count, now, report) = with_peer(5, 20, 3);
    count.peer_ended(report.run, now + Duration::from_millis(10));
    assert_eq!((count.direct(), count.peers(), count.total()), (3, 0, 8));
    let later = now + Duration::from_secs(2);
    count.reconcile(count.begin_reading(later), later, 8);
    assert_eq!((count.direct(), count.total(), count.shared().peers.len()), (3, 8, 0));
}

#[test]
fn without_readings_peers_count_by_what_they_say() {
    let (count, now, report) = with_peer(5, 20, 3);
    count.forget_others();
    assert_eq!(count.total(), 25);
    count.peer_says(&PeerReport { sent: now, held: 30, taken: 30, ..report });
    assert_eq!(count.total(), 35);
    assert!(!count.reserve(35) && count.reserve(36));
    count.peer_lost(report.run);
    assert_eq!(count.total(), 6);
}

#[test]
fn what_no_reading_shows_is_not_believed_for_long() {
    let (count, mut now, report) = with_peer(5, 20, 3);
    let lie = PeerReport { held: u32::MAX, open: u32::MAX, ..report };
    for reading in 0..10 {
        // It says so before each reading and after it.
        count.peer_says(&PeerReport { sent: now, ..lie });
        let epoch = count.begin_reading(now + Duration::from_millis(500));
        now += Duration::from_secs(1);
        count.reconcile(epoch, now, 28);
        count.peer_says(&PeerReport { sent: now, ..lie });
        assert!(reading < 2 || count.total() <= 5 + 23 + 4, "{} after {reading} readings", count.total());
    }
    // Then it is as it was.
    for _ in 0..14 {
        count.peer_says(&PeerReport { sent: now, ..report });
        let epoch = count.begin_reading(now + Duration::from_millis(500));
        now += Duration::from_secs(1);
        count.reconcile(epoch, now, 28);
    }
    count.peer_says(&PeerReport { sent: now, held: 500, ..report });
    assert_eq!((count.total(), count.peers()), (508, 500), "what it has just dialled");
}

#[test]
fn no_report_makes_a_count_negative_or_wrap() {
    let (count, now, report) = with_peer(5, 20, 3);
    for hostile in [u32::MAX, 0] {
        let wild = PeerReport { held: hostile, open: u32::MAX, taken: hostile.into(), released: u64::MAX, ..report };
        count.peer_says(&PeerReport { run: 2, ..wild });
        count.peer_says(&wild);
        let later = now + Duration::from_secs(1);
        count.reconcile(count.begin_reading(later), later, 8);
        assert!(count.total() >= 5 && count.direct() <= 8);
    }
}
