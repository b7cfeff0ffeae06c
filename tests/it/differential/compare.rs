//! Whether what happened on both paths is the same.

use std::fmt::Write as _;
use std::mem;

use crate::differential::accepted::ACCEPTED;
use crate::differential::case::{Case, Piece, What};
use crate::differential::pair::{Outcome, Pair, Path, Protocol};

/// What a comparison says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// The same as another answer of the server to the same bytes. Its answer depends on how its reads cut the stream,
    /// and on how much it has written when it closes.
    SameByChance,
    /// The names of the accepted differences.
    Accepted(Vec<&'static str>),
    Differs,
}

/// So many differences may be in one case.
const MOST_AT_ONCE: usize = 3;
/// So many cases are tried in the place of one.
const MOST_TRIES: usize = 60;

type Cuts = fn(&Piece) -> Vec<usize>;

/// Ways to cut a piece into writes.
const CUTS: [Cuts; 4] = [
    |piece| piece.cuts.clone(),
    |_| Vec::new(),
    |piece| vec![piece.bytes.len()],
    |piece| if piece.bytes.len() < 2000 { (1..=piece.bytes.len()).collect() } else { Vec::new() },
];

/// Compares what happened to a case. Plays it again where it is not the same.
pub async fn compare(pair: &mut Pair, case: &Case, straight: &Outcome, through: &Outcome) -> Verdict {
    let mut through = through.clone();
    for _ in 0..5 {
        if straight == &through {
            return Verdict::Same;
        }
        if !through.found_no_place() || !pair.says_that_it_waited(&through).await {
            break;
        }
        let before = mem::replace(&mut through, again(pair, Path::ThroughWeir, case).await);
        pair.came_again += usize::from(before != through);
    }
    if pair.protocol == Protocol::WebSocket && is_cut_short(case, straight, &through) {
        return Verdict::SameByChance;
    }
    for way in CUTS.into_iter().cycle().take(8) {
        if again(pair, Path::Straight, &case.cut_at(way)).await == through {
            return Verdict::SameByChance;
        }
    }
    if let Some(names) = accepted(pair, case, straight, &through).await {
        return Verdict::Accepted(names);
    }
    // A server that closes may have read more or less, so both ways may have several ends.
    for _ in 0..if case.is_orderly() { 0 } else { 3 } {
        let straight = again(pair, Path::Straight, case).await;
        let through = again(pair, Path::ThroughWeir, case).await;
        if straight == through {
            return Verdict::SameByChance;
        }
        if let Some(names) = accepted(pair, case, &straight, &through).await {
            return Verdict::Accepted(names);
        }
    }
    Verdict::Differs
}

/// Whether all that was heard straight at the server is the beginning of what was heard through weir, where the server
/// closes: for an error, or without a word for the HPUB of a client that said it has no headers.
fn is_cut_short(case: &Case, straight: &Outcome, through: &Outcome) -> bool {
    let (Some(straight), Some(through)) = (&straight.heard, &through.heard) else { return false };
    let may_close = case.pieces.iter().any(|piece| piece.what == What::Hpub) || through.errors().next().is_some();
    may_close && through.ops.starts_with(&straight.ops)
}

/// Looks for accepted differences with which a case becomes one that has this outcome straight at the server.
async fn accepted(pair: &mut Pair, case: &Case, straight: &Outcome, through: &Outcome) -> Option<Vec<&'static str>> {
    let mut tried = vec![(case.clone(), straight.clone(), Vec::new())];
    let mut next = 0;
    while next < tried.len() && tried.len() < MOST_TRIES {
        let (case, straight, names) = tried[next].clone();
        next += 1;
        if names.len() == MOST_AT_ONCE {
            continue;
        }
        for accepted in ACCEPTED {
            for instead in (accepted.instead)(&case, &straight) {
                let names = [&names[..], &[accepted.name]].concat();
                let as_it_is = again(pair, Path::Straight, &instead).await;
                if as_it_is == *through || again(pair, Path::Straight, &instead.cut_at(CUTS[1])).await == *through {
                    return Some(names);
                }
                if !tried.iter().any(|(other, ..)| *other == instead) {
                    tried.push((instead, as_it_is, names));
                }
            }
        }
    }
    None
}

async fn again(pair: &mut Pair, path: Path, case: &Case) -> Outcome {
    pair.play(path, std::slice::from_ref(case)).await.swap_remove(0)
}

/// Whether a case differs when it is played anew; if so, what happened.
async fn differs(pair: &mut Pair, case: &Case) -> Option<(Outcome, Outcome)> {
    let straight = again(pair, Path::Straight, case).await;
    let through = again(pair, Path::ThroughWeir, case).await;
    let verdict = compare(pair, case, &straight, &through).await;
    (verdict == Verdict::Differs).then_some((straight, through))
}

/// Takes away what the difference does not need, and shows what is left.
pub async fn shrink(pair: &mut Pair, case: &Case, (straight, through): (&Outcome, &Outcome)) -> String {
    let mut smallest = case.clone();
    let mut last = differs(pair, case).await;
    let mut shown = String::new();
    if last.is_none() {
        writeln!(shown, "  it was the same when it was played again; at first it was").unwrap();
        write!(shown, "  straight:\n{straight}  through weir:\n{through}").unwrap();
    }
    // Without its beginning a CONNECT is none.
    let mut at = usize::from(case.asks_who);
    while last.is_some() && at < smallest.pieces.len() {
        let mut fewer = smallest.clone();
        fewer.pieces.remove(at);
        match differs(pair, &fewer).await {
            Some(outcomes) => (smallest, last) = (fewer, Some(outcomes)),
            None => at += 1,
        }
    }
    for way in &CUTS[1..3] {
        let other = smallest.cut_at(way);
        if last.is_some()
            && other != smallest
            && let Some(outcomes) = differs(pair, &other).await
        {
            (smallest, last) = (other, Some(outcomes));
            break;
        }
    }
    write!(shown, "{smallest}").unwrap();
    if let Some((straight, through)) = last {
        write!(shown, "  straight:\n{straight}  through weir:\n{through}{}", pair.log_of(&through)).unwrap();
    }
    shown
}
