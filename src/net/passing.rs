//! Messages between two processes over a Unix socket, each with open descriptors beside it (`SCM_RIGHTS`, unix(7)).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    io::{Errno, FdFlags, fcntl_setfd},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recv, recvmsg, sendmsg,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The most descriptors beside one message. The kernel takes 253 at once (`SCM_MAX_FD`).
pub const MOST_DESCRIPTORS: usize = 240;

/// The longest message in bytes. A longer one is no message of weir's.
pub const LONGEST_MESSAGE: usize = 256 * 1024 * 1024;

const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS));

/// Sends messages.
#[derive(Debug)]
pub struct Sender(OwnedWriteHalf);

/// Receives messages.
#[derive(Debug)]
pub struct Receiver(OwnedReadHalf);

/// Both ends of one process.
pub fn channel(stream: UnixStream) -> (Sender, Receiver) {
    let (receiver, sender) = stream.into_split();
    (Sender(sender), Receiver(receiver))
}

impl Sender {
    /// Sends a message. The other process gets descriptors of its own.
    ///
    /// # Errors
    /// Those of the connection; the message or its descriptors are too many.
    pub async fn send(&mut self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let length = u32::try_from(message.len()).ok().filter(|_| message.len() <= LONGEST_MESSAGE);
        let Some(length) = length.filter(|_| descriptors.len() <= MOST_DESCRIPTORS) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let header = length.to_be_bytes();
        let stream: &UnixStream = self.0.as_ref();
        // They go with the first byte, so that who reads the header has them.
        let sent = stream.async_io(Interest::WRITABLE, || send_with(stream, &header, descriptors)).await?;
        self.0.write_all(header.get(sent..).unwrap_or_default()).await?;
        self.0.write_all(message).await
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut beside, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

impl Receiver {
    /// The next message with its descriptors; `None` once the other process has closed its end.
    ///
    /// # Errors
    /// Those of the connection; what comes is no message; no descriptor is left.
    pub async fn receive(&mut self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let (mut header, mut read, mut descriptors) = ([0; 4], 0, Vec::new());
        while read < header.len() {
            let stream: &UnixStream = self.0.as_ref();
            let rest = header.get_mut(read..).unwrap_or_default();
            match stream.async_io(Interest::READABLE, || receive_with(stream, rest, &mut descriptors)).await? {
                0 if read == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => read += n,
            }
        }
        let length = u32::from_be_bytes(header) as usize;
        if length > LONGEST_MESSAGE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut message = vec![0; length];
        self.0.read_exact(&mut message).await?;
        Ok(Some((message, descriptors)))
    }

    /// Whether something is there to be received.
    pub fn has_more(&self) -> bool {
        let (stream, mut byte): (&UnixStream, _) = (self.0.as_ref(), [0]);
        recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).is_ok_and(|(read, _)| read > 0)
    }

    /// Reads on without understanding anything, until the other process has closed its end.
    pub async fn ended(&mut self) {
        let mut passed_over = [0; 4096];
        while self.0.read(&mut passed_over).await.is_ok_and(|read| read > 0) {}
    }
}

/// Whether an error of the connection says that the other process has closed its end: perhaps in the middle of a
/// message, or before it has read all.
pub fn is_end(err: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(err.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn receive_with(stream: &UnixStream, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(bytes)], &mut beside, RecvFlags::DONTWAIT)?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(all) = message {
            for one in all {
                fcntl_setfd(&one, FdFlags::CLOEXEC)?;
                descriptors.push(one);
            }
        }
    }
    // The kernel drops what the process has no room for.
    if received.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE.into());
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd};

    use super::*;

    #[tokio::test]
    async fn messages_come_in_order_each_with_its_descriptors() {
        let (one, other) = UnixStream::pair().unwrap();
        let ((mut sender, _keep), (_, mut receiver)) = (channel(one), channel(other));
        let (reader, writer) = io::pipe().unwrap();
        let long = vec![b'x'; 3_000_000];
        let sending = async {
            sender.send(b"none", &[]).await.unwrap();
            sender.send(&long, &[writer.as_fd(), reader.as_fd()]).await.unwrap();
            let many = vec![writer.as_fd(); MOST_DESCRIPTORS];
            sender.send(b"many", &many).await.unwrap();
            sender.send(b"", &[]).await.unwrap();
            assert!(sender.send(b"too many", &vec![writer.as_fd(); MOST_DESCRIPTORS + 1]).await.is_err());
            drop((sender, _keep));
        };
        let receiving = async {
            let mut all = Vec::new();
            while let Some(message) = receiver.receive().await.unwrap() {
                all.push(message);
            }
            all
        };
        let ((), all) = tokio::join!(sending, receiving);
        let shapes: Vec<_> = all.iter().map(|(message, descriptors)| (message.len(), descriptors.len())).collect();
        assert_eq!(shapes, [(4, 0), (3_000_000, 2), (4, MOST_DESCRIPTORS), (0, 0)]);
        let mut passed = std::fs::File::from(all[1].1[0].try_clone().unwrap());
        passed.write_all(b"ready").unwrap();
        let mut told = [0; 5];
        io::Read::read_exact(&mut std::fs::File::from(OwnedFd::from(reader)), &mut told).unwrap();
        assert_eq!(&told, b"ready");
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        for (bytes, breaks_off) in [(&b"\xff\xff\xff\xff"[..], false), (b"\0\0", true), (b"\0\0\0\x05ab", true)] {
            let (mut one, other) = UnixStream::pair().unwrap();
            one.write_all(bytes).await.unwrap();
            drop(one);
            let (_sender, mut receiver) = channel(other);
            assert_eq!(is_end(&receiver.receive().await.unwrap_err()), breaks_off, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_process_that_ends_before_it_has_read_all_has_ended() {
        let (one, other) = UnixStream::pair().unwrap();
        let ((mut sender, mut receiver), mut other) = (channel(one), channel(other));
        sender.send(b"never read", &[]).await.unwrap();
        other.0.send(b"the last word", &[]).await.unwrap();
        drop(other);
        assert!(receiver.has_more());
        assert_eq!(receiver.receive().await.unwrap().unwrap().0, b"the last word");
        assert!(is_end(&receiver.receive().await.unwrap_err()));
        assert!(is_end(&sender.send(b"too late", &[]).await.unwrap_err()));
    }
}
