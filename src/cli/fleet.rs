//! `weir fleet`: the weirs of the fleet, their leases and shares, as tables.

use std::{io::Write as _, process::ExitCode};

use clap::{Args, ValueEnum};
use rustix::termios::tcgetwinsize;
use serde_json::Value;

use crate::{
    cli::{
        BAD_CONFIGURATION, RUN_FAILED,
        ask_monitor::{MonitorOf, Unanswered},
        complain,
        table::{
            Column::{self, Number, Text},
            table, time,
        },
    },
    fleet::view::{FleetView, Messages, Summary},
};

/// Where the terminal does not say how wide it is.
const WIDTH: usize = 100;

/// Show the weirs of the fleet, what each holds of shared quotas and servers, and how this one comes to its part.
#[derive(Debug, Args)]
pub(super) struct Fleet {
    #[command(flatten)]
    of: MonitorOf,
    /// The most quotas.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Only the quota of this account.
    #[arg(long)]
    account: Option<String>,
    /// Only what this weir has.
    #[arg(long, value_name = "ID")]
    weir: Option<String>,
    /// Only quotas of this kind.
    #[arg(long = "of", value_enum, value_name = "KIND")]
    kind: Option<Kind>,
    /// Print the answer of /fleetz as JSON.
    #[arg(long)]
    json: bool,
}

/// What quotas are of.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Account,
    User,
    Name,
    Leafnodes,
    Server,
}

impl Fleet {
    pub(super) fn execute(self) -> ExitCode {
        let body = match self.of.get(&self.path()) {
            Ok(body) => body,
            Err(Unanswered::Usage(why)) => return fails(BAD_CONFIGURATION, &why),
            Err(Unanswered::Failed(why)) => return fails(RUN_FAILED, &why),
        };
        let Ok(view) = serde_json::from_slice::<FleetView>(&body) else {
            return fails(RUN_FAILED, "what answers is no weir, or another version of it");
        };
        let text = if self.json {
            serde_json::from_slice::<Value>(&body)
                .and_then(|all| serde_json::to_string_pretty(&all))
                .unwrap_or_default()
        } else if view.summary.name.is_empty() {
            return fails(RUN_FAILED, "this weir is in no fleet: write [fleet] with its name, and start weir again");
        } else {
            let width = tcgetwinsize(std::io::stdout()).map_or(0, |size| usize::from(size.ws_col));
            tables(&view, if width == 0 { WIDTH } else { width })
        };
        // A closed stdout (`weir fleet | head`) is not an error.
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
        ExitCode::SUCCESS
    }

    fn path(&self) -> String {
        let mut query = form_urlencoded::Serializer::new("/fleetz?".to_owned());
        query.append_pair("limit", &self.limit.to_string());
        let kind = self.kind.and_then(|kind| kind.to_possible_value());
        let kind = kind.as_ref().map(clap::builder::PossibleValue::get_name);
        for (key, value) in [("of", kind), ("account", self.account.as_deref()), ("weir", self.weir.as_deref())] {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        query.finish().replacen("/fleetz?&", "/fleetz?", 1)
    }
}

fn fails(code: u8, why: &str) -> ExitCode {
    complain(why);
    ExitCode::from(code)
}

/// What a weir goes by, in words.
pub(super) fn mode_in_words(summary: &Summary) -> String {
    let mode = match &*summary.mode {
        "lease" => "quotas by leases",
        "split" => "QUOTAS BY THE SPLIT",
        "alone" => "no other weir to be seen",
        other => other,
    };
    summary.why.as_ref().map_or_else(|| mode.to_owned(), |why| format!("{mode}: {why}"))
}

fn tables(view: &FleetView, width: usize) -> String {
    let Summary { name, id, live, sessions, waiting, missing, mode_seconds, .. } = &view.summary;
    let weirs = if *live == 1 { "1 weir".to_owned() } else { format!("{live} weirs") };
    let gone = if *missing > 0 { format!(", {missing} MISSING") } else { String::new() };
    let mode = mode_in_words(&view.summary);
    let for_long = time(*mode_seconds as u64);
    let mut text = format!(
        "FLEET {name}: {weirs}{gone}, {sessions} sessions, {waiting} waiting\n  {id}: {mode}, for {for_long}\n"
    );
    if !view.summary.connected {
        text.push_str("  NOT CONNECTED to the fleet: what is shown of others is old\n");
    }
    text.push('\n');
    text.push_str(&of_weirs(view, width));
    if !view.quotas.is_empty() {
        text.push_str(&format!("\nQUOTAS  {} in use\n", view.quotas_in_use));
        text.push_str(&of_quotas(view, width));
    }
    if !view.servers.is_empty() {
        text.push_str("\nSERVERS  held and logins of all weirs\n");
        text.push_str(&of_servers(view, width));
    }
    let Messages { beats_sent, beats_received, beats_lost, writes, conflicts, .. } = &view.messages;
    text.push_str(&format!(
        "\n  beats {beats_sent} sent, {beats_received} received, {beats_lost} lost; {writes} writes to the bucket, \
         {conflicts} of them behind another weir's\n"
    ));
    text
}

fn of_weirs(view: &FleetView, width: usize) -> String {
    const COLUMNS: [Column<'static>; 8] = [
        Text("weir"),
        Text("version"),
        Number("up"),
        Number("sessions"),
        Number("waiting"),
        Number("last beat"),
        Text("leases"),
        Text("addresses"),
    ];
    let row = |one: &crate::fleet::view::Weir| {
        let last_beat = if one.is_this { "this weir".to_owned() } else { format!("{:.1} s ago", one.beat_age_seconds) };
        vec![
            one.id.clone(),
            one.version.clone(),
            time(one.uptime_seconds as u64),
            one.sessions.to_string(),
            one.waiting.to_string(),
            last_beat,
            match (one.is_stranger, one.leases_in_force) {
                (true, _) => "UNKNOWN",
                (_, true) => "in force",
                (_, false) => "none",
            }
            .to_owned(),
            one.addresses.join(" "),
        ]
    };
    table(&COLUMNS, &view.weirs.iter().map(row).collect::<Vec<_>>(), width)
}

fn of_quotas(view: &FleetView, width: usize) -> String {
    const COLUMNS: [Column<'static>; 7] = [
        Text("of"),
        Text("name"),
        Number("limit"),
        Number("past weir"),
        Number("leased"),
        Number("free"),
        Text("held of lease, by weir"),
    ];
    let row = |one: &crate::fleet::view::Quota| {
        let lease = |of: &crate::fleet::view::Lease| {
            let held = of.held.map_or_else(|| "?".to_owned(), |held| held.to_string());
            let want = if of.want > of.lease { format!(" wants {}", of.want) } else { String::new() };
            format!("{} {held}/{}{want}", of.id, of.lease)
        };
        vec![
            one.of.clone(),
            one.name.clone().unwrap_or_else(|| format!("({})", one.key)),
            one.limit.to_string(),
            one.past.to_string(),
            one.leased.to_string(),
            one.free.to_string(),
            one.weirs.iter().map(lease).collect::<Vec<_>>().join(", "),
        ]
    };
    table(&COLUMNS, &view.quotas.iter().map(row).collect::<Vec<_>>(), width)
}

fn of_servers(view: &FleetView, width: usize) -> String {
    const COLUMNS: [Column<'static>; 6] = [
        Text("server"),
        Number("held"),
        Number("limit"),
        Number("logins"),
        Number("share"),
        Text("held and logins, by weir"),
    ];
    let row = |one: &crate::fleet::view::Server| {
        let at = |of: &crate::fleet::view::AtServer| format!("{} {} and {}", of.id, of.held, of.handshakes);
        vec![
            one.name.clone(),
            one.held.to_string(),
            one.max_connections.map_or_else(|| "none".to_owned(), |most| most.to_string()),
            format!("{}/{}", one.handshakes, one.handshake_limit),
            format!("{:.1}", one.share),
            one.weirs.iter().map(at).collect::<Vec<_>>().join(", "),
        ]
    };
    table(&COLUMNS, &view.servers.iter().map(row).collect::<Vec<_>>(), width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::view::{AtServer, Lease, Quota, Server, Weir};

    #[test]
    fn everything_is_within_the_width_and_says_what_is_wrong() {
        let weir = |id: &str, is_this| Weir {
            id: id.into(),
            is_this,
            version: "0.1.0".into(),
            uptime_seconds: 7300.0,
            sessions: 1500,
            beat_age_seconds: 0.24,
            is_stranger: false,
            leases_in_force: is_this,
            addresses: vec!["weir-1.example.com:4222".into(), "weir-1.example.com:4223".into()],
            ..Weir::default()
        };
        let lease = |id: &str, want| Lease { id: id.into(), lease: 40, want, held: Some(38), ..Lease::default() };
        let quota = Quota {
            of: "account".into(),
            name: Some("ORDERS".into()),
            limit: 100,
            leased: 80,
            free: 20,
            weirs: vec![lease("weir-1", 0), lease("weir-2", 60)],
            ..Quota::default()
        };
        let at = |id: &str| AtServer { id: id.into(), held: 700, handshakes: 2, ..AtServer::default() };
        let server = Server {
            name: "n1".into(),
            max_connections: Some(2000),
            held: 1400,
            handshakes: 4,
            handshake_limit: 8,
            share: 2.5,
            weirs: vec![at("weir-1"), at("weir-2")],
            ..Server::default()
        };
        let view = FleetView {
            summary: Summary {
                name: "edge".into(),
                id: "weir-1".into(),
                mode: "split".into(),
                why: Some("the bucket does not answer".into()),
                mode_seconds: 5.0,
                live: 2,
                sessions: 3000,
                missing: 1,
                ..Summary::default()
            },
            weirs: vec![weir("weir-1", true), weir("weir-2", false)],
            quotas: vec![quota],
            quotas_in_use: 1,
            servers: vec![server],
            ..FleetView::default()
        };
        let text = tables(&view, 100);
        for line in text.lines() {
            assert!(line.chars().count() <= 110, "{line:?}");
        }
        for says in [
            "FLEET edge: 2 weirs, 1 MISSING, 3000 sessions",
            "weir-1: QUOTAS BY THE SPLIT: the bucket does not answer, for 5 s",
            "NOT CONNECTED",
            "this weir",
            "0.2 s ago",
            "weir-1 38/40, weir-2 38/40 wants 60",
            "weir-1 700 and 2, weir-2 700 and 2",
        ] {
            assert!(text.contains(says), "{says:?} is missing in\n{text}");
        }
    }
}
