//! The sections below the figures: servers, refusals, accounts, storms, sources, leaks.

use ratatui::{
    style::Color,
    text::{Line, Span},
};

use crate::{
    overview::{Server, Storm},
    reports::answer::{GroupKind, Growing},
    top::{
        numbers::{clock, count, duration, percent},
        view::{Choices, bar, bold, colour, dim, fixed, title, within},
        watched::Watched,
    },
};

/// From this share on, in percent, a server or a quota is nearly full.
const HIGH: u64 = 80;

/// The most rows of a section, the servers' excepted.
const ROWS: usize = 12;

/// The columns of a name.
const NAME: usize = 22;

pub(super) fn servers(watched: &Watched, _: &Choices, width: usize) -> Vec<Line<'static>> {
    let all = &watched.overview.servers;
    let used = all.iter().filter(|one| ["up", "slow_start", "throttled"].contains(&&*one.state)).count();
    let key = format!("{used} of {} take clients   █ sessions ▓ logging in ▒ not through weir ░ reserve", all.len());
    let largest = all.iter().map(|one| one.max_connections.unwrap_or(one.connections)).max().unwrap_or(1);
    let mut lines = vec![title("Servers", key)];
    for one in all {
        lines.push(server(one, largest, width));
        if let Some(why) = &one.why {
            let why = format!("   {}", within(why, width.saturating_sub(4).min(64)));
            lines.push(Line::from(colour(why, colour_of(&one.state))));
        }
    }
    lines
}

fn colour_of(state: &str) -> Color {
    match state {
        "up" => Color::Green,
        "slow_start" | "leaving" => Color::Cyan,
        "ejected" | "logins_failing" | "other_cluster" => Color::Red,
        _ => Color::Yellow,
    }
}

fn server(one: &Server, largest: u32, width: usize) -> Line<'static> {
    let state = match &*one.state {
        "ejected" => "down",
        state => state,
    };
    let taken = u64::from(one.connections);
    let (share, is_high) = match one.max_connections {
        Some(most) => {
            let most = u64::from(most);
            (format!("{} of {} {:>5}", count(taken), count(most), percent(taken, most)), taken * 100 >= HIGH * most)
        }
        None if one.limit_known => (format!("{} of no limit", count(taken)), false),
        None => (format!("{} of ?", count(taken)), false),
    };
    let read = one.reading_age_seconds.map_or_else(|| "not read".to_owned(), |age| format!("read {age:.1} s ago"));
    let logins = format!("logins {} of {}", one.handshakes, one.handshake_limit);
    let figures = format!("  {share:>22}  {logins:<17}{read}");
    let columns = width.saturating_sub(1 + NAME + 15 + figures.chars().count().max(58) + 1).max(8);
    let all = u64::from(one.max_connections.unwrap_or(largest).max(1));
    // Of a server without a limit, or whose limit is not known, nothing is kept.
    let reserve = one.max_connections.map_or(0, |most| u64::from(one.reserve.min(most)));
    let free = all.saturating_sub(reserve + taken);
    let parts = [
        (u64::from(one.sessions), '█', Color::Blue),
        (u64::from(one.opening), '▓', Color::Cyan),
        (u64::from(one.others), '▒', Color::Reset),
        (free, ' ', Color::Reset),
        (all.saturating_sub(taken + free), '░', Color::DarkGray),
    ];
    let mut spans = vec![
        bold(format!(" {}", fixed(&one.name, NAME))),
        colour(format!(" {}", fixed(state, 14)), colour_of(&one.state)),
    ];
    spans.extend(bar(&parts, all, columns));
    spans.push(if is_high { colour(figures, Color::Yellow) } else { Span::raw(figures) });
    spans.into()
}

pub(super) fn refusals(watched: &Watched, _: &Choices, width: usize) -> Vec<Line<'static>> {
    let all = &watched.overview.refusals;
    if all.is_empty() {
        return vec![title("Refused", "nobody since weir's start".to_owned())];
    }
    let mut lines = vec![title("Refused", format!("{:>26}{:>10}{:>12}", "1 min", "10 min", "since start"))];
    for one in all.iter().take(ROWS) {
        let last = format!("{:>11}", count(one.last_minute));
        let rest = format!("{:>10}{:>12}", count(one.last_ten_minutes), count(one.total));
        let advice = if one.last_ten_minutes > 0 { &*one.advice } else { "" };
        lines.push(
            vec![
                Span::raw(format!(" {} ", fixed(&one.reason, NAME))),
                if one.last_minute > 0 { colour(last, Color::Red) } else { Span::raw(last) },
                Span::raw(rest),
                dim(format!("  {}", within(advice, width.saturating_sub(60)))),
            ]
            .into(),
        );
    }
    let clients = &watched.overview.refused_clients;
    if !clients.is_empty() {
        let head = format!(" {:<NAME$} {:>11}  who, in the last 10 min", "", "times");
        lines.push(dim(head).into());
    }
    for one in clients.iter().take(ROWS / 2) {
        let parts = [("account", &one.account), ("user", &one.user), ("name", &one.name), ("source", &one.source)];
        let said: Vec<_> =
            parts.iter().filter(|(_, text)| !text.is_empty()).map(|(of, text)| format!("{of} {text}")).collect();
        let row = format!(" {} {:>11}  ", fixed(&one.reason, NAME), count(one.count));
        let said = within(&said.join(", "), width.saturating_sub(row.chars().count() + 1));
        lines.push(Span::raw(row + &said).into());
    }
    lines
}

pub(super) fn accounts(watched: &Watched, choices: &Choices, _: usize) -> Vec<Line<'static>> {
    let overview = &watched.overview;
    let mut all: Vec<_> = overview.accounts.iter().collect();
    choices.sort.sort(&mut all);
    let note = format!("{} in use, by {}", count(overview.accounts_in_use as u64), choices.sort.word());
    let head = format!(" {:<NAME$} {:>11}{:>16}{:>12}", "", "connections", "quota", "refused");
    let mut lines = vec![title("Accounts", note), dim(head).into()];
    for one in all.iter().take(ROWS) {
        let connections = u64::from(one.connections);
        let (quota, is_high) = match one.max_connections.map(u64::from) {
            Some(most) => {
                (format!("{} {:>5}", count(most), percent(connections, most)), connections * 100 >= HIGH * most)
            }
            None => ("none".to_owned(), false),
        };
        let quota = format!("{quota:>16}");
        lines.push(
            vec![
                Span::raw(format!(" {} {:>11}", fixed(&one.name, NAME), count(connections))),
                if is_high { colour(quota, Color::Yellow) } else { Span::raw(quota) },
                Span::raw(format!("{:>12}", count(one.refused))),
            ]
            .into(),
        );
    }
    lines
}

pub(super) fn storms(watched: &Watched, _: &Choices, _: usize) -> Vec<Line<'static>> {
    let (storms, now) = (&watched.overview.storms, watched.overview.now_unix_ms);
    let all: Vec<_> = storms.running.iter().chain(&storms.over).collect();
    if all.is_empty() {
        return vec![title("Storms", "none since weir's start".to_owned())];
    }
    let note = if storms.running.is_some() { "one goes on" } else { "" };
    let head = format!(
        " {:<10}{:>16}{:>13}{:>10}{:>9}{:>10}{:>10}{:>9}",
        "began UTC", "", "lasted", "arrived", "peak", "waiting", "admitted", "refused"
    );
    let mut lines = vec![title("Storms", note.to_owned()), dim(head).into()];
    lines.extend(all.into_iter().take(ROWS / 2).map(|one| storm(one, now)));
    lines
}

fn storm(one: &Storm, now_unix_ms: u64) -> Line<'static> {
    let ago = now_unix_ms.saturating_sub(one.began_unix_ms) / 1000;
    let ago = if one.goes_on { "goes on".to_owned() } else { format!("{} ago", duration(ago)) };
    let text = format!(
        " {:<10}{ago:>16}{:>13}{:>10}{:>9}{:>10}{:>10}{:>9}",
        clock(one.began_unix_ms),
        duration(one.seconds.into()),
        count(one.arrived),
        format!("{}/s", count(one.peak_arrivals)),
        count(one.most_waiting),
        count(one.admitted),
        count(one.refused),
    );
    if one.goes_on { colour(text, Color::Yellow).into() } else { Span::raw(text).into() }
}

pub(super) fn sources(watched: &Watched, _: &Choices, _: usize) -> Vec<Line<'static>> {
    let (large, bad) = (&watched.overview.largest_sources, &watched.overview.sources);
    let row = |source: &str, n: &str| format!(" {} {n:>13}", fixed(source, NAME.max(43)));
    let rows = |all: Vec<(&str, u64)>| {
        all.into_iter()
            .take(ROWS / 2)
            .map(|(source, n)| Span::raw(row(source, &count(n))).into())
            .collect::<Vec<Line<'_>>>()
    };
    let mut lines = vec![title("Sources", if large.is_empty() { "none" } else { "by sessions" }.to_owned())];
    lines.extend(rows(large.iter().map(|one| (&*one.source, one.sessions.into())).collect()));
    lines.push(title("Sources of failed logins", if bad.is_empty() { "none" } else { "" }.to_owned()));
    lines.extend(rows(bad.iter().map(|one| (&*one.source, one.bad_logins)).collect()));
    lines
}

pub(super) fn leaks(watched: &Watched, _: &Choices, width: usize) -> Vec<Line<'static>> {
    let leaks = &watched.overview.leaks;
    let long = duration(leaks.idle_after_seconds);
    let (idle, unnamed) = (count(leaks.idle_sessions.into()), count(leaks.unnamed_sessions.into()));
    let mut lines = vec![title("Leaks", format!("{idle} sessions idle for {long}, {unnamed} without a name"))];
    if leaks.growing.is_empty() {
        lines.push(dim(" no name, user or source has connections that only grow".to_owned()).into());
        return lines;
    }
    let name = width.saturating_sub(1 + 46).min(60);
    let head = format!(" {:<name$}{:>12}{:>9}{:>12}  {}", "only grows", "connections", "idle", "per min", "confidence");
    lines.push(dim(head).into());
    lines.extend(leaks.growing.iter().take(ROWS).map(|one| leak(one, name)));
    lines
}

fn leak(one: &Growing, name: usize) -> Line<'static> {
    let Growing { by, account, group, connections, idle, per_minute, confidence, .. } = one;
    let group = match by {
        GroupKind::Name => format!("name {group} of {account}"),
        GroupKind::User => format!("user {group} of {account}"),
        GroupKind::Source => format!("source {group}"),
    };
    vec![
        Span::raw(format!(" {}{:>12}{:>9}", fixed(&group, name), count((*connections).into()), count((*idle).into()))),
        colour(format!("{:>12}", format!("+{per_minute:.1}")), Color::Yellow),
        Span::raw(format!("  {}", confidence.name())),
    ]
    .into()
}
