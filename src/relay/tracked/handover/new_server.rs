//! What the new server of a handover is sent, and what it sends.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::AsyncWrite;

use super::{Handover, Obstacle};
use crate::{
    protocol::{
        MAX_INFO_LINE, PING, PONG,
        control_line::{ServerLine, server_line},
        op::ServerOperation,
    },
    relay::tracked::{Known, LONGEST_MATCHED, TrackedServer},
};

/// The most bytes that wait to be written to the new server, beside the subscriptions that it gets at first and the
/// ends of all of them.
const MOST_TO_NEW: usize = 256 * 1024;

impl Handover {
    /// Takes in what the new server has sent. Messages for the client at once are appended to `pass`.
    pub(super) fn take_in(
        &mut self,
        chunk: &[u8],
        known: &Known,
        side: &TrackedServer,
        pass: &mut Vec<u8>,
    ) -> Result<(), Obstacle> {
        let mut bytes = mem::take(&mut self.held);
        bytes.extend_from_slice(chunk);
        let mut at = 0_usize;
        let mut taken = Ok(());
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.take_operation(rest, known, side, pass) {
                Ok(0) => break,
                Ok(len) => at = at.saturating_add(len),
                Err(obstacle) => {
                    taken = Err(obstacle);
                    break;
                }
            }
        }
        bytes.drain(..at.min(bytes.len()));
        if !bytes.is_empty() {
            self.held = bytes;
        }
        taken
    }

    /// Takes in the first operation, and returns how many bytes that are; 0 where its rest is still to come.
    fn take_operation(
        &mut self,
        rest: &[u8],
        known: &Known,
        side: &TrackedServer,
        pass: &mut Vec<u8>,
    ) -> Result<usize, Obstacle> {
        let stays = self.leaving.is_some();
        match ServerOperation::at(rest) {
            ServerOperation::Unfinished if rest.len() < MAX_INFO_LINE => Ok(0),
            ServerOperation::Unfinished => Err(Obstacle::Other("the other server sends what is no operation")),
            // One of a queue group that is left is for the client, however long the server's max_payload lets it be.
            ServerOperation::Message { len, .. } if len > LONGEST_MATCHED && !stays => Err(Obstacle::TooLong),
            ServerOperation::Message { len, .. } if len > rest.len() => Ok(0),
            ServerOperation::Message { sid, len, .. } => {
                let message = rest.get(..len).unwrap_or_default();
                if known.state().message_of_new(sid, message) {
                    pass.extend_from_slice(message);
                }
                Ok(len)
            }
            ServerOperation::Pong(line) => {
                let now = Instant::now();
                self.caught_up.answer(now);
                self.subscribed.get_or_insert(now);
                if let Some(leaving) = &mut self.leaving {
                    leaving.answers_due = leaving.answers_due.saturating_sub(1);
                }
                Ok(line.len())
            }
            ServerOperation::Ping(line) => {
                self.out.extend_from_slice(PONG);
                Ok(line.len())
            }
            ServerOperation::Err { line, .. } if stays => Ok(line.len()),
            ServerOperation::Err { .. } => Err(Obstacle::Other("the other server refuses what its own allows")),
            ServerOperation::Line(line) => {
                if !stays
                    && let ServerLine::Info(json) = server_line(line)
                    && let Some(info) = side.info_of(&self.server, json)
                {
                    if info.ldm() {
                        return Err(Obstacle::ShutsDown);
                    }
                    self.info = Arc::new(info);
                }
                Ok(line.len())
            }
        }
    }

    /// What waits for the new server by now is bounded, and may be some more.
    pub(super) fn may_grow(&mut self) {
        self.most_out = self.out.len().saturating_add(MOST_TO_NEW);
    }

    /// The new server is asked from time to time whether it stands still.
    pub(super) fn ask(&mut self, now: Instant) {
        if self.caught_up.ask(now) {
            self.out.extend_from_slice(PING);
        }
    }

    /// Writes what is for the new server.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), Obstacle> {
        let mut written = 0;
        while let Some(rest) = self.out.get(written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(n)) if n > 0 => written = written.saturating_add(n),
                Poll::Ready(_) => return Err(Obstacle::Lost),
                Poll::Pending => break,
            }
        }
        self.out.drain(..written.min(self.out.len()));
        if self.stream.needs_flush()
            && let Poll::Ready(Err(_)) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            return Err(Obstacle::Lost);
        }
        Ok(())
    }
}
