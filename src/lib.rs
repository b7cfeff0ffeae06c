//! weir: one address in front of a NATS cluster that keeps it alive.
//!
//! ```text
//! client ── net::accept ── session ────────────────────────────────────────────────── relay ── nats-server
//!                            │ arrive, preface, identify, wait, connect upstream, welcome
//!                            │
//!                            ├─ admission   may it come in, when, and who goes first?
//!                            ├─ upstream    onto which server? how many logins at a time?
//!                            └─ cluster     what do the servers say of themselves?
//! ```
//!
//! Start with [`session`]: the path of one client, in stages. `ARCHITECTURE.md` says where to change what,
//! `docs/contract.md` how weir behaves towards clients and servers, `docs/glossary.md` what each word means.
//!
//! The floors, lowest first. A file imports its own floor and lower ones, never a higher one; `scripts/floors` has the
//! compiler check it:
//!
//! - words: [`protocol`], [`outcome`], [`client_library`]. Bytes and values; no clock, socket, log or lock.
//! - decisions: [`identity`], [`admission`], [`upstream`], [`tally`], [`growth`], [`events`], [`rebalance`],
//!   [`reports`], [`fleet`], [`lapse`]. `now` goes in, a verdict comes out.
//! - verbs: [`net`], [`tls`], [`session`], [`relay`], [`cluster`], [`dial`], [`dispatch`], [`advertised_info`],
//!   [`telemetry`], [`worker`], [`operator_file`], [`notify`], [`fleet_link`]. tokio lives here.
//! - assembly: [`config`], [`admin`], [`overview`], [`server`], [`cli`], and the tools in [`storm`] and [`top`].

mod admin;
mod admission;
mod advertised_info;
pub mod cli;
mod client_library;
mod cluster;
mod config;
mod dial;
mod dispatch;
mod events;
mod fleet;
mod fleet_link;
mod growth;
mod identity;
mod lapse;
mod net;
mod notify;
mod operator_file;
mod outcome;
mod overview;
mod protocol;
mod rebalance;
mod relay;
mod reports;
mod server;
mod session;
mod storm;
mod tally;
mod telemetry;
mod tls;
mod top;
mod upstream;
mod worker;

/// What the fuzz targets, benchmarks and tests of this repository use. Not an interface: it changes without notice.
#[doc(hidden)]
pub mod internals {
    pub mod admission {
        pub use crate::admission::{
            AccountLimits, Admission, Client, Limit, Mode, Params, Proof, Quota, QuotaIdentity, Rate, Return, Step,
            Wait, Waiter,
        };
    }
    pub mod config {
        pub use crate::config::{Config, Key, NewClients, ServerArg, keys};
    }
    pub mod fleet {
        pub mod lease {
            pub mod record {
                pub use crate::fleet::lease::record::{LONGEST, MOST_ENTRIES, Membership, Record};
            }
        }
    }
    pub mod identity {
        pub use crate::identity::{ClientKey, Credential, CredentialKey, Keys};
    }
    pub mod protocol {
        pub use crate::protocol::{
            client_preface, connect, control_line, info, op, proxy_header, s2, subscriptions, websocket,
        };
    }
    pub mod relay {
        pub use crate::relay::{
            BadState, Immovable, PassthroughState, PlainState, Relay, RelayState, ResumedIn, TrackedState,
        };
    }
    pub mod upstream {
        pub use crate::upstream::{
            Compatibility, LoginSpeed, Params, Placement, Reserve, ServerParams, Servers, Urgency, placement,
        };
    }
}
