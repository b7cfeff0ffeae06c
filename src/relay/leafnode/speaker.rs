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
    },
    relay::direction::Outlet,
    upstream::{InfoKind, InfoWhen, Port, Server},
};

#[derive(Debug)]
pub(super) enum Speaker {
    Leafnode,
    Hub { listener_info: Arc<ListenerInfo>, client_ip: IpAddr, server: Arc<Server> },
}

impl Speaker {
    /// Puts what the other one is to read of an INFO into `out`.
    ///
    /// # Errors
    /// The cause for which the session ends.
    pub(super) fn pass_info(&self, line: &[u8], out: &mut Outlet<'_, '_>) -> Result<(), Cause> {
        let ServerLine::Info(json) = server_line(line) else { return Err(Cause::Protocol) };
        match self {
            Self::Leafnode => {
                // One that is in a cluster tells of changes there. With a mode of compression in it the hub would
                // speak what weir does not read.
                let info = Info::parse(json).map_err(|_| Cause::Protocol)?;
                if info.compression().is_some() {
                    return Err(Cause::Protocol);
                }
                out.put(line);
            }
            Self::Hub { listener_info, client_ip, server } => {
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
