//! The flight recorder: sessions tell it what became of each client, the sampler what the counters say each second, and
//! the `/storms` endpoint reads it.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::{
    client_library::lang::max_attempts,
    identity::UNKNOWN_ACCOUNT,
    telemetry::storms::{Change, Fate, Groups, Recorder, Sample, Storm},
};

#[derive(Debug, Default)]
pub struct Flight {
    groups: Groups,
    recorder: Mutex<Recorder>,
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
    /// A client that had to wait was admitted, was refused or left.
    pub fn waited(&self, account: Option<&str>, lang: Option<&str>, fate: Fate) {
        self.groups.note(account.unwrap_or(UNKNOWN_ACCOUNT), lang.unwrap_or("unknown"), fate);
    }

    /// A client was refused, the `refusals`th time in a row since it was last admitted.
    pub fn refused(&self, account: Option<&str>, lang: Option<&str>, refusals: u32) {
        self.waited(account, lang, Fate::Refused);
        if let Some(most) = max_attempts(lang.unwrap_or_default()) {
            self.groups.used_up(refusals, most);
        }
    }

    pub fn report(&self) -> Report {
        let recorder = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        Report { running: recorder.running(&self.groups), storms: recorder.over() }
    }

    /// A second has passed; `sample` is what the counters say at its end.
    pub fn second(&self, sample: Sample) -> Option<Change> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner).second(sample, &self.groups)
    }
}
