//! Which server a new client goes to: the one with the lowest projected share of its ceiling, ties at random.

/// How willingly a server is used; a lower rank is used only when no higher one has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Up, with a fresh reading (or weir's own counts where there is no monitor).
    Eligible,
    /// Its last reading is old: the last resort.
    Stale,
    /// Ejected: used only when every server is, since then there is nothing to lose.
    Ejected,
    /// Lame duck, full by its own word, or tried by this client already: never.
    Never,
}

/// One server as placement sees it.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// How willingly.
    pub rank: Rank,
    /// Connections it has now.
    pub projected: u32,
    /// How many it may have.
    pub ceiling: u32,
    /// Handshakes under way.
    pub handshakes: u32,
    /// How many may be under way at once.
    pub handshake_limit: u32,
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

/// How far above the least loaded server another's share may be and still stand in for it while that one is busy with handshakes.
const EVEN_ENOUGH: f64 = 0.01;

/// What placement says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This one, by its index.
    Server(usize),
    /// There is room, but the server that should have the client is busy with handshakes: wait a moment.
    Busy,
    /// No server has room.
    Full,
}

/// The least loaded of the candidates seen so far, ties decided by reservoir sampling.
#[derive(Default)]
struct Least {
    best: Option<(usize, f64)>,
    ties: u32,
}

impl Least {
    fn offer(&mut self, index: usize, share: f64, rng: &mut fastrand::Rng) {
        match self.best {
            Some((_, least)) if share > least => return,
            Some((_, least)) if share == least => {
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

/// The ranks that may be used, best first. Ejected servers are worth a try only when there is no other at all: a full cluster
/// is not mended by dialling a dead server.
fn ranks(mut views: impl Iterator<Item = View>) -> &'static [Rank] {
    if views.all(|view| view.rank >= Rank::Ejected) { &[Rank::Ejected] } else { &[Rank::Eligible, Rank::Stale] }
}

/// How many clients those servers could take that may be used.
pub fn headroom(views: impl Iterator<Item = View> + Clone) -> u32 {
    let ranks = ranks(views.clone());
    let usable = views.filter(|view| ranks.contains(&view.rank));
    usable.fold(0, |sum, view| sum.saturating_add(view.ceiling.saturating_sub(view.projected)))
}

/// Chooses among `views`. An `urgent` client takes any server with room rather than waiting for the least loaded one.
pub fn choose(views: impl Iterator<Item = View> + Clone, urgent: bool, rng: &mut fastrand::Rng) -> Choice {
    for &rank in ranks(views.clone()) {
        let (mut lowest, mut free) = (f64::INFINITY, Least::default());
        for (index, view) in views.clone().enumerate().filter(|(_, v)| v.rank == rank && v.has_room()) {
            let share = view.share();
            // Unlike `min` it needs no thought of NaN.
            if share < lowest {
                lowest = share;
            }
            if !view.is_busy() {
                free.offer(index, share, rng);
            }
        }
        match free.best {
            Some((index, share)) if urgent || share <= lowest + EVEN_ENOUGH => return Choice::Server(index),
            _ if lowest.is_finite() => return Choice::Busy,
            _ => {}
        }
    }
    Choice::Full
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(projected: u32, ceiling: u32) -> View {
        View { rank: Rank::Eligible, projected, ceiling, handshakes: 0, handshake_limit: 16 }
    }

    fn pick(views: &[View], urgent: bool) -> Choice {
        choose(views.iter().copied(), urgent, &mut fastrand::Rng::with_seed(1))
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
            let Choice::Server(i) = choose([view(5, 10); 3].iter().copied(), false, &mut rng) else { panic!() };
            hits[i] += 1;
        }
        assert!(hits.iter().all(|&n| n > 850), "{hits:?}");
    }

    #[test]
    fn stale_only_when_no_other_has_room() {
        let stale = View { rank: Rank::Stale, ..view(0, 100) };
        assert_eq!(pick(&[stale, view(99, 100)], false), Choice::Server(1));
        assert_eq!(pick(&[stale, view(100, 100)], false), Choice::Server(0));
    }

    #[test]
    fn ejected_only_when_all_are() {
        let out = View { rank: Rank::Ejected, ..view(0, 100) };
        assert_eq!(pick(&[out, view(100, 100)], false), Choice::Full);
        assert_eq!(pick(&[out, View { rank: Rank::Never, ..view(0, 100) }], false), Choice::Server(0));
    }

    #[test]
    fn a_busy_newcomer_is_waited_for_unless_urgent() {
        let newcomer = View { handshakes: 16, ..view(0, 100) };
        assert_eq!(pick(&[newcomer, view(50, 100)], false), Choice::Busy);
        assert_eq!(pick(&[newcomer, view(50, 100)], true), Choice::Server(1));
        assert_eq!(pick(&[newcomer, view(1, 100)], false), Choice::Server(1), "even enough");
    }

    fn any_view() -> impl Strategy<Value = View> {
        let rank = prop::sample::select(vec![Rank::Eligible, Rank::Stale, Rank::Ejected, Rank::Never]);
        (rank, 0u32..6, 0u32..6, 0u32..4, 0u32..4).prop_map(
            |(rank, projected, ceiling, handshakes, handshake_limit)| View {
                rank,
                projected,
                ceiling,
                handshakes,
                handshake_limit,
            },
        )
    }

    /// Every choice that is right.
    fn right(views: &[View], urgent: bool) -> Vec<Choice> {
        let ranks = match views.iter().all(|v| v.rank >= Rank::Ejected) {
            true => vec![Rank::Ejected],
            false => vec![Rank::Eligible, Rank::Stale],
        };
        for rank in ranks {
            let room = || views.iter().enumerate().filter(|(_, v)| v.rank == rank && v.has_room());
            let least =
                |views: &mut dyn Iterator<Item = (usize, &View)>| views.map(|(_, v)| v.share()).min_by(f64::total_cmp);
            let Some(lowest) = least(&mut room()) else { continue };
            let free = least(&mut room().filter(|(_, v)| !v.is_busy()));
            let Some(share) = free.filter(|&share| urgent || share <= lowest + EVEN_ENOUGH) else {
                return vec![Choice::Busy];
            };
            let best = room().filter(|(_, v)| !v.is_busy() && v.share() == share);
            return best.map(|(index, _)| Choice::Server(index)).collect();
        }
        vec![Choice::Full]
    }

    proptest! {
        #[test]
        fn the_choice_is_a_right_one(views in prop::collection::vec(any_view(), 0..6), urgent in any::<bool>(), seed in any::<u64>()) {
            let choice = choose(views.iter().copied(), urgent, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(right(&views, urgent).contains(&choice), "{choice:?} of {views:?}");
        }
    }

    #[test]
    fn nothing_to_choose_from() {
        assert_eq!(pick(&[], false), Choice::Full);
        assert_eq!(pick(&[View { rank: Rank::Never, ..view(0, 9) }], true), Choice::Full);
    }
}
