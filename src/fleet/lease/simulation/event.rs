//! What happens in the model, and when.

use std::time::Instant;

use crate::fleet::lease::{
    Answer, Holder, Operation, Place,
    simulation::{direct::Counts, weir::Time},
};

/// Something that happens. The number is the weir's.
#[derive(Debug, Clone)]
pub enum Event {
    Look(usize),
    /// Clients come and go.
    Clients(usize),
    Dial(usize, u64),
    Check(usize, u64),
    /// CONNECT is written.
    Send(usize, u64),
    /// The server knows that the client is in, and the weir is told.
    Opened(usize, u64),
    Answered(usize, u64, Answer),
    Watched(usize, Place, u64, Option<Vec<u8>>),
    /// A reading of the servers began then, when the weirs had so much.
    Read(usize, Instant, u32, Vec<Counts>),
    /// By a reading that began then at least and at most so many came past weir, or are of these weirs.
    IsPast(usize, Instant, (u32, u32), Vec<Holder>),
    /// It opens a bucket that is another one.
    Reopens(usize),
    Beats(usize),
    /// The beat of another weir, sent then: what it holds, whether by leases, and whether it tells all accounts.
    Hears(usize, usize, Time, (u32, bool, bool)),
    // What follows does not need the weir.
    Requested(usize, Operation),
    /// CONNECT arrives at a server that accepted the connection then.
    Arrives(usize, u64, Time),
    /// A reading is begun, and is of what the servers have then.
    Reads(usize, Instant, Option<(u32, Vec<Counts>)>),
    /// Clients come past weir, or go.
    Direct,
    /// The servers lose what they have of a weir.
    Gone(usize),
    Wakes(usize),
    Wrong,
    /// Some weir is taken over.
    TakesOver,
    /// The takeover of the first by the second is off.
    BreaksOff(usize, usize),
    /// The first begins no more writes, and gives what it has to the second, by then at the latest.
    Stops(usize, usize),
    Gives(usize, usize, Time),
    /// The second is gone before it had that.
    IsAloneAgain(usize, usize),
    /// The first goes on with what the second gave then.
    Adopts(usize, usize, Instant, String),
    /// A connection ends in the process before, and the new one is told.
    Ends(usize, u64, usize),
    IsTold(usize, u64),
    /// The first is killed soon after it took over, and the second goes on.
    IsGone(usize, usize),
    TakesBack(usize, usize),
}

impl Event {
    /// The weir that must be running for it.
    pub fn process(&self) -> Option<usize> {
        match self {
            Self::Look(weir) | Self::Clients(weir) | Self::Dial(weir, _) | Self::Check(weir, _) => Some(*weir),
            Self::Send(weir, _) | Self::Opened(weir, _) | Self::Answered(weir, ..) => Some(*weir),
            Self::Watched(weir, ..) | Self::Read(weir, ..) | Self::IsPast(weir, ..) => Some(*weir),
            Self::Beats(weir) | Self::Hears(weir, ..) | Self::Reopens(weir) => Some(*weir),
            Self::BreaksOff(weir, _) | Self::Stops(weir, _) | Self::Gives(weir, ..) => Some(*weir),
            Self::IsAloneAgain(weir, _) | Self::Adopts(weir, ..) => Some(*weir),
            Self::TakesBack(weir, _) => Some(*weir),
            _ => None,
        }
    }
}

impl Event {
    /// The process that it is of, where another one that goes on as its weir has nothing to do with it.
    pub fn process_only(&mut self) -> Option<&mut usize> {
        match self {
            Self::Dial(weir, _) | Self::Check(weir, _) | Self::Send(weir, _) | Self::Opened(weir, _) => Some(weir),
            Self::Arrives(weir, ..) | Self::Answered(weir, ..) | Self::Requested(weir, _) => Some(weir),
            Self::Watched(weir, ..) | Self::Read(weir, ..) | Self::IsPast(weir, ..) => Some(weir),
            Self::Reads(weir, _, Some(_)) | Self::Reopens(weir) | Self::Gone(weir) | Self::Wakes(weir) => Some(weir),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub struct Due(pub Time, pub u64, pub Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}
