//! Who of the two sends, and what becomes of its INFO.

use std::{net::IpAddr, sync::Arc};

use crate::{
    advertised_info::ListenerInfo,
    dial,
    net::timer,
    outcome::Cause,
    protocol::{
        control_line::{ServerLine, server_line},
        info::Info,
        websocket::closing::Closing,
    },
    relay::direction::Outlet,
    upstream::{InfoKind, InfoWhen, Port, Server},
};

#[derive(Debug)]
pub(super) enum Speaker {
    Leafnode,
    Hub {
        listener_info: Arc<ListenerInfo>,
        client_ip: IpAddr,
        server: Arc<Server>,
        /// What goes behind its last error. Known where the leafnode comes over WebSocket.
        closing: Option<&'static Closing>,
    },
}

impl Speaker {
    /// What goes behind the last error.
    pub(super) fn closing(&self) -> Option<&'static Closing> {
        if let Self::Hub { closing, .. } = self { *closing } else { None }
    }

    /// Puts what the other one is to read of an INFO, or of an error, into `out`.
    ///
    /// # Errors
    /// The cause for which the session ends.
    pub(super) fn pass_line(&mut self, line: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        let json = match (server_line(line), &mut *self) {
            (ServerLine::Info(json), _) => json,
            (ServerLine::Err(_), Self::Hub { closing, .. }) => {
                out.put(line);
                *closing = Closing::after(line);
                return Ok(());
            }
            _ => return Err(Cause::Protocol),
        };
        match self {
            Self::Leafnode => {
                // One that is in a cluster tells of changes there. With a mode of compression in it the hub would
                // speak what weir does not read.
                Info::parse(json).map_err(|_| Cause::Protocol)?;
                if Info::may_set_compression(json) {
                    return Err(Cause::Protocol);
                }
                out.put(line);
            }
            Self::Hub { listener_info, client_ip, server, .. } => {
                let kind = InfoKind { port: Port::Leafnode, when: InfoWhen::InSession };
                // What does not parse reaches no leafnode.
                let Ok(info) = dial::parse_info(server, json, kind) else { return Ok(()) };
                if info.ldm() {
                    server.said_lame_duck(timer::now(), info.server_id());
                }
                let mut rewritten = Vec::with_capacity(line.len());
                listener_info.write_server_info(&info, *client_ip, &mut rewritten);
                out.put(&rewritten);
            }
        }
        Ok(())
    }
}
