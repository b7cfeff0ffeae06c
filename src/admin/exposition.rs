//! The two text forms of metrics: which one a request asks for, and the older one made from OpenMetrics.

use std::fmt::Write;

/// A text form of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Prometheus text 0.0.4, for everybody who does not ask for another one.
    Text,
    OpenMetrics,
}

impl Form {
    /// The form for a request with these `Accept` headers, as Prometheus' own libraries choose it: OpenMetrics where it
    /// is named and nothing else of what weir has is liked better.
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut best, mut form) = (0.0, Self::Text);
        for clause in accept.into_iter().flat_map(|value| value.split(',')) {
            let (offered, quality) = offered(clause);
            // Of two that are liked as much, the first.
            if let Some(offered) = offered.filter(|_| quality > best) {
                (best, form) = (quality, offered);
            }
        }
        form
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What weir has for one clause of `Accept`, and how much it is liked, from 0 to 1.
fn offered(clause: &str) -> (Option<Form>, f32) {
    let mut parts = clause.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
    let (mut quality, mut version) = (1.0, None);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => quality = value.parse().unwrap_or(0.0),
            "version" => version = Some(value),
            _ => {}
        }
    }
    let form = match (&*media_type, version) {
        ("application/openmetrics-text", None | Some("1.0.0")) => Some(Form::OpenMetrics),
        ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => Some(Form::Text),
        _ => None,
    };
    (form, quality)
}

/// Metrics in the older form. A counter's samples have `_total` behind the name of its family in both forms; in the
/// older one its help and type have it too, and there is neither a unit nor a mark of the end.
pub fn text_of(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // Help comes before the type.
    let mut help = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), said) => help = Some((name, said.unwrap_or_default())),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some((_, said)) = help.take().filter(|(of, _)| *of == name) {
                    let _ = writeln!(text, "# HELP {name}{suffix} {said}");
                }
                let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        for (accept, form) in [
            (&[][..], Form::Text),
            (&["*/*"], Form::Text),
            (&["text/html, */*;q=0.1"], Form::Text),
            (&["text/plain;version=0.0.4"], Form::Text),
            (&["application/openmetrics-text"], Form::OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8"], Form::OpenMetrics),
            (&["application/openmetrics-text;version=9.9"], Form::Text),
            (&["application/openmetrics-text;q=0"], Form::Text),
            (&["application/openmetrics-text;q=0.2,text/plain;version=0.0.4;q=0.5"], Form::Text),
            (&["application/openmetrics-text;q=0.5,text/plain;version=0.0.4;q=0.5"], Form::OpenMetrics),
            (&["text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.5"], Form::Text),
            (&["text/plain;q=0.3", "application/openmetrics-text;q=0.4"], Form::OpenMetrics),
            (&["application/openmetrics-text;q=nonsense"], Form::Text),
            // Prometheus 2.42 and 3.
            (
                &["application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                   text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
                Form::OpenMetrics,
            ),
            (
                &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                   application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                   text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
                Form::OpenMetrics,
            ),
        ] {
            assert_eq!(Form::accepted(accept.iter().copied()), form, "{accept:?}");
        }
    }

    #[test]
    fn the_older_form_names_counters_by_their_samples() {
        let open_metrics = "# HELP a_b Some of it.\n# TYPE a_b counter\n# UNIT a_b bytes\na_b_total{x=\"#\"} 1\n\
                            # HELP g It is.\n# TYPE g gauge\ng 0.5\n# TYPE bare counter\nbare_total 2\n# EOF\n";
        assert_eq!(
            text_of(open_metrics),
            "# HELP a_b_total Some of it.\n# TYPE a_b_total counter\na_b_total{x=\"#\"} 1\n\
             # HELP g It is.\n# TYPE g gauge\ng 0.5\n# TYPE bare_total counter\nbare_total 2\n"
        );
    }
}
