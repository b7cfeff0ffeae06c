//! The file that holds the seed of a key pair.

use std::{io, path::Path};

use crate::{identity::trusted_proxy::ProxyKey, operator_file};

/// A seed file is one short line; `nk` and `nsc` put a few more around it. In bytes.
const LONGEST_FILE: u64 = 4096;

/// Why a seed file cannot be used. Never holds a part of the seed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file cannot be read.
    #[error("it cannot be read ({0})")]
    Io(#[from] io::Error),
    /// The file holds no seed.
    #[error("it holds no NKey seed")]
    NoSeed,
}

/// Reads the first seed of a file.
///
/// # Errors
/// [`SeedError`].
pub fn read(path: &Path) -> Result<ProxyKey, SeedError> {
    let bytes = operator_file::read(path, LONGEST_FILE)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| SeedError::NoSeed)?;
    ProxyKey::from_text(text).ok_or(SeedError::NoSeed)
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use nkeys::KeyPair;
    use std::fs;

    use super::*;

    #[test]
    fn a_seed_is_found_among_what_tools_write_around_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.nk");
        let key = ProxyKey::generate();
        let (seed, public) = (key.seed().unwrap(), key.public_key());
        for text in [seed.clone(), format!("{seed}\n{public}\n"), format!("---BEGIN SEED---\n {seed}\r\n---END---\n")] {
            fs::write(&path, text).unwrap();
            let read = read(&path).unwrap();
            assert_eq!(read.public_key(), public);
            let sig = BASE64URL_NOPAD.decode(read.sign("nonce").unwrap().as_bytes()).unwrap();
            KeyPair::from_public_key(&public).unwrap().verify(b"nonce", &sig).unwrap();
            assert!(!format!("{read:?}").contains(&seed));
        }
        for text in [public, String::new(), seed[..57].to_owned()] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap_err().to_string(), "it holds no NKey seed");
        }
        fs::write(&path, " ".repeat(5000) + &seed).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "it cannot be read (it has more than 4096 bytes)");
    }
}
