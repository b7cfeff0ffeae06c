//! `weir run --ready-fd N`: whoever has started weir reads from a pipe when it is ready.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::RawFd,
    thread,
};

use tracing::warn;

use crate::net::inherited;

/// Where a line goes once weir is ready.
#[derive(Debug)]
pub struct ReadyLine(File);

impl ReadyLine {
    /// Takes over the descriptor with this number, which has to be open.
    ///
    /// # Errors
    /// It is not open.
    pub fn into_descriptor(number: RawFd) -> io::Result<Self> {
        inherited::adopt(number).map(|descriptor| Self(descriptor.into()))
    }

    /// Writes the line and closes the descriptor. A pipe that is full blocks, so that is for a thread of its own.
    pub fn write(self) {
        let Self(mut file) = self;
        let writes = move || {
            if let Err(err) = file.write_all(b"ready\n") {
                warn!(%err, "nobody reads from --ready-fd that weir is ready");
            }
        };
        if let Err(err) = thread::Builder::new().name("ready-fd".into()).spawn(writes) {
            warn!(%err, "nobody reads from --ready-fd that weir is ready");
        }
    }
}
