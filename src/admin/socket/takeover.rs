//! `weir run --takeover`: another process asks for all that this one has, on the connection of its request. And `weir
//! upgrade`: this one starts the other.

use std::io;

use axum::{
    body::Body,
    extract::Request,
    http::{
        StatusCode,
        header::{CONNECTION, UPGRADE},
    },
    response::Response,
};
use hyper::upgrade;

use crate::{
    admin::socket::{
        Operator,
        answer::{Done, NotDone},
        query::Query,
    },
    server::takeover::{PROTOCOL, taken_back},
};

pub fn begin(operator: &Operator, request: Request) -> Result<Done, NotDone> {
    let asked = request.headers().get(UPGRADE).is_some_and(|asked| asked.as_bytes() == PROTOCOL.as_bytes());
    if !asked {
        return Err(NotDone::Usage(format!(
            "a takeover is asked for with Upgrade: {PROTOCOL}: weir run --takeover does"
        )));
    }
    let stream = async { taken_back(upgrade::on(request).await.map_err(io::Error::other)?) };
    operator.giving.begin(stream).map_err(|why| NotDone::Refused(why.to_owned()))?;
    Ok(Done::new("takeover", "a takeover begins"))
}

/// Returns once another process has taken over, or will not.
pub async fn upgrade(operator: &Operator, query: Query) -> Result<Done, NotDone> {
    query.end()?;
    let pid = operator.giving.upgrade().await.map_err(|why| NotDone::Refused(why.to_string()))?;
    Ok(Done::new("upgrade", format!("process {pid} has taken over")).with("pid", pid))
}

pub fn switches_protocols() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, axum::http::HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, axum::http::HeaderValue::from_static(PROTOCOL));
    response
}
