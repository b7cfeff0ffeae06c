//! What stands between the two processes of a takeover: it passes their messages on, and holds back one of them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::PATIENCE;
use crate::admin::AdminSocket;
use crate::process::Process;
use crate::weir::Weir;

/// The most descriptors beside one message, as in weir.
const MOST_DESCRIPTORS: usize = 240;
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS));

/// One of the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

/// A message that one process has sent, and the other has not had yet.
#[derive(Debug)]
pub struct Held {
    from: Side,
    words: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The connections to both processes. When it is dropped, each of them sees the other one gone.
#[derive(Debug)]
pub struct Between {
    old: Arc<UnixStream>,
    new: Arc<UnixStream>,
    /// What each of them sends; `None` is its end.
    messages: mpsc::UnboundedReceiver<(Side, Option<Held>)>,
    readers: [JoinHandle<()>; 2],
}

impl Drop for Between {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

impl Between {
    /// Starts a process that is to take over from this weir, and stands at the admin socket until it has come.
    pub async fn start(weir: &Weir, admin: &AdminSocket) -> (Self, Process) {
        let (path, aside) = (admin.path(), admin.folder().join("aside.sock"));
        std::fs::rename(&path, &aside).expect("the socket of the running weir");
        let listener = UnixListener::bind(&path).expect("a socket in its place");
        let process = weir.start_takeover();
        let new = timeout(PATIENCE, listener.accept()).await.expect("it comes in time").expect("it comes").0;
        // The new process looks for the file of the socket that it is offered.
        std::fs::rename(&aside, &path).expect("the socket of the running weir again");
        let old = connect(&path).await;
        pass_head(&new, &old).await;
        pass_head(&old, &new).await;
        let (old, new) = (Arc::new(old), Arc::new(new));
        let (sender, messages) = mpsc::unbounded_channel();
        let reader = |from: Side, stream: &Arc<UnixStream>| {
            let (stream, sender) = (Arc::clone(stream), sender.clone());
            tokio::spawn(async move {
                while let Ok(Some((words, descriptors))) = receive(&stream).await {
                    if sender.send((from, Some(Held { from, words, descriptors }))).is_err() {
                        return;
                    }
                }
                let _ = sender.send((from, None));
            })
        };
        let readers = [reader(Side::Old, &old), reader(Side::New, &new)];
        (Self { old, new, messages, readers }, process)
    }

    /// Passes messages on until one of this name comes, which is held back.
    pub async fn passes_until(&mut self, name: &str) -> Held {
        loop {
            let message = timeout(PATIENCE, self.messages.recv()).await;
            match message.unwrap_or_else(|_| panic!("no {name} in time")) {
                Some((_, Some(held))) if held.name() == name => return held,
                Some((_, Some(held))) => self.pass(held).await,
                Some((side, None)) => panic!("the {side:?} process has ended before {name}"),
                None => panic!("both processes have ended before {name}"),
            }
        }
    }

    /// Passes on a message that was held back. Whoever is to have it may be gone.
    pub async fn pass(&self, held: Held) {
        let to = match held.from {
            Side::Old => &self.new,
            Side::New => &self.old,
        };
        let _ = send(to, &held.words, &held.descriptors).await;
    }

    /// Passes all messages on from now on, until one of both processes ends.
    pub fn passes_all(mut self) {
        tokio::spawn(async move {
            while let Some((_, Some(held))) = self.messages.recv().await {
                self.pass(held).await;
            }
        });
    }
}

impl Held {
    fn name(&self) -> String {
        let message: Value = serde_json::from_slice(&self.words).expect("JSON");
        message["message"].as_str().unwrap_or_default().to_owned()
    }
}

async fn connect(path: &Path) -> UnixStream {
    UnixStream::connect(path).await.expect("the admin socket")
}

/// Passes on what HTTP says before the first message.
async fn pass_head(from: &UnixStream, to: &UnixStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(read_some(from, &mut byte).await.expect("a head"), 1, "the other process is there");
        head.extend(byte);
    }
    write_all(to, &head).await.expect("it is there");
}

async fn read_some(from: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    from.async_io(Interest::READABLE, || from.try_read(bytes)).await
}

async fn write_all(to: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = to.async_io(Interest::WRITABLE, || to.try_write(bytes)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

async fn receive(from: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let (mut header, mut read, mut descriptors) = ([0; 4], 0, Vec::new());
    while read < header.len() {
        match from.async_io(Interest::READABLE, || receive_with(from, &mut header[read..], &mut descriptors)).await? {
            0 => return Ok(None),
            n => read += n,
        }
    }
    let mut message = vec![0; u32::from_be_bytes(header) as usize];
    let mut read = 0;
    while read < message.len() {
        match read_some(from, &mut message[read..]).await? {
            0 => return Ok(None),
            n => read += n,
        }
    }
    Ok(Some((message, descriptors)))
}

fn receive_with(from: &UnixStream, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(from, &mut [IoSliceMut::new(bytes)], &mut beside, flags)?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(all) = message {
            descriptors.extend(all);
        }
    }
    Ok(received.bytes)
}

async fn send(to: &UnixStream, words: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let header = u32::try_from(words.len()).expect("a message").to_be_bytes();
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let send = || {
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(descriptors.is_empty() || beside.push(SendAncillaryMessage::ScmRights(&descriptors)));
        Ok(sendmsg(to, &[IoSlice::new(&header)], &mut beside, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    };
    let sent = to.async_io(Interest::WRITABLE, send).await?;
    write_all(to, &header[sent..]).await?;
    write_all(to, words).await
}
