//! `loglevel`: shows the level of the log, or sets it until weir ends or it is set again.

use crate::{
    admin::socket::{
        answer::{Done, NotDone},
        query::Query,
    },
    server::logging::{self, Level, LevelChange},
};

pub fn shown() -> Done {
    let Level { in_force, configured } = logging::level();
    let mut done = format!("the log level is {in_force}");
    if in_force != configured {
        done += &format!(", and {configured} by the configuration");
    }
    Done::new("loglevel", done).with("level", in_force).with("configured", configured)
}

/// What the answer will be, and the change that is to be made.
pub fn set(mut query: Query) -> Result<(Done, LevelChange), NotDone> {
    const REMEDY: &str = "write error, warn, info, debug or trace, or a filter such as weir=debug,warn";
    let wanted = query.required("level")?;
    query.end()?;
    let change = LevelChange::parse(&wanted).map_err(|why| NotDone::Usage(format!("{wanted:?}: {why}; {REMEDY}")))?;
    let Level { in_force: before, configured } = logging::level();
    let wanted = change.wanted.clone();
    let done = match before == wanted {
        true => format!("the log level is {wanted} already"),
        false => format!("the log level is {wanted}, and was {before}; weir does not keep it over a restart"),
    };
    let done = Done::new("loglevel", done).with("level", wanted).with("before", before).with("configured", configured);
    Ok((done, change))
}
