//! The few JSON values that weir writes: into a buffer that exists, without serde's formatter.

use std::net::IpAddr;

use crate::protocol::json::is_special;

/// Appends a checked raw value without the blanks between its tokens.
pub(crate) fn push_compact(raw: &[u8], out: &mut Vec<u8>) {
    // Most values have no blanks, and are then copied at once.
    if !raw.iter().any(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
        return out.extend_from_slice(raw);
    }
    let (mut quoted, mut escaped) = (false, false);
    for &byte in raw {
        if quoted {
            quoted = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            continue;
        } else {
            quoted = byte == b'"';
        }
        out.push(byte);
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn push_string(text: &str, out: &mut Vec<u8>) {
    // Names and versions need no escapes, and are copied at once.
    if !text.bytes().any(is_special) {
        out.reserve(text.len().saturating_add(2));
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        return out.push(b'"');
    }
    // Writing a string into a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Appends a separator, a key that needs no escapes, and its colon. The next separator is a comma.
pub(crate) fn push_known_key(sep: &mut u8, name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&[std::mem::replace(sep, b','), b'"']);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Appends `number` in decimal.
pub(crate) fn push_number(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends an address without quotes. Most are IPv4, and are written without the standard formatter.
pub(crate) fn push_ip(ip: IpAddr, out: &mut Vec<u8>) {
    let IpAddr::V4(ip) = ip else {
        out.extend_from_slice(ip.to_string().as_bytes());
        return;
    };
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        push_number(octet, out);
    }
}
