//! The keys with which weirs sign their beats, so that whoever may publish in the fleet's account cannot speak for one.
//!
//! Each process makes a key pair (Ed25519) of its own. The public half stands in its membership, which only those write
//! who may write the bucket; the other half goes to nobody but a process that takes over.

use std::fmt;

use aws_lc_rs::{
    rand,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// The header of a message that has its signature: base64url without padding.
pub const SIGNATURE: &str = "Weir-Signature";

/// What the secret half of a key is made of.
pub type Seed = [u8; 32];

/// Signs the beats of this process.
pub struct BeatSigner {
    seed: Seed,
    pair: Ed25519KeyPair,
}

impl BeatSigner {
    /// With a key that nobody else has.
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        // It fails only where the system has no random numbers at all: TLS does not work there either.
        rand::fill(&mut seed).unwrap_or_else(|_| fastrand::fill(&mut seed));
        Self::of(seed)
    }

    /// With the key of the process that had this seed.
    pub fn of(seed: Seed) -> Self {
        // Any 32 bytes are a seed.
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a key of 32 bytes");
        Self { seed, pair }
    }

    /// What another process needs to sign as this one. It is secret.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// What checks the signatures.
    pub fn key(&self) -> BeatKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        BeatKey(key)
    }

    /// The signature of a message on this subject, as a header has it.
    pub fn sign(&self, subject: &str, message: &[u8]) -> String {
        BASE64URL_NOPAD.encode(self.pair.sign(&what_is_signed(subject, message)).as_ref())
    }
}

impl fmt::Debug for BeatSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BeatSigner").field(&self.key()).finish()
    }
}

/// The public half of a key: in JSON, base64url without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeatKey([u8; 32]);

impl BeatKey {
    /// Whether its holder has signed a message on this subject. It takes some 65 µs.
    pub fn has_signed(&self, subject: &str, message: &[u8], signature: &str) -> bool {
        let Ok(signature) = BASE64URL_NOPAD.decode(signature.as_bytes()) else { return false };
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        key.verify(&what_is_signed(subject, message), &signature).is_ok()
    }
}

impl Serialize for BeatKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for BeatKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| D::Error::custom("a key has 32 bytes"))
    }
}

/// The subject names the fleet: a message says nothing in another one.
fn what_is_signed(subject: &str, message: &[u8]) -> Vec<u8> {
    [b"weir beat 1\0", subject.as_bytes(), b"\0", message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_the_key_has_signed_and_only_this_message() {
        let (signer, another) = (BeatSigner::generate(), BeatSigner::generate());
        let (subject, message) = ("weir.fleet.edge.beat", b"{}".as_slice());
        let signature = signer.sign(subject, message);
        let key = signer.key();
        assert!(key.has_signed(subject, message, &signature));
        assert!(!key.has_signed("weir.fleet.other.beat", message, &signature));
        assert!(!key.has_signed(subject, b"{ }", &signature));
        assert!(!key.has_signed(subject, message, &another.sign(subject, message)));
        assert!(!another.key().has_signed(subject, message, &signature));
        for wrong in ["", "?", &signature[1..], &format!("{signature}AA")] {
            assert!(!key.has_signed(subject, message, wrong), "{wrong}");
        }
        let same = BeatSigner::of(signer.seed());
        assert_eq!((same.key(), same.sign(subject, message)), (key, signature));
    }

    #[test]
    fn a_key_is_read_as_it_was_written_and_its_secret_half_is_not_shown() {
        let signer = BeatSigner::of([7; 32]);
        let text = serde_json::to_string(&signer.key()).unwrap();
        assert_eq!(serde_json::from_str::<BeatKey>(&text).unwrap(), signer.key());
        assert!(serde_json::from_str::<BeatKey>("\"AAAA\"").is_err());
        assert!(!format!("{signer:?}").contains("7, 7"), "{signer:?}");
    }
}
