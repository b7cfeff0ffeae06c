//! Frames for the other end: binary, each message compressed on its own, masked towards a server.

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::protocol::websocket::{DeflatePool, Negotiated, Role, mask::copy_masked};

/// Up to this many bytes are not compressed (nats-server's `wsCompressThreshold`).
const COMPRESS_ABOVE: usize = 64;

/// The most bytes of a control frame's payload (RFC 6455, section 5.5).
pub const LONGEST_CONTROL: usize = 125;

/// Appends the frames that carry `bytes`, compressed if that was negotiated and makes them shorter.
pub fn data(role: Role, negotiated: Negotiated, bytes: &[u8], pool: &mut DeflatePool, out: &mut Vec<u8>) {
    if negotiated.deflate
        && bytes.len() > COMPRESS_ABOVE
        && let Some(compressed) = pool.compress(bytes)
    {
        return message(role, compressed, true, negotiated.frame_size.max_payload(true), out);
    }
    for chunk in bytes.chunks(negotiated.frame_size.max_payload(false)) {
        message(role, chunk, false, usize::MAX, out);
    }
}

/// Appends one message, in frames of at most `longest` bytes of payload.
fn message(role: Role, bytes: &[u8], compressed: bool, longest: usize, out: &mut Vec<u8>) {
    let mut chunks = bytes.chunks(longest).peekable();
    let mut data = Data::Binary;
    while let Some(chunk) = chunks.next() {
        let header = FrameHeader {
            is_final: chunks.peek().is_none(),
            rsv1: compressed && data == Data::Binary,
            opcode: OpCode::Data(data),
            ..FrameHeader::default()
        };
        frame(role, header, chunk, out);
        data = Data::Continue;
    }
}

/// Appends a control frame. A payload that is too long is cut off.
pub fn control(role: Role, kind: Control, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader { opcode: OpCode::Control(kind), ..FrameHeader::default() };
    frame(role, header, payload.get(..LONGEST_CONTROL).unwrap_or(payload), out);
}

#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "`out` is made longer by what is written behind `start`"
)]
fn frame(role: Role, mut header: FrameHeader, payload: &[u8], out: &mut Vec<u8>) {
    header.mask = role.mask();
    // Writing into a Vec cannot fail.
    let _ = header.format(payload.len() as u64, out);
    let Some(mut key) = header.mask else { return out.extend_from_slice(payload) };
    let start = out.len();
    out.resize(start + payload.len(), 0);
    copy_masked(&mut key, payload, &mut out[start..]);
}
