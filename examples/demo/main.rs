//! What `scripts/demo` runs: the same reconnect storm at two identical clusters, one with weir in front and one
//! without, and then what weir does at quotas, at full servers and when a server dies. Every figure on the screen is
//! measured while it runs: by the servers' own `/varz`, by weir's `/metrics` and by the clients. An act that does not
//! end as announced ends the demo with exit code 1.
//!
//! `demo` keeps its cluster running after the last act until Ctrl-C; `demo --once` ends after the last act.

mod screen;
mod side;
mod storm;
mod story;

use std::process::ExitCode;
use std::sync::atomic::Ordering::SeqCst;

use screen::Screen;
use tokio::signal::unix::{SignalKind, signal};

/// The exit code of a program that Ctrl-C has ended, as shells report it.
const INTERRUPTED: u8 = 130;

/// What was not as it should be.
struct Failed(String);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--once"] => true,
        _ => {
            eprintln!("usage: demo [--once]");
            return ExitCode::from(2);
        }
    };
    // Servers and weir get process groups of their own: Ctrl-C reaches the demo alone, which then ends them in order.
    weir_testkit::process::OWN_GROUP.store(true, SeqCst);
    let mut screen = Screen::new(once);
    // On a signal the story is dropped where it stands, and with it all clients and processes that it has started.
    let ended = tokio::select! {
        ended = story::tell(&mut screen, once) => Some(ended),
        () = asked_to_stop() => None,
    };
    screen.leave();
    let code = match ended {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(Failed(what))) => {
            eprintln!("demo: FAILED: {what}");
            ExitCode::FAILURE
        }
        None if screen.finished => ExitCode::SUCCESS,
        None => ExitCode::from(INTERRUPTED),
    };
    screen.say("");
    screen.say(&format!("Stopped: {}. Their temporary files are removed.", screen.started));
    screen.say(
        "Read on in README.md: why a cluster needs this, how a client passes through weir, and how to configure it.",
    );
    code
}

/// Waits for Ctrl-C, SIGTERM, or the end of the terminal: without the last, its children would outlive a closed window.
async fn asked_to_stop() {
    let handler = |kind| signal(kind).expect("a signal handler");
    let (mut interrupt, mut terminate) = (handler(SignalKind::interrupt()), handler(SignalKind::terminate()));
    let mut hangup = handler(SignalKind::hangup());
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
