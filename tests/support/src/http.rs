//! HTTP GET, for endpoints such as `/varz` and `/metrics`.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::PATIENCE;

/// Fetches `http://addr/path` on a connection of its own and returns status and body.
pub async fn get(addr: &str, path: &str) -> io::Result<(u16, String)> {
    get_accepting(addr, path, None).await.map(|(status, _, body)| (status, body))
}

/// The same with this `Accept` header, and with the type of the answer behind its status.
pub async fn get_accepting(addr: &str, path: &str, accept: Option<&str>) -> io::Result<(u16, String, String)> {
    tokio::time::timeout(PATIENCE, fetch(addr, path, accept))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("GET {addr}{path}"))))
}

async fn fetch(addr: &str, path: &str, accept: Option<&str>) -> io::Result<(u16, String, String)> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get(path).header("host", addr).header("connection", "close");
    let request = accept
        .into_iter()
        .fold(request, |request, accept| request.header("accept", accept))
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.to_owned();
        let body = Limited::new(response.into_body(), 16 << 20).collect().await.map_err(io::Error::other)?;
        Ok((status, kind, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = exchange => answer,
        () = drive => unreachable!("the driver never returns"),
    }
}
