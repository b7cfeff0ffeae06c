//! A client that has its server already, and waits for a place of a lease of its fleet.

use std::{num::NonZeroU32, pin::pin, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::plan_agreement;
use crate::{
    admission::{Client, PatternQuota, Proof, Quota, QuotaIdentity, Rate, Return, Source},
    fleet::{
        key::{Keys, Kind},
        lease::{allowance::Standing, book::LeaseBook},
    },
    identity::{ClientKey, Credential},
    net::timer::now,
    outcome::Refusal,
    session::{account::enter_shared, shared::Shared},
};

/// Users may connect three times at once, and then once a second; of a name there are five connections in the fleet.
fn shared() -> (Arc<Shared>, Arc<LeaseBook>) {
    let mut config = plan_agreement::config(None);
    let rate = Rate { per_second: NonZeroU32::MIN, burst: 3.try_into().unwrap() };
    let quota = Quota { rate: Some(rate), ..Quota::default() };
    config.admission.patterns.users.push(PatternQuota { pattern: "batch*".into(), quota });
    let quota = Quota { max_connections: Some(5), ..Quota::default() };
    config.admission.patterns.names.push(PatternQuota { pattern: "report*".into(), quota });
    let shared = plan_agreement::shared(&config);
    let book = LeaseBook::new(Keys::of_fleet("edge"), Standing::new(now()));
    shared.admission.share_quotas(&book);
    (shared, book)
}

fn client(shared: &Shared, name: Option<&str>) -> Client {
    let key = shared.keys.credential(Credential::User("batch"));
    let (hold_until, answer_by) = (now() + Duration::from_secs(5), now() + Duration::from_secs(6));
    Client {
        account: "A".into(),
        names_its_account: false,
        is_leafnode: false,
        source: Source::NOWHERE,
        key: ClientKey::from_raw(1),
        proof: Proof::Known,
        may_use_reserve: false,
        would_refuse: None,
        quota_identity: QuotaIdentity { user: Some(("batch".into(), key)), name: name.map(Into::into) },
        hold_until,
        answer_by,
        returns: Return::Unknown,
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_takes_one_token_and_asks_for_that_place_alone() {
    let (shared, book) = shared();
    let (waiting, account) = (client(&shared, Some("report 1")), "A".into());
    let enter = || shared.admission.enter_account(&waiting, now());
    let mut entering = pin!(enter_shared(&shared, &account, enter));
    let entered = timeout(Duration::from_millis(300), &mut entering).await;
    assert!(entered.is_err(), "it waits: {entered:?}");
    let waits = |kind, name, quota| book.allowance(kind, name, quota).usage().waiting;
    assert_eq!((waits(Kind::Name, "report*", Some(5)), waits(Kind::Account, "A", None)), (1, 0));

    book.grant(Kind::Name, "report*", 1, now() + Duration::from_secs(100));
    let slot = entering.await.unwrap();
    assert_eq!(waits(Kind::Name, "report*", Some(5)), 0);
    let other = client(&shared, None);
    let others: Vec<_> = (0..3).map(|_| shared.admission.enter_account(&other, now()).map(drop)).collect();
    assert_eq!(others, [Ok(()), Ok(()), Err(Refusal::UserRate)]);
    drop(slot);
    assert_eq!(book.allowance(Kind::Name, "report*", Some(5)).usage().held, 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_in_vain_is_refused_in_time_and_leaves_nothing() {
    let (shared, book) = shared();
    let (waiting, account) = (client(&shared, Some("report 1")), "A".into());
    let enter = || shared.admission.enter_account(&waiting, now());
    assert_eq!(enter_shared(&shared, &account, enter).await.unwrap_err(), Refusal::NameQuota);
    let usage = book.allowance(Kind::Name, "report*", Some(5)).usage();
    assert_eq!((usage.waiting, usage.held), (0, 0));
}
