//! What is watched as lines of text with colours. What colours say words say too.

mod sections;

use std::{cmp::Reverse, time::Duration};

use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use crate::{
    fleet::view::Summary,
    growth::Confidence,
    overview::{Account, Warning, moves_in_words},
    tally::shown,
    top::{
        numbers::{bytes, clock, count, duration, mean, rate},
        watched::Watched,
    },
};

/// The widths between which lines are laid out, in columns.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=200;

/// Rates are means of so many seconds.
const MEAN: usize = 10;

/// From this age on the numbers are old.
const OLD: Duration = Duration::from_secs(3);

/// By what accounts are sorted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Connections,
    /// The share of the quota that is used.
    Quota,
    Refused,
    Name,
}

impl Sort {
    pub fn next(self) -> Self {
        match self {
            Self::Connections => Self::Quota,
            Self::Quota => Self::Refused,
            Self::Refused => Self::Name,
            Self::Name => Self::Connections,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Quota => "quota used",
            Self::Refused => "refused",
            Self::Name => "name",
        }
    }

    fn sort(self, accounts: &mut [&Account]) {
        match self {
            // As they come.
            Self::Connections => {}
            Self::Quota => accounts.sort_by_key(|one| {
                Reverse(one.max_connections.map(|most| u64::from(one.connections) * 10_000 / u64::from(most.max(1))))
            }),
            Self::Refused => accounts.sort_by_key(|one| Reverse(one.refused)),
            Self::Name => accounts.sort_by(|a, b| a.name.cmp(&b.name)),
        }
    }
}

/// What who looks has chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    pub is_paused: bool,
    pub sort: Sort,
    /// Lines above the screen.
    pub scrolled: usize,
    /// Sections that are left out, in the order of their keys.
    hidden: [bool; SECTIONS.len()],
}

impl Choices {
    /// Shows the section of this key, counted from 0, or leaves it out.
    pub fn toggle(&mut self, section: usize) {
        if let Some(hidden) = self.hidden.get_mut(section) {
            *hidden = !*hidden;
        }
    }
}

type Section = fn(&Watched, &Choices, usize) -> Vec<Line<'static>>;

/// The sections by their keys, 1 first.
const SECTIONS: [(&str, Section); 6] = [
    ("servers", sections::servers),
    ("refused", sections::refusals),
    ("accounts", sections::accounts),
    ("storms", sections::storms),
    ("sources", sections::sources),
    ("leaks", sections::leaks),
];

/// Everything, for a screen that is `width` columns wide.
pub fn lines(watched: &Watched, choices: &Choices, width: usize) -> Vec<Line<'static>> {
    let width = width.clamp(*WIDTHS.start(), *WIDTHS.end());
    let mut lines = head(watched, choices, width);
    lines.push(Line::default());
    lines.extend(figures(watched, width));
    lines.extend(fleet(watched));
    let moves = moves_in_words(&watched.overview.moves.under_way).into_iter();
    lines.extend(moves.map(|words| Line::from(colour(format!(" {}", within(&words, width - 2)), Color::Cyan))));
    lines.extend(warnings(watched));
    for ((_, section), _) in SECTIONS.iter().zip(choices.hidden).filter(|(_, hidden)| !hidden) {
        lines.push(Line::default());
        lines.extend(section(watched, choices, width));
    }
    lines
}

/// The line of keys.
pub fn keys(choices: &Choices) -> Line<'static> {
    let sections = SECTIONS.iter().enumerate().map(|(n, (name, _))| format!("{} {name}", n + 1));
    let sections = sections.collect::<Vec<_>>().join("  ");
    let pause = if choices.is_paused { "p go on" } else { "p pause" };
    dim(format!(" q quit  {pause}  s sort accounts  {sections}  ↑↓ scroll")).into()
}

fn head(watched: &Watched, choices: &Choices, width: usize) -> Vec<Line<'static>> {
    let overview = &watched.overview;
    let health = match (&overview.health.error, overview.storms.running.is_some()) {
        (Some(error), _) => colour(shown(error), Color::Red),
        (None, _) if overview.clients.paused => colour("paused by an operator".to_owned(), Color::Red),
        (None, true) => colour("in a storm".to_owned(), Color::Yellow),
        (None, false) => colour("serving".to_owned(), Color::Green),
    };
    let left = vec![
        bold(format!(" weir {}", shown(&overview.weir.version))),
        "  ".into(),
        health,
        dim(format!("  up {}", duration(overview.weir.uptime_seconds as u64))),
        if choices.is_paused { colour("  paused".to_owned(), Color::Yellow) } else { "".into() },
    ];
    let right = dim(format!("{}  {} UTC ", shown(&watched.at), clock(overview.now_unix_ms)));
    let mut lines = vec![apart(left, vec![right], width)];
    let age = watched.got_at.elapsed();
    if let Some(why) = &watched.failed {
        let why = format!(" weir is not to be reached: {}", shown(why));
        lines.push(Line::from(colour(why, Color::Red)));
    }
    if watched.failed.is_some() || age > OLD {
        let old = format!(" these numbers are {} old", duration(age.as_secs()));
        lines.push(Line::from(colour(old, Color::Red)));
    }
    lines
}

fn figures(watched: &Watched, width: usize) -> Vec<Line<'static>> {
    let (overview, history) = (&watched.overview, &watched.overview.history);
    let clients = &overview.clients;
    let room = clients
        .headroom
        .map_or_else(|| "a server has no known limit".to_owned(), |n| format!("room for {} more", count(n)));
    let room = match clients.leafnodes {
        0 => room,
        leafnodes => format!("{} leafnodes; {room}", count(leafnodes)),
    };
    let pace =
        clients.pace.map_or_else(|| "nobody had to wait yet".to_owned(), |pace| format!("pace {}/s", rate(pace)));
    let refused: u64 = history.refused.iter().rev().take(60).sum();
    let per_second = |values: &[u64]| format!("{}/s", rate(mean(values, MEAN)));
    let rows = [
        ("sessions", count(clients.sessions), &history.sessions, room, Color::Blue),
        ("waiting", count(clients.waiting), &history.waiting, pace, Color::Yellow),
        ("arriving", per_second(&history.arrived), &history.arrived, String::new(), Color::Reset),
        (
            "admitted",
            per_second(&history.admitted),
            &history.admitted,
            format!("{} in all", count(clients.admitted)),
            Color::Green,
        ),
        (
            "refused",
            per_second(&history.refused),
            &history.refused,
            format!("{} in the last minute", count(refused)),
            Color::Red,
        ),
    ];
    let notes = rows.iter().map(|(_, _, _, note, _)| note.chars().count()).max().unwrap_or(0).max(24);
    let curve = width.saturating_sub(1 + 9 + 10 + 2 + notes + 2);
    let mut lines: Vec<Line<'static>> = rows
        .into_iter()
        .map(|(name, figure, values, note, of)| {
            let figure = format!("{figure:>10}");
            let figure = if name == "refused" && refused > 0 { colour(figure, of) } else { bold(figure) };
            vec![
                dim(format!(" {name:<9}")),
                figure,
                "  ".into(),
                Span::raw(format!("{note:<notes$}  ")),
                Span::styled(sparkline(values, curve), Style::new().fg(of)),
            ]
            .into()
        })
        .collect();
    let memory = overview.weir.memory_bytes.map_or_else(|| "-".to_owned(), bytes);
    let relayed = |values: &[u64]| bytes(mean(values, MEAN) as u64);
    lines.push(
        dim(format!(
            " relayed {}/s up, {}/s down   CPU {:.1} %   memory {memory}   files {} of {}",
            relayed(&history.bytes_up),
            relayed(&history.bytes_down),
            watched.cpu,
            overview.weir.open_files.map_or_else(|| "-".to_owned(), count),
            overview.weir.max_open_files.map_or_else(|| "-".to_owned(), count),
        ))
        .into(),
    );
    lines
}

/// The fleet, where there is one.
fn fleet(watched: &Watched) -> Option<Line<'static>> {
    let Summary { name, mode, why, live, missing, sessions, waiting, connected, .. } =
        &watched.overview.fleet.as_ref()?.summary;
    let weirs = if *live == 1 { "1 weir".to_owned() } else { format!("{live} weirs") };
    let (sessions, waiting) = (count(*sessions), count(*waiting));
    let mut line = vec![
        dim(format!(" {:<9}", "fleet")),
        bold(format!("{:>10}", within(name, 10))),
        Span::raw(format!("  {weirs}, {sessions} sessions, {waiting} waiting  ")),
    ];
    line.push(match &**mode {
        "lease" => dim("quotas by leases".to_owned()),
        "alone" => colour("no other weir to be seen".to_owned(), Color::Yellow),
        mode => {
            let why = why.as_ref().map_or_else(String::new, |why| format!(": {}", within(why, 60)));
            colour(format!("quotas by the {}{why}", within(mode, 10)), Color::Red)
        }
    });
    if *missing > 0 {
        line.push(colour(format!("  {missing} missing"), Color::Red));
    }
    if !connected {
        line.push(colour("  not connected to the fleet".to_owned(), Color::Red));
    }
    Some(line.into())
}

/// The warnings that are shown.
const WARNINGS: usize = 5;

/// What is nearly full or full.
fn warnings(watched: &Watched) -> Vec<Line<'static>> {
    let warning = |one: &Warning| {
        let (is_full, of) = (one.level == "full", format!("{} {}", shown(&one.of), within(&one.name, 30)));
        let perhaps =
            if one.growth.is_some_and(|growth| growth.confidence == Confidence::Low) { "perhaps " } else { "" };
        let left = one.full.map(|full| full.seconds).filter(|left| !is_full && *left > 0);
        let lasts = left.map(|left| format!(", full in {perhaps}{}", duration(left)));
        let how = if is_full { "is full" } else { "is nearly full" };
        let (connections, most) = (count(one.connections.into()), count(one.max_connections.into()));
        let text = format!(" {of} {how}: {connections} of {most}{}", lasts.unwrap_or_default());
        Line::from(colour(text, if is_full { Color::Red } else { Color::Yellow }))
    };
    watched.overview.warnings.iter().take(WARNINGS).map(warning).collect()
}

/// The last `width` values, one a column, each as high as its share of the highest.
fn sparkline(values: &[u64], width: usize) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let last = &values[values.len().saturating_sub(width)..];
    let most = last.iter().copied().max().unwrap_or(0).max(1);
    let height = |&n: &u64| match n {
        0 => ' ',
        n => HEIGHTS[usize::try_from((n * 8).div_ceil(most)).unwrap_or(8).clamp(1, 8) - 1],
    };
    let drawn: String = last.iter().map(height).collect();
    format!("{drawn:>width$}")
}

/// A bar of `width` columns, filled by parts of `all`, each with its character. No part that is there is invisible, as
/// far as there is room.
fn bar(parts: &[(u64, char, Color)], all: u64, width: usize) -> Vec<Span<'static>> {
    let (mut spans, mut left, mut before, mut drawn) = (Vec::new(), width, 0_u64, 0_usize);
    for &(n, character, of) in parts {
        before += n;
        let end = (before.min(all) as f64 / all.max(1) as f64 * width as f64).round() as usize;
        let columns = end.saturating_sub(drawn).max(usize::from(n > 0)).min(left);
        (left, drawn) = (left - columns, drawn + columns);
        let text: String = std::iter::repeat_n(character, columns).collect();
        spans.push(Span::styled(text, Style::new().fg(of)));
    }
    spans.push(Span::raw(" ".repeat(left)));
    spans
}

/// Both ends of a line, with as much between them as there is room.
fn apart(left: Vec<Span<'static>>, right: Vec<Span<'static>>, width: usize) -> Line<'static> {
    let (mut line, right) = (Line::from(left), Line::from(right));
    let between = width.saturating_sub(line.width() + right.width()).max(2);
    line.push_span(" ".repeat(between));
    line.spans.extend(right.spans);
    line
}

/// A text in exactly so many columns: what is longer is cut off.
fn fixed(text: &str, columns: usize) -> String {
    let text = shown(text);
    if text.chars().count() > columns {
        let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
        return format!("{kept}…");
    }
    format!("{text:<columns$}")
}

/// The beginning of a text, that fits.
fn within(text: &str, columns: usize) -> String {
    fixed(text, columns).trim_end().to_owned()
}

fn title(name: &str, note: String) -> Line<'static> {
    vec![bold(format!(" {name}")), dim(format!("  {note}"))].into()
}

fn bold(text: String) -> Span<'static> {
    Span::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

fn dim(text: String) -> Span<'static> {
    Span::styled(text, Style::new().add_modifier(Modifier::DIM))
}

fn colour(text: String, of: Color) -> Span<'static> {
    Span::styled(text, Style::new().fg(of).add_modifier(Modifier::BOLD))
}

#[cfg(test)]
pub mod tests;
