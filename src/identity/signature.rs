//! Whether a client has the key that it names.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use nkeys::KeyPair;

use crate::{identity::Claims, protocol::connect::Connect};

/// Whether a CONNECT answers `nonce` with a signature by the key that it names, in its JWT or as its NKey. A server
/// that refuses such a login does not do so because somebody names the key of another.
pub fn has_signed(connect: &Connect, nonce: &str) -> bool {
    let Some(sig) = connect.sig() else { return false };
    // As nats-server reads it (auth.go, `processClientOrLeafAuthentication`).
    let Ok(sig) = BASE64URL_NOPAD.decode(sig.as_bytes()).or_else(|_| BASE64.decode(sig.as_bytes())) else {
        return false;
    };
    let by = |key: &str| KeyPair::from_public_key(key).is_ok_and(|pair| pair.verify(nonce.as_bytes(), &sig).is_ok());
    match connect.jwt().and_then(Claims::read) {
        Some(claims) => by(claims.user()),
        None => connect.nkey().is_some_and(by),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(json: &str) -> Connect {
        Connect::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn only_the_holder_of_a_key_has_signed() {
        let (pair, another) = (KeyPair::new_user(), KeyPair::new_user());
        let signed = |by: &KeyPair, nonce: &str| {
            let sig = BASE64URL_NOPAD.encode(&by.sign(nonce.as_bytes()).unwrap());
            connect(&format!(r#"{{"nkey":"{}","sig":"{sig}"}}"#, pair.public_key()))
        };
        assert!(has_signed(&signed(&pair, "nonce"), "nonce"));
        assert!(!has_signed(&signed(&pair, "nonce"), "another nonce"));
        assert!(!has_signed(&signed(&another, "nonce"), "nonce"));
        assert!(!has_signed(&connect(&format!(r#"{{"nkey":"{}"}}"#, pair.public_key())), "nonce"));
        assert!(!has_signed(&connect(r#"{"nkey":"U","sig":"?"}"#), "nonce"));
    }
}
