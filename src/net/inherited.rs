//! Descriptors that whoever has started weir has left open for it, by their number.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixDatagram,
    },
};

use nix::{
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
    unistd::close,
};
use rustix::{
    cmsg_space,
    io::{Errno, FdFlags, fcntl_setfd},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

/// Makes the descriptor with this number weir's own, and keeps it from programs that weir might start. For the start of
/// the process only: later the number may be that of something else.
///
/// Rust makes an owner out of a bare number in unsafe code only, since nobody vouches for the number. The kernel does
/// that here: weir sends the descriptor to itself, gets another one for the same open file, and closes the first one.
///
/// # Errors
/// No descriptor with this number is open, or none is left.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    let (from, to) = UnixDatagram::pair()?;
    // A number that was free may be that of this pair by now.
    if [&from, &to].iter().any(|one| one.as_raw_fd() == number) {
        return Err(Errno::BADF.into());
    }
    let rights = [ControlMessage::ScmRights(&[number])];
    sendmsg::<()>(from.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::empty(), None)?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&to, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::empty())?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(all) => Some(all),
        _ => None,
    });
    let owned = descriptors.flatten().next().ok_or(Errno::MFILE)?;
    fcntl_setfd(&owned, FdFlags::CLOEXEC)?;
    close(number)?;
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write, pipe},
        os::fd::IntoRawFd,
    };

    use super::*;

    #[test]
    fn a_descriptor_is_taken_over_and_its_number_given_up() {
        let (mut reader, writer) = pipe().unwrap();
        let number = writer.into_raw_fd();
        let mut file = File::from(adopt(number).unwrap());
        file.write_all(b"ready\n").unwrap();
        drop(file);
        let mut told = String::new();
        // The end comes only once no descriptor is left.
        reader.read_to_string(&mut told).unwrap();
        assert_eq!(told, "ready\n");
    }

    #[test]
    fn a_number_without_a_descriptor_is_an_error() {
        for number in [-1, i32::MAX, 900_000] {
            assert_eq!(adopt(number).unwrap_err().raw_os_error(), Some(Errno::BADF.raw_os_error()), "{number}");
        }
    }
}
