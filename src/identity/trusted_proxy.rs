//! The key by which servers know weir as a trusted proxy: it signs the nonce of every connection to them.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;

/// The pair. It prints as its public key; the seed leaves it only by [`ProxyKey::seed`].
#[derive(Clone)]
pub struct ProxyKey {
    pair: KeyPair,
}

impl ProxyKey {
    /// A new pair, of the kind that nats-server's own documentation takes: a user's.
    pub fn generate() -> Self {
        Self { pair: KeyPair::new_user() }
    }

    /// The pair of the first seed among the words of `text`.
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

    /// `proxy_sig` for a connection with this nonce.
    pub fn sign(&self, nonce: &str) -> Option<String> {
        self.pair.sign(nonce.as_bytes()).ok().map(|sig| BASE64URL_NOPAD.encode(&sig))
    }
}

impl fmt::Debug for ProxyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public_key())
    }
}
