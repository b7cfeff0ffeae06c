//! Which web pages may open a WebSocket. Browsers send the origin of the page, and send cookies whatever the origin is.

use std::fmt;

/// The origin of a page: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: String,
}

impl Origin {
    /// Reads `scheme://host[:port]` and ignores what follows. `None` if it is not an origin: a sandboxed page sends `null`.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let authority = authority.rsplit('@').next()?;
        let scheme = scheme.to_ascii_lowercase();
        let named =
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = host_and_port(authority, scheme == "https")?;
        named.then_some(Self { scheme, host, port })
    }

    /// The origin of the request itself, from its `Host` header.
    fn of_request(host: &str, secure: bool) -> Option<Self> {
        let scheme = if secure { "https" } else { "http" }.to_owned();
        host_and_port(host, secure).map(|(host, port)| Self { scheme, host, port })
    }

    /// Whether a web page can have this origin.
    pub fn is_web(&self) -> bool {
        matches!(&*self.scheme, "http" | "https") && !self.host.is_empty()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port } = self;
        let brackets = host.contains(':');
        let (open, close) = if brackets { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{host}{close}:{port}")
    }
}

/// The host in lower case and without brackets, and the port, by default that of the scheme.
fn host_and_port(authority: &str, secure: bool) -> Option<(String, String)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, if secure { "443" } else { "80" }),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    // In an IPv6 address without brackets the port cannot be told from the address.
    let is_clear = bare.is_some() || !host.contains([':', '[', ']']);
    is_clear.then(|| (bare.unwrap_or(host).to_ascii_lowercase(), port.to_owned()))
}

/// Which origins are allowed; without a rule, all of them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OriginRules {
    /// Only the origin of the request itself.
    pub same_origin: bool,
    /// Only these origins, if there are any.
    pub allowed: Vec<Origin>,
}

impl OriginRules {
    /// Checks the `origin` of a request. Only browsers send one, so a request without one is allowed. `host` is the request's
    /// `Host`; `secure` says whether it came over TLS.
    ///
    /// # Errors
    /// Why it is not allowed, in nats-server's words.
    pub fn check(&self, origin: Option<&str>, host: &str, secure: bool) -> Result<(), &'static str> {
        let Some(origin) = origin.filter(|origin| !origin.is_empty()) else { return Ok(()) };
        if !self.same_origin && self.allowed.is_empty() {
            return Ok(());
        }
        let origin = Origin::parse(origin).ok_or("origin not allowed: invalid")?;
        if self.same_origin && Origin::of_request(host, secure).as_ref() != Some(&origin) {
            return Err("origin not allowed: not same origin");
        }
        if !self.allowed.is_empty() && !self.allowed.contains(&origin) {
            return Err("origin not allowed: not in the allowed list");
        }
        Ok(())
    }
}
