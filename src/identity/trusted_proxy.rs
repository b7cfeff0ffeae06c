//! The NKey by which servers recognise weir as a trusted proxy. It signs the nonce of every connection to them.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;

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

    /// The key pair of the first seed among the words of `text`.
    pub fn from_text(text: &str) -> Option<Self> {
        let pair = text.split_whitespace().find_map(|word| KeyPair::from_seed(word).ok());
        pair.map(|pair| Self { pair })
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
