//! The flight recorder: sessions tell it what became of each client, the sampler what the counters say each second, and
//! the `/storms` endpoint reads it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::{
    identity::UNKNOWN_ACCOUNT,
    outcome::Refusal,
    telemetry::storms::{Change, Fate, Groups, Recent, Recorder, Sample, Storm},
};

#[derive(Debug, Default)]
pub struct Flight {
    groups: Groups,
    recorder: Mutex<Recorder>,
    recent: Mutex<Recent>,
}

/// What `/storms` answers.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The storm that goes on, with its figures so far; `None` while there is none.
    pub running: Option<Storm>,
    /// The storms that are over, the latest first.
    pub storms: Vec<Storm>,
}

impl Flight {
    /// A client that had to wait was admitted or left.
    pub fn waited(&self, account: Option<&str>, lang: Option<&str>, fate: Fate) {
        self.groups.note(account.unwrap_or(UNKNOWN_ACCOUNT), lang.unwrap_or("unknown"), fate);
    }

    /// A client was refused.
    pub fn refused(&self, account: Option<&str>, lang: Option<&str>, reason: Refusal) {
        self.groups.refused(account.unwrap_or(UNKNOWN_ACCOUNT), lang.unwrap_or("unknown"), reason);
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn report(&self) -> Report {
        let recorder = self.recorder();
        Report { running: recorder.running(), storms: recorder.over() }
    }

    /// A second has passed; `sample` is what the counters say at its end.
    pub fn second(&self, sample: Sample) -> Option<Change> {
        self.recent().second(sample);
        self.recorder().second(sample, &self.groups)
    }

    /// The last minutes, second by second. Nothing is recorded while the caller keeps this.
    pub fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The storm that goes on, and those that were not over yet at the end of this second ([`Recent::number`]), the
    /// latest first.
    pub fn storms_since(&self, second: u64) -> (Option<Storm>, Vec<Arc<Storm>>) {
        let recorder = self.recorder();
        (recorder.running(), recorder.over_since(second))
    }
}
