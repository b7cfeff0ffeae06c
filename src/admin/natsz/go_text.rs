//! Times and durations as nats-server writes them.

use std::time::{Duration, SystemTime};

/// A time of day as Go marshals it: RFC 3339 in UTC, without zeros at the end of the fraction.
pub fn time(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_nanos(at).to_string();
    let Some(bare) = text.strip_suffix('Z') else { return text };
    format!("{}Z", bare.trim_end_matches('0').trim_end_matches('.'))
}

/// A time span in whole seconds: nats-server's `myUptime`.
pub fn uptime(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let (second, minute, hour) = (seconds % 60, minutes % 60, hours % 24);
    match (days / 365, days, hours, minutes) {
        (1.., ..) => format!("{}y{}d{hour}h{minute}m{second}s", days / 365, days % 365),
        (_, 1.., ..) => format!("{days}d{hour}h{minute}m{second}s"),
        (_, _, 1.., _) => format!("{hours}h{minute}m{second}s"),
        (_, _, _, 1..) => format!("{minutes}m{second}s"),
        _ => format!("{second}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_nats_server_writes_them() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3_661, "1h1m1s"),
            (90_061, "1d1h1m1s"),
            (365 * 86_400 + 86_400 + 5, "1y1d0h0m5s"),
        ] {
            assert_eq!(uptime(Duration::from_secs(seconds) + Duration::from_millis(999)), text);
        }
    }

    #[test]
    fn times_are_written_as_go_writes_them() {
        let at = |nanos| time(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos));
        assert_eq!(at(1_500_000_000_123_456_789), "2017-07-14T02:40:00.123456789Z");
        assert_eq!(at(1_500_000_000_120_000_000), "2017-07-14T02:40:00.12Z");
        assert_eq!(at(1_500_000_000_000_000_000), "2017-07-14T02:40:00Z");
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
    }
}
