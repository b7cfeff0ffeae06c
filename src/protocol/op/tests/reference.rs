//! nats-server's parser.go (2.15) for a client and for a leafnode, transcribed as plainly as possible: it reads one
//! byte at a time and treats arguments and split buffers as the server does, so that weir's framing can be compared
//! with it at every cut. HMSG of a client is left out: the server does not handle it properly.

/// The result of parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The whole stream was read.
    Nothing,
    /// A CONNECT begins at this index of the stream.
    Connect(usize),
    /// The parser fails at this byte of the stream.
    Error(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    OpStart,
    /// The letters of the verb read so far.
    Op(Vec<u8>),
    /// Behind a verb that must be followed by a blank.
    Blank(&'static str),
    /// In the blanks before an argument.
    Spc(&'static str),
    Arg(&'static str),
    Tail,
    Payload,
    EndR,
    EndN,
}

pub(super) struct Reference {
    verbs: &'static [&'static str],
    state: State,
    max: usize,
    /// c.as, an index in the current buffer.
    start: usize,
    drop: usize,
    arg: Option<Vec<u8>>,
    size: usize,
    /// len(c.msgBuf) if the message is split.
    message: Option<usize>,
    pub(super) messages: u64,
}

const OF_CLIENTS: &[&str] = &["PUB", "HPUB", "PING", "PONG", "SUB", "UNSUB", "INFO", "+OK", "-ERR", "CONNECT"];

const OF_LEAFNODES: &[&str] = &[
    "PUB", "HPUB", "PING", "PONG", "SUB", "UNSUB", "INFO", "+OK", "-ERR", "CONNECT", "LMSG", "RMSG", "HMSG", "LS+",
    "LS-", "RS+", "RS-", "A+", "A-", "AU",
];

impl Reference {
    pub(super) fn new(max: usize) -> Self {
        Self::with(OF_CLIENTS, max)
    }

    /// For a leafnode that has logged in.
    pub(super) fn of_leafnode(max: usize) -> Self {
        Self::with(OF_LEAFNODES, max)
    }

    fn with(verbs: &'static [&'static str], max: usize) -> Self {
        let state = State::OpStart;
        Self { verbs, state, max, start: 0, drop: 0, arg: None, size: 0, message: None, messages: 0 }
    }

    pub(super) fn at_start(&self) -> bool {
        self.state == State::OpStart
    }

    pub(super) fn parse(&mut self, parts: &[&[u8]]) -> Found {
        let (mut base, mut op) = (0, 0);
        for part in parts {
            match self.buffer(part, base, &mut op) {
                Found::Nothing => base += part.len(),
                found => return found,
            }
        }
        Found::Nothing
    }

    fn buffer(&mut self, buf: &[u8], base: usize, op: &mut usize) -> Found {
        // If a buffer begins in an argument, the argument continues in argBuf; a message continues in msgBuf.
        let mut i: isize = 0;
        while (i as usize) < buf.len() {
            let at = i as usize;
            let b = buf[at];
            let error = Found::Error(base + at);
            match self.state.clone() {
                State::OpStart => {
                    *op = base + at;
                    let verb = vec![b.to_ascii_uppercase()];
                    if !self.verbs.iter().any(|v| v.as_bytes().starts_with(&verb)) {
                        return error;
                    }
                    self.state = State::Op(verb);
                }
                State::Op(mut verb) => {
                    verb.push(b.to_ascii_uppercase());
                    if !self.verbs.iter().any(|v| v.as_bytes().starts_with(&verb)) {
                        return error;
                    }
                    self.state = match self.verbs.iter().find(|v| v.as_bytes() == verb) {
                        None => State::Op(verb),
                        Some(&"CONNECT") => return Found::Connect(*op),
                        Some(&("PING" | "PONG" | "+OK")) => State::Tail,
                        Some(&"INFO") => State::Spc("INFO"),
                        Some(verb) => State::Blank(verb),
                    };
                }
                State::Blank(verb) => {
                    if b != b' ' && b != b'\t' {
                        return error;
                    }
                    self.state = State::Spc(verb);
                }
                State::Spc(verb) => {
                    if b != b' ' && b != b'\t' {
                        self.state = State::Arg(verb);
                        self.start = at;
                    }
                }
                State::Arg(verb) => match b {
                    b'\r' => self.drop = 1,
                    b'\n' => {
                        let arg = match self.arg.take() {
                            Some(arg) => arg,
                            None => buf[self.start..at - self.drop].to_vec(),
                        };
                        if arg.len() > self.max {
                            return error;
                        }
                        self.drop = 0;
                        let size = match verb {
                            "PUB" | "HPUB" => Some(sizes(&arg, verb == "HPUB")),
                            "LMSG" | "RMSG" | "HMSG" => Some(leafnode_sizes(&arg, verb == "HMSG")),
                            _ => None,
                        };
                        if let Some(size) = size {
                            let Some(size) = size else { return error };
                            self.messages += 1;
                            self.size = size;
                            self.start = at + 1;
                            self.state = State::Payload;
                            i = (self.start + self.size) as isize - 2;
                        } else {
                            self.state = State::OpStart;
                        }
                    }
                    _ => {
                        if let Some(arg) = &mut self.arg {
                            arg.push(b);
                        }
                    }
                },
                State::Tail => {
                    if b == b'\n' {
                        self.drop = 0;
                        self.state = State::OpStart;
                    }
                }
                State::Payload => match &mut self.message {
                    Some(message) => {
                        let copied = (self.size - *message).min(buf.len() - at);
                        if copied > 0 {
                            *message += copied;
                            i += copied as isize - 1;
                        } else {
                            *message += 1;
                        }
                        if *message >= self.size {
                            self.state = State::EndR;
                        }
                    }
                    None if at + 1 >= self.start + self.size => self.state = State::EndR,
                    None => {}
                },
                State::EndR => {
                    if b != b'\r' {
                        return error;
                    }
                    self.state = State::EndN;
                }
                State::EndN => {
                    if b != b'\n' {
                        return error;
                    }
                    self.message = None;
                    self.state = State::OpStart;
                }
            }
            i += 1;
        }
        match &self.state {
            State::Arg(_) => {
                if self.arg.is_none() {
                    self.arg = Some(buf[self.start..buf.len() - self.drop].to_vec());
                }
                if self.arg.as_ref().is_some_and(|arg| arg.len() > self.max) {
                    return Found::Error(base + buf.len() - 1);
                }
            }
            State::Payload | State::EndR | State::EndN if self.message.is_none() => {
                self.message = Some(buf.len() - self.start);
            }
            _ => {}
        }
        Found::Nothing
    }
}

/// processPub and processHeaderPub.
fn sizes(arg: &[u8], headers: bool) -> Option<usize> {
    let words: Vec<&[u8]> = arg.split(|b| matches!(b, b' ' | b'\t')).filter(|word| !word.is_empty()).collect();
    let count = words.len() - usize::from(headers && !words.is_empty());
    if count != 2 && count != 3 {
        return None;
    }
    let size = parse_size(words[words.len() - 1])?;
    if headers && parse_size(words[words.len() - 2])? > size {
        return None;
    }
    Some(size)
}

/// processLeafMsgArgs and processLeafHeaderMsgArgs.
fn leafnode_sizes(arg: &[u8], headers: bool) -> Option<usize> {
    let words: Vec<&[u8]> = arg.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let own = words.len().checked_sub(usize::from(headers))?;
    if own < 2 || own > 3 && !matches!(words[1], b"+" | b"|") {
        return None;
    }
    let size = parse_size(words[words.len() - 1])?;
    if headers && parse_size(words[words.len() - 2])? > size {
        return None;
    }
    Some(size)
}

fn parse_size(word: &[u8]) -> Option<usize> {
    if word.is_empty() || word.len() > 9 || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(word).ok()?.parse().ok()
}
