//! Placement: which server a new client goes to. It is the one with the lowest projected share of its ceiling; among
//! equals chance decides.
//!
//! When the server with the lowest share is busy, that is at its handshake limit, a client that can wait goes elsewhere
//! only if that leaves the cluster even enough. A server on which logins take far longer than elsewhere may fall behind
//! for that: clients go to it only once the others are well ahead, and nobody waits for it (docs/contract.md, towards
//! servers 8).

use crate::upstream::concurrency::login_speed::LoginSpeed;

/// How willingly a server is used. A lower tier is used only if no server of a higher one has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Up, with a fresh reading (or with weir's own counts, where there are no readings).
    Eligible,
    /// Its last reading is old: the last resort (docs/contract.md, towards servers 3).
    Stale,
    /// It refuses logins that others let in, or leaves them without an answer (docs/contract.md, towards servers 7).
    LoginsFailing,
    /// Ejected: used only if every server is, since then there is nothing to lose.
    Ejected,
    /// In lame duck mode, full by its own word, or tried by this client before: never used.
    Excluded,
}

/// One server as placement sees it.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// How willingly it is used.
    pub tier: Tier,
    /// Connections it has now.
    pub projected: u32,
    /// Connections it may have.
    pub ceiling: u32,
    /// Handshakes under way.
    pub handshakes: u32,
    /// Handshakes that may be under way at once.
    pub handshake_limit: u32,
    /// It has just finished a handshake, or was idle: if it is busy, it will not be for long.
    pub frees_up_soon: bool,
    /// How long a login takes there, beside the other servers.
    pub login_speed: LoginSpeed,
}

/// How urgently a client needs a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Its deadline is near: it takes any server with room.
    Urgent,
    /// It can wait for the right server. This many clients wait, itself included.
    CanWait(usize),
}

impl View {
    fn has_room(&self) -> bool {
        self.projected < self.ceiling
    }

    fn is_busy(&self) -> bool {
        self.handshakes >= self.handshake_limit
    }

    fn share(&self) -> f64 {
        f64::from(self.projected) / f64::from(self.ceiling.max(1))
    }
}

/// A free server may stand in for a busy one while its share is above that one's by at most this.
const EVEN_ENOUGH: f64 = 0.01;
/// For rounding only: shares of counts that differ by one are apart by far more.
const ROUNDING: f64 = 1e-9;
/// Another server may stand in for one on which logins take far longer while its share is above the lowest by at most
/// this.
const SLOW_BEHIND_BY: f64 = 0.03;

/// What [`choose`] has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The server with this index.
    Server(usize),
    /// There is room, but the server that should have the client is busy with handshakes: wait a moment.
    Busy,
    /// No server has room.
    Full,
}

/// A server that a client may be sent to.
#[derive(Clone, Copy)]
struct Candidate {
    index: usize,
    share: f64,
    login_speed: LoginSpeed,
}

/// The lowest share of the candidates seen so far. Reservoir sampling decides between equals.
#[derive(Default)]
struct Lowest {
    best: Option<Candidate>,
    ties: u32,
}

impl Lowest {
    fn offer(&mut self, candidate: Candidate, rng: &mut fastrand::Rng) {
        match self.best {
            Some(best) if candidate.share > best.share => return,
            Some(best) if candidate.share == best.share => {
                self.ties += 1;
                if rng.u32(0..self.ties) != 0 {
                    return;
                }
            }
            _ => self.ties = 1,
        }
        self.best = Some(candidate);
    }
}

/// The tiers that may be used, best first. Ejected servers are worth a try only if there is no other server at all:
/// dialling a dead server does not help a full cluster.
fn tiers(mut views: impl Iterator<Item = View>) -> &'static [Tier] {
    if views.all(|view| view.tier >= Tier::Ejected) {
        &[Tier::Ejected]
    } else {
        &[Tier::Eligible, Tier::Stale, Tier::LoginsFailing]
    }
}

/// How many clients the servers of the usable tiers could take.
pub fn headroom(views: impl Iterator<Item = View> + Clone) -> u32 {
    let tiers = tiers(views.clone());
    let usable = views.filter(|view| tiers.contains(&view.tier));
    usable.fold(0, |sum, view| sum.saturating_add(view.ceiling.saturating_sub(view.projected)))
}

/// Chooses one of `views`.
pub fn choose(views: impl Iterator<Item = View> + Clone, urgency: Urgency, rng: &mut fastrand::Rng) -> Choice {
    for &tier in tiers(views.clone()) {
        let usable = views.clone().enumerate().filter(|(_, view)| view.tier == tier && view.has_room());
        match even(usable.clone(), urgency, rng) {
            Even::Full => {}
            Even::Server(best) if best.login_speed.is_long() => return quicker(best, usable, urgency, rng),
            Even::Server(best) => return Choice::Server(best.index),
            Even::Busy { lowest } => return not_waiting_for_slow(lowest, usable, urgency, rng),
        }
    }
    Choice::Full
}

/// Chooses one of `views`, whatever room they have and however busy they are: of the best tier the one with the lowest
/// share. Those that are excluded only since they are full, by their own word, come before those that do not answer.
pub fn choose_over(views: impl Iterator<Item = (usize, View, bool)>, rng: &mut fastrand::Rng) -> Option<usize> {
    let mut best: Option<(u8, Lowest)> = None;
    for (index, view, is_only_full) in views {
        let rank = match view.tier {
            Tier::Eligible => 0,
            Tier::Stale => 1,
            Tier::LoginsFailing => 2,
            Tier::Excluded if is_only_full => 3,
            Tier::Ejected => 4,
            Tier::Excluded => continue,
        };
        let candidate = Candidate { index, share: view.share(), login_speed: view.login_speed };
        match &mut best {
            Some((other, _)) if *other < rank => {}
            Some((other, lowest)) if *other == rank => lowest.offer(candidate, rng),
            _ => {
                let mut lowest = Lowest::default();
                lowest.offer(candidate, rng);
                best = Some((rank, lowest));
            }
        }
    }
    best.and_then(|(_, lowest)| lowest.best).map(|candidate| candidate.index)
}

/// What [`even`] has chosen.
enum Even {
    Server(Candidate),
    /// The server with the `lowest` share is busy.
    Busy {
        lowest: f64,
    },
    Full,
}

/// Chooses one of the `usable` servers by their shares alone.
fn even(usable: impl Iterator<Item = (usize, View)> + Clone, urgency: Urgency, rng: &mut fastrand::Rng) -> Even {
    let (mut lowest, mut free) = (f64::INFINITY, Lowest::default());
    for (index, view) in usable.clone() {
        let share = view.share();
        // Unlike `f64::min`, this comparison spends nothing on NaN, which a share never is.
        if share < lowest {
            lowest = share;
        }
        if !view.is_busy() {
            free.offer(Candidate { index, share, login_speed: view.login_speed }, rng);
        }
    }
    match (free.best, urgency) {
        _ if lowest.is_infinite() => Even::Full,
        (Some(best), Urgency::Urgent) => Even::Server(best),
        (Some(best), Urgency::CanWait(waiting)) if best.share <= lowest || stands_in(best.share, waiting, usable) => {
            Even::Server(best)
        }
        _ => Even::Busy { lowest },
    }
}

/// Another server for the `best` one, on which logins take long: where they take far longer than elsewhere, one where
/// they do not; where nobody knows, one that nobody has tried lately, to find out. Its share is not too far ahead.
#[cold]
fn quicker(
    best: Candidate,
    usable: impl Iterator<Item = (usize, View)> + Clone,
    urgency: Urgency,
    rng: &mut fastrand::Rng,
) -> Choice {
    let lowest = usable.clone().map(|(_, view)| view.share()).fold(f64::INFINITY, f64::min);
    let is_near = |view: &View| view.share() - lowest <= SLOW_BEHIND_BY + ROUNDING;
    let better = usable.filter(|(_, view)| best.login_speed.is_worse_than(view.login_speed) && is_near(view));
    match even(better.clone(), urgency, rng) {
        Even::Server(instead) => Choice::Server(instead.index),
        Even::Busy { .. } if are_free_soon(better, urgency) => Choice::Busy,
        Even::Busy { .. } | Even::Full => Choice::Server(best.index),
    }
}

/// Whether busy servers take all who wait as soon as those have logged in that do so now, which is soon.
fn are_free_soon(servers: impl Iterator<Item = (usize, View)>, urgency: Urgency) -> bool {
    let Urgency::CanWait(waiting) = urgency else { return false };
    let soon = servers.filter(|(_, view)| view.frees_up_soon).map(|(_, view)| view.handshake_limit as usize);
    waiting <= soon.sum()
}

/// The server with the `lowest` share is busy, and the client would wait for it. If logins take far longer there than
/// elsewhere, it has as many as it can take: the others are chosen from as if it were not there.
#[cold]
fn not_waiting_for_slow(
    lowest: f64,
    usable: impl Iterator<Item = (usize, View)> + Clone,
    urgency: Urgency,
    rng: &mut fastrand::Rng,
) -> Choice {
    if usable.clone().any(|(_, view)| view.share() <= lowest && view.login_speed != LoginSpeed::Slow) {
        return Choice::Busy;
    }
    match even(usable.filter(|(_, view)| view.login_speed != LoginSpeed::Slow), urgency, rng) {
        Even::Server(instead) => Choice::Server(instead.index),
        Even::Busy { .. } | Even::Full => Choice::Busy,
    }
}

/// Whether a free server of this `share` may stand in for the `usable` one with the lowest share, which is busy. It may
/// as long as the clients that wait are enough to make the shares even again afterwards: so no server idles while many
/// wait, and at the end all are even. If the busy server may stay busy for long, [`EVEN_ENOUGH`] is enough: clients do
/// not wait for it for the last connections of balance.
fn stands_in(share: f64, waiting: usize, usable: impl Iterator<Item = (usize, View)>) -> bool {
    let (mut lowest, mut frees_up_soon, mut ceilings) = (f64::INFINITY, false, 0.0);
    for (_, view) in usable {
        if view.share() < lowest {
            (lowest, frees_up_soon) = (view.share(), false);
        }
        frees_up_soon |= view.frees_up_soon && view.share() <= lowest;
        ceilings += f64::from(view.ceiling);
    }
    let evened_out = waiting as f64 / ceilings;
    let most = if frees_up_soon { evened_out } else { evened_out.max(EVEN_ENOUGH) };
    share - lowest <= most + ROUNDING
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(projected: u32, ceiling: u32) -> View {
        View {
            tier: Tier::Eligible,
            projected,
            ceiling,
            handshakes: 0,
            handshake_limit: 16,
            frees_up_soon: false,
            login_speed: LoginSpeed::Fair,
        }
    }

    fn pick_for(views: &[View], urgency: Urgency) -> Choice {
        choose(views.iter().copied(), urgency, &mut fastrand::Rng::with_seed(1))
    }

    fn pick(views: &[View], urgent: bool) -> Choice {
        pick_for(views, if urgent { Urgency::Urgent } else { Urgency::CanWait(1) })
    }

    #[test]
    fn lowest_share_not_lowest_count() {
        assert_eq!(pick(&[view(10, 20), view(100, 1000)], false), Choice::Server(1));
    }

    #[test]
    fn a_full_server_is_never_chosen() {
        assert_eq!(pick(&[view(0, 0), view(99, 100)], false), Choice::Server(1));
        assert_eq!(pick(&[view(0, 0), view(100, 100)], true), Choice::Full);
    }

    #[test]
    fn ties_are_even() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut hits = [0u32; 3];
        for _ in 0..3000 {
            let Choice::Server(i) = choose([view(5, 10); 3].iter().copied(), Urgency::CanWait(1), &mut rng) else {
                panic!()
            };
            hits[i] += 1;
        }
        assert!(hits.iter().all(|&n| n > 850), "{hits:?}");
    }

    #[test]
    fn stale_only_when_no_other_has_room() {
        let stale = View { tier: Tier::Stale, ..view(0, 100) };
        assert_eq!(pick(&[stale, view(99, 100)], false), Choice::Server(1));
        assert_eq!(pick(&[stale, view(100, 100)], false), Choice::Server(0));
    }

    #[test]
    fn a_server_whose_logins_fail_only_when_no_other_has_room_however_empty_it_is() {
        let failing = View { tier: Tier::LoginsFailing, ..view(0, 100) };
        let stale = View { tier: Tier::Stale, ..view(99, 100) };
        let busy = View { handshakes: 16, ..view(99, 100) };
        assert_eq!(pick(&[failing, view(99, 100)], true), Choice::Server(1));
        assert_eq!(pick(&[failing, stale], true), Choice::Server(1));
        assert_eq!(pick(&[failing, busy], false), Choice::Busy, "the good one is waited for");
        assert_eq!(pick(&[failing, view(100, 100)], false), Choice::Server(0));
        assert_eq!(pick(&[failing, View { tier: Tier::Ejected, ..stale }], false), Choice::Server(0));
        assert_eq!(headroom([failing, view(99, 100)].into_iter()), 101);
    }

    #[test]
    fn ejected_only_when_all_are() {
        let out = View { tier: Tier::Ejected, ..view(0, 100) };
        assert_eq!(pick(&[out, view(100, 100)], false), Choice::Full);
        assert_eq!(pick(&[out, View { tier: Tier::Excluded, ..view(0, 100) }], false), Choice::Server(0));
    }

    #[test]
    fn a_busy_newcomer_is_waited_for_unless_urgent() {
        let newcomer = View { handshakes: 16, ..view(0, 100) };
        assert_eq!(pick(&[newcomer, view(50, 100)], false), Choice::Busy);
        assert_eq!(pick(&[newcomer, view(50, 100)], true), Choice::Server(1));
        assert_eq!(pick(&[newcomer, view(1, 100)], false), Choice::Server(1), "even enough");
    }

    fn any_view() -> impl Strategy<Value = View> {
        let tier =
            prop::sample::select(vec![Tier::Eligible, Tier::Stale, Tier::LoginsFailing, Tier::Ejected, Tier::Excluded]);
        let load = prop_oneof![(0u32..6, 0u32..6), (0u32..12, 298u32..302)];
        let login_speed = prop::sample::select(LoginSpeed::ALL.to_vec());
        (tier, load, 0u32..4, 0u32..4, any::<bool>(), login_speed).prop_map(
            |(tier, (projected, ceiling), handshakes, handshake_limit, frees_up_soon, login_speed)| View {
                tier,
                projected,
                ceiling,
                handshakes,
                handshake_limit,
                frees_up_soon,
                login_speed,
            },
        )
    }

    fn any_urgency() -> impl Strategy<Value = Urgency> {
        prop_oneof![Just(Urgency::Urgent), (0usize..20).prop_map(Urgency::CanWait)]
    }

    /// How far the share of one is above that of another, in parts of the product of their ceilings.
    fn above(a: &View, b: &View) -> i64 {
        i64::from(a.projected) * i64::from(b.ceiling) - i64::from(b.projected) * i64::from(a.ceiling)
    }

    /// Those of `room` with the lowest share.
    fn least(room: &[(usize, View)]) -> Vec<(usize, View)> {
        room.iter().copied().filter(|(_, v)| room.iter().all(|(_, other)| above(v, other) <= 0)).collect()
    }

    /// Every right choice by shares alone, of the servers in `room`, computed in whole numbers.
    fn right_by_share(room: &[(usize, View)], urgency: Urgency) -> Vec<Choice> {
        let free: Vec<_> = room.iter().copied().filter(|(_, v)| !v.is_busy()).collect();
        let (lowest, free) = (least(room), least(&free));
        let Some((_, low)) = lowest.first() else { return vec![Choice::Full] };
        let Some((_, stand_in)) = free.first() else { return vec![Choice::Busy] };
        let excess = above(stand_in, low);
        let ceilings: i64 = room.iter().map(|(_, v)| i64::from(v.ceiling)).sum();
        let unit = i64::from(low.ceiling) * i64::from(stand_in.ceiling);
        let may = match urgency {
            Urgency::Urgent => true,
            Urgency::CanWait(waiting) if excess * ceilings <= waiting as i64 * unit => true,
            Urgency::CanWait(_) if lowest.iter().any(|(_, v)| v.frees_up_soon) => excess == 0,
            Urgency::CanWait(_) => excess * 100 <= unit,
        };
        match may {
            true => free.iter().map(|&(index, _)| Choice::Server(index)).collect(),
            false => vec![Choice::Busy],
        }
    }

    /// Every right choice.
    fn right(views: &[View], urgency: Urgency) -> Vec<Choice> {
        let tiers = match views.iter().all(|v| v.tier >= Tier::Ejected) {
            true => vec![Tier::Ejected],
            false => vec![Tier::Eligible, Tier::Stale, Tier::LoginsFailing],
        };
        let all: Vec<_> = views.iter().copied().enumerate().collect();
        for tier in tiers {
            let room: Vec<_> = all.iter().copied().filter(|(_, v)| v.tier == tier && v.has_room()).collect();
            let lowest = least(&room);
            let Some((_, low)) = lowest.first() else { continue };
            let only = |is: &dyn Fn(&View) -> bool| room.iter().copied().filter(|(_, v)| is(v)).collect::<Vec<_>>();
            let near = |v: &View| above(v, low) * 100 <= 3 * i64::from(low.ceiling) * i64::from(v.ceiling);
            let instead = |choice: Choice| match choice {
                Choice::Server(index) => {
                    let is_better = |v: &View| match views[index].login_speed {
                        LoginSpeed::Slow => v.login_speed != LoginSpeed::Slow,
                        LoginSpeed::Uncompared => v.login_speed == LoginSpeed::Untried,
                        LoginSpeed::Fair | LoginSpeed::Untried => false,
                    };
                    let better = right_by_share(&only(&|v| near(v) && is_better(v)), urgency);
                    let soon = only(&|v| near(v) && is_better(v) && v.frees_up_soon);
                    let places = soon.iter().map(|(_, v)| v.handshake_limit as usize).sum::<usize>();
                    match (better[0], urgency) {
                        (Choice::Server(_), _) => better,
                        (Choice::Busy, Urgency::CanWait(waiting)) if waiting <= places => better,
                        _ => vec![choice],
                    }
                }
                Choice::Busy if lowest.iter().all(|(_, v)| v.login_speed == LoginSpeed::Slow) => {
                    let better = right_by_share(&only(&|v| v.login_speed != LoginSpeed::Slow), urgency);
                    if better == [Choice::Full] { vec![Choice::Busy] } else { better }
                }
                other => vec![other],
            };
            return right_by_share(&room, urgency).into_iter().flat_map(instead).collect();
        }
        vec![Choice::Full]
    }

    proptest! {
        #[test]
        fn the_choice_is_a_right_one(
            views in prop::collection::vec(any_view(), 0..6),
            urgency in any_urgency(),
            seed in any::<u64>(),
        ) {
            let choice = choose(views.iter().copied(), urgency, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(right(&views, urgency).contains(&choice), "{choice:?} of {views:?}");
        }
    }

    #[test]
    fn a_server_that_is_a_moment_behind_is_waited_for_once_too_few_wait_to_even_it_out() {
        let behind = View { handshakes: 16, frees_up_soon: true, ..view(100, 4000) };
        for (above_by, waiting, chosen) in
            [(30, 100, true), (30, 50, false), (400, 1000, true), (1, 2, true), (1, 1, false), (0, 1, true)]
        {
            let choice = pick_for(&[behind, view(100 + above_by, 4000)], Urgency::CanWait(waiting));
            assert_eq!(choice == Choice::Server(1), chosen, "above by {above_by}, {waiting} wait");
        }
        let slow = View { frees_up_soon: false, ..behind };
        assert_eq!(pick(&[slow, view(130, 4000)], false), Choice::Server(1), "waiting for it would take too long");
        assert_eq!(pick(&[slow, view(141, 4000)], false), Choice::Busy);
    }

    #[test]
    fn a_slow_server_falls_behind_by_three_hundredths_and_is_not_waited_for() {
        let slow = View { login_speed: LoginSpeed::Slow, ..view(100, 1000) };
        for urgent in [false, true] {
            assert_eq!(pick(&[slow, view(130, 1000)], urgent), Choice::Server(1));
            assert_eq!(pick(&[slow, view(131, 1000)], urgent), Choice::Server(0), "evenness has waited");
            let busy = View { handshakes: 16, ..view(110, 1000) };
            assert_eq!(pick(&[slow, busy, view(120, 1000)], urgent), Choice::Server(2));
            assert_eq!(pick(&[slow, busy], urgent), Choice::Server(0), "better than none");
            let a_moment = View { frees_up_soon: true, ..busy };
            let choice = if urgent { Choice::Server(0) } else { Choice::Busy };
            assert_eq!(pick(&[slow, a_moment], urgent), choice, "that is sooner");
            let also = View { projected: 90, ..slow };
            assert_eq!(pick(&[slow, also, view(120, 1000)], urgent), Choice::Server(2));
            assert_eq!(pick(&[slow, also], urgent), Choice::Server(1), "no other is quicker");
        }
        let a_moment = View { handshakes: 16, frees_up_soon: true, ..view(110, 1000) };
        assert_eq!(pick_for(&[slow, a_moment], Urgency::CanWait(16)), Choice::Busy);
        assert_eq!(pick_for(&[slow, a_moment], Urgency::CanWait(17)), Choice::Server(0), "all of them are needed");
        let busy = View { handshakes: 16, ..slow };
        assert_eq!(pick(&[busy, view(900, 1000)], false), Choice::Server(1), "it has as many as it can take");
        assert_eq!(pick(&[busy, View { handshakes: 16, ..view(900, 1000) }], false), Choice::Busy);
    }

    #[test]
    fn a_server_that_nobody_has_tried_lately_is_tried_where_logins_take_long() {
        let long = View { login_speed: LoginSpeed::Uncompared, ..view(100, 1000) };
        let untried = View { login_speed: LoginSpeed::Untried, ..view(130, 1000) };
        assert_eq!(pick(&[long, untried], false), Choice::Server(1));
        assert_eq!(pick(&[long, View { projected: 131, ..untried }], false), Choice::Server(0));
        assert_eq!(pick(&[long, view(101, 1000)], false), Choice::Server(0), "somebody has");
        assert_eq!(pick(&[view(100, 1000), untried], false), Choice::Server(0), "it is known");
    }

    #[test]
    fn nothing_to_choose_from() {
        assert_eq!(pick(&[], false), Choice::Full);
        assert_eq!(pick(&[View { tier: Tier::Excluded, ..view(0, 9) }], true), Choice::Full);
    }
}
