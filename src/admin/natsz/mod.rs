//! The endpoints that tools for nats-server read: its paths, field names, types and arguments (monitor.go, 2.15).
//!
//! What weir does not have is 0, as for a nats-server that has none: subscriptions, routes, slow consumers. What
//! nats-server does not have stands beside its fields under names of its own.

mod accounts;
mod arguments;
mod connz;
mod go_text;
mod leafz;
mod request_counts;
mod system;
mod usage;
mod varz;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use serde::Serialize;

use crate::{
    admin::natsz::{
        arguments::{Arguments, BadArgument},
        connz::{Connz, Options},
        request_counts::RequestCounts,
        usage::Usage,
    },
    session::Shared,
};

pub use self::{request_counts::PATHS, system::answer_requests};

/// What these endpoints need.
#[derive(Debug)]
pub struct Natsz {
    shared: Arc<Shared>,
    requests: RequestCounts,
    usage: Usage,
    monitor: Option<SocketAddr>,
    base_path: String,
}

impl Natsz {
    /// At `monitor`, with `base_path` in front of the paths.
    pub fn new(shared: Arc<Shared>, monitor: Option<SocketAddr>, base_path: String) -> Self {
        Self { shared, requests: RequestCounts::default(), usage: Usage::default(), monitor, base_path }
    }

    /// Counts a request to `path` for `http_req_stats`, if it is one of [`PATHS`].
    pub fn count(&self, path: &str) {
        self.requests.count(path);
    }
}

/// The routes.
pub fn routes<S>(natsz: &Arc<Natsz>) -> Router<S> {
    Router::new()
        .route("/varz", get(varz))
        .route("/connz", get(connz))
        .route("/leafz", get(leafz))
        .route("/accountz", get(accountz))
        .route("/accstatz", get(accstatz))
        .with_state(Arc::clone(natsz))
}

async fn varz(State(natsz): State<Arc<Natsz>>) -> Response {
    json(&varz::of(&natsz))
}

async fn connz(State(natsz): State<Arc<Natsz>>, RawQuery(query): RawQuery) -> Response {
    let options = match Options::of(&Arguments::new(query.as_deref())) {
        Ok(options) => options,
        Err(wrong) => return refuse(wrong),
    };
    let connz = Connz::select(&natsz.shared, options).await;
    // In pieces, made as fast as they are taken: an answer that nobody reads takes no memory.
    let pieces = stream::unfold(connz.pieces(), |mut pieces| async move {
        let piece = pieces.next()?;
        tokio::task::yield_now().await;
        Some((Ok::<_, std::convert::Infallible>(piece), pieces))
    });
    answer(StatusCode::OK, Body::from_stream(pieces))
}

async fn leafz(State(natsz): State<Arc<Natsz>>, RawQuery(query): RawQuery) -> Response {
    let arguments = Arguments::new(query.as_deref());
    match arguments.flag("subs") {
        Ok(_) => json(&leafz::of(&natsz.shared, arguments.text("acc")).await),
        Err(wrong) => refuse(wrong),
    }
}

async fn accountz(State(natsz): State<Arc<Natsz>>, RawQuery(query): RawQuery) -> Response {
    match accounts::accountz(&natsz.shared, Arguments::new(query.as_deref()).text("acc")) {
        Ok(accounts) => json(&accounts),
        Err(wrong) => refuse(wrong),
    }
}

async fn accstatz(State(natsz): State<Arc<Natsz>>, RawQuery(query): RawQuery) -> Response {
    match Arguments::new(query.as_deref()).flag("unused") {
        Ok(unused) => json(&accounts::accstatz(&natsz.shared, unused).await),
        Err(wrong) => refuse(wrong),
    }
}

fn json(answered: &impl Serialize) -> Response {
    match serde_json::to_vec_pretty(answered) {
        Ok(body) => answer(StatusCode::OK, body.into()),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// An answer as nats-server's: any page may read it.
fn answer(code: StatusCode, body: Body) -> Response {
    let mut response = (code, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn refuse(BadArgument(words): BadArgument) -> Response {
    (StatusCode::BAD_REQUEST, words).into_response()
}
