//! Numbers, sizes and times as people read them, in the same words as the page's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A count with a comma between thousands.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many a second: one decimal below ten.
pub fn rate(n: f64) -> String {
    if n > 0.0 && n < 9.95 { format!("{n:.1}") } else { count(n.round() as u64) }
}

pub fn bytes(n: u64) -> String {
    let (mut n, mut unit) = (n as f64, 0);
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    while n >= 1000.0 && unit < units.len() - 1 {
        (n, unit) = (n / 1024.0, unit + 1);
    }
    if unit > 0 && n < 9.95 { format!("{n:.1} {}", units[unit]) } else { format!("{n:.0} {}", units[unit]) }
}

/// A part in whole percent, rounded down: 100 % is all of it.
pub fn percent(part: u64, all: u64) -> String {
    part.saturating_mul(100).checked_div(all).map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"))
}

/// How long, in the two largest units.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The time of day in UTC: the terminal may stand elsewhere than weir, and the log has UTC too.
pub fn clock(unix_ms: u64) -> String {
    let at: SystemTime = UNIX_EPOCH + Duration::from_millis(unix_ms);
    let text = humantime::format_rfc3339_seconds(at).to_string();
    text.get(11..19).unwrap_or_default().to_owned()
}

/// The mean of the last `most` values.
pub fn mean(values: &[u64], most: usize) -> f64 {
    let last = &values[values.len().saturating_sub(most)..];
    if last.is_empty() { 0.0 } else { last.iter().sum::<u64>() as f64 / last.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_on_the_page() {
        assert_eq!(["0", "999", "1,000", "12,345,678"].map(str::to_owned), [0, 999, 1000, 12_345_678].map(count));
        assert_eq!(["0", "0.5", "9.9", "10", "1,234"].map(str::to_owned), [0.0, 0.5, 9.94, 9.96, 1234.4].map(rate));
        assert_eq!(["0 B", "999 B", "1.0 KiB", "24 MiB"].map(str::to_owned), [0, 999, 1000, 24 << 20].map(bytes));
        assert_eq!((&*percent(1, 0), &*percent(99, 100), &*percent(999, 1000)), ("-", "99 %", "99 %"));
        assert_eq!(
            [59, 61, 3660, 90_000].map(duration),
            ["59 s", "1 min 01 s", "1 h 01 min", "1 d 01 h"].map(str::to_owned)
        );
        assert_eq!(clock(1_795_702_346_223), "14:12:26");
        assert_eq!((mean(&[], 3), mean(&[9, 1, 2, 3], 3)), (0.0, 2.0));
    }
}
