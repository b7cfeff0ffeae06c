//! Binds the admin socket: for its owner only, in the place of one that a dead weir has left and of nothing else, and
//! removed at the end.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::sync::watch;

/// Connections that wait to be accepted. Verbs are rare.
const BACKLOG: i32 = 64;
/// Two weirs that start at the same time and find the same dead socket take turns. Whoever else holds the lock of the
/// folder is waited for no longer than this many times.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(25);

/// A bound admin socket. Its drop removes the file, unless another one has taken its place or it is another process's.
#[derive(Debug)]
pub struct AdminSocket {
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
    /// Whether it is this process's: else another one answers there, and removes the file.
    is_own: watch::Sender<bool>,
}

impl AdminSocket {
    /// Binds `path`.
    ///
    /// # Errors
    /// Something that is no socket stands there, a living process has the socket, or the operating system refuses.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let _lock = lock_folder(path);
        let listener = match listen(path) {
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => {
                remove_dead(path)?;
                listen(path)?
            }
            bound => bound?,
        };
        Self::at(listener, path, true)
    }

    /// The socket of another process, if it is the one that stands at `path`. It is that process's until
    /// [`Self::is_taken`].
    ///
    /// # Errors
    /// Nothing stands there.
    pub fn adopt(listener: UnixListener, path: &Path) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::at(listener, path, false)
    }

    /// The socket of the file that stands at `path`.
    fn at(listener: UnixListener, path: &Path, is_own: bool) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let (file, is_own) = ((found.dev(), found.ino()), watch::Sender::new(is_own));
        Ok(Self { listener, path: path.to_owned(), file, is_own })
    }

    /// It is this process's from now on.
    pub fn is_taken(&self) {
        self.is_own.send_replace(true);
    }

    /// It is another process's from now on.
    pub fn is_given_away(&self) {
        self.is_own.send_replace(false);
    }

    /// Whether it is this process's, and each change of that.
    pub fn is_own(&self) -> watch::Receiver<bool> {
        self.is_own.subscribe()
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let is_own = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if is_own && *self.is_own.borrow() {
            // Where it cannot be removed, the next weir takes its place.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file gets the mode that the socket has when it is bound, so that it never has another one.
    let handle = File::from(OwnedFd::from(socket.try_clone()?));
    handle.set_permissions(Permissions::from_mode(0o600))?;
    drop(handle);
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(OwnedFd::from(socket).into())
}

/// Removes what stands at `path`, if that is a socket whose process is dead.
fn remove_dead(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is no socket stands there"));
    }
    match UnixStream::connect(path) {
        Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "a living process has this socket: is it another weir?")),
        Err(err) => Err(err),
    }
}

/// The lock of the folder of `path`, given back on drop; `None` where it cannot be had.
fn lock_folder(path: &Path) -> Option<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).ok()?;
    for _ in 0..LOCK_TRIES {
        if folder.try_lock().is_ok() {
            return Some(folder);
        }
        thread::sleep(LOCK_PAUSE);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tempfile::TempDir;

    use super::*;

    fn folder() -> TempDir {
        TempDir::with_prefix("weir-test-").unwrap()
    }

    #[test]
    fn only_its_owner_can_use_the_socket_and_it_is_gone_in_the_end() {
        let folder = folder();
        let path = folder.path().join("weir.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        let mode = fs::symlink_metadata(&socket.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{mode:o}");
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = folder();
        let path = folder.path().join("weir.sock");
        let living = AdminSocket::bind(&path).unwrap();
        let err = AdminSocket::bind(&path).unwrap_err();
        assert!(err.to_string().contains("a living process"), "{err}");
        UnixStream::connect(&path).expect("it is as it was");
        // What a process leaves that was killed: the file, and nobody who listens.
        drop(living.listener.try_clone().unwrap());
        let left = folder.path().join("left.sock");
        fs::rename(&path, &left).unwrap();
        drop(living);
        assert!(UnixStream::connect(&left).is_err_and(|err| err.kind() == io::ErrorKind::ConnectionRefused));
        let next = AdminSocket::bind(&left).unwrap();
        UnixStream::connect(&next.path).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("weir.toml");
        File::create(&path).unwrap().write_all(b"workers = 1").unwrap();
        let err = AdminSocket::bind(&path).unwrap_err();
        assert!(err.to_string().contains("no socket"), "{err}");
        assert_eq!(fs::read(&path).unwrap(), b"workers = 1");
    }

    #[test]
    fn the_socket_of_another_weir_is_not_removed() {
        let folder = folder();
        let (path, aside) = (folder.path().join("weir.sock"), folder.path().join("aside"));
        let first = AdminSocket::bind(&path).unwrap();
        fs::rename(&path, &aside).unwrap();
        let second = AdminSocket::bind(&path).unwrap();
        drop(first);
        UnixStream::connect(&second.path).unwrap();
    }

    #[test]
    fn the_socket_of_a_takeover_is_removed_by_the_process_that_serves() {
        let folder = folder();
        let path = folder.path().join("weir.sock");
        let old = AdminSocket::bind(&path).unwrap();
        let offered = || AdminSocket::adopt(old.listener.try_clone().unwrap(), &path).unwrap();
        // The takeover is off.
        drop(offered());
        UnixStream::connect(&path).expect("it is the old process's");
        let new = offered();
        old.is_given_away();
        new.is_taken();
        drop(old);
        UnixStream::connect(&path).expect("it is the new process's");
        drop(new);
        assert!(!path.exists());
    }

    #[test]
    fn two_that_start_together_do_not_take_it_from_each_other() {
        let folder = folder();
        let path = folder.path().join("weir.sock");
        let left = AdminSocket::bind(&path).unwrap();
        let aside = folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        drop(left);
        fs::rename(&aside, &path).unwrap();
        let start = || AdminSocket::bind(&path);
        let bound = thread::scope(|scope| {
            let both = [scope.spawn(start), scope.spawn(start)];
            both.map(|one| one.join().unwrap())
        });
        assert_eq!(bound.iter().filter(|one| one.is_ok()).count(), 1, "{bound:?}");
        UnixStream::connect(&path).unwrap();
    }
}
