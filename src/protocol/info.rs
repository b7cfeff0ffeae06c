//! INFO: what a server says of itself, as weir reads it and as weir passes it on.

mod own_info;
mod reparse;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, ops::Range, sync::Arc};

use crate::protocol::{
    info::reparse::{PER_CONNECTION, PerConnection, Placeholder},
    json::{self, Reader, Syntax},
};

pub use own_info::OwnInfo;

/// Why an INFO cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoError {
    /// The argument is not one JSON object in UTF-8.
    Syntax,
    /// The value of this key is of another type than nats-server's.
    WrongType(&'static str),
}

impl fmt::Display for InfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("INFO is not a JSON object"),
            Self::WrongType(key) => write!(f, "INFO has a value of the wrong type for {key:?}"),
        }
    }
}

impl std::error::Error for InfoError {}

impl From<Syntax> for InfoError {
    fn from(_: Syntax) -> Self {
        Self::Syntax
    }
}

/// Keys that weir reads as strings, beside those of [`PER_CONNECTION`]; the index is [`Text`].
const TEXTS: [&str; 3] = ["server_id", "server_name", "version"];

#[derive(Clone, Copy)]
enum Text {
    ServerId,
    ServerName,
    Version,
}

/// Keys that weir reads as true or false; the index is [`Flag`].
const FLAGS: [&str; 8] =
    ["auth_required", "headers", "jetstream", "ldm", "tls_required", "tls_available", "tls_verify", "connect_info"];

#[derive(Clone, Copy)]
enum Flag {
    AuthRequired,
    Headers,
    JetStream,
    LameDuck,
    TlsRequired,
    TlsAvailable,
    TlsVerify,
    ConnectInfo,
}

/// Keys that weir reads as numbers; the index is [`Number`].
const NUMBERS: [&str; 2] = ["max_payload", "api_lvl"];

#[derive(Clone, Copy)]
enum Number {
    MaxPayload,
    ApiLevel,
}

/// Keys that say where a server is and how it is reached: weir says that of itself.
const OVERRIDDEN: [&str; 9] = [
    "host",
    "port",
    "version",
    "client_ip",
    "tls_required",
    "tls_available",
    "tls_verify",
    "connect_urls",
    "ws_connect_urls",
];

/// A parsed INFO: what weir needs to know, and every field as it came, in the server's order.
///
/// A key that comes twice has the place of the first and the value of the last; null is as if absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// What the server says on every connection.
    template: Arc<Template>,
    /// The values of [`PER_CONNECTION`] on this one, unescaped, one behind the other; empty where absent.
    values: String,
    ranges: [Range<usize>; PER_CONNECTION.len()],
}

/// The part of an INFO that is the same on every connection to a server.
#[derive(Debug, PartialEq, Eq)]
struct Template {
    /// The argument as it came, and in it the values that are not part of this.
    line: Box<[u8]>,
    placeholders: Vec<Placeholder>,
    /// Keys, values without blanks, and the unescaped values of [`TEXTS`], one behind the other.
    text: String,
    fields: Vec<(Range<usize>, Range<usize>)>,
    texts: [Range<usize>; TEXTS.len()],
    numbers: [Option<u64>; NUMBERS.len()],
    flags: [bool; FLAGS.len()],
    /// Whether the version is one that names the account.
    names_account: bool,
    /// The members that are forwarded on to clients, with a comma behind each and without the values that change, which go in
    /// at these places.
    forwarded: Vec<u8>,
    forwarded_placeholders: Vec<(usize, PerConnection)>,
}

impl Info {
    /// Reads the argument of an INFO line.
    ///
    /// # Errors
    ///
    /// When it is not a JSON object in UTF-8, or one of the values that weir reads has another type than nats-server gives it.
    pub fn parse(json: &[u8]) -> Result<Self, InfoError> {
        std::str::from_utf8(json).map_err(|_| InfoError::Syntax)?;
        let mut reader = Reader::new(json);
        if !reader.enter_object() {
            return Err(InfoError::Syntax);
        }
        let mut text = Vec::with_capacity(json.len() + 128);
        let mut fields: Vec<(Range<usize>, Range<usize>)> = Vec::with_capacity(24);
        let mut places = [None; PER_CONNECTION.len()];
        let mut key = String::with_capacity(32);
        while let Some((raw_key, raw)) = reader.member()? {
            key.clear();
            json::unquote(raw_key, &mut key);
            if let Some(which) = PerConnection::of(&key) {
                places[which as usize] = Some((reader.at() - raw.len(), raw));
            }
            let value = push(&mut text, |text| json::push_compact(raw, text));
            match fields.iter_mut().find(|(name, _)| text[name.clone()] == *key.as_bytes()) {
                Some(field) => field.1 = value,
                None => fields.push((push(&mut text, |text| text.extend_from_slice(key.as_bytes())), value)),
            }
        }
        reader.end()?;
        fields.retain(|(_, value)| text[value.clone()] != *b"null");
        let mut template = Template {
            line: json.into(),
            placeholders: Placeholder::all(places),
            text: String::from_utf8(text).map_err(|_| InfoError::Syntax)?,
            fields,
            texts: Default::default(),
            numbers: [None; NUMBERS.len()],
            flags: [false; FLAGS.len()],
            names_account: false,
            forwarded: Vec::with_capacity(json.len()),
            forwarded_placeholders: Vec::new(),
        };
        template.read()?;
        let version = parse_version(&template.text[template.texts[Text::Version as usize].clone()]);
        template.names_account = version.is_some_and(|version| version >= semver::Version::new(2, 12, 0));
        template.prepare_forwarding();
        let mut info =
            Self { template: Arc::new(template), values: String::with_capacity(128), ranges: Default::default() };
        info.read_values()?;
        Ok(info)
    }

    /// Fills in the values that change.
    fn read_values(&mut self) -> Result<(), InfoError> {
        for which in PerConnection::ALL {
            let Some(value) = self.template.raw(which.key()) else { continue };
            let raw = &self.template.text[value];
            let start = self.values.len();
            match (which, raw.starts_with('"')) {
                (PerConnection::ClientId, false) if is_integer(raw) => self.values.push_str(raw),
                (PerConnection::ClientId, _) | (_, false) => return Err(InfoError::WrongType(which.key())),
                (_, true) => json::unquote(raw.as_bytes(), &mut self.values),
            }
            self.ranges[which as usize] = start..self.values.len();
        }
        Ok(())
    }

    fn value_of(&self, which: PerConnection) -> &str {
        &self.values[self.ranges[which as usize].clone()]
    }

    fn text(&self, which: Text) -> &str {
        &self.template.text[self.template.texts[which as usize].clone()]
    }

    fn flag(&self, which: Flag) -> bool {
        self.template.flags[which as usize]
    }

    fn number(&self, which: Number) -> Option<u64> {
        self.template.numbers[which as usize]
    }

    /// The server's identity, new at each of its starts; empty when absent.
    pub fn server_id(&self) -> &str {
        self.text(Text::ServerId)
    }

    /// The server's name; empty when absent.
    pub fn server_name(&self) -> &str {
        self.text(Text::ServerName)
    }

    /// The server's version; empty when absent.
    pub fn version(&self) -> &str {
        self.text(Text::Version)
    }

    /// The server's version; `None` when it is not one, as with a build of nats-server from its sources.
    pub fn semver(&self) -> Option<semver::Version> {
        parse_version(self.version())
    }

    /// What the client is to sign with its NKey, when the server wants that.
    pub fn nonce(&self) -> Option<&str> {
        Some(self.value_of(PerConnection::Nonce)).filter(|nonce| !nonce.is_empty())
    }

    /// The account of the client, as the server verified it: in the INFO behind the first PONG, from 2.12.
    pub fn remote_account(&self) -> Option<&str> {
        Some(self.value_of(PerConnection::RemoteAccount)).filter(|account| !account.is_empty())
    }

    /// Most bytes of a message; `None` when absent or without limit.
    pub fn max_payload(&self) -> Option<u64> {
        self.number(Number::MaxPayload)
    }

    /// The server's number for this connection.
    pub fn client_id(&self) -> Option<u64> {
        self.value_of(PerConnection::ClientId).parse().ok()
    }

    /// The level of the JetStream API, from 2.11.
    pub fn api_lvl(&self) -> Option<u64> {
        self.number(Number::ApiLevel)
    }

    /// Whether the server wants credentials.
    pub fn auth_required(&self) -> bool {
        self.flag(Flag::AuthRequired)
    }

    /// Whether the server knows headers.
    pub fn headers(&self) -> bool {
        self.flag(Flag::Headers)
    }

    /// Whether the server has JetStream.
    pub fn jetstream(&self) -> bool {
        self.flag(Flag::JetStream)
    }

    /// Whether the server is in lame duck mode.
    pub fn ldm(&self) -> bool {
        self.flag(Flag::LameDuck)
    }

    /// Whether the server insists on TLS.
    pub fn tls_required(&self) -> bool {
        self.flag(Flag::TlsRequired)
    }

    /// Whether the server does TLS when asked to.
    pub fn tls_available(&self) -> bool {
        self.flag(Flag::TlsAvailable)
    }

    /// Whether the server does TLS at all.
    pub fn does_tls(&self) -> bool {
        self.tls_required() || self.tls_available()
    }

    /// Whether the server wants certificates of its clients.
    pub fn tls_verify(&self) -> bool {
        self.flag(Flag::TlsVerify)
    }

    /// Whether a server of this version sends an INFO right behind its first PONG that names the account: from 2.12.
    pub fn names_account(&self) -> bool {
        self.template.names_account
    }

    /// Whether this INFO answers CONNECT: it comes behind the first PONG, from 2.12.
    pub fn connect_info(&self) -> bool {
        self.flag(Flag::ConnectInfo)
    }

    /// Appends the line `INFO {…}\r\n` with which this INFO is forwarded on to a client: every field of the server's except those
    /// of which `r` speaks. The server's URLs are never among them, or clients would leave for them.
    pub fn rewrite(&self, r: &Rewrite<'_>, out: &mut Vec<u8>) {
        let Template { forwarded, forwarded_placeholders, .. } = &*self.template;
        let mut object = ObjectWriter::start(out);
        let mut written = 0;
        if !forwarded.is_empty() {
            object.out.push(b'{');
            object.sep = b',';
            for &(at, which) in forwarded_placeholders {
                object.out.extend_from_slice(&forwarded[written..at]);
                object.out.extend_from_slice(self.value_of(which).as_bytes());
                written = at;
            }
            // Without the comma behind the last member: the next one brings its own.
            object.out.extend_from_slice(&forwarded[written..forwarded.len() - 1]);
        }
        if r.keep_nonce {
            object.text_unless_empty("nonce", self.value_of(PerConnection::Nonce));
        }
        object.string("version", r.version);
        object.place(r.host, r.port, r.advertise);
        object.flag("tls_required", r.tls_required);
        object.flag("tls_available", r.tls_available);
        object.flag("tls_verify", r.tls_verify);
        if let Some(ip) = r.client_ip {
            object.ip("client_ip", ip);
        }
        out.extend_from_slice(b"}\r\n");
    }
}

impl Template {
    /// Fills in what the accessors give.
    fn read(&mut self) -> Result<(), InfoError> {
        for (at, name) in TEXTS.iter().enumerate() {
            let Some(value) = self.raw(name) else {
                continue;
            };
            if !self.text[value.clone()].starts_with('"') {
                return Err(InfoError::WrongType(name));
            }
            let start = self.text.len();
            let raw = self.text[value].to_owned();
            json::unquote(raw.as_bytes(), &mut self.text);
            self.texts[at] = start..self.text.len();
        }
        for (at, name) in NUMBERS.iter().enumerate() {
            let Some(value) = self.raw(name) else {
                continue;
            };
            let digits = &self.text[value];
            self.numbers[at] = digits.parse().ok();
            if !is_integer(digits) {
                return Err(InfoError::WrongType(name));
            }
        }
        for (at, name) in FLAGS.iter().enumerate() {
            let Some(value) = self.raw(name) else {
                continue;
            };
            self.flags[at] = match &self.text[value] {
                "true" => true,
                "false" => false,
                _ => return Err(InfoError::WrongType(name)),
            };
        }
        Ok(())
    }

    fn raw(&self, key: &str) -> Option<Range<usize>> {
        self.fields.iter().find(|(name, _)| &self.text[name.clone()] == key).map(|(_, value)| value.clone())
    }

    /// Prepares what is forwarded on.
    fn prepare_forwarding(&mut self) {
        let mut forwarded = std::mem::take(&mut self.forwarded);
        for (name, value) in &self.fields {
            let name = &self.text[name.clone()];
            if OVERRIDDEN.contains(&name) || name == PerConnection::Nonce.key() {
                continue;
            }
            json::push_string(name, &mut forwarded);
            forwarded.push(b':');
            let value = &self.text.as_bytes()[value.clone()];
            match PerConnection::of(name)
                .filter(|&which| self.placeholders.iter().any(|placeholder| placeholder.which == which))
            {
                Some(which) => {
                    let quotes: &[u8] = if which.is_text() { b"\"\"" } else { b"" };
                    forwarded.extend_from_slice(quotes);
                    self.forwarded_placeholders.push((forwarded.len() - quotes.len() / 2, which));
                }
                None => forwarded.extend_from_slice(value),
            }
            forwarded.push(b',');
        }
        self.forwarded = forwarded;
    }
}

/// A semantic version, with or without a `v` in front. Build metadata has no part in precedence (<https://semver.org>,
/// rule 10) and is left out: the crate's order counts it.
fn parse_version(text: &str) -> Option<semver::Version> {
    let mut version = semver::Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()?;
    version.build = semver::BuildMetadata::EMPTY;
    Some(version)
}

/// Below zero it is an integer all the same: max_payload -1 is no limit.
fn is_integer(digits: &str) -> bool {
    digits.parse::<u64>().is_ok() || digits.parse::<i64>().is_ok()
}

/// Appends to `text` and says where.
fn push(text: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let start = text.len();
    append(text);
    start..text.len()
}

/// What weir puts over a server's own INFO: where the client is, and what this listener does.
#[derive(Debug, Clone, Copy)]
pub struct Rewrite<'a> {
    /// `connect_urls`, each `host:port`; the field is left out when there are none.
    pub advertise: &'a [String],
    /// The listener's address.
    pub host: &'a str,
    /// The listener's port.
    pub port: u16,
    /// The lowest version among the servers.
    pub version: &'a str,
    /// The client's address, as weir sees it.
    pub client_ip: Option<IpAddr>,
    /// Whether this listener insists on TLS.
    pub tls_required: bool,
    /// Whether this listener does TLS when asked to.
    pub tls_available: bool,
    /// Whether this listener wants certificates of its clients.
    pub tls_verify: bool,
    /// Whether the client is to sign the server's nonce, because its CONNECT will go to this very connection.
    pub keep_nonce: bool,
}

/// Writes the members of an INFO; what is false or empty is left out as the server does, who omits it.
struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    sep: u8,
}

impl<'a> ObjectWriter<'a> {
    fn start(out: &'a mut Vec<u8>) -> Self {
        out.extend_from_slice(b"INFO ");
        Self { out, sep: b'{' }
    }

    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        json::push_known_key(&mut self.sep, name, self.out);
        self.out
    }

    fn raw(&mut self, name: &str, value: &[u8]) {
        self.key(name).extend_from_slice(value);
    }

    fn string(&mut self, name: &str, value: &str) {
        json::push_string(value, self.key(name));
    }

    fn text_unless_empty(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.string(name, value);
        }
    }

    fn ip(&mut self, name: &str, value: IpAddr) {
        let out = self.key(name);
        out.push(b'"');
        json::push_ip(value, out);
        out.push(b'"');
    }

    fn number(&mut self, name: &str, value: u64) {
        json::push_number(value, self.key(name));
    }

    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.raw(name, b"true");
        }
    }

    fn place(&mut self, host: &str, port: u16, advertise: &[String]) {
        self.text_unless_empty("host", host);
        self.number("port", port.into());
        if !advertise.is_empty() {
            let _ = serde_json::to_writer(self.key("connect_urls"), advertise);
        }
    }
}
