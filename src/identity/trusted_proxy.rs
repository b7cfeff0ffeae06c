//! The NKey by which servers recognise weir as a trusted proxy. It signs the nonce of every connection to them.

use std::{fmt, fs, io, path::Path};

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;

/// A seed is one short line, around which `nk` and `nsc` write a few more.
const LONGEST_FILE: u64 = 4096;

/// Why a seed file cannot be used. It never contains a part of the seed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("it cannot be read ({0})")]
    Io(#[from] io::Error),
    #[error("it holds no NKey seed")]
    NoSeed,
}

/// A key pair. Its `Debug` shows the public key; only [`ProxyKey::seed`] returns the seed.
#[derive(Clone)]
pub struct ProxyKey {
    pair: KeyPair,
}

impl ProxyKey {
    /// A new user key pair, the kind that nats-server's documentation uses.
    pub fn generate() -> Self {
        Self { pair: KeyPair::new_user() }
    }

    /// Reads a file and uses its first word that is a seed.
    pub fn read(path: &Path) -> Result<Self, SeedError> {
        if fs::metadata(path)?.len() > LONGEST_FILE {
            return Err(SeedError::NoSeed);
        }
        let text = fs::read_to_string(path)?;
        let pair = text.split_whitespace().find_map(|word| KeyPair::from_seed(word).ok());
        pair.map(|pair| Self { pair }).ok_or(SeedError::NoSeed)
    }

    /// The public key, for the servers' configuration.
    pub fn public_key(&self) -> String {
        self.pair.public_key()
    }

    /// The seed: a secret.
    pub fn seed(&self) -> Option<String> {
        self.pair.seed().ok()
    }

    /// The `proxy_sig` for a connection with this nonce.
    pub fn sign(&self, nonce: &str) -> Option<String> {
        self.pair.sign(nonce.as_bytes()).ok().map(|sig| BASE64URL_NOPAD.encode(&sig))
    }
}

impl fmt::Debug for ProxyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_found_among_what_tools_write_around_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.nk");
        let key = ProxyKey::generate();
        let (seed, public) = (key.seed().unwrap(), key.public_key());
        for text in [seed.clone(), format!("{seed}\n{public}\n"), format!("---BEGIN SEED---\n {seed}\r\n---END---\n")] {
            fs::write(&path, text).unwrap();
            let read = ProxyKey::read(&path).unwrap();
            assert_eq!(read.public_key(), public);
            let sig = BASE64URL_NOPAD.decode(read.sign("nonce").unwrap().as_bytes()).unwrap();
            KeyPair::from_public_key(&public).unwrap().verify(b"nonce", &sig).unwrap();
            assert!(!format!("{read:?}").contains(&seed));
        }
        for text in [public, String::new(), seed[..57].to_owned(), " ".repeat(5000) + &seed] {
            fs::write(&path, text).unwrap();
            assert_eq!(ProxyKey::read(&path).unwrap_err().to_string(), "it holds no NKey seed");
        }
    }
}
