//! CONNECT: who a client says it is.
//!
//! Parsed as nats-server does it (`processConnect`: Go's `json.Unmarshal` into `ClientOpts`), so that `{"uſer":"a","USER":"b"}`
//! is b here and there. What weir sends on is written anew, one copy of each key, so that nothing is left to read differently.

use std::fmt;

use crate::protocol::json::{self, Reader, Syntax};

/// Why a CONNECT is none. The server closes on each of these without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// The argument is not one JSON value.
    Syntax,
    /// It is JSON, but neither an object nor null.
    NotAnObject,
    /// The value of this key is of another type than the server's.
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

/// Keys whose values are strings, in canonical order; the index is [`Text`].
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

/// Keys whose values are true or false, in canonical order; the index is [`Flag`].
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

/// A key that weir knows, and its index.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Text(usize),
    Flag(usize),
    Protocol,
}

impl Key {
    /// The same as [`Self::find`] for a key that needs no folding: a match is quicker than going through the tables.
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

    fn folded(key: &str) -> Option<Self> {
        Self::find(|name| json::same_key(key, name))
    }

    fn find(is_it: impl Fn(&str) -> bool) -> Option<Self> {
        let text = TEXTS.iter().position(|name| is_it(name)).map(Self::Text);
        let flag = || FLAGS.iter().position(|name| is_it(name)).map(Self::Flag);
        text.or_else(flag).or_else(|| is_it("protocol").then_some(Self::Protocol))
    }
}

/// How many of [`FLAGS`] are written even when false: their default at the server is true.
const ALWAYS: usize = 3;

/// A parsed CONNECT.
///
/// An absent string and an empty one are the same to the server, and here. `account` and `new_account` make every server
/// refuse the client; they are kept so that it does.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    texts: [Box<str>; TEXTS.len()],
    flags: [bool; FLAGS.len()],
    protocol: i64,
    /// Keys that weir has no use for, each with its raw value without blanks, in the client's order. Bytes, as Go lets invalid UTF-8 pass.
    others: Vec<(Box<str>, Box<[u8]>)>,
}

impl Connect {
    /// Reads the argument of a CONNECT line.
    ///
    /// # Errors
    ///
    /// Exactly when nats-server's `json.Unmarshal` fails: text that is not one JSON value, a value of the wrong type for a known
    /// key (also when a later copy of the key is right), a `protocol` that is not an integer of 64 bits.
    pub fn parse(json: &[u8]) -> Result<Self, ConnectError> {
        let mut connect = Self {
            texts: Default::default(),
            // nats-server's defaultOpts: verbose, pedantic and echo are on unless switched off.
            flags: [true, true, true, false, false, false, false],
            protocol: 0,
            others: Vec::new(),
        };
        let mut reader = Reader::new(json);
        if !reader.enter_object() {
            let value = reader.value()?;
            reader.end()?;
            return if value == b"null" { Ok(connect) } else { Err(ConnectError::NotAnObject) };
        }
        let mut key = String::new();
        let mut wrong = None;
        while let Some((raw_key, value)) = reader.member()? {
            // As every client writes it, mostly; if not, as the server reads it.
            let set = match json::unquoted_bytes(raw_key).and_then(Key::exact) {
                Some(known) => connect.set(known, value),
                None => {
                    key.clear();
                    json::unquote(raw_key, &mut key);
                    match Key::folded(&key) {
                        Some(known) => connect.set(known, value),
                        None => connect.keep(&key, value),
                    }
                }
            };
            // As in Go, the rest must be JSON before a wrong type is worth a word.
            if let Err(name) = set {
                wrong = wrong.or(Some(name));
            }
        }
        reader.end()?;
        wrong.map_or(Ok(connect), |name| Err(ConnectError::WrongType(name)))
    }

    /// Takes over one member; null changes nothing, as in Go. The error names the key.
    fn set(&mut self, key: Key, raw: &[u8]) -> Result<(), &'static str> {
        let null = raw == b"null";
        match key {
            Key::Text(at) => match raw.first() {
                _ if null => {}
                Some(b'"') => {
                    self.texts[at] = json::plain(raw).map_or_else(|| json::unquoted(raw).into(), Box::from);
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

    /// Keeps a member that weir has no use for. The error names the key.
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

    fn text(&self, which: Text) -> Option<&str> {
        Some(&*self.texts[which as usize]).filter(|text| !text.is_empty())
    }

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

    /// The user JWT: to be treated as a secret, since a bearer JWT is one.
    pub fn jwt(&self) -> Option<&str> {
        self.text(Text::Jwt)
    }

    /// The signature of the server's nonce.
    pub fn sig(&self) -> Option<&str> {
        self.text(Text::Sig)
    }

    /// Whether the client answers a nonce: its CONNECT is good for the connection that sent that nonce and for no other.
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

    /// The account that the client wants to choose; servers refuse it.
    pub fn account(&self) -> Option<&str> {
        self.text(Text::Account)
    }

    /// Whether the client wants its account to be made; servers refuse it.
    pub fn new_account(&self) -> bool {
        self.flag(Flag::NewAccount)
    }

    /// The signature of the nonce by a trusted proxy.
    pub fn proxy_sig(&self) -> Option<&str> {
        self.text(Text::ProxySig)
    }

    /// Whether the server confirms every operation with `+OK`. True when absent.
    pub fn verbose(&self) -> bool {
        self.flag(Flag::Verbose)
    }

    /// Whether the server checks subjects. True when absent.
    pub fn pedantic(&self) -> bool {
        self.flag(Flag::Pedantic)
    }

    /// Whether the client receives what it publishes itself. True when absent.
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

    /// The protocol level: 1 for clients that take an INFO at any time; servers refuse all but 0 and 1.
    pub fn protocol(&self) -> i64 {
        self.protocol
    }

    /// Sets the protocol level that the server is told.
    pub fn set_protocol(&mut self, protocol: i64) {
        self.protocol = protocol;
    }

    /// Sets the user name.
    pub fn set_user(&mut self, user: &str) {
        self.texts[Text::User as usize] = user.into();
    }

    /// Sets the password.
    pub fn set_pass(&mut self, pass: &str) {
        self.texts[Text::Pass as usize] = pass.into();
    }

    /// Sets the token.
    pub fn set_auth_token(&mut self, token: &str) {
        self.texts[Text::AuthToken as usize] = token.into();
    }

    /// Sets the user JWT.
    pub fn set_jwt(&mut self, jwt: &str) {
        self.texts[Text::Jwt as usize] = jwt.into();
    }

    /// Sets the signature by which the server knows a trusted proxy.
    pub fn set_proxy_sig(&mut self, sig: &str) {
        self.texts[Text::ProxySig as usize] = sig.into();
    }

    /// Appends the canonical line `CONNECT {…}\r\n`: one copy of each known key in a fixed order, without those that are empty
    /// or false where that is the default, and after them the unknown keys as they came.
    ///
    /// It can be longer than what the client sent (up to about 60 bytes for keys now explicit, and 3 bytes for each byte of
    /// invalid UTF-8), and so pass the server's `max_control_line` by as much; the server then says so.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"CONNECT ");
        let mut sep = b'{';
        for (at, (name, &flag)) in FLAGS.iter().zip(&self.flags).enumerate() {
            if flag || at < ALWAYS {
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
        out.extend_from_slice(b"}\r\n");
    }
}

fn push_key(sep: &mut u8, name: &str, out: &mut Vec<u8>) {
    out.push(std::mem::replace(sep, b','));
    json::push_string(name, out);
    out.push(b':');
}

/// Go's `strconv.ParseInt` on a JSON number: no fraction, no exponent.
fn integer(raw: &[u8]) -> Option<i64> {
    std::str::from_utf8(raw).ok()?.parse().ok()
}

/// Whether Go decodes the value into a `*SubjectPermission`, `{"allow":[…],"deny":[…]}`. Only leaf nodes use it, but a
/// client's CONNECT fails on it all the same.
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
    /// Without secrets: of pass, auth_token, nkey, jwt, sig and proxy_sig only that they are there, of unknown keys only their names.
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
