//! The dial of a server's WebSocket port: connect, TLS where the port has it, HTTP request, INFO.

use std::{net::IpAddr, sync::Arc};

use tokio::time::Instant;

use crate::{
    dial::{DialError, ServerConnection, connect, read_info, with_tls},
    net::{
        stream::Stream,
        websocket::{self, NotOpened},
    },
    tls::Connector,
    upstream::{Port, Server},
};

/// Connects to the WebSocket port of `server` and reads INFO there. The server is told the address of the `client` that
/// the connection is for, if it is for one. `tls` is used where the port speaks TLS.
///
/// Nothing can go before INFO: nats-server refuses a request with bytes behind it, and reads no PROXY header at this
/// port.
///
/// # Errors
/// Any [`DialError`].
pub async fn dial_websocket(
    server: &Server,
    tls: Option<&Connector>,
    client: Option<IpAddr>,
    deadline: Instant,
) -> Result<ServerConnection, DialError> {
    let Some(port) = server.websocket() else { return Err(DialError::NotNats("weir knows no WebSocket port of it")) };
    let address = port.endpoint.address();
    let mut stream = Stream::from(connect(&port.endpoint, b"", deadline).await?);
    if port.secure {
        let Some(tls) = tls else { return Err(DialError::NotNats("wss:// without TLS settings")) };
        stream = with_tls(stream, tls, address, deadline).await?;
    }
    let opened = websocket::open_to_server(stream, address, client, deadline).await;
    let mut stream = opened.map_err(|not| match not {
        NotOpened::Io(err) => DialError::Io(err),
        NotOpened::TimedOut => DialError::TimedOut,
        NotOpened::Answer(why) => DialError::NotNats(why),
    })?;
    let (lines, info) = read_info(server, Port::WebSocket, &mut stream, deadline).await?;
    Ok(ServerConnection { stream, port: Port::WebSocket, lines, info: Arc::new(info), may_refuse_header: false })
}
