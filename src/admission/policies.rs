//! What clients have to be like, whatever room there is: not idle for ever, with a name, of a version that is not too
//! old. Each policy may only warn, and may be for some accounts only.

use std::{collections::HashMap, time::Duration};

use semver::Version;

use crate::outcome::Refusal;

/// The policies of the configuration; each is off where it is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies {
    pub idle: Option<IdlePolicy>,
    /// Clients must have a name.
    pub name: Option<Scope>,
    pub version: Option<VersionPolicy>,
}

/// Whom a policy is for, and whether it does anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Clients that the policy would keep out or end are only counted.
    pub warn_only: bool,
    /// The accounts that it is for; all of them where there is none.
    pub accounts: Vec<String>,
}

/// Ends sessions that are not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdlePolicy {
    /// A session ends after this time without a message either way, and without a subscription that comes or goes.
    pub timeout: Duration,
    pub scope: Scope,
}

/// The least version of client libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPolicy {
    /// By the `lang` of CONNECT; others may have any version.
    pub min_by_lang: HashMap<String, Version>,
    pub scope: Scope,
}

/// What a client says of itself in CONNECT, and the account that it is taken to be of.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    pub account: &'a str,
    pub name: Option<&'a str>,
    pub lang: Option<&'a str>,
    pub version: Option<&'a str>,
}

/// How old a session is in idleness, compared with the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idleness {
    /// It is used, or the policy is not for it.
    Fine,
    /// It is to end.
    Over,
    /// It has become idle since the last look, and the policy only warns.
    Warned,
}

impl Scope {
    fn holds(&self, account: &str) -> bool {
        self.accounts.is_empty() || self.accounts.iter().any(|one| one == account)
    }
}

impl Policies {
    /// Whether a client may come in. Calls `warned` with each reason for which it would have been refused.
    ///
    /// # Errors
    /// The reason to refuse it with.
    pub fn check(&self, client: Described<'_>, mut warned: impl FnMut(Refusal)) -> Result<(), Refusal> {
        let nameless = client.name.is_none_or(|name| name.trim().is_empty());
        let name = self.name.as_ref().filter(|_| nameless).map(|scope| (scope, Refusal::NameMissing));
        let version = self.version.as_ref().filter(|policy| policy.is_too_old(client));
        let version = version.map(|policy| (&policy.scope, Refusal::ClientTooOld));
        let broken = [name, version].into_iter().flatten().filter(|(scope, _)| scope.holds(client.account));
        for (scope, reason) in broken {
            if !scope.warn_only {
                return Err(reason);
            }
            warned(reason);
        }
        Ok(())
    }

    /// Whether a session of this account that has been `idle` is to end, as seen `since_last_look` after the last time.
    pub fn idleness(&self, account: &str, idle: Duration, since_last_look: Duration) -> Idleness {
        let Some(policy) = self.idle.as_ref().filter(|policy| idle >= policy.timeout && policy.scope.holds(account))
        else {
            return Idleness::Fine;
        };
        match policy.scope.warn_only {
            false => Idleness::Over,
            true if idle - policy.timeout < since_last_look => Idleness::Warned,
            true => Idleness::Fine,
        }
    }
}

impl VersionPolicy {
    fn is_too_old(&self, client: Described<'_>) -> bool {
        let least = client.lang.and_then(|lang| self.min_by_lang.get(lang));
        // A client that says no version cannot show that it is new enough.
        least.is_some_and(|least| version(client.version.unwrap_or_default()).is_none_or(|version| version < *least))
    }
}

/// A version as libraries write it: `1.30.0`, `v2.1`, `3.0.0-beta.1`, `2.9.0.post1`; missing numbers are 0.
pub fn version(text: &str) -> Option<Version> {
    let text = text.trim().trim_start_matches(['v', 'V']);
    if let Ok(version) = Version::parse(text) {
        return Some(version);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut numbers = text[..end].split('.').take(3).filter(|number| !number.is_empty()).map(str::parse);
    let first = numbers.next()?.ok()?;
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    Some(Version::new(first, next(), next()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client<'a>(account: &'a str, name: Option<&'a str>, lang: &'a str, version: Option<&'a str>) -> Described<'a> {
        Described { account, name, lang: Some(lang), version }
    }

    fn check(policies: &Policies, client: Described<'_>) -> (Result<(), Refusal>, Vec<Refusal>) {
        let mut warned = Vec::new();
        (policies.check(client, |reason| warned.push(reason)), warned)
    }

    fn version_policy(scope: Scope) -> VersionPolicy {
        let min_by_lang = HashMap::from([("go".to_owned(), Version::new(1, 30, 0))]);
        VersionPolicy { min_by_lang, scope }
    }

    #[test]
    fn without_policies_everybody_may_come() {
        let nobody = Described { account: "", name: None, lang: None, version: None };
        assert_eq!(check(&Policies::default(), nobody), (Ok(()), Vec::new()));
        assert_eq!(Policies::default().idleness("A", Duration::MAX, Duration::MAX), Idleness::Fine);
    }

    #[test]
    fn a_name_is_required_of_the_accounts_that_it_is_required_of() {
        let of_a = Scope { accounts: vec!["A".into()], ..Scope::default() };
        let policies = Policies { name: Some(of_a), ..Policies::default() };
        for (account, name, refused) in
            [("A", None, true), ("A", Some(" "), true), ("A", Some("orders"), false), ("B", None, false)]
        {
            let expected = if refused { Err(Refusal::NameMissing) } else { Ok(()) };
            assert_eq!(check(&policies, client(account, name, "go", None)).0, expected, "{account} {name:?}");
        }
    }

    #[test]
    fn old_clients_of_a_library_are_refused_and_others_are_not() {
        let policies = Policies { version: Some(version_policy(Scope::default())), ..Policies::default() };
        for (lang, version, refused) in [
            ("go", Some("1.29.9"), true),
            ("go", Some("1.30.0"), false),
            ("go", Some("v1.31"), false),
            ("go", Some("2"), false),
            ("go", Some("1.30.0-preview"), true),
            ("go", Some("?"), true),
            ("go", None, true),
            ("rust", Some("0.1.0"), false),
            ("Go", Some("0.1.0"), false),
        ] {
            let expected = if refused { Err(Refusal::ClientTooOld) } else { Ok(()) };
            assert_eq!(check(&policies, client("A", None, lang, version)).0, expected, "{lang} {version:?}");
        }
    }

    #[test]
    fn what_only_warns_lets_in_and_says_each_reason() {
        let warns = Scope { warn_only: true, ..Scope::default() };
        let policies =
            Policies { name: Some(warns.clone()), version: Some(version_policy(warns)), ..Policies::default() };
        let both = vec![Refusal::NameMissing, Refusal::ClientTooOld];
        assert_eq!(check(&policies, client("A", None, "go", Some("1.0.0"))), (Ok(()), both));
        let strict = Policies { version: Some(version_policy(Scope::default())), ..policies };
        let (verdict, warned) = check(&strict, client("A", None, "go", Some("1.0.0")));
        assert_eq!((verdict, warned), (Err(Refusal::ClientTooOld), vec![Refusal::NameMissing]));
    }

    #[test]
    fn an_idle_session_ends_or_is_told_once() {
        let (timeout, every) = (Duration::from_secs(3600), Duration::from_secs(5));
        let policies = |warn_only| {
            let scope = Scope { warn_only, accounts: vec!["A".into()] };
            Policies { idle: Some(IdlePolicy { timeout, scope }), ..Policies::default() }
        };
        let at =
            |warn_only, account, seconds| policies(warn_only).idleness(account, Duration::from_secs(seconds), every);
        assert_eq!([3599, 3600, 9999].map(|n| at(false, "A", n)), [Idleness::Fine, Idleness::Over, Idleness::Over]);
        assert_eq!(at(false, "B", 9999), Idleness::Fine);
        let told = (0..10_000).step_by(5).filter(|&n| at(true, "A", n + 3) == Idleness::Warned).count();
        assert_eq!(told, 1, "in the look after it has become idle");
    }

    #[test]
    fn versions_are_read_as_libraries_write_them() {
        let read = |text: &str| version(text).map(|version| version.to_string());
        for (text, is) in [
            ("1.30.0", Some("1.30.0")),
            ("v2.1", Some("2.1.0")),
            ("3", Some("3.0.0")),
            ("2.9.0.post1", Some("2.9.0")),
            ("2.9.0rc1", Some("2.9.0")),
            ("1.2.3-beta.1", Some("1.2.3-beta.1")),
            ("", None),
            ("dev", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(read(text).as_deref(), is, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_version_is_read_or_not(text in any::<String>()) {
            let _ = version(&text);
        }
    }
}
