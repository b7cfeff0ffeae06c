//! A client whose TLS weir does not end: what can be seen of it, and how it is refused.

use std::pin::pin;

use tokio::time::Instant;

use crate::{
    identity::Credential,
    net::{linger, stream::Stream, timer::timeout_at},
    outcome::{Phase, Refusal},
    protocol::{client_hello::FirstBytes, refusal},
    session::{
        context::{Context, End},
        downstream::{self, Unfinished},
        refuse::close_unfinished,
    },
    tls,
};

/// What a client that waits for a ServerHello can be told (RFC 8446, 6.2): fatal, internal_error. Every client
/// library takes it for a failed attempt like any other.
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 80];

/// A client before its relay.
pub(in crate::session) struct PassthroughClient {
    pub stream: Stream,
    /// It has begun TLS before INFO: its ClientHello is there to be read.
    pub tls_first: bool,
    /// It has been sent INFO, and what it has sent since is there to be read.
    pub is_informed: bool,
}

impl PassthroughClient {
    /// Returns when the client leaves.
    pub async fn left(&self) {
        match self.has_begun() {
            true => _ = downstream::ended_unread(self.stream.tcp()).await,
            false => downstream::left_before_info(&self.stream).await,
        }
    }

    /// Whether it may have said something.
    fn has_begun(&self) -> bool {
        self.tls_first || self.is_informed
    }

    /// Sends INFO. The error is the client's end.
    pub async fn inform(&mut self, cx: &Context, info: &[u8]) -> Result<(), End> {
        let sent = downstream::send_info(&mut self.stream, info, cx.step_by(Instant::now())).await;
        match sent {
            Ok(()) => self.is_informed = true,
            Err(unfinished) => return Err(close_unfinished(None, unfinished, Phase::Preface).await),
        }
        Ok(())
    }

    /// Waits until it says something. The error is its end.
    pub async fn speaks(&self, cx: &Context) -> Result<(), End> {
        let unfinished = match timeout_at(cx.step_by(Instant::now()), pin!(self.stream.tcp().peek(&mut [0]))).await {
            Ok(Ok(1..)) => return Ok(()),
            Ok(_) => Unfinished::Probe,
            Err(_) => Unfinished::TimedOut,
        };
        Err(close_unfinished(None, unfinished, Phase::Preface).await)
    }

    /// The end of a client that has left.
    pub fn end_of_left(&self, phase: Phase) -> End {
        if self.has_begun() { End::left(phase) } else { End::Probe }
    }

    /// Refuses the client. Words are of no use to a client that expects TLS, and INFO without TLS would have some
    /// send their credentials in the clear: so weir's INFO asks for TLS as the servers' does, and TLS fails.
    pub async fn tell(mut self, cx: &mut Context, reason: Refusal) -> End {
        let nobody = cx.shared.keys.credential(Credential::Nothing);
        cx.log.client = Some(cx.shared.keys.client(cx.source(), nobody, None));
        let mut last = ALERT;
        if !self.tls_first {
            if !self.is_informed {
                let mut info = Vec::with_capacity(512);
                cx.listener.info.write_own_info(cx.source(), &mut info);
                if downstream::send_info(&mut self.stream, &info, cx.step_by(Instant::now())).await.is_err() {
                    return self.end_of_left(Phase::Hold);
                }
            }
            // What a server has had of it is no news to the runtime, and comes no second time.
            let first_bytes = match tls::begun_with(self.stream.tcp()) {
                None => timeout_at(cx.step_by(Instant::now()), pin!(tls::hello(self.stream.tcp()))).await,
                begun => Ok(begun),
            };
            last = match first_bytes {
                Ok(Some(FirstBytes::ClientHello { .. } | FirstBytes::Incomplete)) => ALERT,
                // It goes on without TLS, so it can read.
                Ok(Some(FirstBytes::Other)) => refusal::line(reason),
                _ => b"",
            };
        }
        linger::close_with(self.stream, last).await;
        End::Refused(reason)
    }
}
