//! Frames from the other end: decodes what they carry as the bytes arrive.

use std::io::Cursor;

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::protocol::websocket::{
    DeflatePool, Negotiated, Role,
    closing::{Closing, is_valid_code},
    deflate::Inflater,
    encode::{self, LONGEST_CONTROL},
    mask::copy_masked,
    whole_message::{LONGEST_WHOLE, WholeMessage},
};

/// The longest header: 2 bytes, 8 bytes of length, 4 bytes of mask.
const LONGEST_HEADER: usize = 14;

/// The most bytes of one message after decompression: nats-server's own limit (`wsMaxMsgPayloadLimit`). weir collects
/// nothing, so this bounds work and not memory.
const MOST_INFLATED: u64 = 64 * 1024 * 1024;

/// Compressed bytes are unmasked in steps of this many.
const STEP: usize = 1024;

/// A violation of the WebSocket protocol, and the close frame that answers it. The text is nats-server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.text)]
pub struct Violation(pub Closing);

const fn violation(code: u16, text: &'static str) -> Violation {
    Violation(Closing { code, text })
}

/// A frame whose header has been read.
#[derive(Debug)]
struct Frame {
    opcode: OpCode,
    is_final: bool,
    /// Bytes of the payload that are still to come.
    left: u64,
    /// Rotated so that its first byte belongs to the next byte; zeros for a frame without a mask.
    mask: [u8; 4],
}

/// The message to which the next data frame belongs.
#[derive(Debug)]
enum Message {
    /// None yet: the next data frame begins one.
    None,
    Plain,
    /// Compressed, in one short frame.
    Whole(Box<WholeMessage>),
    /// Compressed, in long frames or several. It has no decompressor before its first byte.
    Pieces,
    /// Its decompressor, and how many bytes of the tail it has read once the last frame has ended.
    Deflated(Inflater, Option<usize>),
}

/// Why decoding has ended.
#[derive(Debug)]
enum Over {
    /// A close frame, and the frame that answers it until that is taken.
    Closed(Vec<u8>),
    Broken(Violation),
}

/// Decodes the frames of a client, or of a server.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    negotiated: Negotiated,
    header: [u8; LONGEST_HEADER],
    /// How many bytes of the next header have been read.
    header_has: u8,
    frame: Option<Frame>,
    message: Message,
    /// The payload of a control frame, as far as it has arrived.
    control: Vec<u8>,
    over: Option<Over>,
    /// The other end is a client that has been let in, or a server.
    is_in: bool,
    /// There is no decompressor for it now.
    is_starved: bool,
}

/// How far [`Decoder::decode`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that were consumed.
    pub taken: usize,
    /// Bytes written to the output.
    pub given: usize,
}

impl Decoder {
    /// For the other end of a WebSocket in which weir has this role and negotiated this.
    pub fn new(role: Role, negotiated: Negotiated) -> Self {
        Self {
            role,
            negotiated,
            header: [0; LONGEST_HEADER],
            header_has: 0,
            frame: None,
            message: Message::None,
            control: Vec::new(),
            over: None,
            is_in: matches!(role, Role::Client { .. }),
            is_starved: false,
        }
    }

    /// The client has been let in: it may hold a decompressor from now on.
    pub fn let_in(&mut self) {
        self.is_in = true;
    }

    /// Whether nothing was decoded because other clients hold all decompressors that there are for those who are not in
    /// yet.
    pub fn is_starved(&self) -> bool {
        self.is_starved
    }

    /// Whether the other end has sent a close frame, behind which nothing follows.
    pub fn is_closed(&self) -> bool {
        matches!(self.over, Some(Over::Closed(_)))
    }

    /// The frame that answers the other end's close frame; empty before that and afterwards. It is the last frame that
    /// the other end reads, so it is due when there is nothing else to say.
    pub fn take_close_reply(&mut self) -> Vec<u8> {
        match &mut self.over {
            Some(Over::Closed(reply)) => std::mem::take(reply),
            _ => Vec::new(),
        }
    }

    /// Whether there may be more output, or an error, without more input.
    pub fn has_more(&self) -> bool {
        match (&self.over, &self.message) {
            (Some(over), _) => matches!(over, Over::Broken(_)),
            (None, Message::Deflated(inflater, tail)) => inflater.has_more() || tail.is_some(),
            (None, Message::Whole(_)) => self.frame.is_none(),
            (None, _) => false,
        }
    }

    /// Decodes bytes from the front of `input` to the front of `out`, until one of them is used up or the other end has
    /// closed. Pongs are appended to `replies`.
    ///
    /// # Errors
    /// [`Violation`], once everything before it has been written to `out`.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "each step consumes and writes at most what is left of `input` and `out`"
    )]
    pub fn decode(
        &mut self,
        input: &[u8],
        out: &mut [u8],
        replies: &mut Vec<u8>,
        pool: &mut DeflatePool,
    ) -> Result<Step, Violation> {
        let mut step = Step { taken: 0, given: 0 };
        self.is_starved = false;
        while self.over.is_none() && !self.is_starved {
            let (rest, room) = (&input[step.taken..], &mut out[step.given..]);
            let advanced = match &self.frame {
                _ if room.is_empty() => break,
                _ if self.has_more() => self.more(room, pool),
                _ if rest.is_empty() => break,
                None => self.begin(rest, replies).map(|taken| Step { taken, given: 0 }),
                Some(_) => self.payload(rest, room, replies, pool),
            };
            match advanced {
                Ok(Step { taken, given }) => {
                    step.taken += taken;
                    step.given += given;
                }
                Err(broken) => self.over = Some(Over::Broken(broken)),
            }
        }
        match &self.over {
            Some(Over::Broken(violation)) if step.given == 0 => Err(*violation),
            // Bytes behind a close frame are ignored.
            Some(_) => Ok(Step { taken: input.len(), ..step }),
            None => Ok(step),
        }
    }

    /// Reads bytes of a header.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        reason = "`had + more` is at most LONGEST_HEADER, with which a header is complete, and the cursor is within it"
    )]
    fn begin(&mut self, rest: &[u8], replies: &mut Vec<u8>) -> Result<usize, Violation> {
        let had = usize::from(self.header_has);
        let more = rest.len().min(LONGEST_HEADER - had);
        self.header[had..had + more].copy_from_slice(&rest[..more]);
        let mut cursor = Cursor::new(&self.header[..had + more]);
        let unknown = |_| violation(1002, "unknown opcode");
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(unknown)? else {
            self.header_has += more as u8;
            return Ok(more);
        };
        let taken = cursor.position() as usize - had;
        self.header_has = 0;
        self.check(&header, length)?;
        if let OpCode::Data(data) = header.opcode {
            if data != Data::Continue {
                self.message = match header.rsv1 {
                    true if header.is_final && length <= LONGEST_WHOLE as u64 => Message::Whole(Box::default()),
                    true => Message::Pieces,
                    false => Message::Plain,
                };
            }
            if length == 0 {
                self.data_frame_ended(header.is_final);
                return Ok(taken);
            }
        }
        if let (OpCode::Control(kind), 0) = (header.opcode, length) {
            self.answer(kind, &[], replies)?;
            return Ok(taken);
        }
        let mask = header.mask.unwrap_or_default();
        self.frame = Some(Frame { opcode: header.opcode, is_final: header.is_final, left: length, mask });
        Ok(taken)
    }

    fn expects_mask(&self) -> bool {
        matches!(self.role, Role::Server) && !self.negotiated.unmasked
    }

    fn check(&self, header: &FrameHeader, length: u64) -> Result<(), Violation> {
        let between_messages = matches!(self.message, Message::None);
        let wrong = match header.opcode {
            _ if header.rsv2 || header.rsv3 => "RSV2 and RSV3 must be clear",
            _ if header.rsv1 && !self.negotiated.deflate => {
                "compressed frame received without negotiated permessage-deflate"
            }
            _ if header.mask.is_none() && self.expects_mask() => "mask bit missing",
            _ if header.mask.is_some() && matches!(self.role, Role::Client { .. }) => "mask bit set by a server",
            OpCode::Control(_) if length > LONGEST_CONTROL as u64 => {
                "control frame length bigger than maximum allowed of 125 bytes"
            }
            OpCode::Control(_) if !header.is_final => "control frame does not have final bit set",
            OpCode::Control(_) if header.rsv1 => "control frame must not be compressed",
            OpCode::Control(_) => return Ok(()),
            OpCode::Data(Data::Continue) if between_messages || header.rsv1 => "invalid continuation frame",
            OpCode::Data(Data::Text | Data::Binary) if !between_messages => {
                "new message started before final frame for previous message was received"
            }
            _ if length > i64::MAX as u64 => "invalid 64-bit payload length",
            OpCode::Data(_) => return Ok(()),
        };
        Err(violation(1002, wrong))
    }

    /// Reads bytes of a control frame's payload, which begins `rest`; answers the frame when it is complete.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "a control frame has at most 125 bytes, and `payload` at most as many as are left of it"
    )]
    fn control_payload(&mut self, kind: Control, payload: &[u8], replies: &mut Vec<u8>) -> Result<(), Violation> {
        let Some(frame) = &mut self.frame else { return Ok(()) };
        let had = self.control.len();
        self.control.resize(had + payload.len(), 0);
        copy_masked(&mut frame.mask, payload, &mut self.control[had..]);
        frame.left -= payload.len() as u64;
        if frame.left > 0 {
            return Ok(());
        }
        self.frame = None;
        // The buffer's memory is freed: most clients never send a control frame.
        let payload = std::mem::take(&mut self.control);
        self.answer(kind, &payload, replies)
    }

    /// Reads bytes of a payload.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "`here` is at most what is there and what is left of the frame, and a step takes at most `here`"
    )]
    fn payload(
        &mut self,
        rest: &[u8],
        room: &mut [u8],
        replies: &mut Vec<u8>,
        pool: &mut DeflatePool,
    ) -> Result<Step, Violation> {
        let Some(frame) = &mut self.frame else { return Ok(Step { taken: 0, given: 0 }) };
        let here = usize::try_from(frame.left).unwrap_or(usize::MAX).min(rest.len());
        if let OpCode::Control(kind) = frame.opcode {
            self.control_payload(kind, &rest[..here], replies)?;
            return Ok(Step { taken: here, given: 0 });
        }
        let is_final = frame.is_final;
        if let Message::Pieces = self.message {
            let Some(inflater) = pool.inflater_of_pieces(self.is_in) else {
                self.is_starved = true;
                return Ok(Step { taken: 0, given: 0 });
            };
            self.message = Message::Deflated(inflater, None);
        }
        let step = match &mut self.message {
            Message::Whole(message) => {
                message.push(&rest[..here], frame.mask);
                Step { taken: here, given: 0 }
            }
            Message::Deflated(..) => {
                let mut bytes = [0; STEP];
                let bytes = &mut bytes[..here.min(STEP)];
                let mut mask = frame.mask;
                copy_masked(&mut mask, &rest[..bytes.len()], bytes);
                self.inflate(bytes, room, pool)?
            }
            _ => {
                let n = here.min(room.len());
                let mut mask = frame.mask;
                copy_masked(&mut mask, &rest[..n], room);
                Step { taken: n, given: n }
            }
        };
        if let Some(frame) = &mut self.frame {
            frame.mask.rotate_left(step.taken % 4);
            frame.left -= step.taken as u64;
            if frame.left == 0 {
                self.frame = None;
                self.data_frame_ended(is_final);
            }
        }
        Ok(step)
    }

    /// Decompresses what needs no more input.
    fn more(&mut self, room: &mut [u8], pool: &mut DeflatePool) -> Result<Step, Violation> {
        let Message::Whole(message) = &mut self.message else { return self.inflate(&[], room, pool) };
        let wrong = |_| violation(1007, "invalid compressed data");
        let (given, is_over) = message.read(room, pool, self.is_in).map_err(wrong)?;
        if message.given() > MOST_INFLATED {
            return Err(violation(1009, "Maximum Message Payload Exceeded"));
        }
        if is_over {
            self.message = Message::None;
        }
        Ok(Step { taken: 0, given })
    }

    /// Decompresses bytes of a frame, or the tail of the message.
    #[expect(clippy::arithmetic_side_effects, reason = "at most four bytes of tail are taken")]
    fn inflate(&mut self, bytes: &[u8], room: &mut [u8], pool: &mut DeflatePool) -> Result<Step, Violation> {
        let Message::Deflated(inflater, tail) = &mut self.message else { return Ok(Step { taken: 0, given: 0 }) };
        // Behind the last frame the decompressor needs the tail, which no frame carries.
        let input = if let Some(at) = tail { Inflater::tail(*at) } else { bytes };
        let (taken, given) = inflater.inflate(input, room).map_err(|_| violation(1007, "invalid compressed data"))?;
        if inflater.given() > MOST_INFLATED {
            return Err(violation(1009, "Maximum Message Payload Exceeded"));
        }
        let Some(at) = tail else {
            if taken == 0 && given == 0 && !bytes.is_empty() {
                return Err(violation(1007, "invalid compressed data"));
            }
            return Ok(Step { taken, given });
        };
        *at += taken;
        if Inflater::tail(*at).is_empty() && !inflater.has_more() {
            self.message_ended(pool);
        } else if taken == 0 && given == 0 {
            return Err(violation(1007, "invalid compressed data"));
        }
        Ok(Step { taken: 0, given })
    }

    fn data_frame_ended(&mut self, is_final: bool) {
        match &mut self.message {
            _ if !is_final => {}
            Message::Deflated(_, tail) => *tail = Some(0),
            // All of it is there, and nothing has been read of it.
            Message::Whole(_) => {}
            Message::None | Message::Plain | Message::Pieces => self.message = Message::None,
        }
    }

    fn message_ended(&mut self, pool: &mut DeflatePool) {
        if let Message::Deflated(inflater, _) = std::mem::replace(&mut self.message, Message::None) {
            pool.give_back(inflater);
        }
    }

    /// Answers a control frame.
    fn answer(&mut self, kind: Control, payload: &[u8], replies: &mut Vec<u8>) -> Result<(), Violation> {
        match kind {
            Control::Ping => encode::control(self.role, Control::Pong, payload, replies),
            Control::Close => {
                let echoed = match payload {
                    [] => &[],
                    [_] => return Err(violation(1002, "close frame payload cannot be 1 byte")),
                    [a, b, text @ ..] => {
                        if !is_valid_code(u16::from_be_bytes([*a, *b])) {
                            return Err(violation(1002, "invalid close status code"));
                        }
                        if std::str::from_utf8(text).is_err() {
                            return Err(violation(1007, "invalid utf8 body in close frame"));
                        }
                        payload
                    }
                };
                let mut reply = Vec::new();
                encode::control(self.role, Control::Close, echoed, &mut reply);
                self.over = Some(Over::Closed(reply));
            }
            _ => {}
        }
        Ok(())
    }
}
