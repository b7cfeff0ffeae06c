//! Versions of servers, compared as semantic versions (<https://semver.org>, rule 11).

use std::cmp::Ordering;

/// `major.minor.patch` with an optional pre-release, `2.12.0-RC.1`. Build metadata (`+…`) does not take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version<'a> {
    numbers: [u32; 3],
    pre: &'a str,
}

impl<'a> Version<'a> {
    /// A release, without pre-release.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Version<'static> {
        Version { numbers: [major, minor, patch], pre: "" }
    }

    /// Reads a version; a leading `v` is allowed. `None` for anything that is not three numbers.
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(version, _)| version);
        let (release, pre) = text.split_once('-').unwrap_or((text, ""));
        let mut numbers = [0; 3];
        let mut parts = release.split('.');
        for number in &mut numbers {
            let part = parts.next()?;
            // `u32::from_str` would take a sign.
            *number = part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())??;
        }
        parts.next().is_none().then_some(Self { numbers, pre })
    }
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // A release is higher than its pre-releases.
        let released = |v: &Self| v.pre.is_empty();
        self.numbers
            .cmp(&other.numbers)
            .then_with(|| released(self).cmp(&released(other)))
            .then_with(|| compare_pre(self.pre, other.pre))
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Identifier by identifier, numbers below words, fewer below more.
fn compare_pre(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let (x, y) = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => (x, y),
        };
        let order = match (x.parse::<u64>(), y.parse::<u64>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => x.cmp(y),
        };
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order() {
        let rising = [
            "2.9.10",
            "2.10.0-alpha",
            "2.10.0-alpha.1",
            "2.10.0-beta.2",
            "2.10.0-beta.11",
            "2.10.0-preview.1",
            "2.10.0",
            "v2.12.0-RC.1",
            "2.12.0+build",
            "2.15.1",
            "10.0.0",
        ];
        for pair in rising.windows(2) {
            assert!(Version::parse(pair[0]).unwrap() < Version::parse(pair[1]).unwrap(), "{pair:?}");
        }
    }

    #[test]
    fn not_versions() {
        for text in ["", "2", "2.1", "2.1.", "2.1.x", "2.1.1.1", "+2.1.1", "2.+1.1", "99999999999.0.0", "main"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
