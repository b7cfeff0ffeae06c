//! How many tokens each key has, for a process that takes over: nobody gets a second burst by that. Connections stay:
//! whoever goes along takes a slot there. So do promised tokens, whose clients have to come again.

use std::{hash::Hash, time::Instant};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Entry, Meter, QuotaByKey};
use crate::{
    admission::{
        params::Quota,
        quota::rate::{RememberedTokens, TokenBucket},
    },
    lapse,
    upstream::leaky_bucket::LeakyBucket,
};

/// The most keys that are written down, those that lack most tokens first.
const MOST_REMEMBERED: usize = 16_384;

/// A key that lacks tokens, as another process recalls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "K: DeserializeOwned"))]
pub struct RememberedKey<K> {
    pub key: K,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    all: Option<RememberedTokens>,
    #[serde(default, deserialize_with = "lapse::or_default", skip_serializing_if = "Option::is_none")]
    known: Option<RememberedTokens>,
}

impl<K> RememberedKey<K> {
    fn missing(&self) -> f64 {
        let missing = |tokens: &Option<RememberedTokens>| tokens.as_ref().map_or(0.0, RememberedTokens::missing);
        missing(&self.all).max(missing(&self.known))
    }

    /// The same under another key.
    pub fn with_key<L>(self, key: L) -> RememberedKey<L> {
        RememberedKey { key, all: self.all, known: self.known }
    }
}

fn meter(tokens: TokenBucket) -> Meter {
    Meter { tokens, promised: LeakyBucket::default() }
}

impl<K: Hash + Eq + Copy> QuotaByKey<K> {
    /// The keys that lack tokens.
    pub fn remembered(&self, now: Instant) -> Vec<RememberedKey<K>> {
        // Also where it is full: else those who are known would share what the others have used.
        let known = |tokens: &TokenBucket| tokens.remembered(now).or(tokens.rate().map(RememberedTokens::full));
        let key = |key, entry: &Entry| RememberedKey {
            key,
            all: entry.all.as_ref().and_then(|meter| meter.tokens.remembered(now)),
            known: entry.known.as_ref().and_then(|meter| known(&meter.tokens)),
        };
        let all = self.map.iter().map(|one| key(*one.key(), one.value()));
        let mut lacking: Vec<_> = all.filter(|one| one.missing() > 0.0).collect();
        if lacking.len() > MOST_REMEMBERED {
            lacking.sort_unstable_by(|one, other| other.missing().total_cmp(&one.missing()));
            lacking.truncate(MOST_REMEMBERED);
        }
        lacking
    }

    /// Each of these keys had as many tokens at `then`, in another process, and has no more. The quota is that of its
    /// next client.
    pub fn recall(&self, remembered: Vec<RememberedKey<K>>, then: Instant) {
        for RememberedKey { key, all, known } in remembered.into_iter().take(MOST_REMEMBERED) {
            let Some(rate) = all.as_ref().or(known.as_ref()).map(RememberedTokens::rate) else { continue };
            let bucket = |tokens: &Option<RememberedTokens>| {
                tokens.as_ref().map_or_else(|| TokenBucket::new(Some(rate)), |tokens| tokens.bucket(then))
            };
            let mut entry = self.map.get_or_insert_with(key, || {
                let quota = Quota { rate: Some(rate), ..Quota::default() };
                Entry { all: None, ..Entry::new(quota) }
            });
            match (&entry.all, &all) {
                (Some(there), Some(all)) => there.tokens.recall(all, then),
                (Some(_), None) => {}
                // Where the configuration has no rate any more, the next client says so.
                (None, _) => entry.all = Some(meter(bucket(&all))),
            }
            match (&entry.known, &known) {
                (Some(there), Some(known)) => there.tokens.recall(known, then),
                (None, Some(_)) => entry.known = Some(Box::new(meter(bucket(&known)))),
                (_, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        admission::{
            client::{Claim, Proof},
            quota::sources::Source,
        },
        identity::CredentialKey,
    };

    fn quota(per_second: u32, burst: u32) -> Quota {
        let rate =
            crate::admission::Rate { per_second: per_second.try_into().unwrap(), burst: burst.try_into().unwrap() };
        Quota { rate: Some(rate), ..Quota::default() }
    }

    proptest! {
        /// In another process each key gets its next tokens when it would have got them here, to a microsecond.
        #[test]
        fn nobody_gets_a_second_burst(
            comes in vec((0..4_u64, any::<bool>(), 0..3000_u64), 1..80),
            quota in (1..50_u32, 1..20_u32).prop_map(|(per_second, burst)| quota(per_second, burst)),
            later in 0..2000_u64,
        ) {
            let [old, new] = [(); 2].map(|()| Arc::new(QuotaByKey::default()));
            let (mut now, mut slots) = (Instant::now(), Vec::new());
            let claim = Claim { source: Source::NOWHERE, credential: CredentialKey::from_raw(1) };
            let proof = |is_known| if is_known { Proof::Known } else { Proof::Missing(claim) };
            for (key, is_known, after) in comes {
                now += Duration::from_millis(after / 20);
                slots.extend(old.enter_by(key, quota, proof(is_known), (now, now), None, |_| ()).ok());
            }
            let there = now + Duration::from_secs(1000);
            let text = serde_json::to_string(&old.remembered(now)).unwrap();
            new.recall(serde_json::from_str(&text).unwrap(), there);
            let later = Duration::from_millis(later);
            let when = |of: &Arc<QuotaByKey<u64>>, key, is_known, at: Instant| {
                let latest = at + Duration::from_secs(1000);
                let entered = of.enter_by(key, quota, proof(is_known), (at, latest), None, |_| ());
                entered.map(|(_slot, ready)| ready.map_or(Duration::ZERO, |ready| ready - at))
            };
            for (key, is_known) in (0..4).flat_map(|key| [(key, true), (key, false)]) {
                let was = when(&old, key, is_known, now + later).unwrap();
                let is = when(&new, key, is_known, there + later).unwrap();
                prop_assert!(was.abs_diff(is) <= Duration::from_micros(2), "{key} {is_known}: {was:?} and {is:?}");
            }
        }
    }

    #[test]
    fn what_is_made_up_is_bounded_and_gone_with_time() {
        let (of, now) = (QuotaByKey::default(), Instant::now());
        let text = r#"[{"key":1,"all":{"rate":{"per_second":1,"burst":3},"has":-1e300}},
                       {"key":2,"all":{"rate":{"per_second":4294967295,"burst":4294967295},"has":1e300}},
                       {"key":3,"all":{"rate":{"per_second":0,"burst":1},"has":1}},
                       {"key":4,"known":null},{"key":5}]"#;
        of.recall(serde_json::from_str::<Vec<RememberedKey<u64>>>(text).unwrap(), now);
        assert_eq!(of.map.len(), 2, "a rate of nothing is none");
        of.sweep(now + Duration::from_secs(6));
        assert_eq!(of.map.len(), 0, "nobody owes more than the burst");
        let one = |key| RememberedKey {
            key,
            all: Some(serde_json::from_str(r#"{"rate":{"per_second":1,"burst":1},"has":0}"#).unwrap()),
            known: None,
        };
        of.recall((0..100_000).map(one).collect(), now);
        assert_eq!((of.map.len(), of.remembered(now).len()), (MOST_REMEMBERED, MOST_REMEMBERED));
    }
}
