//! The claims of a user JWT. weir decodes a JWT but does not verify it: that is the server's work, and until the server
//! has done it the claims give no privilege (docs/contract.md, towards everybody 1).

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde_json::Value;

/// Longer JWTs are not decoded. A user JWT has some 500 to 2000 bytes, and a CONNECT at most 4096 by default.
const LONGEST: usize = 64 * 1024;
/// The length of a public NKey.
const KEY_LENGTH: usize = 56;

/// The account and the user of a JWT, as public keys. Neither is a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    account: String,
    user: String,
    forbids_websocket: bool,
    forbids_leafnode_over_websocket: bool,
}

#[derive(Deserialize)]
struct Payload {
    iss: String,
    sub: String,
    #[serde(default)]
    nats: Nats,
}

#[derive(Deserialize, Default)]
struct Nats {
    /// The account, if one of the account's signing keys signed the JWT; `iss` is that signing key then.
    #[serde(default)]
    issuer_account: String,
    /// Of any type: what is no list of texts is the server's to judge.
    #[serde(default)]
    allowed_connection_types: Value,
}

impl Claims {
    /// Reads a JWT; `None` if it is not a NATS user JWT.
    pub fn read(jwt: &str) -> Option<Self> {
        if jwt.len() > LONGEST {
            return None;
        }
        let mut parts = jwt.split('.');
        let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
        let Payload { iss, sub, nats } = serde_json::from_slice(&payload).ok()?;
        let account = if nats.issuer_account.is_empty() { iss } else { nats.issuer_account };
        let forbids = |name| forbids(&nats.allowed_connection_types, name);
        let (forbids_websocket, forbids_leafnode_over_websocket) = (forbids("WEBSOCKET"), forbids("LEAFNODE_WS"));
        let is_one = is_key(&account, b'A') && is_key(&sub, b'U');
        is_one.then_some(Self { account, user: sub, forbids_websocket, forbids_leafnode_over_websocket })
    }

    /// The account's public key, which is its name for the servers.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The user's public key.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Whether it is good for other connections only than those of clients over WebSocket.
    pub fn forbids_websocket(&self) -> bool {
        self.forbids_websocket
    }

    /// Whether it is good for other connections only than those of leafnodes over WebSocket.
    pub fn forbids_leafnode_over_websocket(&self) -> bool {
        self.forbids_leafnode_over_websocket
    }
}

/// Whether these `allowed_connection_types` are some, and this one is none of them. nats-server compares without
/// regard to case, and takes an empty list for all types.
fn forbids(types: &Value, this: &str) -> bool {
    let Some(types) = types.as_array().filter(|types| !types.is_empty()) else { return false };
    types.iter().all(|one| one.as_str().is_some_and(|name| !name.eq_ignore_ascii_case(this)))
}

/// Whether the text has the form of an account's public key.
pub fn is_account_key(text: &str) -> bool {
    is_key(text, b'A')
}

/// Whether the text has the form of a public key of this kind. Clients could otherwise choose the text of metric
/// labels.
fn is_key(text: &str, kind: u8) -> bool {
    let text = text.as_bytes();
    text.len() == KEY_LENGTH
        && text[0] == kind
        && text.iter().all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> String {
        format!("e30.{}.c2ln", BASE64URL_NOPAD.encode(payload.as_bytes()))
    }

    #[test]
    fn the_account_is_the_issuer_or_the_one_it_signs_for() {
        let [a, b, u] = ['A', 'A', 'U'].map(|kind| format!("{kind}{}", "B".repeat(55)));
        let b = b.replace('B', "C");
        let own = Claims::read(&jwt(&format!(r#"{{"iss":"{a}","sub":"{u}","nats":{{"type":"user"}}}}"#))).unwrap();
        assert_eq!((own.account(), own.user()), (&*a, &*u));
        let signed = jwt(&format!(r#"{{"iss":"{a}","sub":"{u}","nats":{{"issuer_account":"{b}"}}}}"#));
        assert_eq!(Claims::read(&signed).unwrap().account(), b);
    }

    #[test]
    fn connection_types_are_read_as_the_servers_do() {
        let [a, u] = ['A', 'U'].map(|kind| format!("{kind}{}", "B".repeat(55)));
        let forbids = |types: &str| {
            let payload = format!(r#"{{"iss":"{a}","sub":"{u}","nats":{{"allowed_connection_types":{types}}}}}"#);
            Claims::read(&jwt(&payload)).unwrap().forbids_websocket()
        };
        for allowed in [r#"["WEBSOCKET"]"#, r#"["STANDARD","websocket"]"#, "[]", "null", r#""STANDARD""#, "[1]"] {
            assert!(!forbids(allowed), "{allowed}");
        }
        // Types that no server knows allow nothing that a server knows.
        for forbidden in [r#"["STANDARD"]"#, r#"["MQTT","standard"]"#, r#"["LEAFNODE_WS"]"#, r#"["WEBSOCKETS"]"#] {
            assert!(forbids(forbidden), "{forbidden}");
        }
        let over_websocket = |types: &str| {
            let payload = format!(r#"{{"iss":"{a}","sub":"{u}","nats":{{"allowed_connection_types":{types}}}}}"#);
            Claims::read(&jwt(&payload)).unwrap().forbids_leafnode_over_websocket()
        };
        assert!(over_websocket(r#"["LEAFNODE","WEBSOCKET"]"#));
        assert!(!over_websocket(r#"["leafnode_ws"]"#) && !over_websocket("[]"));
    }

    #[test]
    fn what_is_no_user_jwt_claims_nothing() {
        let [a, u] = ['A', 'U'].map(|kind| format!("{kind}{}", "B".repeat(55)));
        let good = format!(r#"{{"iss":"{a}","sub":"{u}"}}"#);
        assert!(Claims::read(&jwt(&good)).is_some());
        for bad in [
            String::new(),
            "a.b".into(),
            "a.b.c".into(),
            format!("{}.d", jwt(&good)),
            jwt("{}"),
            jwt(&good.replace(&a, "ORDERS")),
            jwt(&good.replace(&u, &a)),
            jwt(&good.replace("BBB", "\\u0041\\n")),
            jwt(&format!("{good}{}", " ".repeat(LONGEST))),
        ] {
            assert_eq!(Claims::read(&bad), None, "{bad:.80}");
        }
    }
}
