//! What has been seen of one weir: the last overview, with the past of all answers so far.

use std::time::Instant;

use crate::overview::{Overview, Storm};

/// The storms that are kept.
const STORMS: usize = 16;

/// The CPU use is that of so many answers: by the second it jumps.
const CPU_OVER: usize = 10;

#[derive(Debug, Clone)]
pub struct Watched {
    /// Where it is.
    pub at: String,
    /// With all of the past that is known.
    pub overview: Overview,
    /// CPU that the process uses, in percent of one core.
    pub cpu: f64,
    /// Each time of an answer, in milliseconds since 1970, with the CPU time used by then.
    cpu_before: Vec<(u64, f64)>,
    /// Why the last question had no answer, and when the last answer came.
    pub failed: Option<String>,
    pub got_at: Instant,
}

impl Watched {
    pub fn new(at: String) -> Self {
        let (overview, got_at) = (Overview::default(), Instant::now());
        Self { at, overview, cpu: 0.0, cpu_before: Vec::new(), failed: None, got_at }
    }

    /// What the next question leaves out.
    pub fn since(&self) -> u64 {
        self.overview.history.second
    }

    /// Takes in an answer. Returns whether it is of the same process; that of another one may lack the seconds that
    /// the process before had, so it is to be asked for all.
    pub fn take(&mut self, mut answer: Overview) -> bool {
        let is_same = answer.weir.started_unix_ms == self.overview.weir.started_unix_ms;
        if is_same {
            let later = std::mem::take(&mut answer.history);
            answer.history = std::mem::take(&mut self.overview.history);
            answer.history.append(later);
            let known = std::mem::take(&mut self.overview.storms.over);
            let is_new = |one: &Storm| answer.storms.over.iter().all(|new| new.began_unix_ms != one.began_unix_ms);
            let known: Vec<_> = known.into_iter().filter(is_new).collect();
            answer.storms.over.extend(known);
            answer.storms.over.truncate(STORMS);
        } else {
            self.cpu_before.clear();
        }
        self.cpu_before.push((answer.now_unix_ms, answer.weir.cpu_seconds));
        if self.cpu_before.len() > CPU_OVER {
            self.cpu_before.remove(0);
        }
        let (at, used) = match self.cpu_before[..] {
            // Since its start, until there is something to compare.
            [_] => (answer.weir.started_unix_ms, 0.0),
            [first, ..] => first,
            [] => (answer.now_unix_ms, 0.0),
        };
        let seconds = answer.now_unix_ms.saturating_sub(at) as f64 / 1000.0;
        if seconds > 0.0 {
            self.cpu = (answer.weir.cpu_seconds - used).max(0.0) / seconds * 100.0;
        }
        self.overview = answer;
        self.failed = None;
        self.got_at = Instant::now();
        is_same
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::{History, Process, Storms};

    fn answer(started: u64, second: u64, arrived: &[u64], storms: &[u64]) -> Overview {
        let storm = |&began_unix_ms: &u64| Storm { began_unix_ms, ..Storm::default() };
        Overview {
            now_unix_ms: started + second * 1000,
            weir: Process { started_unix_ms: started, cpu_seconds: second as f64 / 50.0, ..Process::default() },
            history: History { second, arrived: arrived.to_vec(), ..History::default() },
            storms: Storms { running: None, over: storms.iter().map(storm).collect() },
            ..Overview::default()
        }
    }

    #[test]
    fn answers_add_up_until_another_process_answers() {
        let mut watched = Watched::new("h:1".into());
        assert!(!watched.take(answer(5, 2, &[1, 2], &[7])));
        assert!(watched.take(answer(5, 4, &[3, 4], &[9])) && watched.take(answer(5, 4, &[], &[9])));
        let began: Vec<_> = watched.overview.storms.over.iter().map(|one| one.began_unix_ms).collect();
        assert_eq!((&watched.overview.history.arrived[..], &began[..]), (&[1, 2, 3, 4][..], &[9, 7][..]));
        assert!((watched.cpu - 2.0).abs() < 0.001, "{}", watched.cpu);
        let many = vec![0; 700];
        watched.take(answer(5, 704, &many, &[]));
        assert_eq!((watched.overview.history.arrived.len(), watched.since()), (600, 704));
        assert!(!watched.take(answer(6, 1, &[5], &[])), "it was started anew");
        assert_eq!((&watched.overview.history.arrived[..], watched.overview.storms.over.len()), (&[5][..], 0));
    }
}
