//! The line in the log of each event.

use tracing::{error, info, warn};

use crate::events::{Event, Thing, Usage, fullness::Level, per_minute, rounded};

/// Writes the line of an event. Storms, reloads and what an operator asks for have theirs where they happen.
pub(super) fn write(event: &Event) {
    match event {
        Event::Usage(usage) => write_usage(usage),
        Event::ServerDown { server, is_lame_duck } => {
            // Lame ducks and ejected servers have lines of their own when that begins.
            if !is_lame_duck {
                warn!(server, "server is down: its clients go to others");
            }
        }
        Event::ServerUp { server, lasted } => info!(server, ?lasted, "server is back"),
        Event::NoServer { servers, lame_ducks, drained } => error!(
            reason = "no_server",
            servers, lame_ducks, drained, "no server can be used: all clients are refused until one answers"
        ),
        Event::ServerUsableAgain { lasted, refused } => {
            info!(reason = "no_server", ?lasted, refused, "a server can be used again");
        }
        Event::ClusterFull { servers } => {
            let advice = "add a server, or raise max_connections";
            error!(
                reason = "server_capacity",
                servers, advice, "no server has room: new clients are refused until one has"
            );
        }
        Event::ClusterRoomAgain { lasted, refused } => {
            info!(reason = "server_capacity", ?lasted, refused, "a server has room again");
        }
        Event::CertificateExpires { of, subject, days } => {
            warn!(of, subject, days, "certificate has expired or expires soon");
        }
        Event::StormBegan { .. }
        | Event::StormOver { .. }
        | Event::ReloadFailed { .. }
        | Event::ServerDrained { .. }
        | Event::ServerUndrained { .. }
        | Event::Paused { .. }
        | Event::Resumed { .. } => {}
    }
}

fn write_usage(usage: &Usage) {
    let Usage { of, name, connections, max_connections, level, since, growth, .. } = usage;
    // A field without a value is not shown.
    let named = |thing: Thing| (*of == thing).then_some(&**name);
    let (server, account, listener) = (named(Thing::Server), named(Thing::Account), named(Thing::Listener));
    let used = format!("{}%", usage.percent());
    let growth = growth.map(|growth| format!("{}/min", per_minute(growth.per_second)));
    let full_in = usage.full_in().map(|left| match usage.may_be_chance() {
        true => format!("perhaps {}", rounded(left)),
        false => rounded(left),
    });
    let level = level.map(<&str>::from);
    if !usage.rises {
        info!(server, account, listener, used, connections, max_connections, level, since, "room again");
    } else if usage.level == Some(Level::Full) {
        let advice = usage.advice();
        warn!(server, account, listener, used, connections, max_connections, level, since, growth, advice, "full");
    } else {
        let advice = usage.advice();
        warn!(
            server,
            account, listener, used, connections, max_connections, level, since, growth, full_in, advice, "nearly full"
        );
    }
}
