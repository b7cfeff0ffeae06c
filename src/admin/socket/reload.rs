//! `reload`: the configuration is read again, as at SIGHUP; or only looked at, to show what that would do.

use std::fmt::Write;

use serde_json::Value;

use crate::{
    admin::socket::{
        Operator, Who,
        answer::{Done, NotDone},
        query::Query,
    },
    server::reload::{Refused, Report},
};

pub async fn reload(operator: &Operator, query: Query, who: &Who) -> Result<Done, NotDone> {
    query.end()?;
    let report = operator.reloader.reload(&format!("weir reload by {}", who.name())).await.map_err(|why| not(&why))?;
    Ok(done("reloaded", &report))
}

/// What a reload would do.
pub async fn preview(operator: &Operator, query: Query) -> Result<Done, NotDone> {
    query.end()?;
    let report = operator.reloader.preview().await.map_err(|why| not(&why))?;
    Ok(done("a reload would change this", &report))
}

/// What a reload would do if weir's file had this `text`: the file may be another one, and of another user.
pub async fn preview_of(operator: &Operator, mut query: Query, text: String) -> Result<Done, NotDone> {
    let name = query.required("name")?;
    query.end()?;
    let what = format!("with {name}, a reload would change this");
    let report = operator.reloader.preview_of(name, text).await.map_err(|why| not(&why))?;
    Ok(done(&what, &report))
}

fn not(refused: &Refused) -> NotDone {
    NotDone::Refused(format!("nothing has changed:\n{refused}"))
}

fn done(what: &str, report: &Report) -> Done {
    let Report { changes, needs_restart, warnings } = report;
    let mut text = match changes.len() {
        0 => format!("{what}: nothing"),
        1 => format!("{what}: 1 change"),
        n => format!("{what}: {n} changes"),
    };
    // Writing to a string does not fail.
    for change in changes {
        let _ = write!(text, "\n  {change}");
    }
    if !needs_restart.is_empty() {
        text += "\nit needs a restart:";
        for change in needs_restart {
            let _ = write!(text, "\n  {change}");
        }
    }
    for warning in warnings {
        let _ = write!(text, "\nwarning: {warning}");
    }
    let list = |value| serde_json::to_value(value).unwrap_or(Value::Null);
    Done::new("reload", text)
        .with("changes", list(changes))
        .with("needs_restart", list(needs_restart))
        .with("warnings", warnings.clone())
}
