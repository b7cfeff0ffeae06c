//! The table of what was measured: medians, weir compared with the best peer, targets.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::stage::Kind;

/// The target that weir has to reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// No target; lower is better.
    None,
    /// No target, and no comparison.
    Told,
    /// At most this times the best peer's value, which is the lowest.
    AtMost(f64),
    /// At least this times the best peer's value, which is the highest.
    AtLeast(f64),
    /// At most this value, whatever the peers do.
    Below(f64),
    /// At most this times the rejector's value.
    OfRejector(f64),
    /// Exactly this value, whatever the peers do.
    Exactly(f64),
}

struct Row {
    name: String,
    target: Target,
    /// By candidate and round.
    samples: BTreeMap<Kind, BTreeMap<u32, f64>>,
}

/// All rows, in the order in which they were declared.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

fn median(values: &BTreeMap<u32, f64>) -> f64 {
    let mut sorted: Vec<f64> = values.values().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl Table {
    /// Declares a row. Rows are printed in the order of their declaration.
    pub(crate) fn declare(&mut self, name: &str, target: Target) {
        if !self.rows.iter().any(|row| row.name == name) {
            self.rows.push(Row { name: name.into(), target, samples: BTreeMap::new() });
        }
    }

    /// Adds a measured value to a declared row.
    pub(crate) fn add(&mut self, name: &str, kind: Kind, round: u32, value: f64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.name == name) {
            row.samples.entry(kind).or_default().insert(round, value);
        }
    }

    /// The table as Markdown.
    pub(crate) fn print(&self, kinds: &[Kind]) -> String {
        let mut text = String::from("| measured |");
        kinds.iter().for_each(|kind| _ = write!(text, " {} |", kind.name()));
        text.push_str(" weir / best peer (each round) | target | met |\n|---|");
        kinds.iter().for_each(|_| text.push_str("---|"));
        text.push_str("---|---|---|\n");
        for row in &self.rows {
            row.print(kinds, &mut text);
        }
        text
    }
}

impl Row {
    fn print(&self, kinds: &[Kind], text: &mut String) {
        let _ = write!(text, "| {} |", self.name);
        for kind in kinds {
            let value = self.samples.get(kind).map_or("–".into(), |values| short(median(values)));
            let _ = write!(text, " {value} |");
        }
        let weir = self.samples.get(&Kind::Weir).map(median);
        let ratio = self.ratio();
        let ratio_text = ratio.map_or("–".into(), |(ratio, low, high)| format!("{ratio:.2} ({low:.2}–{high:.2})"));
        let (target, met) = match (self.target, ratio, weir) {
            (Target::None | Target::Told, ..) => (String::new(), None),
            (Target::AtMost(most) | Target::OfRejector(most), ratio, _) => {
                (format!("≤ {most} ×"), ratio.map(|(ratio, ..)| ratio <= most))
            }
            (Target::AtLeast(least), ratio, _) => (format!("≥ {least} ×"), ratio.map(|(ratio, ..)| ratio >= least)),
            (Target::Below(most), _, weir) => (format!("≤ {most}"), weir.map(|value| value <= most)),
            (Target::Exactly(wanted), _, weir) => (format!("{wanted}"), weir.map(|value| value == wanted)),
        };
        let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
        let _ = writeln!(text, " {ratio_text} | {target} | {met} |");
    }

    /// weir's value divided by the best peer's in the same round: the median, the lowest and the highest. A machine
    /// that is slower in some rounds is slower for both.
    fn ratio(&self) -> Option<(f64, f64, f64)> {
        let higher_is_better = match self.target {
            Target::Told | Target::Exactly(_) => return None,
            Target::AtLeast(_) => true,
            Target::None | Target::AtMost(_) | Target::OfRejector(_) | Target::Below(_) => false,
        };
        let is_peer = |kind: &Kind| match self.target {
            Target::OfRejector(_) => *kind == Kind::Rejector,
            _ => kind.is_peer(),
        };
        let medians = self.samples.iter().filter(|(kind, _)| is_peer(kind)).map(|(&kind, all)| (kind, median(all)));
        let best = |a: (Kind, f64), b: (Kind, f64)| if (b.1 > a.1) == higher_is_better { b } else { a };
        let peer = self.samples.get(&medians.reduce(best)?.0)?;
        let rounds = self.samples.get(&Kind::Weir)?.iter();
        // A peer with a value of 0 leaves nothing to compare with.
        let ratios: BTreeMap<_, _> = rounds
            .filter_map(|(&round, weir)| Some((round, weir / peer.get(&round)?)))
            .filter(|(_, ratio)| ratio.is_finite())
            .collect();
        let least = ratios.values().copied().reduce(f64::min)?;
        Some((median(&ratios), least, ratios.values().copied().fold(least, f64::max)))
    }
}
