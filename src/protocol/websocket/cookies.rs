//! Credentials in cookies: a page that is logged in need not hand them to its scripts.

use std::fmt;

use crate::protocol::connect::Connect;

/// The names of the cookies that are looked at; those that are not set are not.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CookieNames {
    /// Of the one that holds a user JWT.
    pub jwt: Option<String>,
    /// A user name.
    pub user: Option<String>,
    /// A password.
    pub pass: Option<String>,
    /// A token.
    pub token: Option<String>,
}

/// The credentials that a client's cookies hold: secrets. Empty where there is none.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Cookies {
    jwt: String,
    user: String,
    pass: String,
    token: String,
}

impl CookieNames {
    /// Takes what the `Cookie` header lines hold under these names, read as Go's `net/http` does; the last one of a name counts.
    pub fn pick<'a>(&self, lines: impl IntoIterator<Item = &'a [u8]>) -> Cookies {
        let mut cookies = Cookies::default();
        for part in lines.into_iter().flat_map(|line| line.split(|&byte| byte == b';')) {
            let part = part.trim_ascii();
            let equals = memchr::memchr(b'=', part).unwrap_or(part.len());
            let (name, value) = (part[..equals].trim_ascii(), part.get(equals + 1..).unwrap_or_default());
            let Some(value) = unquoted(value) else { continue };
            let is = |wanted: &Option<String>| wanted.as_ref().is_some_and(|wanted| wanted.as_bytes() == name);
            // In nats-server's order, for one cookie of two meanings.
            let place = match () {
                () if is(&self.jwt) => &mut cookies.jwt,
                () if is(&self.user) => &mut cookies.user,
                () if is(&self.pass) => &mut cookies.pass,
                () if is(&self.token) => &mut cookies.token,
                () => continue,
            };
            value.clone_into(place);
        }
        cookies
    }
}

/// The value without quotes; `None` when it holds bytes that no cookie has.
fn unquoted(value: &[u8]) -> Option<&str> {
    let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    let allowed = |byte: &u8| matches!(byte, 0x20..0x7f) && !matches!(byte, b'"' | b'\\');
    std::str::from_utf8(value).ok().filter(|value| value.bytes().all(|byte| allowed(&byte)))
}

impl Cookies {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// CertificateNames what the cookies hold where CONNECT says nothing, each by itself, as nats-server does.
    pub fn fill_in(&self, connect: &mut Connect) {
        if connect.jwt().is_none() {
            connect.set_jwt(&self.jwt);
        }
        if connect.user().is_none() {
            connect.set_user(&self.user);
        }
        if connect.pass().is_none() {
            connect.set_pass(&self.pass);
        }
        if connect.auth_token().is_none() {
            connect.set_auth_token(&self.token);
        }
    }
}

impl fmt::Debug for Cookies {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}
