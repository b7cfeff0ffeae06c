//! Frames for a client: binary, unmasked, each message by itself.

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::protocol::websocket::{DeflatePool, Negotiated};

/// So few bytes are not worth compressing (nats-server's `wsCompressThreshold`).
const NOT_WORTH_IT: usize = 64;

/// The most that a control frame carries.
pub const LONGEST_CONTROL: usize = 125;

/// Appends the frames that carry `bytes`, compressed where that was agreed upon and saves something.
pub fn data(negotiated: Negotiated, bytes: &[u8], pool: &mut DeflatePool, out: &mut Vec<u8>) {
    if negotiated.deflate
        && bytes.len() > NOT_WORTH_IT
        && let Some(compressed) = pool.compress(bytes)
    {
        return message(compressed, true, negotiated.frame_size.max_payload(true), out);
    }
    for piece in bytes.chunks(negotiated.frame_size.max_payload(false)) {
        message(piece, false, usize::MAX, out);
    }
}

/// One message, in frames of at most `longest` bytes.
fn message(bytes: &[u8], compressed: bool, longest: usize, out: &mut Vec<u8>) {
    let mut pieces = bytes.chunks(longest).peekable();
    let mut data = Data::Binary;
    while let Some(piece) = pieces.next() {
        let header = FrameHeader {
            is_final: pieces.peek().is_none(),
            rsv1: compressed && data == Data::Binary,
            opcode: OpCode::Data(data),
            ..FrameHeader::default()
        };
        frame(&header, piece, out);
        data = Data::Continue;
    }
}

/// Appends a control frame; of `payload` no more than fits.
pub fn control(kind: Control, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader { opcode: OpCode::Control(kind), ..FrameHeader::default() };
    frame(&header, &payload[..payload.len().min(LONGEST_CONTROL)], out);
}

fn frame(header: &FrameHeader, payload: &[u8], out: &mut Vec<u8>) {
    // Writing into a Vec does not fail.
    let _ = header.format(payload.len() as u64, out);
    out.extend_from_slice(payload);
}
