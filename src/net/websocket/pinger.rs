//! When a WebSocket client is to be pinged: it has sent nothing for the interval. HTTP proxies on the way close what
//! is silent, often after a minute.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer of one client.
#[derive(Debug)]
pub(super) struct Pinger {
    interval: Duration,
    /// When the client was last heard, or pinged.
    since: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Pinger {
    pub(super) fn new(interval: Duration) -> Self {
        let now = Instant::now();
        Self { interval, since: now, sleep: Box::pin(sleep_until(now + interval)) }
    }

    /// The client has sent something.
    pub(super) fn heard(&mut self) {
        // The timer runs on: it is set anew when it is due, not at every message.
        self.since = Instant::now();
    }

    /// Whether a ping is due now. If not, the task is woken when one may be.
    pub(super) fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        while let Poll::Ready(()) = self.sleep.as_mut().poll(cx) {
            let now = Instant::now();
            let due = now >= self.since + self.interval;
            if due {
                self.since = now;
            }
            self.sleep.as_mut().reset(self.since + self.interval);
            if due {
                // The next poll registers the waker for the new time: it follows, since the ping is written first.
                let _ = self.sleep.as_mut().poll(cx);
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(pinger: &mut Pinger) -> Instant {
        poll_fn(|cx| if pinger.is_due(cx) { Poll::Ready(Instant::now()) } else { Poll::Pending }).await
    }

    #[tokio::test(start_paused = true)]
    async fn only_silence_is_pinged() {
        let s = Duration::from_secs;
        let began = Instant::now();
        let mut pinger = Pinger::new(s(30));
        assert_eq!((next(&mut pinger).await - began).as_secs(), 30);
        assert_eq!((next(&mut pinger).await - began).as_secs(), 60, "again and again");
        tokio::time::sleep(s(20)).await;
        pinger.heard();
        assert_eq!((next(&mut pinger).await - began).as_secs(), 110, "30 s after it was heard");
    }
}
