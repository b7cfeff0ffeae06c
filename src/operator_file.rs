//! Reads the files that an operator names. What is no file is an error at once: a pipe that nobody writes would keep
//! weir waiting, and a device may have no end.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// It is not there or not to be read, it is no file, or it is longer.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let kind = fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(invalid("it is a directory".into()));
    }
    if kind.is_fifo() && !is_own_descriptor(path) {
        return Err(invalid("it is a pipe".into()));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => Err(invalid(format!("it has more than {most} bytes"))),
        false => Ok(bytes),
    }
}

/// Whether a path names a descriptor that this process was given, such as `/dev/stdin`, or what a shell makes of
/// `<(command)`: whoever gave it writes to it.
fn is_own_descriptor(path: &Path) -> bool {
    ["/dev/fd", "/dev/stdin", "/proc"].iter().any(|folder| path.starts_with(folder))
}

/// The permissions of a file, without its type; `None` where they cannot be read, or say nothing of who can.
pub fn mode(path: &Path) -> Option<u32> {
    let data = fs::metadata(path).ok()?;
    data.is_file().then(|| data.permissions().mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let said = |path: &Path| read(path, 10).unwrap_err().to_string();
        assert_eq!(said(&pipe), "it is a pipe");
        assert_eq!(said(folder.path()), "it is a directory");
        assert_eq!(said(Path::new("/dev/zero")), "it has more than 10 bytes");
        assert_eq!(read(Path::new("/dev/null"), 10).unwrap(), b"");

        let file = folder.path().join("file");
        fs::write(&file, "0123456789").unwrap();
        assert_eq!(read(&file, 10).unwrap(), b"0123456789");
        assert_eq!(read(&file, 9).unwrap_err().to_string(), "it has more than 9 bytes");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!((mode(&file), mode(folder.path())), (Some(0o640), None));
    }
}
