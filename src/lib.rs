//! weir: one address in front of a NATS cluster that keeps it alive.
//!
//! The path of a client, top to bottom, is [`session`]. The floors below it, lowest first; a file imports any lower floor and
//! never a higher one:
//!
//! - words: [`protocol`], [`outcome`], [`client_library`]. Bytes and values; no clock, socket, log or lock.
//! - decisions: [`identity`], [`admission`], [`upstream`]. `now` goes in, a verdict comes out.
//! - verbs: [`net`], [`tls`], [`session`], [`relay`], [`cluster`], [`dial`], [`dispatch`], [`advertised_info`], [`telemetry`],
//!   [`worker`]. tokio lives here.
//! - assembly: [`config`], [`admin`], [`server`], [`cli`], and the tools in [`storm`].

mod admin;
mod admission;
mod advertised_info;
pub mod cli;
mod client_library;
mod cluster;
mod config;
mod dial;
mod dispatch;
mod identity;
mod net;
mod outcome;
mod protocol;
mod relay;
mod server;
mod session;
mod storm;
mod telemetry;
mod tls;
mod upstream;
mod worker;

/// What the fuzz targets, benchmarks and tests of this repository use. Not an interface: it changes without notice.
#[doc(hidden)]
pub mod internals {
    pub mod admission {
        pub use crate::admission::{
            AccountLimits, Admission, Client, Limit, Params, Quota, QuotaIdentity, Rate, Return, Step, Wait, Waiter,
        };
    }
    pub mod config {
        pub use crate::config::{Config, ServerArg};
    }
    pub mod identity {
        pub use crate::identity::{ClientKey, Credential, Keys};
    }
    pub mod protocol {
        pub use crate::protocol::{
            MAX_PIPELINED, client_preface, connect, control_line, info, op, proxy_header, websocket,
        };
    }
    pub mod upstream {
        pub use crate::upstream::{
            Compatibility, Params, Placement, Reserve, ServerParams, Servers, Urgency, placement,
        };
    }
}
