//! Patterns that never apply, since one that stands before them matches everything that they do.

use std::collections::HashMap;

use globset::{Glob, GlobSetBuilder};

use crate::{
    admission::PatternQuota,
    config::{finding::Problem, node::key_path, raw::Raw, section::Sink},
};

/// So many patterns with wildcards are compared with each other: beyond that a start would take noticeably longer.
const MOST_COMPARED: usize = 500;

pub(super) fn look(raw: &Raw, sink: &mut Sink) {
    let patterns = &raw.admission.patterns;
    of_table("users", &patterns.users, sink);
    of_table("names", &patterns.names, sink);
    of_accounts(raw, sink);
}

/// `[users.*]` and `[names.*]`.
fn of_table(table: &str, patterns: &[PatternQuota], sink: &mut Sink) {
    let all: Vec<_> = patterns.iter().map(|one| &*one.pattern).collect();
    for (pattern, before) in all.iter().zip(first_that_match_all(&all)) {
        if let Some(before) = before.and_then(|at| all.get(at)) {
            let before = key_path(table, before);
            let what = format!("it never applies: [{before}] stands before it, and matches all that it does");
            let remedy = format!("write it before [{before}]: the first table that matches counts");
            sink.warn(key_path(table, pattern), Problem::new(what, remedy));
        }
    }
}

/// `users` of `[accounts.*]`, which are not shown: they may be tokens.
fn of_accounts(raw: &Raw, sink: &mut Sink) {
    let rules = &raw.admission.rules;
    let all: Vec<_> =
        rules.iter().enumerate().flat_map(|(i, rule)| rule.users.iter().map(move |user| (i, user))).collect();
    let users: Vec<_> = all.iter().map(|(_, user)| user.as_str()).collect();
    let mut shadowed = HashMap::<usize, (usize, usize)>::new();
    for ((rule, user), before) in all.iter().zip(first_that_match_all(&users)) {
        // The same entry in two accounts is an error, and has been reported.
        if let Some((before, other)) = before.and_then(|at| all.get(at))
            && before != rule
            && other != user
        {
            shadowed.entry(*rule).or_insert((0, *before)).0 += 1;
        }
    }
    for (i, rule) in rules.iter().enumerate() {
        let Some((count, before)) = shadowed.get(&i).and_then(|(count, at)| Some((count, rules.get(*at)?))) else {
            continue;
        };
        let [own, before] = [&rule.account, &before.account].map(|name| key_path("accounts", name));
        let all = rule.users.len();
        let what =
            format!("{count} of {all} entries never apply: [{before}] stands before it, and matches all they do");
        let remedy = format!("write [{own}] before [{before}]: the first account that matches counts");
        sink.warn(format!("{own}.users"), Problem::new(what, remedy));
    }
}

/// Of each pattern, the first of those before it that matches all that it matches; `None` also where that cannot be
/// seen easily.
fn first_that_match_all(patterns: &[&str]) -> Vec<Option<usize>> {
    let mut set = GlobSetBuilder::new();
    // What is no glob has been reported.
    if patterns.iter().any(|pattern| Glob::new(pattern).map(|glob| set.add(glob)).is_err()) {
        return vec![None; patterns.len()];
    }
    let Ok(set) = set.build() else { return vec![None; patterns.len()] };
    let mut wild: Vec<(usize, &str)> = Vec::new();
    let mut found = Vec::with_capacity(patterns.len());
    for (i, &pattern) in patterns.iter().enumerate() {
        if !pattern.contains(['*', '?', '[', '{', '\\']) {
            found.push(set.matches(pattern).into_iter().min().filter(|&before| before < i));
            continue;
        }
        found.push(wild.iter().find(|(_, general)| matches_all(general, pattern)).map(|(before, _)| *before));
        if wild.len() < MOST_COMPARED {
            wild.push((i, pattern));
        }
    }
    found
}

/// Whether `general` matches everything that `special` matches, as far as `*` and `?` tell.
fn matches_all(general: &str, special: &str) -> bool {
    if general.chars().all(|c| c == '*') {
        return true;
    }
    // Classes, alternatives, and `**`, which has a meaning of its own beside a slash.
    let is_plain = |pattern: &str| !pattern.contains(['[', '{', '\\']) && !pattern.contains("**");
    if !is_plain(general) || !is_plain(special) {
        return false;
    }
    // Reads `special` as a text in which only a `*` of `general` takes a `*`. `reached[n]`: what has been read of
    // `general` so far can match its first `n` characters.
    let special: Vec<char> = special.chars().collect();
    let mut reached = vec![false; special.len() + 1];
    reached[0] = true;
    for wanted in general.chars() {
        let mut next = Vec::with_capacity(reached.len());
        for (n, &here) in reached.iter().enumerate() {
            let is_reached = match (wanted, n.checked_sub(1)) {
                ('*', _) => here || next.last() == Some(&true),
                (_, None) => false,
                ('?', Some(before)) => reached[before] && special[before] != '*',
                (c, Some(before)) => reached[before] && special[before] == c,
            };
            next.push(is_reached);
        }
        reached = next;
    }
    reached[special.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_general_pattern_is_told_from_one_that_only_looks_like_it() {
        for (general, special, is) in [
            ("*", "orders-*", true),
            ("*", "{a,b}", true),
            ("orders-*", "orders-eu-*", true),
            ("orders-*", "orders-*", true),
            ("*-eu", "orders-*-eu", true),
            ("orders-?*", "orders-??", true),
            ("a*c*e", "abcde*e", true),
            ("orders-?", "orders-*", false),
            ("orders-?*", "orders-*", false),
            ("orders-*", "*", false),
            ("orders-*", "order*", false),
            ("*-eu", "*-e?", false),
            ("[a-z]*", "a*", false),
        ] {
            assert_eq!(matches_all(general, special), is, "{general} {special}");
        }
    }

    #[test]
    fn the_first_before_it_counts() {
        let first = |patterns: &[&str]| first_that_match_all(patterns);
        assert_eq!(first(&["a-*", "*", "a-1", "b", "b-*"]), [None, None, Some(0), Some(1), Some(1)]);
        assert_eq!(first(&["b", "b-*", "*"]), [None; 3]);
        assert_eq!(first(&["[", "*", "a"]), [None; 3], "it has been reported");
        assert_eq!(first(&["[ab]*", "a1", "a?"]), [None, Some(0), None]);
        assert_eq!(first(&[]), []);
    }
}
