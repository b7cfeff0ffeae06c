//! What is known of a client by the `lang` of its CONNECT, from both tables.

use crate::client_library::{
    library::Deadline,
    others::{BEGINNINGS, EXACT, other},
    returns::Return,
    table::{ALL, by_lang},
};

/// Every `lang` that weir knows, as it stands in CONNECT; one that ends with `…` is followed by a version there.
pub fn known() -> impl Iterator<Item = String> {
    // The same core with another transport.
    let of_js = ["nats.ws", "nats.deno"];
    let whole = ALL.iter().map(|library| library.lang).chain(of_js).chain(EXACT.iter().map(|other| other.lang));
    whole.map(str::to_owned).chain(BEGINNINGS.iter().map(|other| format!("{}…", other.lang)))
}

/// How long clients with this `lang` wait; `None` for those that weir does not know.
pub fn deadline(lang: &str) -> Option<Deadline> {
    by_lang(lang).map(|library| library.deadline).or_else(|| Some(other(lang)?.deadline))
}

/// When clients with this `lang` come back after a refusal.
pub fn returns(lang: &str) -> Return {
    match by_lang(lang) {
        Some(library) => library.returns(),
        None => other(lang).map_or(Return::Unknown, |other| other.returns),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client_library::table;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn nobody_is_in_both_tables() {
        for one in EXACT.iter().chain(&BEGINNINGS) {
            assert!(
                table::ALL.iter().all(|library| library.lang != one.lang) && by_lang(one.lang).is_none(),
                "{one:?}"
            );
        }
    }

    #[test]
    fn every_known_lang_has_a_deadline() {
        assert!(known().count() > 12);
        for lang in known() {
            assert!(deadline(&lang.replace('…', "3.3.0")).is_some(), "{lang}");
        }
    }

    #[test]
    fn each_lang_has_one_answer() {
        let per_step = |seconds| Some(Deadline::PerStep(s(seconds)));
        for (lang, wait, back) in [
            ("ruby3.3.0", per_step(2), Return::After(s(2))),
            ("jruby3.1.4", per_step(2), Return::After(s(2))),
            ("truffleruby3.2.2", per_step(2), Return::After(s(2))),
            ("php", per_step(1), Return::Unknown),
            ("zig", per_step(5), Return::Unknown),
            ("dart", per_step(5), Return::After(s(10))),
            ("arduino", per_step(5), Return::After(s(5))),
            (".NET", per_step(2), Return::Doubling { first: s(2), cap: s(5) }),
            ("nats.deno", Some(Deadline::Total(s(20))), Return::Regardless),
            ("go", Some(Deadline::Total(s(2))), Return::After(s(2))),
            // Versions that nobody has read, other letters, and what is not in any table.
            ("ruby", None, Return::Unknown),
            ("rubyx", None, Return::Unknown),
            ("PHP", None, Return::Unknown),
            ("elixir", None, Return::Unknown),
            ("", None, Return::Unknown),
        ] {
            assert_eq!((deadline(lang), returns(lang)), (wait, back), "{lang}");
        }
    }
}
