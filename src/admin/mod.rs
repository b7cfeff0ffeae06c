//! The endpoints at `[monitor] listen`: `/metrics`, `/healthz` and `/storms`.

pub mod prometheus;
mod server;
pub mod storm_sampler;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{admin::prometheus::Metrics, session::Shared};

#[derive(Debug)]
struct Endpoints {
    shared: Arc<Shared>,
    metrics: Metrics,
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let endpoints = Arc::new(Endpoints { metrics: Metrics::new(Arc::clone(&shared)), shared });
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/storms", get(storms))
        .with_state(endpoints);
    server::serve(listener, routes, stop).await;
}

async fn metrics(State(endpoints): State<Arc<Endpoints>>) -> Response {
    match endpoints.metrics.text() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// 200 while new clients are welcome, 503 from the signal that stops weir on, or while no server is usable. The bodies
/// are those of nats-server.
async fn healthz(State(endpoints): State<Arc<Endpoints>>) -> Response {
    let (status, body) = if endpoints.shared.admission.is_lame_duck() {
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"unavailable","error":"draining"}"#)
    } else if !endpoints.shared.servers.any_usable(Instant::now()) {
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"status":"unavailable","error":"no usable server"}"#)
    } else {
        (StatusCode::OK, r#"{"status":"ok"}"#)
    };
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The storm that goes on and the last ones, as JSON.
async fn storms(State(endpoints): State<Arc<Endpoints>>) -> Response {
    match serde_json::to_vec(&endpoints.shared.flight.report()) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
