//! INFO: how a server introduces itself. weir reads it, and passes a rewritten one on to clients.

mod own_info;
mod reparse;
mod rewrite;
#[cfg(test)]
mod tests;

use std::{fmt, ops::Range, sync::Arc};

use crate::protocol::{
    info::reparse::{PER_CONNECTION, PerConnection, Placeholder},
    json::{self, Reader, Syntax},
};

pub use own_info::OwnInfo;
pub use rewrite::{Rewrite, Urls};

/// An argument that is not one JSON object in UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InfoError;

impl fmt::Display for InfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("INFO is not a JSON object")
    }
}

impl std::error::Error for InfoError {}

impl From<Syntax> for InfoError {
    fn from(_: Syntax) -> Self {
        Self
    }
}

/// Keys whose values weir reads as strings, beside those of [`PER_CONNECTION`]; [`Text`] is the index.
const TEXTS: [&str; 3] = ["server_id", "server_name", "version"];

#[derive(Clone, Copy)]
enum Text {
    ServerId,
    ServerName,
    Version,
}

/// Keys that weir's own INFO has where the servers agree on their values: clients of one cluster show its name.
const NAMES_OF_ALL: [&str; 2] = ["cluster", "domain"];

/// Keys whose values weir reads as true or false; [`Flag`] is the index.
const FLAGS: [&str; 8] =
    ["auth_required", "headers", "jetstream", "ldm", "tls_required", "tls_available", "tls_verify", "connect_info"];

/// Of these, whatever is not false counts as true: neither a password in the clear nor a login is to depend on a type.
const REQUIRE: [&str; 2] = ["auth_required", "tls_required"];

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

/// Keys whose values weir reads as numbers; [`Number`] is the index.
const NUMBERS: [&str; 2] = ["max_payload", "api_lvl"];

#[derive(Clone, Copy)]
enum Number {
    MaxPayload,
    ApiLevel,
}

/// A parsed INFO: the values that weir needs, and every field as the server sent it, in the server's order.
///
/// A key that occurs twice has the place of the first and the value of the last. A key whose value is null is treated
/// as absent. A value of another type than nats-server gives it ([`Info::misfit`]) is passed on as it is, and read with
/// care: what would require a login or TLS does, and any other is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    template: Arc<Template>,
    /// The values of [`PER_CONNECTION`], decoded, one behind the other; an absent one is empty.
    values: String,
    ranges: [Range<usize>; PER_CONNECTION.len()],
}

/// The part of an INFO that a server repeats on every connection.
#[derive(Debug, PartialEq, Eq)]
struct Template {
    /// The argument as it was received, and the places in it where the values of one connection stand.
    line: Box<[u8]>,
    placeholders: Vec<Placeholder>,
    /// Keys, values without blanks, and the decoded values of [`TEXTS`], one behind the other. The ranges below are of
    /// it.
    text: String,
    fields: Vec<(Range<usize>, Range<usize>)>,
    texts: [Range<usize>; TEXTS.len()],
    numbers: [Option<u64>; NUMBERS.len()],
    flags: [bool; FLAGS.len()],
    names_account: bool,
    /// The first of the keys that weir reads whose value has another type.
    misfit: Option<&'static str>,
    /// The members that are passed on to clients, with a comma behind each. The values of one connection are left out;
    /// they go in at the places that `forwarded_placeholders` lists.
    forwarded: Vec<u8>,
    forwarded_placeholders: Vec<(usize, PerConnection)>,
}

impl Info {
    /// Reads the argument of an INFO line.
    ///
    /// # Errors
    ///
    /// [`InfoError`]: it is not a JSON object in UTF-8.
    #[expect(clippy::indexing_slicing, reason = "the ranges in `fields` were made from `text`")]
    pub fn parse(json: &[u8]) -> Result<Self, InfoError> {
        std::str::from_utf8(json).map_err(|_| InfoError)?;
        let mut reader = Reader::new(json);
        if !reader.enter_object() {
            return Err(InfoError);
        }
        let mut text = Vec::with_capacity(json.len().saturating_add(128));
        let mut fields: Vec<(Range<usize>, Range<usize>)> = Vec::with_capacity(24);
        let mut places = [None; PER_CONNECTION.len()];
        let mut key = String::with_capacity(32);
        while let Some((raw_key, raw)) = reader.member()? {
            key.clear();
            json::unquote(raw_key, &mut key);
            if let Some(place) = PerConnection::of(&key).and_then(|which| places.get_mut(which as usize)) {
                *place = Some((reader.at().saturating_sub(raw.len()), raw));
            }
            let value = push(&mut text, |text| json::push_compact(raw, text));
            match fields.iter_mut().find(|(name, _)| text[name.clone()] == *key.as_bytes()) {
                Some(field) => field.1 = value,
                None => fields.push((push(&mut text, |text| text.extend_from_slice(key.as_bytes())), value)),
            }
        }
        reader.end()?;
        fields.retain(|(_, value)| text.get(value.clone()) != Some(b"null"));
        let mut template = Template {
            line: json.into(),
            placeholders: Placeholder::all(places),
            text: String::from_utf8(text).map_err(|_| InfoError)?,
            fields,
            texts: Default::default(),
            numbers: [None; NUMBERS.len()],
            flags: [false; FLAGS.len()],
            names_account: false,
            misfit: None,
            forwarded: Vec::with_capacity(json.len()),
            forwarded_placeholders: Vec::new(),
        };
        template.read();
        let version = parse_version(template.text(Text::Version));
        template.names_account = version.is_some_and(|version| version >= semver::Version::new(2, 12, 0));
        template.prepare_forwarding();
        let (values, ranges) = template.read_values();
        Ok(Self { template: Arc::new(template), values, ranges })
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "there is a range for each PerConnection, and it was made from `values`"
    )]
    fn value_of(&self, which: PerConnection) -> &str {
        &self.values[self.ranges[which as usize].clone()]
    }

    #[expect(clippy::indexing_slicing, reason = "each Flag is an index of FLAGS, whose length this has")]
    fn flag(&self, which: Flag) -> bool {
        self.template.flags[which as usize]
    }

    #[expect(clippy::indexing_slicing, reason = "each Number is an index of NUMBERS, whose length this has")]
    fn number(&self, which: Number) -> Option<u64> {
        self.template.numbers[which as usize]
    }

    /// The first of the keys that weir reads whose value has another type than nats-server gives it.
    pub fn misfit(&self) -> Option<&'static str> {
        self.template.misfit
    }

    /// The mode of compression that a server offers a leafnode, or that a leafnode has chosen. What is no text is no
    /// known one, and not the same as none.
    pub fn compression(&self) -> Option<String> {
        let raw = self.template.raw("compression").filter(|raw| *raw != "\"\"")?;
        Some(if raw.starts_with('"') { json::unquoted(raw.as_bytes()) } else { raw.to_owned() })
    }

    /// Whether a nats-server that reads this INFO may take a mode of compression from it. For Go `Compression` is the
    /// same key, and a null behind another value changes nothing. What is not JSON sets none.
    pub fn may_set_compression(json: &[u8]) -> bool {
        let mut reader = Reader::new(json);
        if !reader.enter_object() {
            return false;
        }
        while let Ok(Some((key, raw))) = reader.member() {
            if json::same_key(&json::unquoted(key), "compression") && !matches!(raw, b"null" | b"\"\"") {
                return true;
            }
        }
        false
    }

    /// Where the server says that it and the other servers of its cluster are, each `host:port`.
    pub fn connect_urls(&self) -> Vec<String> {
        let raw = self.template.raw("connect_urls");
        raw.and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default()
    }

    /// The server's identity, which is new after each start of the server; empty if absent.
    pub fn server_id(&self) -> &str {
        self.template.text(Text::ServerId)
    }

    /// The server's name; empty if absent.
    pub fn server_name(&self) -> &str {
        self.template.text(Text::ServerName)
    }

    /// The server's version; empty if absent.
    pub fn version(&self) -> &str {
        self.template.text(Text::Version)
    }

    /// The server's version; `None` if it is not a semantic version.
    pub fn semver(&self) -> Option<semver::Version> {
        parse_version(self.version())
    }

    /// The names of its cluster and of its JetStream domain, as they were received.
    pub fn cluster_and_domain(&self) -> [Option<&str>; 2] {
        NAMES_OF_ALL.map(|key| self.template.raw(key))
    }

    /// The name of its cluster, where it is in one.
    pub fn cluster(&self) -> Option<String> {
        self.template.raw("cluster").map(|raw| json::unquoted(raw.as_bytes())).filter(|name| !name.is_empty())
    }

    /// The nonce that the client must sign with its NKey, if the server asks for that.
    pub fn nonce(&self) -> Option<&str> {
        Some(self.value_of(PerConnection::Nonce)).filter(|nonce| !nonce.is_empty())
    }

    /// The client's account as the server verified it: in the INFO after the first PONG, since nats-server 2.12.
    pub fn remote_account(&self) -> Option<&str> {
        Some(self.value_of(PerConnection::RemoteAccount)).filter(|account| !account.is_empty())
    }

    /// The most bytes of a message; `None` if absent or without limit.
    pub fn max_payload(&self) -> Option<u64> {
        self.number(Number::MaxPayload)
    }

    /// The server's number for this connection.
    pub fn client_id(&self) -> Option<u64> {
        self.value_of(PerConnection::ClientId).parse().ok()
    }

    /// Whether it names the address from which the server sees this connection. A nats-server that reads PROXY headers
    /// does not yet know it in the INFO that it sends in front of a header.
    pub fn names_client_ip(&self) -> bool {
        !self.value_of(PerConnection::ClientIp).is_empty()
    }

    /// Whether it is that of a port for leafnodes, routes or gateways, whose fields those of a client port never have.
    pub fn is_for_servers(&self) -> bool {
        ["ip", "leafnode_urls", "lnoc", "gateway"].iter().any(|key| self.template.raw(key).is_some())
    }

    /// The level of the JetStream API, since nats-server 2.11.
    pub fn api_lvl(&self) -> Option<u64> {
        self.number(Number::ApiLevel)
    }

    /// The level of the protocol that the server speaks: 1 to clients, and to leafnodes since nats-server 2.11 a higher
    /// one, with which they trace messages. `None` if absent.
    pub fn proto(&self) -> Option<u64> {
        self.template.raw("proto")?.parse().ok()
    }

    /// Whether the server requires credentials.
    pub fn auth_required(&self) -> bool {
        self.flag(Flag::AuthRequired)
    }

    /// Whether the server supports headers.
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

    /// Whether the server requires TLS.
    pub fn tls_required(&self) -> bool {
        self.flag(Flag::TlsRequired)
    }

    /// Whether the server offers TLS.
    pub fn tls_available(&self) -> bool {
        self.flag(Flag::TlsAvailable)
    }

    /// Whether the server requires or offers TLS.
    pub fn does_tls(&self) -> bool {
        self.tls_required() || self.tls_available()
    }

    /// Whether the server requires client certificates.
    pub fn tls_verify(&self) -> bool {
        self.flag(Flag::TlsVerify)
    }

    /// Whether a server of this version names the account in an INFO right after the first PONG: since nats-server
    /// 2.12.
    pub fn names_account(&self) -> bool {
        self.template.names_account
    }

    /// Whether this INFO answers CONNECT: the server sends it after the first PONG, since nats-server 2.12.
    pub fn connect_info(&self) -> bool {
        self.flag(Flag::ConnectInfo)
    }
}

impl Template {
    /// Decodes the values that the accessors return.
    fn read(&mut self) {
        let mut misfit = None;
        for (at, name) in TEXTS.iter().enumerate() {
            let Some(raw) = self.raw(name) else { continue };
            if !raw.starts_with('"') {
                misfit = misfit.or(Some(*name));
                continue;
            }
            let (raw, start) = (raw.to_owned(), self.text.len());
            json::unquote(raw.as_bytes(), &mut self.text);
            if let Some(range) = self.texts.get_mut(at) {
                *range = start..self.text.len();
            }
        }
        let (mut numbers, mut flags) = (self.numbers, self.flags);
        for (number, name) in numbers.iter_mut().zip(NUMBERS) {
            let Some(digits) = self.raw(name) else { continue };
            *number = digits.parse().ok();
            if !is_integer(digits) {
                misfit = misfit.or(Some(name));
            }
        }
        for (flag, name) in flags.iter_mut().zip(FLAGS) {
            let Some(value) = self.raw(name) else { continue };
            *flag = match value {
                "true" => true,
                "false" => false,
                _ => {
                    misfit = misfit.or(Some(name));
                    REQUIRE.contains(&name)
                }
            };
        }
        (self.numbers, self.flags, self.misfit) = (numbers, flags, misfit);
    }

    /// Decodes the values of this connection.
    fn read_values(&mut self) -> (String, [Range<usize>; PER_CONNECTION.len()]) {
        let (mut values, mut ranges) = (String::with_capacity(128), <[Range<usize>; PER_CONNECTION.len()]>::default());
        let mut misfit = None;
        for (which, range) in PerConnection::ALL.into_iter().zip(&mut ranges) {
            let Some(raw) = self.raw(which.key()) else { continue };
            let start = values.len();
            match (which, raw.starts_with('"')) {
                (PerConnection::ClientId, false) if is_integer(raw) => values.push_str(raw),
                (PerConnection::ClientId, _) | (_, false) => misfit = misfit.or(Some(which.key())),
                (_, true) => json::unquote(raw.as_bytes(), &mut values),
            }
            *range = start..values.len();
        }
        self.misfit = self.misfit.or(misfit);
        (values, ranges)
    }

    /// A part of the text; every range of a Template was made from it.
    fn slice(&self, range: &Range<usize>) -> &str {
        &self.text[range.clone()]
    }

    #[expect(clippy::indexing_slicing, reason = "each Text is an index of TEXTS, whose length this has")]
    fn text(&self, which: Text) -> &str {
        self.slice(&self.texts[which as usize])
    }

    /// The value of a key as it was received, without blanks.
    fn raw(&self, key: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(name, _)| self.slice(name) == key);
        field.map(|(_, value)| self.slice(value))
    }
}

/// A semantic version, with or without a `v` in front. Build metadata has no part in precedence (<https://semver.org>,
/// rule 10) and is left out: the crate's order counts it.
fn parse_version(text: &str) -> Option<semver::Version> {
    let mut version = semver::Version::parse(text.strip_prefix('v').unwrap_or(text)).ok()?;
    version.build = semver::BuildMetadata::EMPTY;
    Some(version)
}

/// Whether it is an integer. It may be negative: a `max_payload` of -1 means no limit.
fn is_integer(digits: &str) -> bool {
    digits.parse::<u64>().is_ok() || digits.parse::<i64>().is_ok()
}

/// Appends to `text`; returns the range of what was appended.
fn push(text: &mut Vec<u8>, append: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let start = text.len();
    append(text);
    start..text.len()
}
