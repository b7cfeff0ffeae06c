//! A session with real connections: what its client reads when its server is lost, or while it goes to another one.

use std::{future::poll_fn, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{super::handover::Handover, *};
use crate::{
    net::socket::connected_pair,
    outcome::Party,
    protocol::info::Info,
    relay::{
        Ended, Relay,
        registry::{AtServer, Registration, SessionFacts, SessionRegistry},
    },
    telemetry::counters::Counters,
};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A session, and the far ends of its connections.
struct Session {
    client: TcpStream,
    server: TcpStream,
    relay: Relay<TrackedClient, TrackedServer>,
    known: Known,
    registered: Registration,
}

impl Session {
    /// Its subscriptions may take so many bytes.
    async fn new(most_bytes: usize) -> Self {
        let known = Known::new(most_bytes);
        let ((client, down), (server, up)) = (connected_pair().await, connected_pair().await);
        let sides = ((down.into(), super::client(&known), &b""[..]), (up.into(), super::server(&known), &b""[..]));
        let relay = Relay::new(sides.0, sides.1, Arc::<Counters>::default()).unwrap();
        let registered = Arc::<SessionRegistry>::default().register(SessionFacts::default(), None, AtServer::default());
        Self { client, server, relay, known, registered }
    }

    /// The client says this, and its server has had it.
    async fn says(&mut self, words: &str) {
        self.client.write_all(words.as_bytes()).await.unwrap();
        let mut had = vec![0; words.len()];
        tokio::select! {
            ended = self.relay.run(&self.registered) => panic!("{ended:?}"),
            read = self.server.read_exact(&mut had) => read.unwrap(),
        };
        assert_eq!(str::from_utf8(&had).unwrap(), words);
    }

    /// Another server has let the client in. Returns its end of the connection.
    async fn goes_along(&mut self) -> (TcpStream, Handover) {
        let (there, stream) = connected_pair().await;
        // Little is on the way to one that reads nothing.
        socket2::SockRef::from(&stream).set_send_buffer_size(16 * 1024).unwrap();
        socket2::SockRef::from(&there).set_recv_buffer_size(16 * 1024).unwrap();
        let info = Arc::new(Info::parse(b"{}").unwrap());
        self.relay.prepare_handover();
        let new = NewServer { stream: stream.into(), server: n1(), info: &info, rest: b"" };
        (there, self.relay.begin_handover(new, Instant::now()).unwrap())
    }

    /// Relays until the session is on one server.
    async fn settles(&mut self, handover: &mut Handover) -> HandoverEnd {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(10));
        poll_fn(|cx| {
            while tick.poll_tick(cx).is_ready() {}
            self.relay.poll_handover(cx, self.registered.handle(), handover)
        })
        .await
    }
}

/// What this side reads, until that is enough.
async fn reads_until(stream: &mut TcpStream, is_enough: impl Fn(&str) -> bool) -> String {
    let mut read = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, stream.read_buf(&mut read)).await;
        let text = String::from_utf8_lossy(&read);
        assert!(next.is_ok_and(|read| read.unwrap() > 0), "{text}");
        if is_enough(&text) {
            return text.into_owned();
        }
    }
}

#[tokio::test]
async fn a_session_that_outgrows_its_memory_without_a_server_is_served_no_more() {
    let mut session = Session::new(1024).await;
    session.says("SUB a.subject 1\r\n").await;
    session.relay.lose_server().unwrap();
    let many: String = (2..50).map(|n| format!("SUB a.subject.of.some.length.{n} {n}\r\n")).collect();
    session.client.write_all(many.as_bytes()).await.unwrap();
    let end = session.relay.serve_homeless(session.registered.handle(), 1024, false).await;
    assert_eq!(end, HomelessEnd::Bound(Bound::Memory));
}

#[tokio::test]
async fn a_member_of_a_queue_group_that_outgrows_its_memory_in_a_move_has_what_the_new_server_gave_it() {
    let mut session = Session::new(1024).await;
    session.says("SUB jobs workers 1\r\n").await;
    let (mut new, mut handover) = session.goes_along().await;
    let many: String = (2..50).map(|n| format!("SUB a.subject.of.some.length.{n} workers {n}\r\n")).collect();
    session.client.write_all(many.as_bytes()).await.unwrap();
    let new_server = async {
        let had = reads_until(&mut new, |had| had.contains("UNSUB 1\r\n") && had.ends_with("PING\r\n")).await;
        let subs = had.lines().filter(|line| line.starts_with("SUB")).count();
        let unsubs = had.lines().filter(|line| line.starts_with("UNSUB")).count();
        assert_eq!(subs, unsubs, "{had}");
        new.write_all(b"MSG jobs 1 5\r\nfirst\r\nPONG\r\nPONG\r\n").await.unwrap();
        new
    };
    let (end, _new) = tokio::join!(session.settles(&mut handover), new_server);
    let HandoverEnd::Stays(why) = end else { panic!("{end:?}") };
    assert_eq!((why, session.known.bound()), (Bound::Memory.text(), Some(Bound::Memory)));
    session.relay.stay();
    assert_eq!(subscriptions(&session.known), "", "what is not needed any more takes no memory");
    tokio::select! {
        ended = session.relay.run(&session.registered) => panic!("{ended:?}"),
        read = reads_until(&mut session.client, |read| read.ends_with("first\r\n")) => assert_eq!(read, "MSG jobs 1 5\r\nfirst\r\n"),
    }
}

/// No other server has the session, so that its own connection is read on.
#[tokio::test]
async fn the_last_words_of_a_server_are_read_in_step_where_no_other_one_has_the_session() {
    let mut session = Session::new(1024).await;
    session.says("SUB a 1\r\n").await;
    let rest = "MSG x 1 6\r\nforged\r\n";
    let begun = format!("MSG a 1 40\r\n{}", "x".repeat(40 - rest.len()));
    session.server.write_all(b"MSG a 1 2\r\nhi\r\n").await.unwrap();
    session.server.write_all(begun.as_bytes()).await.unwrap();
    let whole = "MSG a 1 2\r\nhi\r\n".len();
    let mut had = vec![0; whole];
    tokio::select! {
        ended = session.relay.run(&session.registered) => panic!("{ended:?}"),
        read = session.client.read_exact(&mut had) => read.unwrap(),
    };
    // The beginning of the second one is there, too.
    let waited = tokio::time::timeout(std::time::Duration::from_millis(50), session.relay.run(&session.registered));
    assert!(waited.await.is_err());
    let last = format!("{rest}\r\n-ERR 'Stale Connection'\r\n");
    session.server.write_all(last.as_bytes()).await.unwrap();
    let Session { mut client, server, mut relay, registered, .. } = session;
    drop(server);
    relay.lose_server().unwrap();
    let lost = Ended { party: Party::Upstream, cause: Cause::Eof };
    relay.outlive_server(tokio::time::Instant::now(), registered.handle()).await;
    let reads = async {
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        drop(client);
        read
    };
    let (read, _) = tokio::join!(reads, relay.finish(lost, registered.handle()));
    assert_eq!(read, begun + &last);
}

#[tokio::test]
async fn what_a_lost_server_has_sent_reaches_the_client_before_the_next_server_speaks() {
    let mut session = Session::new(1024).await;
    session.says("SUB a 1\r\nPING\r\n").await;
    let message = format!("MSG a 1 40000\r\n{}\r\n", "x".repeat(40_000));
    let sent = message.repeat(20) + "PONG\r\n";
    let Session { mut client, mut server, mut relay, registered, .. } = session;
    relay.lose_server().unwrap();
    let writes = tokio::spawn(async move {
        server.write_all(sent.as_bytes()).await.unwrap();
        // Its rest never comes.
        server.write_all(b"MSG a 1 40000\r\nxxx").await.unwrap();
        sent
    });
    let (mut next, to_next) = connected_pair().await;
    next.write_all(b"MSG a 1 2\r\nhi\r\n").await.unwrap();
    let reads = tokio::spawn(async move {
        let read = reads_until(&mut client, |read| read.ends_with("hi\r\n")).await;
        (client, read)
    });
    let end = relay.serve_homeless(registered.handle(), 1024, true).await;
    assert_eq!((end, relay.may_go_on()), (HomelessEnd::ServerRead, Ok(())));
    let info = Arc::new(Info::parse(b"{}").unwrap());
    relay.go_on(NewServer { stream: to_next.into(), server: n1(), info: &info, rest: b"" }).unwrap();
    tokio::select! {
        ended = relay.run(&registered) => panic!("{ended:?}"),
        had = reads_until(&mut next, |had| had.ends_with("PING\r\n")) => {
            assert_eq!(had, "SUB a 1\r\nPING\r\n", "the client's own PING has been answered");
        }
    }
    tokio::select! {
        ended = relay.run(&registered) => panic!("{ended:?}"),
        read = reads => assert_eq!(read.unwrap().1, writes.await.unwrap() + "MSG a 1 2\r\nhi\r\n"),
    }
}

#[tokio::test]
async fn what_waits_for_a_new_server_that_reads_nothing_is_bounded() {
    let mut session = Session::new(64 * 1024).await;
    session.says("SUB here 1\r\n").await;
    let (_new, mut handover) = session.goes_along().await;
    let (mut client, mut server) = (session.client, session.server);
    let floods = tokio::spawn(async move {
        let many = "SUB a.subject.of.some.length 2\r\nUNSUB 2\r\n".repeat(1000);
        while client.write_all(many.as_bytes()).await.is_ok() {}
    });
    // Its own server reads all of it.
    let reads = tokio::spawn(async move { tokio::io::copy(&mut server, &mut tokio::io::sink()).await });
    let ((client, _), (server, _)) = (connected_pair().await, connected_pair().await);
    (session.client, session.server) = (client, server);
    let end = session.settles(&mut handover).await;
    let HandoverEnd::Stays(why) = end else { panic!("{end:?}") };
    assert_eq!(why, "it subscribes faster than the other server takes it");
    floods.abort();
    reads.abort();
}

/// It has told its old server to end all subscriptions, and cannot stay there.
#[tokio::test]
async fn a_session_goes_to_the_new_server_whose_last_message_is_too_long_to_be_matched() {
    const LEN: usize = LONGEST_MATCHED + 1;
    let mut session = Session::new(1024).await;
    session.says("SUB here 1\r\n").await;
    let (mut new, mut handover) = session.goes_along().await;
    let (mut old, nobody) = (session.server, connected_pair().await.0);
    session.server = nobody;
    let (tell, told) = tokio::sync::oneshot::channel();
    let old_server = tokio::spawn(async move {
        reads_until(&mut old, |had| had.ends_with("UNSUB 1\r\nPING\r\n")).await;
        tell.send(()).unwrap();
        // The new server's message comes before this answer, or with it.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        old.write_all(b"MSG here 1 4\r\nlast\r\nPONG\r\n").await.unwrap();
        old
    });
    let message = format!("MSG here 1 {LEN}\r\n{}\r\n", "x".repeat(LEN));
    let sent = message.clone();
    let new_server = tokio::spawn(async move {
        let mut told = std::pin::pin!(told);
        let mut had = [0; 1024];
        loop {
            tokio::select! {
                _ = &mut told => break,
                n = new.read(&mut had) => {
                    let pings = String::from_utf8_lossy(had.get(..n.unwrap()).unwrap()).matches("PING").count();
                    new.write_all("PONG\r\n".repeat(pings).as_bytes()).await.unwrap();
                }
            }
        }
        new.write_all(sent.as_bytes()).await.unwrap();
        new
    });
    let end = session.settles(&mut handover).await;
    assert!(matches!(end, HandoverEnd::Switched), "{end:?}");
    let expected = format!("MSG here 1 4\r\nlast\r\n{message}");
    tokio::select! {
        ended = session.relay.run(&session.registered) => panic!("{ended:?}"),
        read = reads_until(&mut session.client, |read| read.len() >= expected.len()) => assert!(read == expected),
    }
    let _servers = (old_server.await.unwrap(), new_server.await.unwrap());
}
