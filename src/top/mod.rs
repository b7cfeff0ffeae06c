//! `weir top`: what the live page shows, in a terminal. One thread asks weir for its overview, the other one draws.

mod numbers;
mod screen;
mod source;
mod view;
mod watched;

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

pub use self::source::Source;
use self::{view::Choices, watched::Watched};

/// The width of a frame that goes to no terminal, in columns, where COLUMNS names none.
const WIDTH: usize = 120;

/// Shows what weir at `source` says, again after each `interval`, until a key ends it. With `once`, or where standard
/// output is no terminal, prints one frame as text.
///
/// # Errors
/// weir cannot be asked at the start, or the terminal fails.
pub fn run(source: &Source, interval: Duration, once: bool) -> io::Result<()> {
    let mut watched = Watched::new(source.to_string());
    watched.take(source.ask(0).map_err(io::Error::other)?);
    if once || !io::stdout().is_terminal() {
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let mut text = String::new();
        for line in view::lines(&watched, &Choices::default(), columns.unwrap_or(WIDTH)) {
            let line: String = line.iter().map(|span| &*span.content).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        return io::stdout().write_all(text.as_bytes());
    }
    screen::show(source, watched, interval)
}
