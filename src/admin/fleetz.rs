//! `/fleetz`: all weirs of the fleet, their leases, shares and lag, as JSON.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use serde::Serialize;

use crate::{
    admin::{Endpoints, json},
    fleet::view::{FleetView, Quota},
    overview,
    reports::MOST_ROWS,
    session::Shared,
};

/// The quotas where nobody asks for more or fewer.
const ROWS: usize = 20;

/// What quotas are of.
const KINDS: [&str; 5] = ["account", "user", "name", "leafnodes", "server"];

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    /// The most quotas.
    limit: usize,
    /// Only quotas of this kind.
    of: Option<String>,
    /// Only quotas of what is called so.
    name: Option<String>,
    /// Of each list, only what this weir has.
    weir: Option<String>,
}

/// The body of an answer that says no.
#[derive(Debug, Serialize)]
struct Wrong {
    error: String,
}

pub(super) async fn fleetz(State(endpoints): State<Arc<Endpoints>>, RawQuery(query): RawQuery) -> Response {
    answer_to(&endpoints.shared, query.as_deref().unwrap_or_default())
}

/// The answer to a `query`, over the monitor port or the admin socket.
pub(super) fn answer_to(shared: &Shared, query: &str) -> Response {
    match Asked::parse(query) {
        Ok(asked) => {
            let view = overview::fleet(shared, Instant::now()).unwrap_or_default();
            json(StatusCode::OK, &asked.of(view))
        }
        Err(error) => json(StatusCode::BAD_REQUEST, &Wrong { error }),
    }
}

impl Asked {
    /// Reads the arguments. One that is not known says nothing, as at nats-server's endpoints.
    fn parse(query: &str) -> Result<Self, String> {
        let mut asked = Self { limit: ROWS, ..Self::default() };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let value = value.into_owned();
            match &*key {
                "limit" => {
                    let wrong = |_| format!("limit={value:?} is no number of rows: write 1 to {MOST_ROWS}");
                    asked.limit = value.parse::<usize>().map_err(wrong)?.clamp(1, MOST_ROWS);
                }
                "of" if KINDS.contains(&&*value) => asked.of = Some(value),
                "of" => return Err(format!("there is no quota of {value:?}: there are {}", KINDS.join(", "))),
                "account" | "acc" => {
                    asked.of = Some("account".to_owned());
                    asked.name = Some(value);
                }
                "name" => asked.name = Some(value),
                "weir" => asked.weir = Some(value),
                _ => {}
            }
        }
        Ok(asked)
    }

    /// The part of the view that is asked for.
    fn of(&self, mut view: FleetView) -> FleetView {
        let is_asked = |quota: &Quota| {
            self.of.as_ref().is_none_or(|of| *of == quota.of)
                && self.name.as_ref().is_none_or(|name| quota.name.as_ref() == Some(name))
        };
        view.quotas.retain(is_asked);
        if let Some(weir) = &self.weir {
            view.weirs.retain(|one| one.id == *weir);
            for quota in &mut view.quotas {
                quota.weirs.retain(|one| one.id == *weir);
            }
            view.quotas.retain(|quota| !quota.weirs.is_empty());
            for server in &mut view.servers {
                server.weirs.retain(|one| one.id == *weir);
            }
        }
        view.quotas.truncate(self.limit);
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::view::{Lease, Weir};

    #[test]
    fn arguments_are_read_or_refused() {
        let plain = Asked { limit: ROWS, ..Asked::default() };
        assert_eq!(Asked::parse(""), Ok(plain));
        let asked = Asked::parse("limit=5000&acc=A%20B&weir=w1&else=1").unwrap();
        assert_eq!(
            (asked.limit, asked.of.as_deref(), asked.name.as_deref()),
            (MOST_ROWS, Some("account"), Some("A B"))
        );
        assert!(Asked::parse("limit=x").unwrap_err().contains("1 to 1000"));
        assert!(Asked::parse("of=source").unwrap_err().contains("account, user, name, leafnodes, server"));
    }

    #[test]
    fn one_weir_is_shown_alone() {
        let lease = |id: &str| Lease { id: id.into(), lease: 3, ..Lease::default() };
        let quota = |of: &str, name: &str, ids: &[&str]| Quota {
            of: of.into(),
            name: Some(name.into()),
            weirs: ids.iter().map(|id| lease(id)).collect(),
            ..Quota::default()
        };
        let weir = |id: &str| Weir { id: id.into(), ..Weir::default() };
        let view = || FleetView {
            weirs: vec![weir("w1"), weir("w2")],
            quotas: vec![quota("account", "A", &["w1", "w2"]), quota("user", "A", &["w2"])],
            ..FleetView::default()
        };
        let of = |query: &str| Asked::parse(query).unwrap().of(view());
        assert_eq!((of("").quotas.len(), of("limit=1").quotas.len(), of("account=A").quotas.len()), (2, 1, 1));
        let one = of("weir=w1");
        assert_eq!((one.weirs.len(), one.quotas.len(), one.quotas[0].weirs.len()), (1, 1, 1));
    }
}
