//! The thread that writes the log. Whoever logs puts a line into a bounded queue and goes on: standard error may be a
//! full disk, a pipe that nobody reads or a terminal that is stopped, and none of that may end or stop weir.
//!
//! `tracing-appender` has such a queue too, but the end of its thread prints to standard output, which panics where
//! standard output cannot be written.

use std::{
    io::{self, Write},
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

use crate::telemetry::process::{LOG_LINES_UNQUEUED, LOG_LINES_UNWRITTEN};

/// The most lines that wait to be written. A line has about 200 bytes, and 4 KiB at most by what a client may send.
const MAX_QUEUED: usize = 8192;
/// How long the end of the process waits for lines that are not written yet.
const LAST_LINES: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// Everything before this is to be written; then the sender is told.
    Flush(SyncSender<()>),
}

/// Takes lines for the thread. It never blocks.
#[derive(Debug, Clone)]
pub struct LogQueue(SyncSender<Message>);

impl LogQueue {
    /// Starts the thread, which writes to `out`.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel(MAX_QUEUED);
        thread::Builder::new().name("log".into()).spawn(move || write_all(&lines, out))?;
        Ok(Self(queue))
    }

    fn put(&self, line: &[u8]) {
        if self.0.try_send(Message::Line(line.to_vec())).is_err() {
            LOG_LINES_UNQUEUED.add_one();
        }
    }

    /// Waits until the lines so far are written, but no longer than [`LAST_LINES`].
    pub fn flush(&self) {
        let (written, waits) = mpsc::sync_channel(1);
        // A full queue means that nobody takes lines now: there is nothing to wait for.
        if self.0.try_send(Message::Flush(written)).is_ok() {
            let _ = waits.recv_timeout(LAST_LINES);
        }
    }
}

fn write_all(lines: &Receiver<Message>, mut out: impl Write) {
    for message in lines {
        match message {
            Message::Line(line) => {
                if out.write_all(&line).is_err() {
                    LOG_LINES_UNWRITTEN.add_one();
                }
            }
            Message::Flush(written) => {
                let _ = written.send(());
            }
        }
    }
}

/// The formatter writes each line whole, in one call.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shown(Arc<Mutex<Vec<u8>>>);

    impl Write for Shown {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order() {
        let shown = Shown::default();
        let queue = LogQueue::start(shown.clone()).unwrap();
        (0..100).for_each(|n| queue.put(format!("{n}\n").as_bytes()));
        queue.flush();
        let expected: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(String::from_utf8(shown.0.lock().unwrap().clone()).unwrap(), expected);
    }

    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_writer_that_is_stuck_blocks_nobody_and_what_does_not_fit_is_counted() {
        let (_go_on, stuck) = mpsc::channel();
        let queue = LogQueue::start(Stuck(stuck)).unwrap();
        let before = LOG_LINES_UNQUEUED.get();
        // The thread has taken one line at most.
        (0..MAX_QUEUED + 10).for_each(|_| queue.put(b"line\n"));
        assert!(LOG_LINES_UNQUEUED.get() >= before + 9);
        queue.flush();
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_the_thread_goes_on() {
        let before = LOG_LINES_UNWRITTEN.get();
        let queue = LogQueue::start(Full).unwrap();
        queue.put(b"one\n");
        queue.put(b"two\n");
        queue.flush();
        assert_eq!(LOG_LINES_UNWRITTEN.get(), before + 2);
    }
}
