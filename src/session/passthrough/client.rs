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
        downstream,
    },
    tls,
};

/// What a client that waits for a ServerHello can be told (RFC 8446, 6.2): fatal, internal_error. Every client
/// library takes it for a failed attempt like any other.
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 80];

/// A client before its relay.
pub(in crate::session) struct PassthroughClient {
    pub stream: Stream,
    /// It has begun TLS: its ClientHello is there to be read.
    pub tls_first: bool,
}

impl PassthroughClient {
    /// Returns when the client leaves.
    pub async fn left(&self) {
        match self.tls_first {
            true => _ = downstream::ended_unread(self.stream.tcp()).await,
            false => downstream::left_before_info(&self.stream).await,
        }
    }

    /// The end of a client that has left.
    pub fn end_of_left(&self, phase: Phase) -> End {
        if self.tls_first { End::left(phase) } else { End::Probe }
    }

    /// Refuses the client. Words are of no use to a client that expects TLS, and INFO without TLS would have some
    /// send their credentials in the clear: so weir's INFO asks for TLS as the servers' does, and TLS fails.
    pub async fn tell(mut self, cx: &mut Context, reason: Refusal) -> End {
        let nobody = cx.shared.keys.credential(Credential::Nothing);
        cx.log.client = Some(cx.shared.keys.client(cx.source(), nobody, None));
        let mut last = ALERT;
        if !self.tls_first {
            let mut info = Vec::with_capacity(512);
            cx.listener.info.write_own_info(cx.source(), &mut info);
            if downstream::send_info(&mut self.stream, &info, cx.step_by(Instant::now())).await.is_err() {
                return self.end_of_left(Phase::Hold);
            }
            last = match timeout_at(cx.step_by(Instant::now()), pin!(tls::hello(self.stream.tcp()))).await {
                Ok(Some(FirstBytes::ClientHello { .. })) => ALERT,
                // It goes on without TLS, so it can read.
                Ok(Some(_)) => refusal::line(reason),
                _ => b"",
            };
        }
        linger::close_with(self.stream, last).await;
        End::Refused(reason)
    }
}
