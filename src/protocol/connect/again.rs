//! A CONNECT on a connection that has sent one before.
//!
//! nats-server reads it into the options that it has of the client (`processConnect`: Go's `json.Unmarshal` into the
//! same struct), so a key that is absent keeps its value. Then it checks the credentials again.

use serde::{Deserialize, Serialize};

use crate::protocol::{
    connect::{Connect, ConnectError, FLAGS, Flag, Text},
    json,
};

/// The keys that say who a client is. `account` and `new_account` are among them, since a server refuses a client that
/// has them. Their order is the same in every build, since what is kept of a session by it goes to a process that takes
/// over; another key goes to the end.
const IDENTITY: [Text; 8] =
    [Text::User, Text::Pass, Text::AuthToken, Text::Nkey, Text::Jwt, Text::Sig, Text::Account, Text::ProxySig];

/// The keys that say how the server is to serve a client.
const SERVICE: [Flag; 5] = [Flag::Verbose, Flag::Pedantic, Flag::Echo, Flag::Headers, Flag::NoResponders];

/// A set of keys of [`IDENTITY`]: one bit for each.
pub type IdentityKeys = u8;

/// What a CONNECT says about who the client is. It has no `Debug`, since most of it is secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity<'a> {
    texts: [&'a str; IDENTITY.len()],
    new_account: bool,
}

/// How a client wants to be served. Serialised, it is a list of the keys that are true.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<&'static str>", from = "Vec<String>")]
pub struct ServiceOptions([bool; SERVICE.len()]);

/// What a CONNECT says that is not the first of its connection.
pub struct ConnectAgain {
    connect: Connect,
    given: IdentityKeys,
}

impl Connect {
    /// What it says about who the client is.
    pub fn identity(&self) -> Identity<'_> {
        let texts = IDENTITY.map(|key| self.text(key).unwrap_or_default());
        Identity { texts, new_account: self.new_account() }
    }

    /// How the client wants to be served.
    pub fn service_options(&self) -> ServiceOptions {
        ServiceOptions(SERVICE.map(|key| self.flag(key)))
    }
}

impl Identity<'_> {
    /// The keys that have a value.
    pub fn named(&self) -> IdentityKeys {
        keys(|at| self.texts.get(at).is_some_and(|text| !text.is_empty()))
    }

    /// The values of its keys, empty where there are none.
    pub fn texts(&self) -> [&str; IDENTITY.len()] {
        self.texts
    }

    /// Whether it asks for a new account.
    pub fn asks_for_new_account(&self) -> bool {
        self.new_account
    }
}

impl ConnectAgain {
    /// Reads the argument of a CONNECT line. `before` are the options that the client has had until now.
    ///
    /// # Errors
    /// Those of [`Connect::parse`].
    #[expect(clippy::indexing_slicing, reason = "each Flag is an index of FLAGS, whose length this has")]
    pub fn parse(json: &[u8], before: ServiceOptions) -> Result<Self, ConnectError> {
        let mut flags = [false; FLAGS.len()];
        for (key, value) in SERVICE.into_iter().zip(before.0) {
            flags[key as usize] = value;
        }
        let mut given = 0;
        let connect = Connect::parse_onto(json, flags, |text| {
            given |= keys(|at| IDENTITY.get(at).is_some_and(|&key| key as usize == text));
        })?;
        Ok(Self { connect, given })
    }

    /// The keys that it gives a value, which may be empty.
    pub fn given(&self) -> IdentityKeys {
        self.given
    }

    /// What it says about who the client is, without what it leaves as it was.
    pub fn identity(&self) -> Identity<'_> {
        self.connect.identity()
    }

    /// How the client wants to be served from now on.
    pub fn service_options(&self) -> ServiceOptions {
        self.connect.service_options()
    }

    /// Whether a server refuses the protocol level of this client.
    pub fn has_bad_protocol(&self) -> bool {
        !matches!(self.connect.protocol(), 0 | 1)
    }

    /// Appends a CONNECT that changes the options at the server and says nothing about who the client is, so that no
    /// server can take it for somebody else's. A protocol level that is not valid goes with it: the server answers
    /// that.
    pub fn write_options(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"CONNECT ");
        let mut sep = b'{';
        for (key, value) in SERVICE.into_iter().zip(self.service_options().0) {
            json::push_known_key(&mut sep, key.name(), out);
            out.extend_from_slice(if value { b"true" } else { b"false" });
        }
        if self.has_bad_protocol() {
            json::push_known_key(&mut sep, "protocol", out);
            json::push_number(self.connect.protocol(), out);
        }
        out.extend_from_slice(b"}\r\n");
    }
}

impl ServiceOptions {
    /// Whether the server answers every operation with `+OK`.
    pub fn verbose(self) -> bool {
        let [verbose, ..] = self.0;
        verbose
    }
}

impl From<ServiceOptions> for Vec<&'static str> {
    fn from(options: ServiceOptions) -> Self {
        SERVICE.into_iter().zip(options.0).filter(|(_, is_true)| *is_true).map(|(key, _)| key.name()).collect()
    }
}

impl From<Vec<String>> for ServiceOptions {
    /// Without keys that are not known.
    fn from(names: Vec<String>) -> Self {
        Self(SERVICE.map(|key| names.iter().any(|name| name == key.name())))
    }
}

/// The set of the keys whose index in [`IDENTITY`] `has`.
fn keys(has: impl Fn(usize) -> bool) -> IdentityKeys {
    (0..IDENTITY.len()).fold(0, |set, at| set | (u8::from(has(at)) << at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_absent_keeps_its_value() {
        let first = Connect::parse(br#"{"verbose":false,"echo":false,"headers":true,"user":"a","pass":"b"}"#).unwrap();
        let options = first.service_options();
        let again = |json: &str| ConnectAgain::parse(json.as_bytes(), options).unwrap();
        assert_eq!(again("{}").service_options(), options);
        assert_eq!(again("null").given(), 0);
        assert_eq!(again(r#"{"user":null,"name":"n","verbose":null}"#).given(), 0);
        assert_eq!(again(r#"{"USER":"","pa\u0073s":"x"}"#).given(), 0b11);
        assert_eq!(first.identity().named(), 0b11);
        assert!(again(r#"{"user":"a","pass":"b","echo":true}"#).identity() == first.identity());
        assert!(again(r#"{"user":"a","pass":"b","new_account":true}"#).identity() != first.identity());
        let changed = again(r#"{"echo":true,"verbose":true,"protocol":1}"#);
        assert!(changed.service_options() != options && changed.service_options().verbose());
        let mut line = Vec::new();
        changed.write_options(&mut line);
        let all = r#"{"verbose":true,"pedantic":true,"echo":true,"headers":true,"no_responders":false}"#;
        assert_eq!(String::from_utf8(line).unwrap(), format!("CONNECT {all}\r\n"));
        let mut line = Vec::new();
        again(r#"{"protocol":7,"user":"secret"}"#).write_options(&mut line);
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains(r#""protocol":7"#) && !line.contains("secret"), "{line}");
        assert!(ConnectAgain::parse(b"{\"user\":1}", options).is_err());
    }
}
