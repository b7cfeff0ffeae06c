//! A relay that is moved while messages flow over real connections.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::OwnedReadHalf,
    time::sleep,
};

use super::*;
use crate::net::socket::connected_pair;

/// A stream of messages, some of them long.
fn flow(line: &str, messages: usize) -> Vec<u8> {
    let message = |n: usize| {
        let size = [0, 17, 900, 70_000][n % 4] + n;
        [format!("{line} {size}\r\n").as_bytes(), &vec![n as u8; size], b"\r\n"].concat()
    };
    (0..messages).flat_map(message).collect()
}

/// Reads slowly, so that bytes wait now and then.
async fn read(mut from: OwnedReadHalf, len: usize) -> Vec<u8> {
    let (mut had, mut rng) = (vec![0; len], fastrand::Rng::with_seed(7));
    let mut at = 0;
    while at < len {
        let end = len.min(at + rng.usize(1..100_000));
        from.read_exact(&mut had[at..end]).await.unwrap();
        at = end;
        if rng.u8(0..8) == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    had
}

#[tokio::test]
async fn what_flows_over_real_connections_arrives_whole_however_often_they_move() {
    let process = Process::new(true);
    let ((client, down), (server, up)) = (connected_pair().await, connected_pair().await);
    let sides = (process.client_side(4096), process.server_side(true, InfoPolicy::Rewrite));
    let counters = Arc::clone(&process.counters);
    let mut relay = Relay::new((down.into(), sides.0, b""), (up.into(), sides.1, b""), counters).unwrap();
    let (said, served) = (flow("PUB a", 400), flow("MSG a 1", 400));
    let ((from_weir, mut to_weir), (of_weir, mut at_weir)) = (client.into_split(), server.into_split());
    let reads = tokio::spawn({
        let (said, served) = (said.len(), served.len());
        async move { tokio::join!(read(of_weir, said), read(from_weir, served)) }
    });
    let writes = tokio::spawn({
        let (said, served) = (said.clone(), served.clone());
        async move {
            let _ = tokio::join!(to_weir.write_all(&said), at_weir.write_all(&served));
            (to_weir, at_weir)
        }
    });
    let (mut entry, mut rng, mut reads) = (process.register(), fastrand::Rng::new(), reads);
    let (had, moves) = 'all: {
        let mut moves = 0_u32;
        loop {
            tokio::select! {
                biased;
                had = &mut reads => break 'all (had.unwrap(), moves),
                ended = relay.run(&entry) => panic!("{ended:?}"),
                () = sleep(Duration::from_millis(rng.u64(0..4))) => {}
            }
            // As the other process gets them: descriptors of its own, and the text.
            let text = serde_json::to_string(&relay.state().unwrap()).unwrap();
            let streams = relay.descriptors().unwrap().map(|descriptor| {
                let stream = std::net::TcpStream::from(descriptor.try_clone_to_owned().unwrap());
                Stream::from(tokio::net::TcpStream::from_std(stream).unwrap())
            });
            drop(relay);
            let Ok(RelayState::Plain(state)) = serde_json::from_str(&text) else { panic!("{text}") };
            let [down, up] = streams;
            relay = Relay::<ClientSide, ServerSide>::resume((down, up), *state, process.resumed_in()).unwrap();
            let next = process.register();
            next.handle().traffic().set(entry.handle().traffic().totals());
            (entry, moves) = (next, moves + 1);
        }
    };
    assert!(had.0 == said && had.1 == served, "after {moves} moves");
    assert!(moves > 0);
    let totals = relay.count(entry.handle());
    assert_eq!((totals.bytes_up, totals.bytes_down), (said.len() as u64, served.len() as u64));
    assert_eq!((totals.messages_up, totals.messages_down), (400, 400));
    assert_eq!(process.counters.totals(), totals);
    drop(writes.await.unwrap());
}

#[tokio::test]
async fn a_relay_stays_while_it_waits_for_a_sign_of_life() {
    let (process, (_client, down), (_server, up)) =
        (Process::new(false), connected_pair().await, connected_pair().await);
    let (client, server) = (process.client_side(4096), process.server_side(false, InfoPolicy::Rewrite));
    let mut relay =
        Relay::new((down.into(), client, b""), (up.into(), server, b""), Arc::clone(&process.counters)).unwrap();
    let (entry, mut cx) = (process.register(), Context::from_waker(Waker::noop()));
    entry.handle().request_sign_of_life(Moment::now());
    relay.ask_for_sign_of_life(&mut cx, entry.handle());
    assert_eq!(relay.state(), Err(Immovable::AskedForSignOfLife));
    assert!(relay.descriptors().is_some() && !Immovable::AskedForSignOfLife.is_for_good());
}
