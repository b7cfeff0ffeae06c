//! Prometheus text, parsed.

use std::collections::BTreeMap;

/// One reading of `/metrics`: values by sample, such as `name{label="value"}`.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: BTreeMap<String, f64>,
    text: String,
}

impl Metrics {
    /// Parses Prometheus text or OpenMetrics; panics on a line that is neither, and on two samples of one name with the
    /// same labels: Prometheus refuses the whole reading then.
    pub fn parse(text: &str) -> Self {
        let mut samples = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let end = line.rfind('}').map_or_else(|| line.find(' ').unwrap_or(line.len()), |brace| brace + 1);
            let value = line[end..].split_whitespace().next().and_then(|value| value.parse().ok());
            let before =
                samples.insert(line[..end].to_owned(), value.unwrap_or_else(|| panic!("not a sample: {line:?}")));
            assert_eq!(before, None, "a second sample: {line:?}");
        }
        Self { samples, text: text.to_owned() }
    }

    /// The value of a sample by its full name with labels; `None` if there is no such sample, or not yet.
    pub fn get(&self, sample: &str) -> Option<f64> {
        self.samples.get(sample).copied()
    }

    /// Whether the metric is there, even if only with its description.
    pub fn knows(&self, name: &str) -> bool {
        let described = |line: &str| line.starts_with('#') && line.split_whitespace().nth(2) == Some(name);
        self.of(name).next().is_some() || self.text.lines().any(described)
    }

    /// The names of all metrics that are described.
    pub fn names(&self) -> Vec<String> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        types.map(str::to_owned).collect()
    }

    /// All samples of a metric, with all labels.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let is_of =
            move |sample: &str| sample.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.samples.iter().filter(move |(sample, _)| is_of(sample)).map(|(sample, value)| (sample.as_str(), *value))
    }

    /// The sum of all samples of a metric; 0 if there are none.
    pub fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|(_, value)| value).sum()
    }

    /// The sum of the samples that have `label="value"`.
    pub fn sum_where(&self, name: &str, label: &str, value: &str) -> f64 {
        let wanted = format!("{label}=\"{value}\"");
        self.of(name).filter(|(sample, _)| sample.contains(&wanted)).map(|(_, value)| value).sum()
    }

    /// The samples above 0 of the metrics in `names`, for messages of failed tests.
    pub fn excerpt(&self, names: &[&str]) -> String {
        let lines = names.iter().flat_map(|name| self.of(name)).filter(|(_, value)| *value != 0.0);
        lines.map(|(sample, value)| format!("{sample} {value}")).collect::<Vec<_>>().join("; ")
    }
}
