//! The address of a server and the credentials for it, `nats://user:pass@host:port`, and the CONNECT line made of them.

use std::{fmt, str::FromStr};

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use serde_json::{Map, Value};

use crate::client_library::library::Library;

/// The default port of nats-server.
const DEFAULT_PORT: u16 = 4222;

/// An address, and the credentials for it. `Display` and `Debug` leave the credentials out.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
    user: Option<String>,
    pass: Option<String>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = match text.split_once("://") {
            Some(("nats", rest)) => rest,
            Some(("tls", _)) => return Err("write nats://HOST:PORT, and --tls".into()),
            Some((scheme, _)) => return Err(format!("{scheme}:// is not spoken here; write nats://HOST:PORT")),
            None => text,
        };
        let rest = rest.trim_end_matches('/');
        let (login, address) = rest.rsplit_once('@').map_or((None, rest), |(login, address)| (Some(login), address));
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("{port:?} is no port"))?)
            }
            _ => (address, DEFAULT_PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("there is no host; write nats://HOST:PORT".into());
        }
        let (user, pass) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            None => (None, None),
            Some((user, "")) if !login.is_some_and(|l| l.contains(':')) => (Some(decode(user)?), None),
            Some((user, pass)) => (Some(decode(user)?), Some(decode(pass)?)),
        };
        Ok(Self { host: host.into(), port, user, pass })
    }
}

/// Decodes percent-encoding: `%40` is `@`.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.ok_or("a % in the credentials is not followed by two hexadecimal digits")?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "the credentials are not UTF-8".into())
}

impl Target {
    /// The host and port, for name resolution.
    pub fn host_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The host, as a certificate must name it.
    ///
    /// # Errors
    /// The host is neither an IP address nor a DNS name.
    pub fn server_name(&self) -> Result<ServerName<'static>, InvalidDnsNameError> {
        ServerName::try_from(self.host.clone())
    }

    /// The CONNECT line of a client that uses this library.
    pub fn connect_line(&self, library: &Library, name: &str, tls: bool) -> Vec<u8> {
        let mut options = Map::new();
        let mut put = |key: &str, value: Value| options.insert(key.into(), value);
        for (key, value) in [("verbose", false), ("pedantic", false), ("tls_required", tls), ("echo", true)] {
            put(key, value.into());
        }
        for key in ["headers", "no_responders"] {
            put(key, true.into());
        }
        put("lang", library.lang.into());
        put("version", library.version.into());
        put("name", name.into());
        put("protocol", 1.into());
        match (&self.user, &self.pass) {
            (Some(user), Some(pass)) => {
                put("user", user.as_str().into());
                put("pass", pass.as_str().into());
            }
            (Some(token), None) => {
                put("auth_token", token.as_str().into());
            }
            _ => {}
        }
        format!("CONNECT {}\r\n", Value::Object(options)).into_bytes()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_library::table::GO;

    fn read(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn urls() {
        assert_eq!(read("nats://127.0.0.1:4333").host_port(), ("127.0.0.1", 4333));
        assert_eq!(read("localhost").host_port(), ("localhost", 4222));
        assert_eq!(read("nats://[::1]:4333/").host_port(), ("::1", 4333));
        assert_eq!(read("nats://[::1]").to_string(), "[::1]:4222");
        for (text, why) in [
            ("ws://h:1", "not spoken"),
            ("tls://h:1", "--tls"),
            ("nats://h:x", "no port"),
            ("nats://", "no host"),
            ("a%4@h", "%"),
        ] {
            assert!(text.parse::<Target>().unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn credentials_are_in_connect_and_not_displayed() {
        let target = read("nats://me:p%40ss@h:1");
        assert!(!format!("{target} {target:?}").contains("p@ss"));
        let line = String::from_utf8(target.connect_line(&GO, "storm-1", false)).unwrap();
        assert!(line.contains("\"user\":\"me\"") && line.contains("\"pass\":\"p@ss\""), "{line}");
        assert!(line.contains("\"lang\":\"go\"") && line.contains("\"name\":\"storm-1\"") && line.ends_with("}\r\n"));
        let token = String::from_utf8(read("s3cret@h").connect_line(&GO, "", false)).unwrap();
        assert!(token.contains("\"auth_token\":\"s3cret\"") && !token.contains("user"));
    }
}
