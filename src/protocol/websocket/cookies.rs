//! Credentials in cookies: the scripts of a page that is logged in need not know them.

use std::fmt;

use crate::protocol::connect::Connect;

/// The names of the cookies that hold credentials. Other cookies are ignored.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CookieNames {
    /// The cookie that holds a user JWT.
    pub jwt: Option<String>,
    /// The cookie that holds a user name.
    pub user: Option<String>,
    /// The cookie that holds a password.
    pub pass: Option<String>,
    /// The cookie that holds a token.
    pub token: Option<String>,
}

/// The credentials in a client's cookies: secrets. An absent one is empty.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Cookies {
    jwt: String,
    user: String,
    pass: String,
    token: String,
}

impl CookieNames {
    /// Takes the values of these cookies from `Cookie` header lines, which it reads as Go's `net/http` does. Of two cookies
    /// with the same name the last counts.
    pub fn pick<'a>(&self, lines: impl IntoIterator<Item = &'a [u8]>) -> Cookies {
        let mut cookies = Cookies::default();
        for part in lines.into_iter().flat_map(|line| line.split(|&byte| byte == b';')) {
            let part = part.trim_ascii();
            let mut halves = part.splitn(2, |&byte| byte == b'=');
            let (name, value) = (halves.next().unwrap_or_default().trim_ascii(), halves.next().unwrap_or_default());
            let Some(value) = unquoted(value) else { continue };
            let is = |wanted: &Option<String>| wanted.as_ref().is_some_and(|wanted| wanted.as_bytes() == name);
            // In nats-server's order, which matters if two of the names are the same.
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

/// The value without its quotes; `None` if it holds bytes that a cookie may not have.
fn unquoted(value: &[u8]) -> Option<&str> {
    let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    let allowed = |byte: &u8| matches!(byte, 0x20..0x7f) && !matches!(byte, b'"' | b'\\');
    std::str::from_utf8(value).ok().filter(|value| value.bytes().all(|byte| allowed(&byte)))
}

impl Cookies {
    /// Whether there are no credentials.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Fills in each credential that is absent from CONNECT, as nats-server does.
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
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}
