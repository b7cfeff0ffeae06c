//! Finds out what a server means that tells clients to go: itself, or only them.

use std::{future::poll_fn, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    cluster::own_dial::{INFO_TIMEOUT, OwnDial},
    dial::{self, DialError},
    net::timer,
    protocol::proxy_header,
    upstream::{OwnConnection, StillAccepts},
};

/// How soon weir dials again where it could not.
const AGAIN: Duration = Duration::from_millis(250);

/// Dials the server whenever it has told clients to go. Never returns.
pub(super) async fn find_out(own: &OwnDial) {
    loop {
        poll_fn(|cx| own.server.poll_told_to_go(cx)).await;
        if !look(own).await {
            sleep(AGAIN).await;
        }
    }
}

/// Dials. What comes of it is no other evidence about the server: one that shuts down is not ejected. Returns whether
/// the dial has shown anything.
async fn look(own: &OwnDial) -> bool {
    let OwnDial { server, access, compatibility, .. } = own;
    let means = |still_accepts| {
        server.told_to_go_means(timer::now(), still_accepts);
        true
    };
    // Where weir can read no INFO it reads none in sessions either.
    let Some(tls) = access.server_tls() else { return means(StillAccepts::No) };
    let _counts = OwnConnection::begin(server);
    let header = if compatibility.proxy_protocol { proxy_header::LOCAL } else { b"" };
    match dial::dial(server, tls, header, Instant::now() + INFO_TIMEOUT).await {
        Ok(connection) if connection.info().ldm() => means(StillAccepts::No),
        Ok(connection) => means(StillAccepts::Process(connection.info().server_id())),
        Err(DialError::Full | DialError::Throttled | DialError::OtherCluster) => means(StillAccepts::SomeProcess),
        Err(err) if err.says_nothing() => false,
        Err(_) => means(StillAccepts::No),
    }
}
