//! The endpoints at `[monitor] listen`: the page at `/` with its numbers at `/overviewz`, `/metrics`, `/healthz`,
//! `/readyz`, `/livez`, `/storms`, `/reportz`, `/fleetz`, and those of nats-server; and the admin socket ([`socket`]).

mod exposition;
mod fleetz;
mod health;
mod natsz;
mod overviewz;
mod page;
mod process;
pub mod prometheus;
pub mod report_sampler;
mod reportz;
mod server;
pub mod socket;
pub mod storm_sampler;

use std::sync::Arc;

use axum::{
    Router,
    extract::{OriginalUri, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{exposition::Form, natsz::Natsz, prometheus::Metrics, server::Port},
    cluster::system_account::SystemAccount,
    session::Shared,
};

/// The most connections at the monitor port at a time.
const MAX_CONNECTIONS: usize = 24;

#[derive(Debug)]
struct Endpoints {
    shared: Arc<Shared>,
    metrics: Metrics,
}

/// Serves until `stop`, with `base_path` in front of the paths: empty, or from its slash on.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, base_path: String, stop: CancellationToken) {
    let natsz = Arc::new(Natsz::new(Arc::clone(&shared), listener.local_addr().ok(), base_path.clone()));
    let endpoints = Arc::new(Endpoints { metrics: Metrics::new(Arc::clone(&shared)), shared });
    let routes = Router::new()
        .route("/", get(index))
        .route("/overviewz", get(overviewz::overviewz))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/livez", get(health::livez))
        .route("/storms", get(storms))
        .route("/reportz", get(reportz::reportz))
        .route("/fleetz", get(fleetz::fleetz))
        .with_state(endpoints)
        .merge(natsz::routes(&natsz))
        .layer(middleware::from_fn_with_state(natsz, count));
    let routes = match &*base_path {
        "" => routes,
        base => Router::new().nest(base, routes).route(&format!("{base}/"), get(index)),
    };
    let routes = routes.fallback(not_found);
    server::serve(Port { listener, routes }, MAX_CONNECTIONS, stop).await;
}

/// Answers requests to all servers over the system account as a server answers them, until `stop`.
pub async fn answer_requests(shared: Arc<Shared>, account: SystemAccount, stop: CancellationToken) {
    natsz::answer_requests(&Natsz::new(shared, None, String::new()), account, stop).await;
}

/// The page, for browsers. For programs, what can be asked for.
async fn index(OriginalUri(uri): OriginalUri, headers: HeaderMap) -> Response {
    if page::is_wanted(&headers) {
        return page::page(uri.path());
    }
    let paths: String = natsz::PATHS.iter().filter(|path| **path != "/").map(|path| format!("{path}\n")).collect();
    ([(header::VARY, "accept")], paths).into_response()
}

/// Counts a request for `http_req_stats`.
async fn count(State(natsz): State<Arc<Natsz>>, request: Request, next: Next) -> Response {
    natsz.count(request.uri().path());
    next.run(request).await
}

/// nats-server's words. `nats-top` fails on an answer without a line end.
async fn not_found() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "404 page not found\n")
}

async fn metrics(State(endpoints): State<Arc<Endpoints>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let form = Form::accepted(accept);
    match endpoints.metrics.text(form) {
        Ok(text) => ([(header::CONTENT_TYPE, form.content_type())], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The storm that goes on and the last ones.
async fn storms(State(endpoints): State<Arc<Endpoints>>) -> Response {
    json(StatusCode::OK, &endpoints.shared.flight.report())
}

fn json(code: StatusCode, answer: &impl Serialize) -> Response {
    match serde_json::to_vec(answer) {
        Ok(body) => (code, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
