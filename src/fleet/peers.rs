//! The other weirs of the fleet: who lives, and what each has said last.
//!
//! Messages may be lost, come twice or in another order; a peer is what its newest beat says. One that has said nothing
//! for a few beats is forgotten: what is known of its connections then is what the servers say. Clocks of different
//! hosts are never compared: a peer's beats carry its own uptime, and the beat that took the shortest way dates the
//! others.

mod accounts;
mod sent;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

pub use self::accounts::AccountCounts;
use self::{accounts::PeerAccounts, sent::SendTimes};
use crate::{
    fleet::{
        beat::{AccountBeat, Beat, Bye, ServerBeat},
        key::Key,
        lease::Holder,
        member::MemberId,
        takeover::PeerState,
    },
    lapse::Lapse,
};

/// Most peers that are known at a time. Whoever may publish can make up ids: beyond this a new one is ignored.
pub const MOST_PEERS: usize = 256;

/// Most strangers that are known at a time, besides peers.
pub const MOST_STRANGERS: usize = 32;

/// Most accounts of all peers together that are remembered.
const MOST_ACCOUNTS: usize = 131_072;

/// A peer whose beats stop is forgotten after so many of its intervals, and not before [`LEAST_SILENCE`].
const BEATS_MISSED: u32 = 4;
const LEAST_SILENCE: Duration = Duration::from_millis(750);

/// The most beats that count as lost between two that came.
const MOST_LOST: u64 = 1000;

/// Who has said that it ends has done so within this time, or others have said it.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// The number of the last beat of a process that is gone is remembered for this long, as its key is, and of so many
/// processes.
const REMEMBER: Duration = Duration::from_secs(600);
const MOST_REMEMBERED: usize = 1024;

/// The intervals that a peer may announce: one that says more is heard as if it said this.
const EVERY_MS: std::ops::RangeInclusive<u32> = 20..=2_000;

/// What the bucket of the fleet says of the process that a beat names. Whoever may publish can forge a beat; the bucket
/// is what only weirs write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vouch {
    /// The process has signed it with the key that its membership shows.
    Signed,
    /// It is a member, or was one of late, whose membership shows no key.
    Member,
    /// It is none: a weir that has not come so far yet, or one that does not exist. It counts for nothing.
    Stranger,
    /// This weir does not go by the bucket now: beats are all there is.
    Unknown,
    /// Another has sent it than the process that it names.
    Forged,
}

/// What a peer holds of a server or of an account, and when it said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerReport {
    /// The peer's process: its counts begin anew with another.
    pub run: u64,
    /// When it was sent, at the latest.
    pub sent: Instant,
    /// When the peer's process began, at the latest.
    pub began: Instant,
    /// What it had taken and not given back.
    pub held: u32,
    /// Of those, what the servers counted for certain.
    pub open: u32,
    /// What it had taken since it began.
    pub taken: u64,
    /// What it had given back since it began.
    pub released: u64,
}

/// A beat that was news.
#[derive(Debug, Clone)]
pub struct Heard {
    /// What it says.
    pub beat: Arc<Beat>,
    /// Whether the peer was not known before, or as a stranger only.
    pub is_new: bool,
    /// Whether it counts; what a [`Vouch::Stranger`] says is shown, and nothing else.
    pub counts: bool,
    /// The process of this id that was a peer before and is none any more: another has taken its place, or it is known
    /// to be a stranger.
    pub ends: Option<Gone>,
    /// Accounts that the peer had said it uses, and that it uses no more.
    pub unused: Vec<Key>,
    sent: Instant,
    began: Instant,
}

impl Heard {
    fn report(&self, held: u32, open: u32, taken: u64, released: u64) -> PeerReport {
        PeerReport { run: self.beat.run, sent: self.sent, began: self.began, held, open, taken, released }
    }

    /// When it was sent, at the latest.
    pub fn sent(&self) -> Instant {
        self.sent
    }

    /// How many slots of all servers together the peer has taken since it began.
    pub fn taken(&self) -> u64 {
        self.beat.servers.values().map(|one| one.taken).fold(0, u64::saturating_add)
    }

    /// What it says of a server; nothing held where it does not know that server.
    pub fn of_server(&self, key: Key) -> PeerReport {
        let one = self.beat.servers.get(&key).cloned().unwrap_or_default();
        self.report(one.held, one.open, one.taken, one.released)
    }

    /// The accounts that it speaks of, as far as they are remembered.
    pub fn accounts(&self) -> impl Iterator<Item = (Key, PeerReport)> {
        self.beat.accounts.iter().map(|(key, one)| (*key, self.report(one.held, one.open, one.taken, one.released)))
    }
}

/// Why a beat says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// It is older than one that was heard before, or the same.
    Old,
    /// Another process calls itself what this weir is called. Two weirs of one id do not see each other.
    SameId,
    /// [`MOST_PEERS`] are known already, or [`MOST_STRANGERS`].
    TooMany,
    /// A peer has this id, and is another process.
    Stranger,
    /// It is not signed by the process that it names, which signs.
    Forged,
}

/// A peer that is not there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Which weir it was.
    pub id: MemberId,
    /// Which process of it.
    pub run: u64,
    /// It has said that it ends.
    pub has_said_bye: bool,
    /// It counted: it was no stranger.
    pub counted: bool,
}

/// One other weir.
#[derive(Debug)]
pub struct Peer {
    last: Arc<Beat>,
    vouch: Vouch,
    /// When it has said that it ends.
    said_bye: Option<Instant>,
    /// The process before this one: what is still on its way from there is old.
    before: Option<u64>,
    heard_at: Instant,
    since: Instant,
    sent: SendTimes,
    accounts: PeerAccounts,
    /// Arrivals in a second, by its last beats.
    arrivals_per_second: f64,
}

impl Peer {
    pub fn id(&self) -> &MemberId {
        &self.last.id
    }

    /// What it said last; of accounts, only those that were in its last message.
    pub fn last(&self) -> &Arc<Beat> {
        &self.last
    }

    /// Whether it counts: it is no stranger.
    pub fn counts(&self) -> bool {
        self.vouch != Vouch::Stranger
    }

    /// Whether it has said that it ends, a short while ago: a beat may be on its way still, and who has not ended by
    /// then has not said it.
    pub fn has_said_bye(&self, now: Instant) -> bool {
        self.said_bye.is_some_and(|at| now.saturating_duration_since(at) < ENDS_WITHIN)
    }

    /// How long ago its last beat came.
    pub fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard_at)
    }

    /// For how long it has been known without a break.
    pub fn known_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// How much longer its last beat was under way than the quickest of late.
    pub fn lag(&self) -> Duration {
        self.heard_at.saturating_duration_since(self.sent.of(self.last.up_ms, self.heard_at))
    }

    /// How many clients come to it in a second.
    pub fn arrivals_per_second(&self) -> f64 {
        self.arrivals_per_second
    }

    /// How long it may be silent.
    pub fn may_be_silent_for(&self) -> Duration {
        let every = self.last.every_ms.clamp(*EVERY_MS.start(), *EVERY_MS.end());
        (Duration::from_millis(every.into()) * BEATS_MISSED).max(LEAST_SILENCE)
    }

    /// What it holds of an account, as far as it has said.
    pub fn account(&self, key: Key) -> Option<&AccountBeat> {
        self.accounts.get(key)
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.silent_for(now) > self.may_be_silent_for()
    }

    fn takes(&mut self, now: Instant, beat: Arc<Beat>) -> Instant {
        let sent = self.sent.note(beat.up_ms, now);
        let between = beat.up_ms.saturating_sub(self.last.up_ms);
        if between > 0 {
            let arrived = beat.arrivals.saturating_sub(self.last.arrivals) as f64 * 1000.0 / between as f64;
            // Half of what was known goes within half a second.
            let part = 1.0 - 0.5_f64.powf(between as f64 / 500.0);
            self.arrivals_per_second += part * (arrived - self.arrivals_per_second);
        }
        self.heard_at = now;
        self.last = beat;
        sent
    }
}

/// The sum of what peers hold of one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// Slots taken and not given back.
    pub held: u32,
    /// Of those, connections that the server counts for certain.
    pub open: u32,
    /// Logins under way.
    pub handshakes: u32,
    /// Clients that wait.
    pub waiting: u32,
    /// How many peers know the server.
    pub peers: u32,
}

impl ServerCounts {
    fn add(&mut self, one: &ServerBeat) {
        self.held = self.held.saturating_add(one.held);
        self.open = self.open.saturating_add(one.open);
        self.handshakes = self.handshakes.saturating_add(one.handshakes);
        self.waiting = self.waiting.saturating_add(one.waiting);
        self.peers += 1;
    }
}

/// All peers.
#[derive(Debug)]
pub struct Peers {
    own: MemberId,
    peers: BTreeMap<MemberId, Peer>,
    /// The number of the last beat of processes that are gone, and when they were found to be: whoever has heard what a
    /// process has signed can publish it once more.
    gone: HashMap<u64, (u64, Instant)>,
    /// Accounts of all peers together.
    accounts: usize,
    /// Beats that were ignored since the weir began, by reason.
    ignored: HashMap<Ignored, u64>,
    /// Beats that did not come.
    lost: u64,
}

impl Peers {
    /// Nobody is known yet to the weir of this id.
    pub fn new(own: MemberId) -> Self {
        Self { own, peers: BTreeMap::new(), gone: HashMap::new(), accounts: 0, ignored: HashMap::new(), lost: 0 }
    }

    /// Takes in a beat; `vouch` is what the bucket says of its process.
    ///
    /// # Errors
    /// It says nothing new, or not of a peer.
    pub fn heard(&mut self, now: Instant, beat: Beat, vouch: Vouch) -> Result<Heard, Ignored> {
        let heard = self.take(now, beat, vouch);
        if let Err(why) = &heard {
            *self.ignored.entry(*why).or_default() += 1;
        }
        heard
    }

    fn take(&mut self, now: Instant, beat: Beat, vouch: Vouch) -> Result<Heard, Ignored> {
        if vouch == Vouch::Forged {
            return Err(Ignored::Forged);
        }
        if beat.id == self.own {
            return Err(Ignored::SameId);
        }
        let is_member = |vouch: Vouch| matches!(vouch, Vouch::Member | Vouch::Signed);
        let known = self.peers.get(&beat.id);
        let vouch = match known {
            // What the bucket has said of it once holds while there is no bucket.
            Some(peer) if peer.last.run == beat.run && vouch == Vouch::Unknown && is_member(peer.vouch) => peer.vouch,
            _ => vouch,
        };
        if vouch == Vouch::Signed && self.gone.get(&beat.run).is_some_and(|(last, _)| beat.n <= *last) {
            return Err(Ignored::Old);
        }
        // What came before the key of the process was known may have been anybody's, and its number made up.
        let is_proved = |peer: &Peer| vouch == Vouch::Signed && peer.vouch != Vouch::Signed;
        let before = match known {
            Some(peer) if beat.run == peer.last.run && beat.n <= peer.last.n && !is_proved(peer) => {
                return Err(Ignored::Old);
            }
            Some(peer) if beat.run != peer.last.run && peer.counts() && vouch == Vouch::Stranger => {
                return Err(Ignored::Stranger);
            }
            // A member takes the place of whoever has taken its own.
            Some(peer) if Some(beat.run) == peer.before && is_member(peer.vouch) >= is_member(vouch) => {
                return Err(Ignored::Old);
            }
            Some(peer) if beat.run != peer.last.run => Some(peer.last.run),
            None if self.is_full(vouch) => return Err(Ignored::TooMany),
            Some(_) | None => None,
        };
        if let Some(peer) = known.filter(|peer| peer.last.run == beat.run) {
            // A number that was made up counts no more than a pause of some minutes.
            self.lost = self.lost.saturating_add(beat.n.saturating_sub(peer.last.n).saturating_sub(1).min(MOST_LOST));
        }
        let counts = vouch != Vouch::Stranger;
        let (mut beat, counted) = (beat, known.is_some_and(Peer::counts));
        let ends = if before.is_some() || counted && !counts { self.remove(now, &beat.id) } else { None };
        let known = self.peers.get_mut(&beat.id).map(|peer| std::mem::take(&mut peer.accounts));
        let mut accounts = known.unwrap_or_default();
        let others = self.accounts - accounts.len();
        let room = if counts { MOST_ACCOUNTS.saturating_sub(others) } else { 0 };
        let unused = accounts.take(&mut beat, room);
        if !counts {
            // What a stranger says of accounts is not remembered, so that it has told nothing.
            accounts = PeerAccounts::default();
        }
        self.accounts = others + accounts.len();
        let beat = Arc::new(beat);
        let peer = self.peers.entry(beat.id.clone()).or_insert_with(|| Peer {
            last: Arc::clone(&beat),
            vouch,
            said_bye: None,
            before,
            heard_at: now,
            since: now,
            sent: SendTimes::default(),
            accounts: PeerAccounts::default(),
            arrivals_per_second: 0.0,
        });
        if is_proved(peer) {
            peer.sent = SendTimes::default();
        }
        (peer.accounts, peer.vouch) = (accounts, vouch);
        let sent = peer.takes(now, Arc::clone(&beat));
        let ends = ends.filter(|gone| gone.counted);
        Ok(Heard { began: peer.sent.of(0, now), beat, ends, is_new: counts && !counted, counts, unused, sent })
    }

    /// What all peers held before this time has been heard: when the last beat was sent of the one that has been silent
    /// for longest. `None` without peers.
    pub fn told_until(&self) -> Option<Instant> {
        self.iter().map(|peer| peer.sent.of(peer.last.up_ms, peer.heard_at)).min()
    }

    /// Whether no other one of this kind is taken in.
    fn is_full(&self, vouch: Vouch) -> bool {
        let peers = self.iter().count();
        match vouch {
            Vouch::Stranger => self.peers.len() - peers >= MOST_STRANGERS,
            _ => peers >= MOST_PEERS,
        }
    }

    /// A weir has said that it ends. Whoever may publish can say so: it is gone once its connection is, or its beats
    /// stop. Returns whether it was known.
    pub fn bye(&mut self, now: Instant, bye: &Bye) -> bool {
        let Some(peer) = self.peers.get_mut(&bye.id).filter(|peer| peer.last.run == bye.run) else { return false };
        peer.said_bye = Some(now);
        true
    }

    /// Nobody answers for this process of a weir: its connection to the servers is gone. Returns it if it was known.
    pub fn lost(&mut self, now: Instant, id: &MemberId, run: u64) -> Option<Gone> {
        (self.peers.get(id)?.last.run == run).then(|| self.remove(now, id))?
    }

    fn remove(&mut self, now: Instant, id: &MemberId) -> Option<Gone> {
        let peer = self.peers.remove(id)?;
        self.accounts -= peer.accounts.len();
        let (run, counted) = (peer.last.run, peer.counts());
        if peer.vouch == Vouch::Signed {
            self.gone.retain(|_, (_, at)| now.saturating_duration_since(*at) < REMEMBER);
            if self.gone.len() < MOST_REMEMBERED {
                self.gone.insert(run, (peer.last.n, now));
            }
        }
        Some(Gone { id: id.clone(), run, has_said_bye: peer.has_said_bye(now), counted })
    }

    /// Forgets the peers whose beats have stopped. To be called a few times in a second.
    pub fn forget(&mut self, now: Instant) -> Vec<Gone> {
        let silent: Vec<_> =
            self.peers.iter().filter(|(_, peer)| peer.is_silent(now)).map(|(id, _)| id.clone()).collect();
        silent.iter().filter_map(|id| self.remove(now, id)).collect()
    }

    /// The peers that live and count, by their ids. This weir is not among them.
    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.all().filter(|peer| peer.counts())
    }

    /// The same with strangers.
    pub fn all(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    pub fn get(&self, id: &MemberId) -> Option<&Peer> {
        self.peers.get(id)
    }

    /// Beats that peers have sent, by their numbers, and that did not come before the next one.
    pub fn lost_beats(&self) -> u64 {
        self.lost
    }

    /// What all peers that count have said, for another process.
    pub fn states(&self, now: Instant) -> Vec<PeerState> {
        let state = |peer: &Peer| {
            let mut beat = Beat::clone(&peer.last);
            (beat.accounts, beat.all_of) = (peer.accounts.all().clone(), peer.accounts.all_of());
            PeerState { beat, heard: Lapse::since(peer.heard_at, now) }
        };
        self.iter().map(state).collect()
    }

    /// Whether this weir is alone.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// How many weirs live, this one included.
    pub fn weirs(&self) -> u32 {
        // At most MOST_PEERS.
        self.iter().count() as u32 + 1
    }

    /// What each weir has of anything of which all have the same part: 1.0 is the whole.
    pub fn equal_part(&self) -> f64 {
        1.0 / f64::from(self.weirs())
    }

    /// The position of this weir among all that live, by their ids: each has another.
    pub fn position(&self) -> u32 {
        self.iter().take_while(|peer| *peer.id() < self.own).count() as u32
    }

    /// What they hold of a server.
    pub fn of_server(&self, key: Key) -> ServerCounts {
        let mut sum = ServerCounts::default();
        self.iter().filter_map(|peer| peer.last.servers.get(&key)).for_each(|one| sum.add(one));
        sum
    }

    /// What they hold of an account.
    pub fn of_account(&self, key: Key) -> AccountCounts {
        let mut sum = AccountCounts::default();
        self.iter().filter_map(|peer| peer.account(key)).for_each(|one| sum.add(one));
        sum
    }

    /// What each of them has said of an account, as if it had said so in its last beat.
    pub fn reports_of_account(&self, key: Key) -> Vec<PeerReport> {
        let report = |peer: &Peer| {
            let &AccountBeat { held, open, taken, released, .. } = peer.account(key)?;
            let (sent, began) = (peer.sent.of(peer.last.up_ms, peer.heard_at), peer.sent.of(0, peer.heard_at));
            Some(PeerReport { run: peer.last.run, sent, began, held, open, taken, released })
        };
        self.iter().filter_map(report).collect()
    }

    /// Those of whose connections of an account nothing is known yet, or ever.
    pub fn untold(&self, key: Key) -> Vec<Holder> {
        let untold = self.iter().filter(|peer| !peer.accounts.has_told(key));
        untold.map(|peer| Holder::new(peer.id(), peer.last.run)).collect()
    }

    /// How many beats were ignored for this reason.
    pub fn ignored(&self, why: Ignored) -> u64 {
        self.ignored.get(&why).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
