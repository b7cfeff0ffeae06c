//! When slots are leased, and that every slot gives back what it has taken.

use super::*;
use crate::{
    fleet::{key::Keys, lease::allowance::Standing},
    upstream::{Params, Placement, Reading, ServerParams, Servers, Slot, Urgency},
};

const CLIENT: Urgency = Urgency::CanWait(1);

struct Test {
    servers: Servers,
    book: Arc<LeaseBook>,
    now: Instant,
}

impl Test {
    /// One server that may be given this many connections.
    fn new(capacity: u32) -> Self {
        let now = Instant::now();
        let server = ServerParams {
            monitor: Some("http://n1:8222".into()),
            max_connections: Some(capacity),
            ..ServerParams::bare("n1:4222")
        };
        let servers = Servers::new(&Params::bare(vec![server]));
        Self { servers, book: LeaseBook::new(Keys::of_fleet("edge"), Standing::new(now)), now }
    }

    fn server(&self) -> Arc<Server> {
        self.servers.iter().next().unwrap()
    }

    fn reads(&self, connections: u32) {
        let epoch = self.server().load().begin_reading(self.now);
        let reading = Reading {
            server_name: String::new(),
            version: "2.15.1".into(),
            connections,
            max_connections: None,
            max_control_line: None,
            auth_timeout: None,
            websocket_auth_timeout: None,
            leafnodes: 0,
            leafnode_port: None,
            leafnode_auth_timeout: None,
            server_id: "N".into(),
            uptime: Duration::from_secs(3600),
            system_account: None,
            requires_tls: false,
            trusts_operator: false,
            config: String::new(),
            cpu: 0.0,
            cores: 0,
        };
        self.server().read(self.now, epoch, reading);
    }

    /// Looks a while later. Returns whether the slots are leased then.
    fn looks(&mut self, weirs: u32, others_lease: bool, queued: u32) -> bool {
        self.now += LOOK_EVERY;
        let around = Around { book: &self.book, weirs };
        self.servers.share_slots(self.now, around, queued, |_| others_lease);
        self.server().leased_slots().is_some()
    }

    fn grant(&self, lease: u32) {
        self.book.grant(Kind::Server, "n1:4222", lease, self.now + Duration::from_secs(1));
    }

    fn place(&self) -> Placement {
        self.servers.place(self.now, &[], CLIENT, &mut fastrand::Rng::with_seed(1))
    }

    /// A session, if it gets in.
    fn session(&self) -> Option<Slot> {
        let Placement::Placed(mut slot) = self.place() else { return None };
        slot.session_began();
        Some(slot)
    }

    fn held(&self) -> u32 {
        self.server().slots.allowance().unwrap().held()
    }
}

#[test]
fn slots_are_leased_while_few_are_free_and_until_twice_as_many_are() {
    let mut test = Test::new(1000);
    for (counted, leased) in
        [(0, false), (900, false), (901, true), (801, true), (800, false), (899, false), (950, true)]
    {
        test.reads(counted);
        assert_eq!(test.looks(3, false, 0), leased, "{counted} of 1000");
    }
    test.reads(800);
    test.now += LEASED_FOR;
    assert!(!test.looks(3, false, 0));
    let mut small = Test::new(100);
    small.reads(36);
    assert!(!small.looks(3, false, 0), "64 are free");
    small.reads(37);
    assert!(small.looks(3, false, 0));
}

#[test]
fn who_fills_a_server_faster_than_others_hear_of_it_leases_the_rest() {
    let mut test = Test::new(1000);
    test.reads(0);
    assert!(!test.looks(5, false, 0));
    test.grant(0);
    // Half of the room by five weirs.
    let mut sessions: Vec<_> = (0..100).map_while(|_| test.session()).collect();
    assert!(sessions.len() == 100 && test.server().leased_slots().is_some(), "it is asked for before it is needed");
    assert!(matches!(test.place(), Placement::Busy));
    test.grant(102);
    sessions.extend((0..9).map_while(|_| test.session()));
    assert_eq!(sessions.len(), 102);
    assert!(test.looks(5, false, 0) && test.looks(5, false, 0));
    test.now += LEASED_FOR;
    assert!(!test.looks(5, false, 0), "it has stopped");
    drop(sessions);
    assert_eq!(test.held(), 0);
}

#[test]
fn what_others_lease_is_leased_at_once() {
    let mut test = Test::new(1000);
    test.reads(0);
    assert!(!test.looks(3, false, 0));
    // Not only at the next look.
    let around = Around { book: &test.book, weirs: 3 };
    test.servers.share_slots(test.now, around, 0, |_| true);
    assert!(test.server().leased_slots().is_some());
    let looks: Vec<_> = (0..8).map(|_| test.looks(3, true, 0)).collect();
    assert!(looks.iter().filter(|leased| **leased).count() == 7 && !looks[7], "not for ever: {looks:?}");
}

#[test]
fn one_weir_alone_never_leases() {
    let mut test = Test::new(100);
    test.reads(90);
    let slots: Vec<_> = (0..20).map_while(|_| test.session()).collect();
    assert!(!test.looks(1, false, 0));
    assert!(matches!(test.place(), Placement::Full));
    assert_eq!(slots.len(), 10);
    drop(slots);
    let more: Vec<_> = (0..20).map_while(|_| test.session()).collect();
    assert_eq!(more.len(), 10);
    assert!(test.looks(1, true, 0), "what one that is gone has leased is not free yet");
}

#[test]
fn a_server_whose_lease_is_used_up_is_busy_and_one_without_room_is_full() {
    let mut test = Test::new(100);
    test.reads(90);
    assert!(test.looks(3, false, 0));
    test.grant(0);
    // Nobody waits for a lease that has just been asked for: a part of the room may be taken.
    let first = test.session().expect("one of ten, for three weirs");
    assert!(matches!(test.place(), Placement::Busy));
    assert!(test.looks(3, false, 0));
    assert!(matches!(test.place(), Placement::Busy) && test.servers.has_headroom(test.now));
    assert_eq!(test.servers.headroom(test.now), 9);
    test.grant(3);
    let two = [test.session().unwrap(), test.session().unwrap()];
    assert!(matches!(test.place(), Placement::Busy));
    drop(first);
    let third = test.session().expect("one has gone");
    assert!(matches!(test.place(), Placement::Busy));
    test.reads(100);
    assert!(matches!(test.place(), Placement::Full) && !test.servers.has_headroom(test.now));
    test.reads(97);
    test.now += Duration::from_secs(2);
    assert!(matches!(test.place(), Placement::Placed(_)), "leases are not in force: the counts decide");
    drop((two, third));
    assert_eq!((test.held(), test.server().load().held()), (0, 0));
}

#[test]
fn a_slot_gives_its_place_back_whatever_becomes_of_it() {
    let mut test = Test::new(100);
    // From before there is a fleet: it counts in its lease too.
    let before = test.session().unwrap();
    test.reads(50);
    assert!(test.looks(2, false, 0) && test.looks(2, false, 0));
    test.grant(50);
    let server = test.server();
    let ways: [&[fn(&mut Slot)]; 7] = [
        &[],
        &[Slot::opened],
        &[Slot::opened, Slot::await_connect],
        &[Slot::opened, Slot::await_connect, Slot::resume_handshake],
        &[Slot::opened, Slot::overdue],
        &[Slot::opened, Slot::overdue, Slot::session_began],
        &[Slot::session_began],
    ];
    type Take = fn(&Arc<Server>, Instant) -> Option<Slot>;
    let takes: [Take; 3] = [Slot::reserve, Slot::over, |server, _| Slot::from_reserve(server)];
    for (take, way) in takes.into_iter().flat_map(|take| ways.map(|way| (take, way))) {
        let mut slot = take(&server, test.now).unwrap();
        way.iter().for_each(|step| step(&mut slot));
        let used = server.slots.allowance().unwrap().usage();
        // The server counts those that it has sent its INFO. What has no place of its own is not known to be open.
        assert_eq!((used.held, used.open), (2, u32::from(!way.is_empty())));
        drop(slot);
        let used = server.slots.allowance().unwrap().usage();
        assert_eq!((used.held, used.open, server.load().held()), (1, 0, 1));
    }
    // One that finds no handshake free, and one that comes to a server that is drained.
    let mut slots: Vec<_> = std::iter::from_fn(|| Slot::reserve(&server, test.now)).collect();
    assert!(!slots.is_empty() && test.held() < 50, "handshakes are fewer than leases");
    assert_eq!((test.held() as usize, server.load().held()), (slots.len() + 1, test.held()));
    slots.pop();
    test.servers.drain(server.id());
    assert!(Slot::reserve(&server, test.now).is_none() && Slot::over(&server, test.now).is_none());
    assert_eq!((test.held() as usize, server.load().held()), (slots.len() + 1, test.held()));
    drop(slots);
    assert_eq!(test.held(), 1);
    drop(before);
    test.looks(2, false, 0);
    assert_eq!((test.held(), server.load().held()), (0, 0));
}

#[test]
fn who_waits_is_wanted_for_at_every_server_by_its_room() {
    let mut test = Test::new(100);
    test.servers.add(ServerParams { max_connections: Some(60), ..ServerParams::bare("n2:4222") });
    test.reads(80);
    for (queued, wanted) in [(0, [0, 0]), (1, [1, 1]), (40, [10, 30]), (1000, [20, 60])] {
        assert!(test.looks(2, false, queued));
        let waiting = |one: Arc<Server>| one.leased_slots().unwrap().usage().waiting;
        assert_eq!(test.servers.iter().map(waiting).collect::<Vec<_>>(), wanted, "{queued} wait");
    }
}

#[test]
fn who_has_stood_still_goes_on_by_the_lease_or_by_the_counts() {
    let mut test = Test::new(100);
    test.reads(90);
    assert!(test.looks(2, false, 0) && test.looks(2, false, 0));
    let early = test.session().unwrap();
    test.grant(2);
    let slot = test.session().unwrap();
    assert!(slot.is_leased() && slot.may_go_on(test.now) && !early.is_leased());
    test.grant(1);
    assert!(!slot.may_go_on(test.now) && early.may_go_on(test.now), "others have it by now");
    let later = test.now + Duration::from_secs(20);
    assert!(slot.may_go_on(later), "there is room");
    test.reads(101);
    assert!(!slot.may_go_on(later), "there is none");
}
