//! Random histories of takeovers: two processes in one, whose sessions have real sockets, and a connection between them
//! that breaks off at any message. Whatever happens, each session goes on in exactly one of them, with all that it
//! counts for, and what has ended counts nowhere.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    giving::{Mailbox, SessionsToGive},
    message::{Message, Offer},
    taking::{Home, Taking},
};
use crate::{
    admin::socket::OperatorPause,
    config::{Config, ServerArg},
    identity::Keys,
    net::passing,
    protocol::{connect::Connect, info::Info},
    relay::{ClientSide, InfoPolicy, Relay, ServerSide, registry::TrafficState},
    server::{
        file_limit::ClientBudget,
        listeners::{Bound, Listeners},
        passed_sockets::PassedSockets,
        worker,
    },
    session::{
        Shared,
        takeover::{Kind, SessionState, adopt, resume},
    },
    worker::Heartbeats,
};

/// How many histories, unless this variable says so.
const HISTORIES_VARIABLE: &str = "WEIR_HISTORIES";
const HISTORIES: u64 = 100;
/// The first one, unless this variable says so.
const SEED_VARIABLE: &str = "WEIR_SEED";

/// How long anything may take: a machine that is busy with other tests is slow.
const PATIENCE: Duration = Duration::from_secs(30);

const SERVERS: [&str; 2] = ["n1:4222", "n2:4222"];

/// A process of weir, as far as takeovers are concerned.
struct Process {
    shared: Arc<Shared>,
    listeners: Listeners,
    stop: CancellationToken,
}

impl Process {
    /// One with these servers. It listens where `before` does, if there is one.
    async fn start(servers: &[&str], before: Option<&Self>) -> Self {
        let servers: Vec<_> = servers.iter().map(|one| ServerArg((*one).to_owned())).collect();
        let mut config = Config::from_servers(&servers).unwrap();
        config.listeners[0].listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let keys = before.map_or_else(Keys::default, |before| (*before.shared.keys).clone());
        let beats = Heartbeats::new(1, std::time::Instant::now());
        let budget = ClientBudget::of(&config, 1).unwrap();
        let shared =
            Arc::new(crate::server::shared(&config, &budget, (mpsc::channel(1).0, beats, keys), None).unwrap());
        let mut sockets = BTreeMap::<_, Vec<_>>::new();
        for (address, nth, socket) in before.iter().flat_map(|before| before.listeners.sockets().unwrap()) {
            sockets.entry((address, nth)).or_default().push(socket);
        }
        let (passed, stop) = (Arc::new(PassedSockets::taken(sockets, None)), CancellationToken::new());
        let (sender, work) = mpsc::unbounded_channel();
        tokio::spawn(worker::run(0, work, Arc::clone(&shared), stop.clone()));
        let bound = Bound::all(&config.listeners, 1, &passed).unwrap();
        let mut listeners = Listeners::new(Arc::clone(&shared), vec![sender], passed, stop.clone());
        let opened = listeners.open(bound).await.unwrap();
        listeners.put(opened).await;
        Self { shared, listeners, stop }
    }

    fn home(&self) -> Home {
        Home::new(Arc::clone(&self.shared), None, OperatorPause::default(), &self.listeners)
    }

    /// What sessions count for here: slots of servers, sessions of servers, connections of the account, clients of the
    /// listener.
    fn counts(&self) -> [u32; 4] {
        let shared = &self.shared;
        let slots = shared.servers.iter().map(|server| server.load().held()).sum();
        let sessions = shared.servers.iter().map(|server| server.load().sessions()).sum();
        let accounts = shared.admission.accounts().connections().iter().map(|(_, count)| count).sum();
        let listener = shared.listeners.load().iter().map(|(_, limit)| limit.in_use()).sum();
        [slots, sessions, accounts, listener]
    }
}

/// A session, as client and server see it.
struct Ends {
    id: u64,
    client: TcpStream,
    server: TcpStream,
}

async fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// A session in this process.
async fn session(process: &Process, sockets: &TcpListener, id: u64, rng: &mut fastrand::Rng) -> Ends {
    let (shared, home) = (&process.shared, process.home());
    let ((client, down), (up, server)) = (connected(sockets).await, connected(sockets).await);
    let at = rng.choice(SERVERS).unwrap();
    let server_of = shared.servers.iter().find(|server| server.address() == at).unwrap();
    let (address, _) = process.listeners.current()[0].clone();
    let listener = home.listener(address).unwrap();
    let connect = Connect::parse(br#"{"user":"a","pass":"b"}"#).unwrap();
    let sent = shared.keys.sent_identity(&connect);
    let from_client = ClientSide::new(Arc::clone(&shared.keys), sent, connect.service_options(), 4096);
    let info = Arc::new(Info::parse(br#"{"server_id":"A","client_id":7}"#).unwrap());
    let client_ip = client.local_addr().unwrap().ip();
    let from_server =
        ServerSide::new(None, InfoPolicy::Rewrite, Arc::clone(&listener.info), client_ip, server_of, &info);
    let copies = [&down, &up].map(|one| std::os::fd::AsFd::as_fd(one).try_clone_to_owned().unwrap());
    let sides = ((down.into(), from_client, &b""[..]), (up.into(), from_server, &b""[..]));
    let relay = Relay::new(sides.0, sides.1, Arc::clone(&shared.counters)).unwrap();
    let state = SessionState {
        id,
        kind: Kind::Plain,
        peer: client.local_addr().unwrap(),
        listener: address,
        is_leafnode: Some(false),
        accepted: 1,
        began: 1,
        user: Some("a".to_owned()),
        name: None,
        lang: None,
        version: None,
        by_token: false,
        client: Some(id),
        account: Some("A".to_owned()),
        user_key: None,
        server: at.to_owned(),
        server_client_id: 7,
        moves: 0,
        traffic: TrafficState::default(),
        rehome: None,
        relay: Some(relay.state().unwrap()),
    };
    drop(relay);
    let adopted = adopt(shared, |at| home.listener(at), state).unwrap();
    let resumed = resume(shared, adopted, copies).unwrap();
    tokio::spawn(resumed.relay());
    Ends { id, client, server }
}

/// What breaks, and when.
#[derive(Debug, Clone, Copy)]
struct Faults {
    /// The connection between the processes breaks off behind so many messages of the old one, or of the new one.
    breaks_behind: [usize; 2],
    /// Clients leave, each with this probability before each message.
    leaves: f64,
}

/// Passes messages on from one process to the other, until it is to break off. A connection between two processes that
/// live loses nothing that was sent before its end, so that a `Go` arrives.
async fn pass(mut from: passing::Receiver, mut to: passing::Sender, messages: usize) {
    for n in 0.. {
        let Ok(Some((words, descriptors))) = from.receive().await else { return };
        let is_go = matches!(serde_json::from_slice(&words), Ok(Message::Go { .. }));
        if n >= messages && !is_go {
            return;
        }
        let descriptors: Vec<_> = descriptors.iter().map(std::os::fd::AsFd::as_fd).collect();
        if to.send(&words, &descriptors).await.is_err() {
            return;
        }
    }
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Whether a session relays in both directions, each byte once.
async fn goes_on(ends: &mut Ends) {
    for is_up in [true, false] {
        let Ends { client, server, .. } = &mut *ends;
        let (from, to, words) = match is_up {
            true => (client, server, &b"PUB a 1\r\nx\r\n"[..]),
            false => (server, client, &b"MSG a 1 1\r\ny\r\n"[..]),
        };
        from.write_all(words).await.unwrap();
        let mut read = vec![0; words.len()];
        let came = timeout(PATIENCE, to.read_exact(&mut read)).await;
        came.unwrap_or_else(|_| panic!("session {} stands still", ends.id)).unwrap();
        assert_eq!(read, words, "session {}", ends.id);
    }
}

/// How a history has ended.
#[derive(Debug, Default, Clone, Copy)]
struct Outcome {
    is_whole: bool,
    /// Sessions by the process in which they went on.
    in_old: u32,
    in_new: u32,
    left: usize,
}

async fn history(seed: u64) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let sockets = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let old = Process::start(&SERVERS, None).await;
    // The new configuration may lack a server.
    let new = Process::start(if rng.u8(..4) == 0 { &SERVERS[..1] } else { &SERVERS }, Some(&old)).await;
    let mut all = Vec::new();
    for id in 1..=rng.u64(1..12) {
        all.push(session(&old, &sockets, id, &mut rng).await);
    }
    let often = |rng: &mut fastrand::Rng, most: usize| if rng.bool() { rng.usize(0..most) } else { usize::MAX };
    let breaks_behind = [often(&mut rng, 9), often(&mut rng, 5)];
    let faults = Faults { breaks_behind, leaves: if rng.bool() { 0.2 } else { 0.0 } };
    let ((near, far), (other_near, other_far)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let ((sender, receiver), (to_old, of_old)) = (passing::channel(near), passing::channel(far));
    let ((to_new, of_new), (new_sender, new_receiver)) = (passing::channel(other_far), passing::channel(other_near));
    let [of_old_most, of_new_most] = faults.breaks_behind;
    let between = tokio::spawn(async move {
        tokio::select! {
            () = pass(of_old, to_new, of_old_most) => {}
            () = pass(of_new, to_old, of_new_most) => {}
        }
    });
    let stopped = old.shared.takeover.begin();
    old.shared.takeover.ask_clients();
    let mut gift = SessionsToGive::new(Arc::clone(&old.shared), old.listeners.senders(), sender, stopped);
    let mut mailbox = Mailbox::new(receiver);
    let mut taking = Taking::offered(new_sender, new_receiver, Offer::default());
    let giving = async {
        let ready = mailbox.next(PATIENCE).await;
        let given = match ready {
            Ok(Message::Ready) => {
                gift.all(&mut mailbox, None).await.is_ok() && gift.serve(&mut mailbox, None).await.is_ok()
            }
            _ => false,
        };
        gift.end();
        given
    };
    let home = new.home();
    let taking = async {
        if taking.take(&home).await.is_err() {
            return None;
        }
        taking.serving(&home).await;
        Some(taking)
    };
    let leaving = async {
        let mut left = Vec::new();
        for _ in 0..10 {
            sleep(Duration::from_millis(1)).await;
            let leaves = (0..all.len()).rfind(|_| rng.f64() < faults.leaves);
            left.extend(leaves.map(|n| all.swap_remove(n)));
        }
        left
    };
    let (given, taken, left) = tokio::join!(giving, taking, leaving);
    let left_ids: Vec<_> = left.iter().map(|ends| ends.id).collect();
    drop(left);
    let outcome_left = left_ids.len();
    let context = format!("seed {seed}: {faults:?}, given {given}, taken {}, {left_ids:?} have left", taken.is_some());
    let has = |process: &Process, id| process.shared.sessions.get(id).is_some();
    for ends in &mut all {
        let one = || has(&old, ends.id) != has(&new, ends.id);
        eventually(&format!("{context}: session {} is in one process", ends.id), one).await;
    }
    // Who is asked to stop by now has been asked too late.
    old.shared.sessions.handles().iter().for_each(|handle| handle.request_stop());
    for ends in &mut all {
        goes_on(ends).await;
    }
    for id in left_ids {
        eventually(&format!("{context}: session {id} is over"), || !has(&old, id) && !has(&new, id)).await;
    }
    let here = |process: &Process| all.iter().filter(|ends| has(process, ends.id)).count() as u32;
    let (in_old, in_new) = (here(&old), here(&new));
    let old_counts = || old.counts() == [in_old; 4];
    eventually(&format!("{context}: {:?} of {in_old} in the old process", old.counts()), old_counts).await;
    match &taken {
        // It counts those that stay, too, as far as it knows their servers; ends that it has not been told of as well.
        Some(taking) if !taking.is_alone() => {
            assert!(new.counts()[0] >= in_new, "{context}: {:?} of {in_new}", new.counts());
        }
        _ => {
            let new_counts = || new.counts() == [in_new; 4];
            eventually(&format!("{context}: {:?} of {in_new} in the new process", new.counts()), new_counts).await;
        }
    }
    assert!(given || taken.is_none() || in_old + in_new == all.len() as u32, "{context}");
    drop((all, taken));
    between.abort();
    for process in [&old, &new] {
        eventually(&format!("{context}: {:?} at the end", process.counts()), || process.counts() == [0; 4]).await;
        process.stop.cancel();
    }
    Outcome { is_whole: given, in_old, in_new, left: outcome_left }
}

/// A process of the version before takes back what it has given when it has had no answer for too long.
#[tokio::test]
async fn a_process_that_says_that_it_serves_again_does_so_alone() {
    for says_so_in_time in [true, false] {
        let old = Process::start(&SERVERS, None).await;
        let new = Process::start(&SERVERS, Some(&old)).await;
        let (near, far) = UnixStream::pair().unwrap();
        let ((mut sender, mut receiver), (new_sender, new_receiver)) = (passing::channel(near), passing::channel(far));
        let mut taking = Taking::offered(new_sender, new_receiver, Offer::default());
        // As that version says it.
        let mut say = async |words: &[u8]| sender.send(words, &[]).await.unwrap();
        let (serve, abort) =
            (br#"{"message":"serve","next_id":7,"is_paused":false}"#, br#"{"message":"abort","why":"late"}"#);
        say(serve).await;
        if says_so_in_time {
            say(abort).await;
        }
        let taken = taking.take(&new.home()).await.map_err(|err| err.to_string());
        let ended = match taken {
            Ok(()) => {
                assert!(!says_so_in_time);
                taking.serving(&new.home()).await;
                say(abort).await;
                taking.follow(new.home()).await.map_err(|err| err.to_string())
            }
            Err(err) => {
                drop(taking);
                Err(err)
            }
        };
        assert_eq!(ended, Err("the running weir has broken off: late".to_owned()));
        let mut told = Vec::new();
        while let Ok(Some((words, _))) = receiver.receive().await {
            told.push(serde_json::from_slice::<serde_json::Value>(&words).unwrap()["message"].clone());
        }
        let all = ["ready", "serving"];
        assert_eq!(told, if says_so_in_time { &all[..1] } else { &all[..] });
        old.stop.cancel();
        new.stop.cancel();
    }
}

#[test]
fn each_session_is_in_exactly_one_process() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |n| n.parse().expect("a number"));
    let first = number(SEED_VARIABLE, fastrand::u64(..1 << 32));
    let histories = number(HISTORIES_VARIABLE, HISTORIES);
    println!("{SEED_VARIABLE}={first} {HISTORIES_VARIABLE}={histories}");
    let mut all = Vec::new();
    for seed in first..first + histories {
        println!("seed {seed}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        all.push(runtime.block_on(history(seed)));
    }
    let count = |is: fn(&Outcome) -> bool| all.iter().filter(|one| is(one)).count();
    let kinds = [
        ("whole", count(|one| one.is_whole)),
        ("off, with all in the old process", count(|one| !one.is_whole && one.in_new == 0)),
        ("off, with sessions in both", count(|one| !one.is_whole && one.in_new > 0)),
        ("whole, with sessions that stay", count(|one| one.is_whole && one.in_old > 0)),
        ("with sessions that end meanwhile", count(|one| one.left > 0)),
    ];
    println!("{histories} histories: {kinds:?}");
    assert!(histories < HISTORIES || kinds.iter().all(|(_, n)| *n > 0), "{kinds:?}");
}
