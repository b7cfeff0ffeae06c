//! How many requests each endpoint has had: `http_req_stats`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The paths that are counted, without what the configuration has put in front of them.
pub const PATHS: [&str; 14] = [
    "/",
    "/accountz",
    "/accstatz",
    "/connz",
    "/fleetz",
    "/healthz",
    "/leafz",
    "/livez",
    "/metrics",
    "/overviewz",
    "/readyz",
    "/reportz",
    "/storms",
    "/varz",
];

/// Requests by path.
#[derive(Debug, Default)]
pub struct RequestCounts([AtomicU64; PATHS.len()]);

impl RequestCounts {
    /// Counts a request to one of [`PATHS`]; any other is not counted.
    pub fn count(&self, path: &str) {
        if let Some((_, count)) = PATHS.iter().zip(&self.0).find(|(one, _)| **one == path) {
            count.fetch_add(1, Relaxed);
        }
    }

    pub fn all(&self) -> BTreeMap<&'static str, u64> {
        PATHS.into_iter().zip(self.0.iter().map(|count| count.load(Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_counted_on_its_own() {
        let counts = RequestCounts::default();
        for (n, path) in PATHS.into_iter().enumerate() {
            (0..n).for_each(|_| counts.count(path));
        }
        counts.count("/nothing");
        assert_eq!(counts.all().into_values().collect::<Vec<_>>(), (0..PATHS.len() as u64).collect::<Vec<_>>());
    }
}
