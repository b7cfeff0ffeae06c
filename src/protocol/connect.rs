//! CONNECT: who a client says it is.
//!
//! weir parses it as nats-server does (`processConnect`: Go's `json.Unmarshal` into `ClientOpts`), so that
//! `{"uſer":"a","USER":"b"}` is user b to both. weir then writes a new line with one copy of each key, which no server
//! can read differently (docs/contract.md, towards servers 4).

mod again;

use std::fmt;

use crate::protocol::json::{self, Reader, Syntax};

pub use self::again::{ConnectAgain, Identity, IdentityKeys, ServiceOptions};

/// Why a CONNECT does not parse. A nats-server closes without an `-ERR` on each of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// The argument is not one JSON value.
    Syntax,
    /// The argument is JSON, but neither an object nor null.
    NotAnObject,
    /// The value of this key has another type than the server's field.
    WrongType(&'static str),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("CONNECT is not valid JSON"),
            Self::NotAnObject => f.write_str("CONNECT is not a JSON object"),
            Self::WrongType(key) => write!(f, "CONNECT has a value of the wrong type for {key:?}"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<Syntax> for ConnectError {
    fn from(_: Syntax) -> Self {
        Self::Syntax
    }
}

/// Keys whose values are strings, in the order in which weir writes them; [`Text`] is the index.
const TEXTS: [&str; 12] = [
    "lang",
    "version",
    "name",
    "user",
    "pass",
    "auth_token",
    "nkey",
    "jwt",
    "sig",
    "account",
    "remote_account",
    "proxy_sig",
];

#[derive(Clone, Copy)]
enum Text {
    Lang,
    Version,
    Name,
    User,
    Pass,
    AuthToken,
    Nkey,
    Jwt,
    Sig,
    Account,
    ProxySig = 11,
}

/// Keys whose values are true or false, in the order in which weir writes them; [`Flag`] is the index.
const FLAGS: [&str; 7] = ["verbose", "pedantic", "echo", "tls_required", "headers", "no_responders", "new_account"];

#[derive(Clone, Copy)]
enum Flag {
    Verbose,
    Pedantic,
    Echo,
    TlsRequired,
    Headers,
    NoResponders,
    NewAccount,
}

impl Flag {
    #[expect(clippy::indexing_slicing, reason = "each Flag is an index of FLAGS")]
    fn name(self) -> &'static str {
        FLAGS[self as usize]
    }
}

/// A key that weir knows, by its index in [`TEXTS`] or [`FLAGS`].
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Text(usize),
    Flag(usize),
    Protocol,
}

impl Key {
    /// Finds a key as clients usually write it. A `match` is faster than the comparison of [`Self::folded`] with each
    /// entry.
    fn exact(key: &[u8]) -> Option<Self> {
        Some(match key {
            b"verbose" => Self::Flag(Flag::Verbose as usize),
            b"pedantic" => Self::Flag(Flag::Pedantic as usize),
            b"echo" => Self::Flag(Flag::Echo as usize),
            b"tls_required" => Self::Flag(Flag::TlsRequired as usize),
            b"headers" => Self::Flag(Flag::Headers as usize),
            b"no_responders" => Self::Flag(Flag::NoResponders as usize),
            b"protocol" => Self::Protocol,
            b"lang" => Self::Text(Text::Lang as usize),
            b"version" => Self::Text(Text::Version as usize),
            b"name" => Self::Text(Text::Name as usize),
            b"user" => Self::Text(Text::User as usize),
            b"pass" => Self::Text(Text::Pass as usize),
            b"auth_token" => Self::Text(Text::AuthToken as usize),
            b"nkey" => Self::Text(Text::Nkey as usize),
            b"jwt" => Self::Text(Text::Jwt as usize),
            b"sig" => Self::Text(Text::Sig as usize),
            _ => return None,
        })
    }

    /// Finds a key as Go does, without regard to case.
    fn folded(key: &str) -> Option<Self> {
        Self::find(|name| json::same_key(key, name))
    }

    fn find(is_it: impl Fn(&str) -> bool) -> Option<Self> {
        let text = TEXTS.iter().position(|name| is_it(name)).map(Self::Text);
        let flag = || FLAGS.iter().position(|name| is_it(name)).map(Self::Flag);
        text.or_else(flag).or_else(|| is_it("protocol").then_some(Self::Protocol))
    }
}

/// The first three [`FLAGS`] are true at a server that is not told otherwise (`defaultOpts`), the others false.
const TRUE_BY_DEFAULT: usize = 3;

/// A parsed CONNECT.
///
/// Like the server, weir does not distinguish an absent string from an empty one. `account` and `new_account` make
/// every server refuse the client; weir passes them on so that the server does.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    texts: [Box<str>; TEXTS.len()],
    flags: [bool; FLAGS.len()],
    protocol: i64,
    /// Keys that weir does not know, each with its raw value without blanks, in the client's order. The values are
    /// bytes, since Go accepts invalid UTF-8.
    others: Vec<(Box<str>, Box<[u8]>)>,
}

impl Connect {
    /// Reads the argument of a CONNECT line.
    ///
    /// # Errors
    ///
    /// Exactly when nats-server's `json.Unmarshal` fails: on text that is not one JSON value, on a value of the wrong
    /// type for a known key (even if a later copy of the key has the right type), and on a `protocol` that is not a
    /// 64-bit integer.
    pub fn parse(json: &[u8]) -> Result<Self, ConnectError> {
        // As in nats-server's defaultOpts, verbose, pedantic and echo are true by default.
        Self::parse_onto(json, [true, true, true, false, false, false, false], |_| {})
    }

    /// Reads a CONNECT over these flags, and tells `given` the index of each text that it gives a value.
    fn parse_onto(json: &[u8], flags: [bool; FLAGS.len()], mut given: impl FnMut(usize)) -> Result<Self, ConnectError> {
        let mut connect = Self { texts: Default::default(), flags, protocol: 0, others: Vec::new() };
        let mut reader = Reader::new(json);
        if !reader.enter_object() {
            let value = reader.value()?;
            reader.end()?;
            return if value == b"null" { Ok(connect) } else { Err(ConnectError::NotAnObject) };
        }
        let mut key = String::new();
        let mut wrong = None;
        while let Some((raw_key, value)) = reader.member()? {
            // The exact spelling first: nearly every client uses it.
            let set = match json::unquoted_bytes(raw_key).and_then(Key::exact) {
                Some(known) => connect.set(known, value, &mut given),
                None => {
                    key.clear();
                    json::unquote(raw_key, &mut key);
                    match Key::folded(&key) {
                        Some(known) => connect.set(known, value, &mut given),
                        None => connect.keep(&key, value),
                    }
                }
            };
            // As in Go, a syntax error further on counts more than a wrong type.
            if let Err(name) = set {
                wrong = wrong.or(Some(name));
            }
        }
        reader.end()?;
        wrong.map_or(Ok(connect), |name| Err(ConnectError::WrongType(name)))
    }

    /// Stores the value of a known key; null changes nothing, as in Go. The error is the key.
    #[expect(
        clippy::indexing_slicing,
        reason = "a Key is made from an index of TEXTS or FLAGS, whose lengths these have"
    )]
    fn set(&mut self, key: Key, raw: &[u8], given: &mut impl FnMut(usize)) -> Result<(), &'static str> {
        let null = raw == b"null";
        match key {
            Key::Text(at) => match raw.first() {
                _ if null => {}
                Some(b'"') => {
                    self.texts[at] = json::plain(raw).map_or_else(|| json::unquoted(raw).into(), Box::from);
                    given(at);
                }
                _ => return Err(TEXTS[at]),
            },
            Key::Flag(at) => match raw {
                b"true" => self.flags[at] = true,
                b"false" => self.flags[at] = false,
                _ if null => {}
                _ => return Err(FLAGS[at]),
            },
            Key::Protocol if null => {}
            Key::Protocol => self.protocol = integer(raw).ok_or("protocol")?,
        }
        Ok(())
    }

    /// Stores a member whose key weir does not know. The error is the key.
    fn keep(&mut self, key: &str, raw: &[u8]) -> Result<(), &'static str> {
        for name in ["import", "export"] {
            if json::same_key(key, name) && !is_permission(raw) {
                return Err(name);
            }
        }
        let mut compact = Vec::with_capacity(raw.len());
        json::push_compact(raw, &mut compact);
        self.others.push((key.into(), compact.into()));
        Ok(())
    }

    #[expect(clippy::indexing_slicing, reason = "each Text is an index of TEXTS, whose length this has")]
    fn text(&self, which: Text) -> Option<&str> {
        Some(&*self.texts[which as usize]).filter(|text| !text.is_empty())
    }

    #[expect(clippy::indexing_slicing, reason = "each Text is an index of TEXTS, whose length this has")]
    fn set_text(&mut self, which: Text, text: &str) {
        self.texts[which as usize] = text.into();
    }

    #[expect(clippy::indexing_slicing, reason = "each Flag is an index of FLAGS, whose length this has")]
    fn flag(&self, which: Flag) -> bool {
        self.flags[which as usize]
    }

    /// The user name.
    pub fn user(&self) -> Option<&str> {
        self.text(Text::User)
    }

    /// The password: a secret.
    pub fn pass(&self) -> Option<&str> {
        self.text(Text::Pass)
    }

    /// The token: a secret.
    pub fn auth_token(&self) -> Option<&str> {
        self.text(Text::AuthToken)
    }

    /// The public NKey.
    pub fn nkey(&self) -> Option<&str> {
        self.text(Text::Nkey)
    }

    /// The user JWT: a secret, since a bearer JWT is one.
    pub fn jwt(&self) -> Option<&str> {
        self.text(Text::Jwt)
    }

    /// The signature of the server's nonce.
    pub fn sig(&self) -> Option<&str> {
        self.text(Text::Sig)
    }

    /// Whether the client signs a nonce, so that its CONNECT is valid only on the connection that sent the nonce.
    pub fn signs(&self) -> bool {
        self.sig().is_some() || self.nkey().is_some()
    }

    /// The name that the application gave its connection.
    pub fn name(&self) -> Option<&str> {
        self.text(Text::Name)
    }

    /// The client library: `go`, `rust`, `python3`, `nats.js`, …
    pub fn lang(&self) -> Option<&str> {
        self.text(Text::Lang)
    }

    /// The version of the client library.
    pub fn version(&self) -> Option<&str> {
        self.text(Text::Version)
    }

    /// The account that the client asks for. Servers refuse such a client.
    pub fn account(&self) -> Option<&str> {
        self.text(Text::Account)
    }

    /// Whether the client asks for a new account. Servers refuse such a client.
    pub fn new_account(&self) -> bool {
        self.flag(Flag::NewAccount)
    }

    /// A trusted proxy's signature of the nonce.
    pub fn proxy_sig(&self) -> Option<&str> {
        self.text(Text::ProxySig)
    }

    /// Whether the server answers every operation with `+OK`; the default is true.
    pub fn verbose(&self) -> bool {
        self.flag(Flag::Verbose)
    }

    /// Whether the server checks subjects; the default is true.
    pub fn pedantic(&self) -> bool {
        self.flag(Flag::Pedantic)
    }

    /// Whether the client receives the messages that it publishes itself; the default is true.
    pub fn echo(&self) -> bool {
        self.flag(Flag::Echo)
    }

    /// Whether the client understands headers.
    pub fn headers(&self) -> bool {
        self.flag(Flag::Headers)
    }

    /// Whether the client wants to be told that a request met no responder.
    pub fn no_responders(&self) -> bool {
        self.flag(Flag::NoResponders)
    }

    /// Whether the client asks for TLS.
    pub fn tls_required(&self) -> bool {
        self.flag(Flag::TlsRequired)
    }

    /// The protocol level: 1 if the client accepts an INFO at any time, else 0. Servers refuse other values.
    pub fn protocol(&self) -> i64 {
        self.protocol
    }

    /// Sets the protocol level.
    pub fn set_protocol(&mut self, protocol: i64) {
        self.protocol = protocol;
    }

    /// Sets the user name.
    pub fn set_user(&mut self, user: &str) {
        self.set_text(Text::User, user);
    }

    /// Sets the password.
    pub fn set_pass(&mut self, pass: &str) {
        self.set_text(Text::Pass, pass);
    }

    /// Sets the token.
    pub fn set_auth_token(&mut self, token: &str) {
        self.set_text(Text::AuthToken, token);
    }

    /// Sets the user JWT.
    pub fn set_jwt(&mut self, jwt: &str) {
        self.set_text(Text::Jwt, jwt);
    }

    /// Nothing is compressed on the way to the server: one that a leafnode tells of a mode of its own would begin to
    /// speak S2 at the leafnode's next PONG.
    pub fn set_uncompressed(&mut self) {
        self.others.retain(|(name, _)| !json::same_key(name, "compress_mode"));
    }

    /// Sets the signature by which the server recognises a trusted proxy.
    pub fn set_proxy_sig(&mut self, sig: &str) {
        self.set_text(Text::ProxySig, sig);
    }

    /// Appends the canonical line `CONNECT {…}\r\n`: each known key once and in a fixed order, unless it has its
    /// default value, and then the unknown keys as the client sent them.
    ///
    /// The line can be longer than the client's: by 3 bytes for each byte of invalid UTF-8, and by what is set in it
    /// here. If that exceeds the server's `max_control_line`, the server refuses the client.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"CONNECT ");
        let mut sep = b'{';
        for (at, (name, &flag)) in FLAGS.iter().zip(&self.flags).enumerate() {
            if flag != (at < TRUE_BY_DEFAULT) {
                json::push_known_key(&mut sep, name, out);
                out.extend_from_slice(if flag { b"true" } else { b"false" });
            }
        }
        if self.protocol != 0 {
            json::push_known_key(&mut sep, "protocol", out);
            json::push_number(self.protocol, out);
        }
        for (name, text) in TEXTS.iter().zip(&self.texts) {
            if !text.is_empty() {
                json::push_known_key(&mut sep, name, out);
                json::push_string(text, out);
            }
        }
        for (name, raw) in &self.others {
            push_key(&mut sep, name, out);
            out.extend_from_slice(raw);
        }
        if sep == b'{' {
            out.push(sep);
        }
        out.extend_from_slice(b"}\r\n");
    }
}

fn push_key(sep: &mut u8, name: &str, out: &mut Vec<u8>) {
    out.push(std::mem::replace(sep, b','));
    json::push_string(name, out);
    out.push(b':');
}

/// Go's `strconv.ParseInt` on a JSON number: it accepts neither a fraction nor an exponent.
fn integer(raw: &[u8]) -> Option<i64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

/// Whether Go can decode the value into a `*SubjectPermission`, `{"allow":[…],"deny":[…]}`. Only leaf nodes use that
/// key, but a client's CONNECT fails too if the value has another type.
fn is_permission(raw: &[u8]) -> bool {
    let mut reader = Reader::new(raw);
    if !reader.enter_object() {
        return raw == b"null";
    }
    let mut key = String::new();
    while let Ok(Some((raw_key, value))) = reader.member() {
        key.clear();
        json::unquote(raw_key, &mut key);
        let known = json::same_key(&key, "allow") || json::same_key(&key, "deny");
        if known && !is_string_array(value) {
            return false;
        }
    }
    true
}

fn is_string_array(raw: &[u8]) -> bool {
    raw == b"null" || json::elements(raw).is_some_and(|mut all| all.all(|raw| raw == b"null" || raw.starts_with(b"\"")))
}

impl fmt::Debug for Connect {
    /// Shows no secret: of pass, auth_token, nkey, jwt, sig and proxy_sig only that they are set, and of unknown keys
    /// only their names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Connect");
        for (at, (name, text)) in TEXTS.iter().zip(&self.texts).enumerate() {
            let public = [Text::Lang, Text::Version, Text::Name, Text::User, Text::Account]
                .iter()
                .any(|&open| open as usize == at);
            match text.is_empty() {
                true => {}
                false if public => _ = out.field(name, text),
                false => _ = out.field(name, &format_args!("(set)")),
            }
        }
        for (name, flag) in FLAGS.iter().zip(&self.flags) {
            out.field(name, flag);
        }
        let others: Vec<&str> = self.others.iter().map(|(name, _)| &**name).collect();
        out.field("protocol", &self.protocol).field("others", &others).finish()
    }
}

#[cfg(test)]
mod tests;
