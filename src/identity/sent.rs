//! Whether a client that sends CONNECT again says the same about who it is.

use serde::{Deserialize, Serialize};

use crate::{
    identity::{
        Keys,
        keyed_hash::{KeyOf, which},
    },
    protocol::connect::{Connect, ConnectAgain, Identity, IdentityKeys},
};

/// What a client's first CONNECT said about who it is: which keys had a value, and a keyed hash of all values. A
/// session keeps no secret. To find another identity with the same hash, a client would have to try 2^64 sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentIdentity {
    named: IdentityKeys,
    hash: u64,
}

impl Keys {
    /// What this CONNECT says about who the client is, as the client sent it.
    pub fn sent_identity(&self, connect: &Connect) -> SentIdentity {
        let identity = connect.identity();
        SentIdentity { named: identity.named(), hash: self.hash(&identity) }
    }

    /// Whether a later CONNECT of the same connection names the client of `first`. One that names only a part of what
    /// the first one did does not: weir cannot compare it.
    pub fn is_same(&self, first: SentIdentity, again: &ConnectAgain) -> bool {
        let names_nobody = again.given() == 0 && !again.identity().asks_for_new_account();
        let names_all = again.given() & first.named == first.named;
        names_nobody || (names_all && self.hash(&again.identity()) == first.hash)
    }

    fn hash(&self, identity: &Identity<'_>) -> u64 {
        let texts = identity.texts().map(|text| Some(text).filter(|text| !text.is_empty()));
        let more = which(&texts) << 1 | u64::from(identity.asks_for_new_account());
        self.begin(KeyOf::Sent, more).texts(&texts).end()
    }
}

impl SentIdentity {
    /// For another process with the same secret of its [`Keys`].
    pub fn to_raw(self) -> (IdentityKeys, u64) {
        (self.named, self.hash)
    }

    /// What another process with the same secret of its [`Keys`] has kept of a session.
    pub fn from_raw((named, hash): (IdentityKeys, u64)) -> Self {
        Self { named, hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_identity_is_recognised_and_no_other() {
        let keys = Keys::default();
        let is_same = |first: &str, again: &str| {
            let first = Connect::parse(first.as_bytes()).unwrap();
            let again = ConnectAgain::parse(again.as_bytes(), first.service_options()).unwrap();
            keys.is_same(keys.sent_identity(&first), &again)
        };
        let first = r#"{"user":"a","pass":"b","name":"n"}"#;
        for same in [
            first,
            "{}",
            "null",
            r#"{"pass":"b","USER":"a"}"#,
            r#"{"user":"x","user":"a","pass":"b","echo":false,"jwt":"","nkey":null}"#,
            r#"{"name":"another","verbose":true}"#,
        ] {
            assert!(is_same(first, same), "{same}");
        }
        for other in [
            r#"{"user":"a","pass":"c"}"#,
            r#"{"user":"b","pass":"a"}"#,
            r#"{"user":"ab","pass":""}"#,
            r#"{"user":"","pass":"ab"}"#,
            r#"{"user":"a"}"#,
            r#"{"user":""}"#,
            r#"{"user":"a","pass":"b","jwt":"x"}"#,
            r#"{"user":"a","pass":"b","nkey":"x"}"#,
            r#"{"user":"a","pass":"b","sig":"x"}"#,
            r#"{"user":"a","pass":"b","auth_token":"x"}"#,
            r#"{"user":"a","pass":"b","proxy_sig":"x"}"#,
            r#"{"user":"a","pass":"b","account":"x"}"#,
            r#"{"user":"a","pass":"b","new_account":true}"#,
            r#"{"account":"x"}"#,
            r#"{"new_account":true}"#,
        ] {
            assert!(!is_same(first, other), "{other}");
        }
        assert!(is_same("{}", "{}") && is_same("{}", r#"{"user":""}"#) && !is_same("{}", r#"{"user":"a"}"#));
        let signed = r#"{"nkey":"U1","sig":"s"}"#;
        assert!(is_same(signed, signed) && !is_same(signed, r#"{"nkey":"U1","sig":"t"}"#));
    }
}
