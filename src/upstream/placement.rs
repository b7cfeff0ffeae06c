//! Placement: which server a new client goes to. It is the one with the lowest projected share of its ceiling; among
//! equals chance decides.
//!
//! When the server with the lowest share is busy, that is at its handshake limit, a client that can wait goes elsewhere
//! only if that leaves the cluster even enough (docs/contract.md, towards servers 8).

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

/// The lowest share of the candidates seen so far. Reservoir sampling decides between equals.
#[derive(Default)]
struct Lowest {
    best: Option<(usize, f64)>,
    ties: u32,
}

impl Lowest {
    fn offer(&mut self, index: usize, share: f64, rng: &mut fastrand::Rng) {
        match self.best {
            Some((_, lowest)) if share > lowest => return,
            Some((_, lowest)) if share == lowest => {
                self.ties += 1;
                if rng.u32(0..self.ties) != 0 {
                    return;
                }
            }
            _ => self.ties = 1,
        }
        self.best = Some((index, share));
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
        let (mut lowest, mut free) = (f64::INFINITY, Lowest::default());
        for (index, view) in views.clone().enumerate().filter(|(_, v)| v.tier == tier && v.has_room()) {
            let share = view.share();
            // Unlike `f64::min`, this comparison spends nothing on NaN, which a share never is.
            if share < lowest {
                lowest = share;
            }
            if !view.is_busy() {
                free.offer(index, share, rng);
            }
        }
        match (free.best, urgency) {
            _ if lowest.is_infinite() => {}
            (Some((index, _)), Urgency::Urgent) => return Choice::Server(index),
            (Some((index, share)), Urgency::CanWait(waiting)) => {
                let usable = views.filter(|view| view.tier == tier && view.has_room());
                let may = share <= lowest || stands_in(share, waiting, usable);
                return if may { Choice::Server(index) } else { Choice::Busy };
            }
            (None, _) => return Choice::Busy,
        }
    }
    Choice::Full
}

/// Whether a free server of this `share` may stand in for the `usable` one with the lowest share, which is busy. It may
/// as long as the clients that wait are enough to make the shares even again afterwards: so no server idles while many
/// wait, and at the end all are even. If the busy server may stay busy for long, [`EVEN_ENOUGH`] is enough: clients do
/// not wait for it for the last connections of balance.
fn stands_in(share: f64, waiting: usize, usable: impl Iterator<Item = View>) -> bool {
    let (mut lowest, mut frees_up_soon, mut ceilings) = (f64::INFINITY, false, 0.0);
    for view in usable {
        if view.share() < lowest {
            (lowest, frees_up_soon) = (view.share(), false);
        }
        frees_up_soon |= view.frees_up_soon && view.share() <= lowest;
        ceilings += f64::from(view.ceiling);
    }
    let evened_out = waiting as f64 / ceilings;
    let most = if frees_up_soon { evened_out } else { evened_out.max(EVEN_ENOUGH) };
    // The slack is for rounding only: shares of counts that differ by one are apart by far more.
    share - lowest <= most + 1e-9
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(projected: u32, ceiling: u32) -> View {
        View { tier: Tier::Eligible, projected, ceiling, handshakes: 0, handshake_limit: 16, frees_up_soon: false }
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
        let load = prop_oneof![(0u32..6, 0u32..6), (0u32..6, 298u32..302)];
        (tier, load, 0u32..4, 0u32..4, any::<bool>()).prop_map(
            |(tier, (projected, ceiling), handshakes, handshake_limit, frees_up_soon)| View {
                tier,
                projected,
                ceiling,
                handshakes,
                handshake_limit,
                frees_up_soon,
            },
        )
    }

    fn any_urgency() -> impl Strategy<Value = Urgency> {
        prop_oneof![Just(Urgency::Urgent), (0usize..20).prop_map(Urgency::CanWait)]
    }

    /// Every right choice, computed in whole numbers.
    fn right(views: &[View], urgency: Urgency) -> Vec<Choice> {
        let tiers = match views.iter().all(|v| v.tier >= Tier::Ejected) {
            true => vec![Tier::Ejected],
            false => vec![Tier::Eligible, Tier::Stale, Tier::LoginsFailing],
        };
        for tier in tiers {
            let room: Vec<_> = views.iter().enumerate().filter(|(_, v)| v.tier == tier && v.has_room()).collect();
            let above = |a: &View, b: &View| {
                i64::from(a.projected) * i64::from(b.ceiling) - i64::from(b.projected) * i64::from(a.ceiling)
            };
            let least = |of: &dyn Fn(&View) -> bool| {
                let those: Vec<_> = room.iter().copied().filter(|(_, v)| of(v)).collect();
                those
                    .iter()
                    .copied()
                    .filter(|(_, v)| those.iter().all(|(_, other)| above(v, other) <= 0))
                    .collect::<Vec<_>>()
            };
            let (lowest, free) = (least(&|_| true), least(&|v| !v.is_busy()));
            let Some(&(_, low)) = lowest.first() else { continue };
            let Some(&(_, stand_in)) = free.first() else { return vec![Choice::Busy] };
            let excess = above(stand_in, low);
            let ceilings: i64 = room.iter().map(|(_, v)| i64::from(v.ceiling)).sum();
            let unit = i64::from(low.ceiling) * i64::from(stand_in.ceiling);
            let may = match urgency {
                Urgency::Urgent => true,
                Urgency::CanWait(waiting) if excess * ceilings <= waiting as i64 * unit => true,
                Urgency::CanWait(_) if lowest.iter().any(|(_, v)| v.frees_up_soon) => excess == 0,
                Urgency::CanWait(_) => excess * 100 <= unit,
            };
            return match may {
                true => free.iter().map(|&(index, _)| Choice::Server(index)).collect(),
                false => vec![Choice::Busy],
            };
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
    fn nothing_to_choose_from() {
        assert_eq!(pick(&[], false), Choice::Full);
        assert_eq!(pick(&[View { tier: Tier::Excluded, ..view(0, 9) }], true), Choice::Full);
    }
}
