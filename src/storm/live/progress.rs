//! The progress that is shown while a storm runs: one line that is repainted, on a terminal; otherwise one line a
//! second.

use std::{
    io::{IsTerminal, Write, stderr},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use rustix::termios::tcgetwinsize;

use crate::storm::live::stats::Stats;

/// The part of a line that fits on a terminal of this width: a line that wraps cannot be repainted. A terminal that
/// does not say its width (0) gets the whole line.
fn fitting(line: &str, columns: u16) -> &str {
    let room = if columns == 0 { usize::MAX } else { usize::from(columns) - 1 };
    line.char_indices().nth(room).map_or(line, |(end, _)| &line[..end])
}

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

    /// Shows the progress, if the last time is long enough ago.
    pub(super) fn show(&mut self, stats: &Stats) {
        let now = Instant::now();
        if self.quiet || now < self.next {
            return;
        }
        self.next = now + Duration::from_millis(if self.terminal { 100 } else { 1000 });
        self.paint(stats);
    }

    /// Shows the progress for the last time.
    pub(super) fn end(&self, stats: &Stats) {
        if !self.quiet {
            self.paint(stats);
            if self.terminal {
                let _ = writeln!(stderr());
            }
        }
    }

    fn paint(&self, stats: &Stats) {
        let phase = stats.phase();
        let line = format!(
            "{:6.1} s  {}connected {} of {} ({:.0} %), tries {}, refused {}, errors {}, given up {}",
            phase.elapsed().as_secs_f64(),
            if stats.dropped.load(Relaxed) { "dropped, " } else { "" },
            stats.connected.load(Relaxed),
            self.clients,
            100.0 * stats.connected.load(Relaxed) as f64 / self.clients as f64,
            phase.attempts.load(Relaxed),
            phase.refused_total(),
            phase.errors_total(),
            stats.given_up.load(Relaxed),
        );
        // A storm goes on when stderr is closed.
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
    fn a_line_is_cut_to_the_width_of_the_terminal() {
        assert_eq!(
            [0, 1, 3, 4, 5, 80].map(|columns| fitting("äbcd", columns)),
            ["äbcd", "", "äb", "äbc", "äbcd", "äbcd"]
        );
    }
}
