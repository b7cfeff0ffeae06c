//! `weir report`: the reports of a running weir as tables.

use std::{fmt::Write as _, io::Write as _, process::ExitCode};

use clap::{Args, ValueEnum};
use rustix::termios::tcgetwinsize;
use serde_json::Value;

use crate::{
    cli::{
        BAD_CONFIGURATION, RUN_FAILED,
        ask_monitor::{MonitorOf, Unanswered},
        complain,
        table::{Column, table, time, wrapped},
    },
    reports::answer::{
        AccountSpread, Answer, Churn, Distribution, GroupKind, Headroom, Leaks, Refusals, Room, ServerShare, TimeLeft,
    },
};

/// Where the terminal does not say how wide it is.
const WIDTH: usize = 100;

/// With more servers than this an account has no column for each of them.
const MOST_SERVERS: usize = 6;

/// Show who is refused, what leaks, who reconnects, where the sessions are, and how long the room lasts.
#[derive(Debug, Args)]
pub(super) struct Report {
    /// One report; all of them where none is named.
    #[arg(value_enum)]
    report: Option<Which>,
    #[command(flatten)]
    of: MonitorOf,
    /// The most rows of each table.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Of refusals, only those for this reason.
    #[arg(long)]
    reason: Option<String>,
    /// Of refusals and churn, only clients of this account.
    #[arg(long)]
    account: Option<String>,
    /// Of refusals and churn, only clients with this user.
    #[arg(long)]
    user: Option<String>,
    /// Of refusals and churn, only clients with this name.
    #[arg(long)]
    name: Option<String>,
    /// Of refusals and churn, only clients from this address; of IPv6 the /64.
    #[arg(long)]
    source: Option<String>,
    /// Print the answer of /reportz as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// Who did not get in in the last hour, and why.
    Refusals,
    /// Connections that only grow, that are idle, and that have no name.
    Leaks,
    /// Who connects again and again.
    Churn,
    /// How sessions are spread over the servers.
    Distribution,
    /// How full servers and accounts are, and when there is no room left.
    Headroom,
}

impl Report {
    pub(super) fn execute(self) -> ExitCode {
        let body = match self.of.get(&self.path()) {
            Ok(body) => body,
            Err(Unanswered::Usage(why)) => {
                complain(&why);
                return ExitCode::from(BAD_CONFIGURATION);
            }
            Err(Unanswered::Failed(why)) => {
                complain(&why);
                return ExitCode::from(RUN_FAILED);
            }
        };
        let text = if self.json {
            serde_json::from_slice::<Value>(&body).ok().and_then(|all| serde_json::to_string_pretty(&all).ok())
        } else {
            let width = tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col));
            let width = if width == 0 { WIDTH } else { width };
            serde_json::from_slice(&body).ok().map(|answer| tables(&answer, width))
        };
        let Some(text) = text else {
            complain("what answers is no weir, or another version of it");
            return ExitCode::from(RUN_FAILED);
        };
        // A closed stdout (`weir report | head`) is not an error.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
        ExitCode::SUCCESS
    }

    fn path(&self) -> String {
        let mut query = form_urlencoded::Serializer::new("/reportz?".to_owned());
        query.append_pair("limit", &self.limit.to_string());
        let report = self.report.and_then(|report| report.to_possible_value());
        let report = report.as_ref().map(clap::builder::PossibleValue::get_name);
        let only = [
            ("report", report),
            ("reason", self.reason.as_deref()),
            ("account", self.account.as_deref()),
            ("user", self.user.as_deref()),
            ("name", self.name.as_deref()),
            ("source", self.source.as_deref()),
        ];
        for (key, value) in only {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        // What a form writes as a plus is a blank in every query.
        query.finish().replacen("/reportz?&", "/reportz?", 1)
    }
}

/// All that was answered.
fn tables(answer: &Answer, width: usize) -> String {
    let parts = [
        answer.refusals.as_ref().map(|report| refusals(report, width)),
        answer.leaks.as_ref().map(|report| leaks(report, width)),
        answer.churn.as_ref().map(|report| churn(report, width)),
        answer.distribution.as_ref().map(|report| distribution(report, width)),
        answer.headroom.as_ref().map(|report| headroom(report, width)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n")
}

use Column::{Number, Text};

/// For how long something has been counted.
fn in_the_last(seconds: u64) -> String {
    format!("in the last {}", if seconds >= 3600 { "hour".to_owned() } else { time(seconds.max(1)) })
}

fn ago(minutes: u64) -> String {
    if minutes == 0 { "now".to_owned() } else { format!("{minutes} min ago") }
}

fn refusals(report: &Refusals, width: usize) -> String {
    let Refusals { seconds, total, reasons, clients, .. } = report;
    if *total == 0 {
        return "REFUSALS  none\n".to_owned();
    }
    let mut text = format!("REFUSALS  {total} {}", in_the_last(*seconds));
    let listed: Vec<_> = reasons.iter().take(3).map(|one| format!("{} {}", one.reason, one.count)).collect();
    let _ = writeln!(text, ": {}\n", listed.join(", "));
    let rows: Vec<_> = clients
        .iter()
        .map(|one| {
            let texts = [&one.reason, &one.account, &one.user, &one.name, &one.source].map(Clone::clone);
            texts.into_iter().chain([one.count.to_string(), ago(one.minutes_ago)]).collect()
        })
        .collect();
    let columns =
        [Text("reason"), Text("account"), Text("user"), Text("name"), Text("source"), Number("count"), Number("last")];
    text.push_str(&if rows.is_empty() { "  no client like that\n".to_owned() } else { table(&columns, &rows, width) });
    let advice = reasons.iter().take(3).filter_map(|one| Some((&one.reason, one.advice.as_ref()?)));
    for (n, (reason, advice)) in advice.enumerate() {
        text.push_str(if n == 0 { "\n" } else { "" });
        text.push_str(&wrapped(&format!("{reason}: {advice}"), width));
    }
    text
}

fn leaks(report: &Leaks, width: usize) -> String {
    let Leaks { sessions, idle_after_seconds, idle_sessions, unnamed_sessions, growing, idle, unnamed } = report;
    let long = time(*idle_after_seconds);
    let mut text = format!(
        "LEAKS  {sessions} sessions, {idle_sessions} idle for {long} or longer, {unnamed_sessions} without a name\n"
    );
    text.push_str("\n  Only grow\n");
    let rows: Vec<_> = growing
        .iter()
        .map(|one| {
            let by = match one.by {
                GroupKind::Name => "name",
                GroupKind::User => "user",
                GroupKind::Source => "source",
            };
            vec![
                by.to_owned(),
                one.account.clone(),
                one.group.clone(),
                one.connections.to_string(),
                one.idle.to_string(),
                format!("+{}", one.grown),
                time(one.over_seconds),
                format!("{:.1}", one.per_minute),
                one.confidence.name().to_owned(),
            ]
        })
        .collect();
    let columns = [
        Text("by"),
        Text("account"),
        Text("which"),
        Number("now"),
        Number("idle"),
        Number("grown"),
        Number("over"),
        Number("per min"),
        Text("confidence"),
    ];
    text.push_str(&or_none(&columns, &rows, width));
    let _ = writeln!(text, "\n  Without a message either way for {long}");
    let rows: Vec<_> = idle
        .iter()
        .map(|one| {
            let texts = [&one.account, &one.user, &one.name, &one.source].map(Clone::clone);
            let numbers = [one.idle.to_string(), one.connections.to_string(), time(one.longest_idle_seconds)];
            texts.into_iter().chain(numbers).collect()
        })
        .collect();
    let columns =
        [Text("account"), Text("user"), Text("name"), Text("source"), Number("idle"), Number("of"), Number("longest")];
    text.push_str(&or_none(&columns, &rows, width));
    text.push_str("\n  Without a name\n");
    let rows: Vec<_> = unnamed
        .iter()
        .map(|one| vec![one.account.clone(), one.user.clone(), one.source.clone(), one.connections.to_string()])
        .collect();
    let columns = [Text("account"), Text("user"), Text("source"), Number("sessions")];
    text + &or_none(&columns, &rows, width)
}

fn or_none(columns: &[Column<'_>], rows: &[Vec<String>], width: usize) -> String {
    if rows.is_empty() { "  none\n".to_owned() } else { table(columns, rows, width) }
}

fn churn(report: &Churn, width: usize) -> String {
    let Churn { seconds, soon_seconds, clients, .. } = report;
    let mut text = format!("CHURN  {}; soon is within {}\n\n", in_the_last(*seconds), time(*soon_seconds));
    let rows: Vec<_> = clients
        .iter()
        .map(|one| {
            let texts = [&one.account, &one.user, &one.name, &one.source].map(Clone::clone);
            let numbers = [one.began, one.ended, one.ended_soon].map(|n| n.to_string());
            texts.into_iter().chain(numbers).chain([ago(one.minutes_ago)]).collect()
        })
        .collect();
    let columns = [
        Text("account"),
        Text("user"),
        Text("name"),
        Text("source"),
        Number("connected"),
        Number("ended"),
        Number("soon"),
        Number("last"),
    ];
    text.push_str(&or_none(&columns, &rows, width));
    text
}

fn distribution(report: &Distribution, width: usize) -> String {
    let Distribution { servers, accounts } = report;
    let mut text = "DISTRIBUTION  a server with twice the mean of an account, or more, is marked with *\n\n".to_owned();
    let rows: Vec<_> = servers
        .iter()
        .map(|one| {
            let ServerShare { server, up, connections, sessions, hot } = one;
            let state = if *up { "up" } else { "down" };
            vec![server.clone(), state.to_owned(), connections.to_string(), starred(*sessions, *hot)]
        })
        .collect();
    let columns = [Text("server"), Text("state"), Number("connections"), Number("sessions")];
    text.push_str(&table(&columns, &rows, width));
    if accounts.is_empty() {
        return text;
    }
    text.push('\n');
    let names: Vec<_> = servers.iter().map(|one| &*one.server).collect();
    let by_server = names.len() <= MOST_SERVERS;
    let rows: Vec<_> = accounts.iter().map(|one| spread(one, if by_server { &names } else { &[] })).collect();
    let mut columns = vec![Text("account"), Number("sessions")];
    columns.extend(names.iter().filter(|_| by_server).map(|name| Number(name)));
    columns.extend([Number("peak"), Text("most on")]);
    text + &table(&columns, &rows, width)
}

fn starred(sessions: u32, hot: bool) -> String {
    format!("{sessions}{}", if hot { "*" } else { "" })
}

fn spread(account: &AccountSpread, servers: &[&str]) -> Vec<String> {
    let on = |server: &&str| account.servers.iter().find(|one| one.server == **server);
    let cell = |server: &&str| on(server).map_or_else(|| "0".to_owned(), |one| starred(one.sessions, one.hot));
    let most = account.servers.iter().max_by_key(|one| one.sessions).map(|one| one.server.clone());
    let ends = [format!("{:.1}x", account.peak), most.unwrap_or_default()];
    let starts = [account.account.clone(), account.sessions.to_string()];
    starts.into_iter().chain(servers.iter().map(cell)).chain(ends).collect()
}

fn headroom(report: &Headroom, width: usize) -> String {
    let mut text = "HEADROOM  how long the room lasts if it goes on like this\n".to_owned();
    for (kind, rooms) in [("server", &report.servers), ("account", &report.accounts)] {
        if rooms.is_empty() {
            continue;
        }
        text.push('\n');
        let rows: Vec<_> = rooms.iter().map(room).collect();
        let columns = [
            Text(kind),
            Number("used"),
            Number("limit"),
            Number("share"),
            Number("per min"),
            Number("80 % in"),
            Number("full in"),
            Number("full between"),
            Text("confidence"),
        ];
        text.push_str(&table(&columns, &rows, width));
    }
    text
}

fn room(room: &Room) -> Vec<String> {
    let Room { name, used, limit, usable, growth, at_80_percent, full } = room;
    let nothing = || "-".to_owned();
    let left = |time_left: &TimeLeft| if time_left.seconds == 0 { "now".to_owned() } else { time(time_left.seconds) };
    let between = |one: &TimeLeft| format!("{} - {}", time(one.earliest), time(one.latest));
    let share = usable.map(|usable| format!("{:.1} %", f64::from(*used) * 100.0 / f64::from(usable.max(1))));
    vec![
        name.clone(),
        used.to_string(),
        limit.map_or_else(nothing, |limit| limit.to_string()),
        share.unwrap_or_else(nothing),
        growth.map_or_else(|| "0".to_owned(), |growth| format!("+{:.1}", growth.per_minute)),
        at_80_percent.as_ref().map_or_else(nothing, left),
        full.as_ref().map_or_else(nothing, left),
        full.as_ref().filter(|full| full.seconds > 0).map_or_else(nothing, between),
        growth.map_or_else(nothing, |growth| growth.confidence.name().to_owned()),
    ]
}
