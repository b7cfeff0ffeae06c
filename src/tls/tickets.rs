//! Session tickets, sealed with keys of this process or with keys that several weirs share.
//!
//! A ticket is bound to the CA and the CRL that client certificates are checked against. With others it does not open
//! any more: otherwise a revoked client could come back with it. Nor does it open once the client's certificates have
//! expired: rustls checks them in full handshakes only, and a session that is resumed gets a new ticket.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use rustls::{
    pki_types::UnixTime,
    server::{ProducesTickets, danger::ClientCertVerifier},
};

use crate::tls::{names, ticket_state::client_chain};

/// The length of a key in bytes.
pub(super) const KEY_LENGTH: usize = 32;
/// weir's own keys are replaced after this long. The key before still opens tickets.
const OWN_KEY_SEALS_FOR: Duration = Duration::from_secs(6 * 3600);
/// The lifetime of a ticket that clients are told, and of a key of weir's own.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// A secret from which a ticket key is made. It has no `Debug`, so it cannot get into a log.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) [u8; KEY_LENGTH]);

/// What a key is made of, and when it was made, if weir has made it: shared keys are the operator's to replace.
#[derive(Clone)]
pub(super) struct Made {
    secret: Secret,
    at: Option<Instant>,
}

/// One key, with its name, which each ticket begins with.
struct Key {
    name: [u8; 4],
    key: LessSafeKey,
    made: Made,
}

impl Key {
    fn new(secret: Secret, at: Option<Instant>) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret.0).ok()?);
        let mut name = [0; 4];
        name.copy_from_slice(&digest(&SHA256, &secret.0).as_ref()[..4]);
        Some(Self { name, key, made: Made { secret, at } })
    }

    fn random(now: Instant) -> Option<Self> {
        let mut secret = [0; KEY_LENGTH];
        SystemRandom::new().fill(&mut secret).ok()?;
        Self::new(Secret(secret), Some(now))
    }

    fn is_younger(&self, than: Duration, now: Instant) -> bool {
        self.made.at.is_none_or(|at| now.saturating_duration_since(at) < than)
    }
}

pub(super) struct Tickets {
    /// The first key seals; all keys open.
    keys: Mutex<Vec<Key>>,
    bound_to: Vec<u8>,
    /// Checks client certificates.
    verifier: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl Tickets {
    /// The first of the `shared` secrets seals. Without any, weir takes what it had `earlier`, or else makes one; how
    /// often files are read anew makes no key older or younger. `bound_to` is what client certificates are checked
    /// against by `verifier`.
    pub(super) fn new(
        shared: Vec<Secret>,
        earlier: Vec<Made>,
        bound_to: &[u8],
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Self {
        let now = Instant::now();
        let mut keys: Vec<Key> = shared.into_iter().filter_map(|secret| Key::new(secret, None)).collect();
        if keys.is_empty() {
            keys = earlier.into_iter().filter_map(|made| Key::new(made.secret, made.at.or(Some(now)))).collect();
        }
        if keys.is_empty() {
            keys.extend(Key::random(now));
        }
        Self { keys: Mutex::new(keys), bound_to: digest(&SHA256, bound_to).as_ref().to_vec(), verifier }
    }

    /// What its keys are made of.
    pub(super) fn made(&self) -> Vec<Made> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|key| key.made.clone()).collect()
    }

    fn seal(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys.first()?.is_younger(OWN_KEY_SEALS_FOR, now) {
            keys.insert(0, Key::random(now)?);
            keys.retain(|key| key.is_younger(LIFETIME, now));
        }
        let key = keys.first()?;
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

    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(4)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let key = keys.iter().find(|key| key.name == name && key.is_younger(LIFETIME, now))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let length = key.key.open_in_place(nonce, Aad::from(&self.bound_to), &mut opened).ok()?.len();
        opened.truncate(length);
        Some(opened)
    }

    /// Whether the client whose session is in this state would be let in with a full handshake `now`. Only the time can
    /// have changed that, since the ticket is bound to everything else. So the verifier, which has a signature to
    /// check, is asked only where a certificate is out of its time: that one may be none that it needs.
    pub(super) fn is_client_valid(&self, state: &[u8], now: UnixTime) -> bool {
        if !self.verifier.offer_client_auth() {
            return true;
        }
        let Some(chain) = client_chain(state) else { return false };
        if chain.iter().all(|certificate| names::is_valid_at(certificate, names::seconds(now))) {
            return true;
        }
        let Some((own, others)) = chain.split_first() else { return false };
        self.verifier.verify_client_cert(own, others, now).is_ok()
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
        self.seal(plain, Instant::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, Instant::now()).filter(|state| self.is_client_valid(state, UnixTime::now()))
    }
}

#[cfg(test)]
mod tests {
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    fn unchecked(shared: Vec<Secret>, earlier: Vec<Made>, bound_to: &[u8]) -> Tickets {
        Tickets::new(shared, earlier, bound_to, WebPkiClientVerifier::no_client_auth())
    }

    #[test]
    fn shared_keys_open_each_others_tickets_and_the_first_seals() {
        let (a, b) = (Secret([1; 32]), Secret([2; 32]));
        let old = unchecked(vec![a.clone()], vec![], b"");
        let new = unchecked(vec![b, a], vec![], b"");
        let ticket = old.encrypt(b"state").unwrap();
        assert_eq!(new.decrypt(&ticket).unwrap(), b"state");
        assert!(old.decrypt(&new.encrypt(b"state").unwrap()).is_none());
    }

    #[test]
    fn a_ticket_ends_with_what_it_is_bound_to() {
        let secret = || vec![Secret([1; 32])];
        let before = unchecked(secret(), vec![], b"ca");
        let after = unchecked(secret(), vec![], b"ca and crl");
        assert!(after.decrypt(&before.encrypt(b"state").unwrap()).is_none());
    }

    #[test]
    fn own_keys_outlive_a_reload_and_spoilt_tickets_open_nothing() {
        let before = unchecked(vec![], vec![], b"");
        let after = unchecked(vec![], before.made(), b"");
        let ticket = before.encrypt(b"state").unwrap();
        assert_eq!(after.decrypt(&ticket).unwrap(), b"state");
        for at in 0..ticket.len() {
            let mut spoilt = ticket.clone();
            spoilt[at] ^= 1;
            assert!(after.decrypt(&spoilt).is_none(), "byte {at}");
            assert!(after.decrypt(&ticket[..at]).is_none());
        }
        assert!(unchecked(vec![], vec![], b"").decrypt(&ticket).is_none());
    }

    /// However often files are read anew, and however quiet the listener is.
    #[test]
    fn own_keys_seal_for_six_hours_and_open_for_twelve() {
        const HOUR: Duration = Duration::from_secs(3600);
        let began = Instant::now();
        let mut tickets = unchecked(vec![], vec![], b"");
        let first = tickets.seal(b"state", began).unwrap();
        for hour in 1..=13 {
            tickets = unchecked(vec![], tickets.made(), b"");
            let now = began + hour * HOUR + Duration::from_secs(1);
            assert_eq!(tickets.open(&first, now).is_some(), hour < 12, "{hour} hours");
            // Nobody gets a ticket in between.
            if hour == 7 {
                let second = tickets.seal(b"state", now).unwrap();
                assert_ne!(second[..4], first[..4]);
            }
        }
    }

    #[test]
    fn a_key_of_weirs_own_does_not_open_for_longer_since_nobody_asks_for_tickets() {
        const HOUR: Duration = Duration::from_secs(3600);
        let (began, tickets) = (Instant::now(), unchecked(vec![], vec![], b""));
        let ticket = tickets.seal(b"state", began).unwrap();
        assert!(tickets.open(&ticket, began + 13 * HOUR).is_none());
        // Shared keys are the operator's to replace.
        let shared = unchecked(vec![Secret([1; 32])], vec![], b"");
        let ticket = shared.seal(b"state", began).unwrap();
        assert!(shared.open(&ticket, began + 13 * HOUR).is_some());
        assert_eq!(shared.seal(b"state", began + 13 * HOUR).unwrap()[..4], ticket[..4]);
    }
}
