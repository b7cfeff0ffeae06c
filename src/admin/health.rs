//! `/healthz`, `/readyz` and `/livez`: what an orchestrator or a load balancer asks.
//!
//! - live: weir's threads make progress. A restart helps if they do not, and only then: it says nothing of the servers.
//! - ready: a new client would be served now.
//! - startup: weir has begun to serve.

use std::{borrow::Cow, sync::Arc, time::Instant};

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use serde::Serialize;

use crate::{
    admin::{Endpoints, json},
    session::Shared,
    worker::Stuck,
};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Live,
    Ready,
    Startup,
}

/// The answer; the first two are nats-server's.
#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'static, str>>,
    /// Servers that weir asks for readings in vain.
    servers_without_reading: usize,
}

/// `/healthz`, with one of `?live`, `?ready` and `?startup`; without any, `ready`.
pub async fn healthz(State(endpoints): State<Arc<Endpoints>>, RawQuery(query): RawQuery) -> Response {
    answer(&endpoints.shared, Question::of(query.as_deref().unwrap_or_default()))
}

/// `/livez`.
pub async fn livez(State(endpoints): State<Arc<Endpoints>>) -> Response {
    answer(&endpoints.shared, Question::Live)
}

/// `/readyz`.
pub async fn readyz(State(endpoints): State<Arc<Endpoints>>) -> Response {
    answer(&endpoints.shared, Question::Ready)
}

impl Question {
    /// The first of its words in a query. Others, such as nats-server's, ask for nothing that weir has.
    fn of(query: &str) -> Self {
        let words = query.split('&').filter_map(|word| match word.split_once('=') {
            Some((_, "0" | "false")) => None,
            Some((word, _)) => Some(word),
            None => Some(word),
        });
        let asked = |word| match word {
            "live" => Some(Self::Live),
            "ready" => Some(Self::Ready),
            "startup" => Some(Self::Startup),
            _ => None,
        };
        words.filter_map(asked).next().unwrap_or(Self::Ready)
    }
}

fn answer(shared: &Shared, question: Question) -> Response {
    let now = Instant::now();
    let error = match question {
        Question::Live => shared.heartbeats.stuck(now).map(|stuck| Cow::Owned(told(stuck))),
        Question::Ready => not_ready(shared, now).map(Cow::Borrowed),
        Question::Startup => (!shared.heartbeats.has_started()).then_some(Cow::Borrowed("starting")),
    };
    let (code, status) = match error {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    json(code, &Health { status, error, servers_without_reading: shared.servers.without_reading(now) })
}

fn told(Stuck { worker, since }: Stuck) -> String {
    let thread = worker.map_or_else(|| "the control thread".to_owned(), |n| format!("worker {n}"));
    format!("{thread} has made no progress for {} s", since.as_secs())
}

/// Why a new client would not be served: weir stops, or no server can be reached, or no descriptor is left for one more
/// client.
pub fn not_ready(shared: &Shared, now: Instant) -> Option<&'static str> {
    if shared.admission.is_lame_duck() {
        Some("draining")
    } else if !shared.servers.any_reachable(now) {
        Some("no usable server")
    } else if shared.descriptors.are_used_up() {
        Some("no file descriptor left")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_query_says_what_is_asked_and_other_words_ask_for_nothing() {
        for (query, question) in [
            ("", Question::Ready),
            ("live", Question::Live),
            ("ready", Question::Ready),
            ("startup", Question::Startup),
            ("startup=true", Question::Startup),
            ("live=false", Question::Ready),
            ("js-enabled-only=true&live=1", Question::Live),
            ("js-enabled-only&details=true", Question::Ready),
            ("live=0&startup", Question::Startup),
        ] {
            assert_eq!(Question::of(query), question, "{query}");
        }
    }

    #[test]
    fn the_stuck_thread_is_named() {
        let since = Duration::from_millis(12_700);
        assert_eq!(told(Stuck { worker: Some(1), since }), "worker 1 has made no progress for 12 s");
        assert_eq!(told(Stuck { worker: None, since }), "the control thread has made no progress for 12 s");
    }
}
