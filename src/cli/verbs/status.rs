//! `weir status` for people: everything within 100 columns.

use std::fmt::Write;

use crate::{
    admin::socket::Status,
    cli::fleet::mode_in_words,
    fleet::view::Summary,
    overview::{Clients, Fleet, Overview, Server, moves_in_words},
};

/// The columns that a line may have.
const WIDEST: usize = 100;

/// The status as text.
pub(super) fn table(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, status);
    text
}

fn write(text: &mut String, status: &Status) -> std::fmt::Result {
    let Status { pid, configuration, overview, .. } = status;
    let (version, up) = (&overview.weir.version, words_of(overview.weir.uptime_seconds as u64));
    line(text, &format!("weir {version}, {}, up {up}, pid {pid}, configuration {configuration}", state(status)))?;
    if let Some(error) = &overview.health.error {
        line(text, &format!("NOT READY: {error}"))?;
    }
    let Clients { sessions, waiting, being_refused, pace, .. } = &overview.clients;
    let pace = pace.map_or_else(|| "unknown".to_owned(), |pace| format!("{pace} clients/s"));
    line(text, &format!("sessions {sessions}   held {waiting}   being refused {being_refused}   pace {pace}"))?;
    if status.log_level == status.log_level_configured {
        line(text, &format!("log level {}", status.log_level))?;
    } else {
        line(text, &format!("log level {}, by the configuration {}", status.log_level, status.log_level_configured))?;
    }
    if let Some(Fleet { summary, .. }) = &overview.fleet {
        let Summary { name, live, missing, sessions, .. } = summary;
        let weirs = if *live == 1 { "1 weir".to_owned() } else { format!("{live} weirs") };
        let gone = if *missing > 0 { format!(", {missing} MISSING") } else { String::new() };
        line(text, &format!("fleet {name}: {weirs}{gone}, {sessions} sessions, {}", mode_in_words(summary)))?;
    }
    if let Some(storm) = &overview.storms.running {
        let lasts = words_of(storm.seconds.into());
        let (arrived, admitted, refused) = (storm.arrived, storm.admitted, storm.refused);
        line(text, &format!("a storm for {lasts}: {arrived} arrived, {admitted} admitted, {refused} refused"))?;
    }
    for moves in moves_in_words(&overview.moves.under_way) {
        line(text, &moves)?;
    }
    servers(text, &overview.servers)?;
    refusals(text, overview)
}

fn state(status: &Status) -> String {
    match &status.paused {
        Some(paused) => format!("PAUSED for {} by {}", words_of(paused.seconds), paused.by),
        None => status.state.replace('_', " "),
    }
}

fn servers(text: &mut String, servers: &[Server]) -> std::fmt::Result {
    let longest = |column: fn(&Server) -> &str| servers.iter().map(|one| column(one).chars().count()).max();
    let name = longest(|one| &one.name).unwrap_or(0).clamp("SERVER".len(), 24);
    let state = longest(|one| &one.state).unwrap_or(0).clamp("STATE".len(), 14);
    writeln!(text)?;
    let header = format!("{:<name$}  {:<state$}  {:>8}", "SERVER", "STATE", "SESSIONS");
    line(text, &format!("{header}  {:>15}  {:>7}  WHY NOT", "USED/LIMIT", "LOGINS"))?;
    for one in servers {
        let limit = match (one.max_connections, one.limit_known) {
            (Some(limit), _) => limit.to_string(),
            (None, true) => "none".to_owned(),
            (None, false) => "?".to_owned(),
        };
        let used = format!("{}/{limit}", one.connections);
        let logins = format!("{}/{}", one.handshakes, one.handshake_limit);
        let server = cut(&one.name, name);
        let why = one.why.as_deref().unwrap_or_default();
        let now = cut(&one.state, state);
        let row = format!("{server:<name$}  {now:<state$}  {:>8}  {used:>15}  {logins:>7}", one.sessions);
        // Behind the row where it fits, else below it.
        let beside = format!("{row}  {why}");
        if beside.chars().count() <= WIDEST {
            line(text, &beside)?;
        } else {
            line(text, &row)?;
            line(text, &format!("{:<name$}  {why}", ""))?;
        }
    }
    Ok(())
}

/// Refusals of the last minute by reason, with what to do.
fn refusals(text: &mut String, overview: &Overview) -> std::fmt::Result {
    let recent: Vec<_> = overview.refusals.iter().filter(|one| one.last_minute > 0).collect();
    if recent.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n{:<20}  {:>11}  WHAT TO DO", "REFUSED FOR", "LAST MINUTE")?;
    for one in recent {
        line(text, &format!("{:<20}  {:>11}  {}", one.reason, one.last_minute, one.advice))?;
    }
    Ok(())
}

/// One line, with no blanks at its end.
fn line(text: &mut String, line: &str) -> std::fmt::Result {
    writeln!(text, "{}", cut(line.trim_end(), WIDEST))
}

/// A text of at most so many characters; one that is longer ends in `…`.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A time in its two largest units.
fn words_of(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admin::socket::status::PausedStatus,
        outcome::Refusal,
        overview::{Refusals, Storm},
    };

    fn crowded() -> Status {
        let server = |n: u32, state: &str, why: Option<&str>| Server {
            name: format!("a-server-with-a-name-of-more-than-twenty-four-characters-{n}"),
            state: state.into(),
            why: why.map(str::to_owned),
            sessions: 9_999_999,
            connections: 9_999_999,
            max_connections: Some(10_000_000),
            limit_known: true,
            handshakes: 512,
            handshake_limit: 512,
            ..Server::default()
        };
        let why = "it fails logins that other servers let in; one client tries it again in 29.9 s";
        let mut overview = Overview::default();
        overview.weir.version = "0.1.0".into();
        overview.weir.uptime_seconds = 86_400.0 * 365.0;
        overview.health.error = Some("no usable server".into());
        overview.clients.sessions = 9_999_999;
        overview.clients.waiting = 100_000;
        overview.clients.pace = Some(12_345.6);
        overview.servers = vec![server(1, "logins_failing", Some(why)), server(2, "up", None)];
        let storm = Storm { seconds: 7_200, arrived: 10_000_000, admitted: 10_000_000, ..Storm::default() };
        overview.storms.running = Some(storm);
        let reason = |reason: Refusal| Refusals {
            reason: reason.name().into(),
            advice: reason.advice().into(),
            last_minute: 1_000_000,
            ..Refusals::default()
        };
        overview.refusals = Refusal::ALL.map(reason).into();
        Status {
            pid: 4_194_304,
            configuration: "/etc/a/path/that/is/long/".repeat(4) + "weir.toml",
            state: "paused".into(),
            paused: Some(PausedStatus { seconds: 3_600, by: "a-user-with-a-long-name".into() }),
            log_level: "weir=debug,warn".into(),
            log_level_configured: "info".into(),
            overview,
        }
    }

    #[test]
    fn everything_fits_into_a_hundred_columns() {
        let text = table(&crowded());
        let widths: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width <= WIDEST), "{widths:?}\n{text}");
        for part in [
            "PAUSED for 1h 0m by a-user",
            "NOT READY: no usable server",
            "9999999/10000000",
            "logins_failing",
            "  it fails logins that other servers let in; one client tries it",
            "log level weir=debug,warn, by the configuration info",
            "a storm for 2h 0m",
            "server_refuses_login      1000000  a server has other users",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_calm_weir_is_shown_in_few_lines() {
        let server = Server { name: "n1".into(), state: "up".into(), handshake_limit: 1, ..Server::default() };
        let mut status = Status { state: "serving".into(), ..Status::default() };
        status.overview.servers = vec![server];
        status.overview.weir.uptime_seconds = 61.0;
        let text = table(&status);
        assert!(text.starts_with("weir , serving, up 1m 1s, pid 0"), "{text}");
        assert!(text.contains("n1      up            0              0/?      0/1\n"), "{text}");
        assert_eq!(text.lines().count(), 6, "{text}");
    }

    #[test]
    fn an_answer_of_another_version_is_read_as_far_as_it_goes() {
        let status: Status = serde_json::from_str("{\"pid\": 7, \"clients\": {\"sessions\": 3}, \"new\": []}").unwrap();
        assert_eq!((status.pid, status.overview.clients.sessions), (7, 3));
    }

    #[test]
    fn times_have_two_units() {
        for (seconds, words) in [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3_660, "1h 1m"), (90_000, "1d 1h")] {
            assert_eq!(words_of(seconds), words);
        }
    }
}
