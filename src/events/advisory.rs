//! The JSON of an event, for the webhook and for NATS: the envelope of nats-server's own advisories (`type`, `id`,
//! `timestamp`), who tells it, and what has happened.

use serde::Serialize;
use serde_json::{Value, json};

use crate::events::{Event, Severity, rounded};

/// The first part of the types.
const TYPE: &str = "io.weir.advisory.v1";

/// Which weir tells it.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    /// The `server_id` of its INFO.
    pub id: String,
    /// The name of the machine.
    pub host: String,
    pub version: &'static str,
}

/// An object in this order, with the fields of the event behind it.
#[derive(Serialize)]
struct Advisory<'a> {
    r#type: String,
    id: &'a str,
    timestamp: &'a str,
    weir: &'a Origin,
    severity: Severity,
    text: String,
    #[serde(flatten)]
    details: Value,
}

/// The JSON of `event`. `id` is one of its own for each event; `timestamp` is RFC 3339, in UTC.
pub fn advisory(event: &Event, id: &str, timestamp: &str, origin: &Origin) -> String {
    let kind = event.kind();
    let advisory = Advisory {
        r#type: format!("{TYPE}.{}", kind.name()),
        id,
        timestamp,
        weir: origin,
        severity: kind.severity(),
        text: event.text(),
        details: details(event),
    };
    // It has text keys only, so nothing of it can fail.
    serde_json::to_string(&advisory).unwrap_or_default()
}

fn details(event: &Event) -> Value {
    match event {
        Event::Usage(usage) => {
            let of: &str = usage.of.into();
            let mut details = json!({
                of: usage.name,
                "connections": usage.connections,
                "max_connections": usage.max_connections,
                "used_percent": usage.percent(),
                "level": usage.level,
                "since": usage.since,
            });
            if let Some(growth) = usage.growth {
                details["growth_per_second"] = json!((growth.per_second * 1e4).round() / 1e4);
                details["confidence"] = json!(growth.confidence());
            }
            if let Some(left) = usage.full_in() {
                details["full_in_seconds"] = left.as_secs().into();
                details["full_in"] = rounded(left).into();
            }
            if let Some(advice) = usage.advice() {
                details["advice"] = advice.into();
            }
            details
        }
        Event::ServerDown { server, is_lame_duck } => json!({ "server": server, "lame_duck": is_lame_duck }),
        Event::ServerUp { server, lasted } => json!({ "server": server, "lasted_seconds": lasted.as_secs() }),
        Event::NoServer { servers, lame_ducks, drained } => {
            json!({ "servers": servers, "lame_ducks": lame_ducks, "drained": drained })
        }
        Event::ClusterFull { servers } => json!({ "servers": servers }),
        Event::ServerUsableAgain { lasted, refused } | Event::ClusterRoomAgain { lasted, refused } => {
            json!({ "lasted_seconds": lasted.as_secs(), "refused": refused })
        }
        Event::StormBegan { held } => json!({ "held": held }),
        Event::StormOver { seconds, arrived, admitted, refused } => {
            json!({ "lasted_seconds": seconds, "arrived": arrived, "admitted": admitted, "refused": refused })
        }
        Event::CertificateExpires { of, subject, days } => json!({ "of": of, "subject": subject, "days": days }),
        Event::ServerDrained { server, by } | Event::ServerUndrained { server, by } => {
            json!({ "server": server, "by": by })
        }
        Event::Paused { by } => json!({ "by": by }),
        Event::Resumed { by, lasted } => json!({ "by": by, "lasted_seconds": lasted.as_secs() }),
        Event::ReloadFailed { errors, first } => json!({ "errors": errors, "first": first }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{fullness::Level, tests::usage};

    #[test]
    fn the_envelope_is_that_of_an_advisory() {
        let origin = Origin { id: "NWEIR".into(), host: "gate-1".into(), version: "0.1.0" };
        let event = Event::Usage(usage(900, Some(Level::Ninety), true));
        let shown = advisory(&event, "abc", "2026-11-26T14:05:00.000000000Z", &origin);
        let expected = json!({
            "type": "io.weir.advisory.v1.server_nearly_full",
            "id": "abc",
            "timestamp": "2026-11-26T14:05:00.000000000Z",
            "weir": { "id": "NWEIR", "host": "gate-1", "version": "0.1.0" },
            "severity": "warning",
            "text": "server n1 is nearly full: 900 of 1000 connections (90 %), +30 a minute, full in 2m: add a server, \
                     or raise its max_connections",
            "server": "n1",
            "connections": 900,
            "max_connections": 1000,
            "used_percent": 90,
            "level": "90%",
            "since": "2026-11-26T14:00:00Z",
            "growth_per_second": 0.5,
            "confidence": "high",
            "full_in_seconds": 160,
            "full_in": "2m",
            "advice": "add a server, or raise its max_connections",
        });
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), expected);
        assert!(
            shown.starts_with("{\"type\":\"io.weir.advisory.v1.server_nearly_full\",\"id\":\"abc\",\"timestamp\""),
            "{shown}"
        );
    }

    #[test]
    fn what_has_room_again_has_no_level_and_no_advice() {
        let origin = Origin { id: String::new(), host: String::new(), version: "" };
        let shown = advisory(&Event::Usage(usage(700, None, false)), "", "", &origin);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!((&shown["level"], shown.get("advice")), (&Value::Null, None));
        assert_eq!(shown["type"], "io.weir.advisory.v1.server_room_again");
    }
}
