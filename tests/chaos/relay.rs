//! A relay of TCP between weir and a server that delays, stalls, or says nothing. It cannot lose packets: the kernel
//! sends each again (`network` loses them).

use std::sync::Arc;
use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// How bytes go through relays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// At once.
    Plain,
    /// Each piece after a time between these, in order.
    Delays(Duration, Duration),
    /// Not at all until the way is another one: connections are accepted, and nothing comes through them.
    Silent,
}

/// A port that leads to a server.
pub struct Relay {
    pub address: String,
    way: watch::Sender<Way>,
}

impl Relay {
    pub fn before(address: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener for tokio");
        let own = listener.local_addr().expect("an address").to_string();
        let (way, ways) = watch::channel(Way::Plain);
        let behind: Arc<str> = address.into();
        tokio::spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay(stream, Arc::clone(&behind), ways.clone()));
            }
        });
        Self { address: own, way }
    }

    /// From now on bytes go this way.
    pub fn goes(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn relay(near: TcpStream, behind: Arc<str>, mut ways: watch::Receiver<Way>) {
    let _ = ways.wait_for(|way| *way != Way::Silent).await;
    let Ok(far) = TcpStream::connect(&*behind).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_reads, near_writes), (far_reads, far_writes)) = (near.into_split(), far.into_split());
    tokio::join!(passes_on(near_reads, far_writes, ways.clone()), passes_on(far_reads, near_writes, ways));
}

/// Passes bytes on until there are no more. The end takes as long as they do.
async fn passes_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut ways: watch::Receiver<Way>) {
    let (late, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let seen = ways.clone();
    let reads = async move {
        loop {
            let mut piece = vec![0; 16 << 10];
            let Ok(n) = from.read(&mut piece).await else { return };
            piece.truncate(n);
            let wait = match *seen.borrow() {
                Way::Delays(least, most) => least + (most - least).mul_f64(fastrand::f64()),
                Way::Plain | Way::Silent => Duration::ZERO,
            };
            // Nothing is the end.
            if late.send((Instant::now() + wait, piece)).await.is_err() || n == 0 {
                return;
            }
        }
    };
    let writes = async move {
        while let Some((when, piece)) = pieces.recv().await {
            sleep_until(when).await;
            let _ = ways.wait_for(|way| *way != Way::Silent).await;
            if piece.is_empty() || to.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reads, writes);
}
