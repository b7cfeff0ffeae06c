//! `/overviewz`: what the page and `weir top` draw, for whoever polls it.

use std::{num::ParseIntError, sync::Arc, time::Instant};

use axum::{
    extract::{RawQuery, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    admin::{Endpoints, health, json},
    overview,
    session::Shared,
};

/// With `since`, the last second that who asks has already, only what came after it of the past.
pub async fn overviewz(State(endpoints): State<Arc<Endpoints>>, RawQuery(query): RawQuery) -> Response {
    answer(&endpoints.shared, query.as_deref().unwrap_or_default())
}

/// The answer to a `query`, over the monitor port or the admin socket.
pub(super) fn answer(shared: &Shared, query: &str) -> Response {
    let Ok(since) = since(query) else {
        return (StatusCode::BAD_REQUEST, "since is the number of a second, 0 or higher\n").into_response();
    };
    let now = Instant::now();
    let mut answer = json(StatusCode::OK, &overview::of(shared, health::not_ready(shared, now), since, now));
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// The `since` of a query; 0 where there is none.
fn since(query: &str) -> Result<u64, ParseIntError> {
    query.split('&').find_map(|pair| pair.strip_prefix("since=")).map_or(Ok(0), str::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_number_or_nothing() {
        assert_eq!((since(""), since("x=1"), since("x=1&since=7")), (Ok(0), Ok(0), Ok(7)));
        assert!(since("since=").is_err() && since("since=-1").is_err() && since("since=%30").is_err());
    }
}
