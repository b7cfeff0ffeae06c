//! From CONNECT to who is asking: the credential it shows, and the account that credential belongs to.

mod claims;
mod directory;
pub mod trusted_proxy;

use std::hash::{BuildHasher, RandomState};

use crate::protocol::connect::Connect;

pub use claims::{Claims, is_account_key};
pub use directory::{Directory, UNKNOWN_ACCOUNT};

/// Which accounts the operator named, and whose credentials belong to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRule {
    /// The account's name, as the server itself names it.
    pub account: String,
    /// Users, nkeys and tokens of this account; `*` and `?` are globs.
    pub users: Vec<String>,
}

/// What a client shows to say who it is, in the order in which nats-server looks for it (auth.go, `processClientOrLeafAuthentication`).
/// No `Debug`: a token is a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential<'a> {
    /// A user JWT.
    Jwt {
        /// The account that it claims.
        account: &'a str,
        /// The user's public key.
        user: &'a str,
    },
    /// The public key of an NKey user.
    Nkey(&'a str),
    /// A user name; its password is the server's business.
    User(&'a str),
    /// A token.
    Token(&'a str),
    /// A certificate shown over TLS, by its name.
    Certificate(&'a str),
    /// Nothing: the server's `no_auth_user`, or a cluster without authentication.
    Nothing,
}

impl<'a> Credential<'a> {
    /// The credential of a CONNECT; `claims` is what its JWT says, where it has one.
    pub fn of(connect: &'a Connect, claims: Option<&'a Claims>) -> Self {
        if let Some(claims) = claims {
            Self::Jwt { account: claims.account(), user: claims.user() }
        } else if let Some(nkey) = connect.nkey() {
            Self::Nkey(nkey)
        } else if let Some(user) = connect.user() {
            Self::User(user)
        } else if let Some(token) = connect.auth_token() {
            Self::Token(token)
        } else {
            Self::Nothing
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

/// A credential without its secret: a keyed hash, good for this process only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialKey(u64);

/// One client across its reconnects, as far as weir can tell: source, credential and client name, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(u64);

/// Makes keys. The hash is seeded at random, so that nobody can choose credentials that collide.
#[derive(Debug, Default, Clone)]
pub struct Keys {
    seed: RandomState,
}

impl Keys {
    /// The key of a credential.
    pub fn credential(&self, credential: Credential<'_>) -> CredentialKey {
        CredentialKey(self.seed.hash_one(credential))
    }

    /// The key of a client.
    pub fn client(&self, source: std::net::IpAddr, credential: CredentialKey, name: Option<&str>) -> ClientKey {
        ClientKey(self.seed.hash_one((source, credential, name)))
    }
}

impl ClientKey {
    /// A key for tests and simulations.
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Its value.
    pub fn raw(self) -> u64 {
        self.0
    }
}
