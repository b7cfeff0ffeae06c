//! Session tickets, sealed with keys of this process or with keys that several weirs share.
//!
//! A ticket is bound to the CA and the CRL that client certificates are checked against. With others it does not open
//! any more: otherwise a revoked client could come back with it.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use rustls::server::ProducesTickets;

/// The length of a key in bytes.
pub(super) const KEY_LENGTH: usize = 32;
/// weir's own keys are replaced after this long. The key before still opens tickets.
const OWN_KEY_SEALS_FOR: Duration = Duration::from_secs(6 * 3600);
/// The lifetime of a ticket that clients are told.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// A secret from which a ticket key is made. It has no `Debug`, so it cannot get into a log.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) [u8; KEY_LENGTH]);

/// One key, with its name, which each ticket begins with.
struct Key {
    name: [u8; 4],
    key: LessSafeKey,
    secret: Secret,
}

impl Key {
    fn new(secret: Secret) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret.0).ok()?);
        let mut name = [0; 4];
        name.copy_from_slice(&digest(&SHA256, &secret.0).as_ref()[..4]);
        Some(Self { name, key, secret })
    }

    fn random() -> Option<Self> {
        let mut secret = [0; KEY_LENGTH];
        SystemRandom::new().fill(&mut secret).ok()?;
        Self::new(Secret(secret))
    }
}

struct Keys {
    /// The first key seals; all keys open.
    keys: Vec<Key>,
    /// When weir's own keys are replaced; `None` for shared keys, which the operator replaces.
    replace_at: Option<Instant>,
}

pub(super) struct Tickets {
    keys: Mutex<Keys>,
    bound_to: Vec<u8>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl Tickets {
    /// The first of the `shared` secrets seals. Without any, weir takes its own `earlier` secrets, or else makes one.
    /// `bound_to` is what client certificates are checked against.
    pub(super) fn new(shared: Vec<Secret>, earlier: Vec<Secret>, bound_to: &[u8]) -> Self {
        let replace_at = shared.is_empty().then(|| Instant::now() + OWN_KEY_SEALS_FOR);
        let mut keys: Vec<Key> = shared.into_iter().filter_map(Key::new).collect();
        if keys.is_empty() {
            keys = earlier.into_iter().filter_map(Key::new).collect();
        }
        if keys.is_empty() {
            keys.extend(Key::random());
        }
        Self { keys: Mutex::new(Keys { keys, replace_at }), bound_to: digest(&SHA256, bound_to).as_ref().to_vec() }
    }

    pub(super) fn secrets(&self) -> Vec<Secret> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.keys.iter().map(|key| key.secret.clone()).collect()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if keys.replace_at.is_some_and(|at| now >= at) {
            keys.keys.insert(0, Key::random()?);
            keys.keys.truncate(2);
            keys.replace_at = Some(now + OWN_KEY_SEALS_FOR);
        }
        let key = keys.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(4 + NONCE_LEN + plain.len() + 16);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        let mut sealed = plain.to_vec();
        let aad = Aad::from(&self.bound_to);
        key.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(4)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let length = key.key.open_in_place(nonce, Aad::from(&self.bound_to), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_keys_open_each_others_tickets_and_the_first_seals() {
        let (a, b) = (Secret([1; 32]), Secret([2; 32]));
        let old = Tickets::new(vec![a.clone()], vec![], b"");
        let new = Tickets::new(vec![b, a], vec![], b"");
        let ticket = old.encrypt(b"state").unwrap();
        assert_eq!(new.decrypt(&ticket).unwrap(), b"state");
        assert!(old.decrypt(&new.encrypt(b"state").unwrap()).is_none());
    }

    #[test]
    fn a_ticket_ends_with_what_it_is_bound_to() {
        let secret = || vec![Secret([1; 32])];
        let before = Tickets::new(secret(), vec![], b"ca");
        let after = Tickets::new(secret(), vec![], b"ca and crl");
        assert!(after.decrypt(&before.encrypt(b"state").unwrap()).is_none());
    }

    #[test]
    fn own_keys_outlive_a_reload_and_spoilt_tickets_open_nothing() {
        let before = Tickets::new(vec![], vec![], b"");
        let after = Tickets::new(vec![], before.secrets(), b"");
        let ticket = before.encrypt(b"state").unwrap();
        assert_eq!(after.decrypt(&ticket).unwrap(), b"state");
        for at in 0..ticket.len() {
            let mut spoilt = ticket.clone();
            spoilt[at] ^= 1;
            assert!(after.decrypt(&spoilt).is_none(), "byte {at}");
            assert!(after.decrypt(&ticket[..at]).is_none());
        }
        assert!(Tickets::new(vec![], vec![], b"").decrypt(&ticket).is_none());
    }
}
