//! What a client hears, operation by operation, without what differs between two connections to one server.

use std::fmt;
use std::net::Ipv4Addr;

use serde_json::Value;

/// Fields of INFO that belong to one connection or to one server.
const OF_ONE_CONNECTION: &[&str] =
    &["server_id", "server_name", "host", "port", "client_id", "nonce", "connect_urls", "ws_connect_urls", "xkey"];

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With an end of stream or a reset: which of both comes depends on what the peer had not read yet.
    Closed,
    /// Not at all.
    Open,
}

/// What a client has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// Each operation as text.
    pub ops: Vec<String>,
    pub end: End,
}

impl Transcript {
    /// The texts of its errors.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        self.ops.iter().filter_map(|op| op.strip_prefix("-ERR '")).map(|text| text.trim_end_matches('\''))
    }

    pub fn says(&self, error: &str) -> bool {
        self.errors().any(|text| text == error)
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for op in &self.ops {
            writeln!(f, "    {}", &op[..op.floor_char_boundary(600)])?;
        }
        writeln!(f, "    <{:?}>", self.end)
    }
}

/// Reads what has come to a client at this address. What is not whole yet stands at the end as it is.
pub fn read(mut bytes: &[u8], address: Ipv4Addr) -> Vec<String> {
    let mut ops = Vec::new();
    let mut infos = 0;
    while !bytes.is_empty() {
        let Some((op, rest)) = operation(bytes, &mut infos) else {
            ops.push(format!("(not whole) {}", bytes.escape_ascii()));
            break;
        };
        bytes = rest;
        // The server sends it when it likes.
        if op != "PING" {
            ops.push(op.replace(&format!("\"client_ip\":\"{address}\""), "\"client_ip\":\"its own\""));
        }
    }
    // A server reads a PUB again, and says again what is wrong, when its reads cut the message.
    ops.dedup_by(|next, one| next == one && *one == "-ERR 'Invalid Publish Subject'");
    // A server gives a message to the subscriptions of a client in any order.
    ops.chunk_by_mut(|one, next| is_message(one) && without_sid(one) == without_sid(next)).for_each(<[String]>::sort);
    ops
}

fn is_message(op: &str) -> bool {
    op.starts_with("MSG ") || op.starts_with("HMSG ")
}

/// A message without the name of its subscription.
fn without_sid(op: &str) -> (Option<&str>, Option<&str>) {
    let mut words = op.splitn(4, ' ').skip(1);
    (words.next(), words.nth(1))
}

/// The number of PONGs among what has come.
pub fn pongs(mut bytes: &[u8]) -> usize {
    let mut pongs = 0;
    while let Some((op, rest)) = operation(bytes, &mut 0) {
        pongs += usize::from(op == "PONG");
        bytes = rest;
    }
    pongs
}

/// The first operation and what is behind it.
fn operation<'a>(bytes: &'a [u8], infos: &mut usize) -> Option<(String, &'a [u8])> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let (line, rest) = (&bytes[..end], &bytes[end + 2..]);
    let text = line.escape_ascii().to_string().replace("\\'", "'");
    if line.starts_with(b"MSG ") || line.starts_with(b"HMSG ") {
        let size: usize = text.rsplit(' ').next()?.parse().ok()?;
        let payload = rest.get(..size)?;
        let rest = rest.get(size + 2..)?;
        let shown = match size {
            0..200 => payload.escape_ascii().to_string(),
            _ => format!("{}… sum {}", payload[..40].escape_ascii(), sum(payload)),
        };
        return Some((format!("{text} \"{shown}\""), rest));
    }
    if let Some(json) = line.strip_prefix(b"INFO ") {
        *infos += 1;
        return Some((if *infos == 1 { "INFO".into() } else { format!("INFO {}", info(json)) }, rest));
    }
    Some((text, rest))
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// An INFO without the fields that no two connections share.
fn info(json: &[u8]) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(json) else { return "not JSON".into() };
    fields.retain(|key, _| !OF_ONE_CONNECTION.contains(&key.as_str()));
    Value::Object(fields).to_string()
}
