//! Who a client is: the credential in its CONNECT, and the account to which that credential belongs.

mod claims;
mod directory;
pub mod trusted_proxy;

use std::hash::{BuildHasher, RandomState};

use crate::protocol::connect::Connect;

pub use claims::{Claims, is_account_key};
pub use directory::{Directory, UNKNOWN_ACCOUNT};

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
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
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

impl<'a> Credential<'a> {
    /// The credential of a CONNECT. `claims` are those of its JWT, if it has one.
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

/// A keyed hash of a credential. It reveals no secret, and is valid only in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialKey(u64);

/// A keyed hash of source, credential and client name, by which weir recognises a client that reconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientKey(u64);

/// Makes keys. The seed of the hash is random, so that nobody can choose credentials that collide.
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

    /// The value of the hash.
    pub fn raw(self) -> u64 {
        self.0
    }
}
