//! Clients beside those of [`super::table`]: what their sources say of how long they wait and when they come back, by
//! the `lang` of their CONNECT, with the repository and the commit that were read. None was measured. A `lang` that is
//! in neither table has the shortest time to wait.
//!
//! nats.net.v1 and NATS .NET v2 both say `.NET`; the time to wait in the table holds for both. nats.ex (Elixir) and
//! many clients that are written by hand say no `lang` at all.

use std::time::Duration;

use crate::client_library::{library::Deadline, returns::Return};

/// A client of which weir knows no more than this.
#[derive(Debug)]
pub struct Other {
    /// The `lang` of its CONNECT, or how that begins: what follows is the version of the language.
    pub lang: &'static str,
    pub deadline: Deadline,
    pub returns: Return,
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What weir takes for the patience of clients that have no timer between CONNECT and PONG: they wait for as long as
/// the connection lives, so a hold is better than a refusal. It is no longer than that of async-nats, since somebody
/// may wait for the device.
const WITHOUT_TIMER: Deadline = Deadline::PerStep(s(5));

/// By their `lang`, which is compared as it is.
pub(super) static EXACT: [Other; 6] = [
    // basis-company/nats.php 4a617e9: 1 s for each message that it waits for.
    Other { lang: "php", deadline: Deadline::PerStep(s(1)), returns: Return::Unknown },
    // nats-io/nats.zig 883d29c: 5 s for INFO, and 5 s from CONNECT where login is required.
    Other { lang: "zig", deadline: Deadline::PerStep(s(5)), returns: Return::Unknown },
    // nats-io/nats.swift a9031f1: 5 s to connect TCP, no timer behind that, 2 s between attempts.
    Other { lang: "Swift", deadline: WITHOUT_TIMER, returns: Return::After(s(2)) },
    // chartchuo/dart-nats c5a5b43: 5 s to connect TCP, no timer behind that, 10 s between 3 attempts.
    Other { lang: "dart", deadline: WITHOUT_TIMER, returns: Return::After(s(10)) },
    // isobit/arduino-nats 4a0f6b4: no timer, 5 s between attempts.
    Other { lang: "arduino", deadline: WITHOUT_TIMER, returns: Return::After(s(5)) },
    // fluent/fluent-bit d55459d (out_nats): reads nothing, so it waits for nothing.
    Other { lang: "c", deadline: WITHOUT_TIMER, returns: Return::Unknown },
];

/// By the beginning of their `lang`: engine and version of Ruby, such as `ruby3.3.0`.
pub(super) static BEGINNINGS: [Other; 3] = [ruby("ruby"), ruby("jruby"), ruby("truffleruby")];

const fn ruby(lang: &'static str) -> Other {
    // nats-io/nats-pure.rb b484a05: 2 s for each line, 2 s between attempts, more than 10 of them.
    Other { lang, deadline: Deadline::PerStep(s(2)), returns: Return::After(s(2)) }
}

/// The one with this `lang`.
pub(super) fn other(lang: &str) -> Option<&'static Other> {
    let is_version = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    let begins = |one: &&Other| lang.strip_prefix(one.lang).is_some_and(is_version);
    EXACT.iter().find(|one| one.lang == lang).or_else(|| BEGINNINGS.iter().find(begins))
}
