//! What is shown while a storm runs: one line repainted on a terminal, else a line a second.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use rustix::termios::tcgetwinsize;

use crate::storm::live::seen::Seen;

/// A line cannot be repainted once it has gone on to the next: what does not fit is left out. A terminal that does not say how
/// wide it is has room for all.
fn fitting(line: &str, columns: u16) -> &str {
    let room = if columns == 0 { usize::MAX } else { usize::from(columns) - 1 };
    line.char_indices().nth(room).map_or(line, |(end, _)| &line[..end])
}

/// The display.
pub(super) struct Progress {
    clients: usize,
    quiet: bool,
    terminal: bool,
    next: Instant,
}

impl Progress {
    pub(super) fn new(clients: usize, quiet: bool) -> Self {
        Self { clients, quiet, terminal: stderr().is_terminal(), next: Instant::now() + Duration::from_millis(100) }
    }

    /// Shows how things stand, if it is time to.
    pub(super) fn show(&mut self, seen: &Seen) {
        let now = Instant::now();
        if self.quiet || now < self.next {
            return;
        }
        self.next = now + Duration::from_millis(if self.terminal { 100 } else { 1000 });
        self.paint(seen);
    }

    /// Shows the end.
    pub(super) fn end(&self, seen: &Seen) {
        if !self.quiet {
            self.paint(seen);
            if self.terminal {
                let _ = writeln!(stderr());
            }
        }
    }

    fn paint(&self, seen: &Seen) {
        let phase = seen.phase();
        let line = format!(
            "{:6.1} s  {}connected {} of {} ({:.0} %), tries {}, refused {}, errors {}, given up {}",
            phase.elapsed().as_secs_f64(),
            if seen.dropped.load(Relaxed) { "dropped, " } else { "" },
            seen.connected.load(Relaxed),
            self.clients,
            100.0 * seen.connected.load(Relaxed) as f64 / self.clients as f64,
            phase.attempts.load(Relaxed),
            phase.refused_in_all(),
            phase.errors_in_all(),
            seen.given_up.load(Relaxed),
        );
        // A display that nobody reads is no reason to stop.
        let _ = if self.terminal {
            let columns = tcgetwinsize(stderr()).map_or(0, |size| size.ws_col);
            write!(stderr(), "\r\x1b[K{}", fitting(&line, columns))
        } else {
            writeln!(stderr(), "{line}")
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_gets_less() {
        assert_eq!(
            [0, 1, 3, 4, 5, 80].map(|columns| fitting("äbcd", columns)),
            ["äbcd", "", "äb", "äbc", "äbcd", "äbcd"]
        );
    }
}
