//! Who a client is: the credential in its CONNECT, and the account to which that credential belongs.

mod claims;
mod directory;
mod keyed_hash;
mod sent;
mod signature;
pub mod trusted_proxy;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use self::keyed_hash::{KeyOf, KeyedHash, which};
use crate::protocol::connect::Connect;

pub use claims::{Claims, is_account_key};
pub use directory::{Directory, UNKNOWN_ACCOUNT};
pub use keyed_hash::Secret;
pub use sent::SentIdentity;
pub use signature::has_signed;

/// An account of the configuration, and the credentials that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRule {
    /// The name that the servers have for the account.
    pub account: String,
    /// Users, nkeys and tokens of this account, in which `*` and `?` match anything.
    pub users: Vec<String>,
}

/// What a client presents to the server as its identity, in the order in which nats-server looks for it (auth.go,
/// `processClientOrLeafAuthentication`). It has no `Debug`, since a token is a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// A user JWT.
    Jwt {
        /// The public key of the account that the JWT claims.
        account: &'a str,
        /// The user's public key.
        user: &'a str,
    },
    /// The public key of an NKey user.
    Nkey(&'a str),
    /// A user name. Only the server checks its password.
    User(&'a str),
    /// A token.
    Token(&'a str),
    /// The name in a client certificate.
    Certificate(&'a str),
    /// None: the server's `no_auth_user`, or a cluster without authentication.
    Nothing,
}

/// What a server looks at in a CONNECT to find out who a client is, beyond user, password and token; both need a nonce
/// (nats-server: client.go, `processConnect`; auth.go, `processClientOrLeafAuthentication`.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerChecks {
    /// `jwt`: a server that trusts an operator. Any other discards a JWT before it looks at anything.
    pub jwt: bool,
    /// `nkey`: a server with NKey users, which trusts no operator.
    pub nkey: bool,
}

impl ServerChecks {
    /// What a server checks that sends a nonce or not, and trusts an operator or not; `None` is not known.
    pub fn of(sends_nonce: bool, trusts_operator: Option<bool>) -> Self {
        Self {
            jwt: sends_nonce && trusts_operator.unwrap_or(true),
            nkey: sends_nonce && !trusts_operator.unwrap_or(false),
        }
    }

    /// What this server or another one checks.
    pub fn or(self, other: Self) -> Self {
        Self { jwt: self.jwt || other.jwt, nkey: self.nkey || other.nkey }
    }
}

impl<'a> Credential<'a> {
    /// The credential of a CONNECT, as far as a server with these `checks` looks at it. `claims` are those of its JWT,
    /// if it has one.
    pub fn of(connect: &'a Connect, claims: Option<&'a Claims>, checks: ServerChecks) -> Self {
        if let Some(claims) = claims.filter(|_| checks.jwt) {
            Self::Jwt { account: claims.account(), user: claims.user() }
        } else if let Some(nkey) = connect.nkey().filter(|_| checks.nkey) {
            Self::Nkey(nkey)
        } else if let Some(user) = connect.user() {
            Self::User(user)
        } else if let Some(token) = connect.auth_token() {
            Self::Token(token)
        } else {
            Self::Nothing
        }
    }

    /// The user that it names. A token is a secret and names nobody, and a certificate is not part of CONNECT.
    pub fn user(self) -> Option<&'a str> {
        match self {
            Self::User(user) | Self::Nkey(user) | Self::Jwt { user, .. } => Some(user),
            Self::Token(_) | Self::Certificate(_) | Self::Nothing => None,
        }
    }

    fn text(self) -> &'a str {
        match self {
            Self::Nkey(text)
            | Self::User(text)
            | Self::Token(text)
            | Self::Certificate(text)
            | Self::Jwt { user: text, .. } => text,
            Self::Nothing => "",
        }
    }
}

/// A keyed hash of a credential. It reveals no secret, and is valid only in this process and in one that takes over
/// from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CredentialKey(u64);

/// A keyed hash of source, credential and client name, by which weir recognises a client that reconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientKey(u64);

/// Makes keys. The secret of the hash is random, so that nobody can choose credentials that collide.
#[derive(Debug, Clone)]
pub struct Keys {
    secret: Secret,
}

impl Default for Keys {
    fn default() -> Self {
        Self { secret: Secret::random() }
    }
}

impl Keys {
    /// Makes the same keys as the process whose secret this is.
    pub fn with_secret(secret: Secret) -> Self {
        Self { secret }
    }

    /// What makes the keys of another process the same.
    pub fn secret(&self) -> Secret {
        self.secret
    }

    fn begin(&self, of: KeyOf, more: u64) -> KeyedHash {
        KeyedHash::begin(self.secret, of, more)
    }

    /// The key of a credential.
    pub fn credential(&self, credential: Credential<'_>) -> CredentialKey {
        let begin = |variant| self.begin(KeyOf::Credential, variant);
        let fed = match credential {
            Credential::Nothing => begin(0),
            Credential::Jwt { account, user } => begin(1).text(account).text(user),
            Credential::Nkey(text) => begin(2).text(text),
            Credential::User(text) => begin(3).text(text),
            Credential::Token(text) => begin(4).text(text),
            Credential::Certificate(text) => begin(5).text(text),
        };
        CredentialKey(fed.end())
    }

    /// The key of the same credential at the servers' WebSocket ports. They judge it on its own there: it may be good
    /// at one port only, and no credential at all may be one user here and another there.
    pub fn over_websocket(&self, credential: CredentialKey) -> CredentialKey {
        CredentialKey(self.begin(KeyOf::OverWebSocket, 0).number(credential.0).end())
    }

    /// The key of the same credential at the servers' leafnode ports, which may have users of their own.
    pub fn of_leafnode(&self, credential: CredentialKey) -> CredentialKey {
        CredentialKey(self.begin(KeyOf::OfLeafnode, 0).number(credential.0).end())
    }

    /// The key of a JWT and of what an auth callout judges beside it. Many clients may show one JWT, the sentinel of
    /// the callout, and be users of different accounts.
    pub fn beside_jwt(&self, jwt: CredentialKey, connect: &Connect) -> CredentialKey {
        match [connect.user(), connect.auth_token()] {
            [None, None] => jwt,
            beside => CredentialKey(self.begin(KeyOf::BesideJwt, which(&beside)).number(jwt.0).texts(&beside).end()),
        }
    }

    /// The key of a credential and of the secret that goes with it, if CONNECT holds one. It says whether this very
    /// login has been good before: who only knows the user's name has another key.
    pub fn login(&self, credential: CredentialKey, connect: &Connect) -> CredentialKey {
        let secrets = [connect.pass(), connect.auth_token(), connect.jwt()];
        CredentialKey(self.begin(KeyOf::Login, which(&secrets)).number(credential.0).texts(&secrets).end())
    }

    /// The key of a client.
    pub fn client(&self, source: IpAddr, credential: CredentialKey, name: Option<&str>) -> ClientKey {
        let has_name = u64::from(name.is_some());
        let from = match source {
            IpAddr::V4(v4) => self.begin(KeyOf::ClientV4, has_name).number(v4.to_bits().into()),
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                self.begin(KeyOf::ClientV6, has_name).number((bits >> 64) as u64).number(bits as u64)
            }
        };
        ClientKey(from.number(credential.0).texts(&[name]).end())
    }
}

impl CredentialKey {
    /// A key that another process with the same secret has made; in tests, any.
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The value of the hash.
    pub fn raw(self) -> u64 {
        self.0
    }
}

impl ClientKey {
    /// A key that another process with the same secret has made; in tests, any.
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The value of the hash.
    pub fn raw(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What counts of a CONNECT with everything in it, by what the server sends and trusts.
    #[test]
    fn a_credential_is_what_the_server_will_check() {
        let connect = Connect::parse(br#"{"jwt":"j","nkey":"U1","user":"u","auth_token":"t"}"#).unwrap();
        let keys = ["A", "U"].map(|kind| format!("{kind}{}", "B".repeat(55)));
        let payload = format!(r#"{{"iss":"{}","sub":"{}"}}"#, keys[0], keys[1]);
        let payload = data_encoding::BASE64URL_NOPAD.encode(payload.as_bytes());
        let claims = Claims::read(&format!("e30.{payload}.c2ln"));
        let text =
            |nonce, operator| Credential::of(&connect, claims.as_ref(), ServerChecks::of(nonce, operator)).text();
        for trusts_operator in [None, Some(false), Some(true)] {
            assert_eq!(text(false, trusts_operator), "u", "no nonce, no check");
        }
        assert_eq!(text(true, Some(false)), "U1");
        assert_eq!(text(true, Some(true)), keys[1]);
        assert_eq!(text(true, None), keys[1], "either may be checked");
        let operator = ServerChecks::of(true, Some(true));
        assert!(Credential::of(&connect, None, operator) == Credential::User("u"), "an auth callout may know the user");
        assert_eq!(operator.or(ServerChecks::of(true, Some(false))), ServerChecks { jwt: true, nkey: true });
    }

    /// The keys of one secret, by what they are of. Another build of weir has to make the same ones: whoever takes over
    /// takes sessions and what is known of clients by them. A change here ends sessions in an upgrade.
    #[test]
    fn another_build_makes_the_same_keys() {
        let keys = Keys::with_secret(Secret::from_bytes(std::array::from_fn(|n| n as u8)));
        let connect = Connect::parse(br#"{"user":"u","pass":"p","auth_token":"t","name":"n"}"#).unwrap();
        let credential = keys.credential(Credential::User("u"));
        let jwt = keys.credential(Credential::Jwt { account: "A", user: "U" });
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|source| source.parse().unwrap());
        let made = [
            keys.credential(Credential::Nothing).raw(),
            credential.raw(),
            keys.credential(Credential::Token("u")).raw(),
            jwt.raw(),
            keys.over_websocket(credential).raw(),
            keys.beside_jwt(jwt, &connect).raw(),
            keys.login(credential, &connect).raw(),
            keys.client(v4, credential, Some("n")).raw(),
            keys.client(v6, credential, None).raw(),
            keys.sent_identity(&connect).to_raw().1,
        ];
        // Of an implementation of SipHash that is not this crate's.
        let expected = [
            0x32c5_ea5c_e472_f19b,
            0xc074_6c64_6388_82b8,
            0x1247_2394_3961_7b67,
            0x7e18_f698_26f4_e295,
            0xcd1c_1899_45b4_9781,
            0xaf91_66ea_6bac_c1d4,
            0x9fee_a04c_e54b_e80e,
            0x92a0_8350_d62f_2c1c,
            0x78ef_f2b3_ea3a_f187,
            0xc3c4_fa60_105e_807f,
        ];
        assert_eq!(made, expected, "{made:#x?}");
        assert_eq!(keys.sent_identity(&connect).to_raw().0, 0b111);
        let (again, another) = (Keys::with_secret(keys.secret()), Keys::default());
        assert!(
            again.login(jwt, &connect) == keys.login(jwt, &connect)
                && another.login(jwt, &connect) != again.login(jwt, &connect)
        );
        assert_eq!([size_of::<Keys>(), size_of::<CredentialKey>(), size_of::<SentIdentity>()], [16, 8, 16]);
    }
}
