//! The account of a session, as the server names it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::{
    admission::{Account, AccountSlot, Claim, LearnsAnew, Pass, Proof},
    cluster::account_lookup::{AccountLookup, Then},
    dial::LoggedIn,
    dispatch,
    fleet::lease::allowance::LeaseWait,
    identity::CredentialKey,
    net::timer::now,
    outcome::Refusal,
    relay::registry::SessionHandle,
    session::{context::Context, downstream::Downstream, shared::Shared},
    upstream::ServerId,
};

/// How long a client waits for its account to be looked up, where what it was let in with depends on it.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(500);

/// A session whose server does not name its account, which has to be asked for.
pub(super) struct UnknownAccount {
    server: ServerId,
    client_id: u64,
    credential: CredentialKey,
}

/// Lets a client through to a server where the account that its credential is known by has no room for it, and where
/// that may be wrong: a server has said so long ago or before a server got another configuration, or of other logins
/// only. One at a time, and its place there is its own only once the server has named another account.
pub(super) fn learn_anew(
    cx: &Context,
    (credential, claim): (CredentialKey, Claim),
    account: &Arc<str>,
    proof: Proof,
) -> Option<Box<LearnsAnew>> {
    let (admission, directory, now) = (&cx.shared.admission, &cx.shared.directory, now());
    let known = admission.accounts().find(account).filter(|account| account.is_full(proof, now))?;
    if admission.is_observing() || directory.learned(credential).is_none_or(|learned| learned != *account) {
        return None;
    }
    let is_certain = admission.login_history().is_good(claim.credential)
        && directory.certain(credential, cx.shared.servers.reconfigured_at(), now).is_some();
    if is_certain { None } else { known.learn_anew(proof).map(Box::new) }
}

/// A server has let the client in: what it was granted for what it merely claimed is settled by the account that the
/// server names. Returns what to ask where the server does not name it.
///
/// # Errors
/// The limit that the client does not keep as what it is.
pub(super) async fn settle(
    cx: &Context,
    downstream: &mut Downstream,
    pass: &mut Pass,
    (credential, claim): (CredentialKey, Claim),
    upstream: &LoggedIn,
) -> Result<Option<UnknownAccount>, Refusal> {
    let (shared, server) = (&cx.shared, Arc::clone(pass.server.server()));
    let learns_anew = cx.learns_anew.is_some();
    let mut named: Option<Arc<str>> = upstream.info.remote_account().map(Arc::from);
    match &named {
        Some(told) if pass.account.account().name() == told => {
            dispatch::named(&shared.admission, &shared.directory, credential, told);
        }
        Some(told) => dispatch::learn(&shared.admission, &shared.directory, credential, told),
        None if learns_anew => {}
        None => named = shared.directory.certain(credential, shared.servers.reconfigured_at(), now()),
    }
    let client_id = upstream.info.client_id().filter(|_| named.is_none());
    let mut unknown = client_id.map(|client_id| UnknownAccount { server: server.id(), client_id, credential });
    let is_privileged = downstream.entry.is_none() || pass.server.is_from_reserve() || learns_anew;
    if is_privileged && let Some(unknown) = unknown.take_if(|_| named.is_none()) {
        named = unknown.ask_now(shared).await;
    }
    if learns_anew && named.is_none() {
        // What was known before is still the best.
        return Err(Refusal::AccountQuota);
    }
    if let Some(named) = &named {
        server.auth_mode().named_account(named);
        shared.admission.accounts().is_named(named, now());
    }
    let is_operator = named.as_ref().is_some_and(|named| server.is_system_account(named));
    if downstream.entry.is_none() {
        let (limit, source) = (&cx.listener.max_clients, (cx.source(), cx.listener.is_for_leafnodes));
        let admission = &shared.admission;
        downstream.entry = Some(match is_operator {
            true => admission.accept_operator(limit, source, now())?,
            false => admission.at_accept(None, limit, source, now())?,
        });
    }
    if !is_operator && !pass.server.may_be_kept() {
        return Err(Refusal::ServerCapacity);
    }
    if is_operator {
        shared.admission.operators().verified(claim, now());
    }
    downstream.operator = None;
    shared.admission.prove(&mut pass.account, now())?;
    if let Some(named) = named
        && *pass.account.account().name() != named
    {
        let enter = || shared.admission.enter_named(&named, &pass.account, now());
        let slot = enter_shared(shared, &named, enter).await?;
        pass.account.move_to(slot);
        pass.account.account().charge(now());
    }
    Ok(unknown)
}

/// How long a client that has a connection to a server waits for a place of this weir's lease.
const LEASE_WITHIN: Duration = Duration::from_millis(1000);

/// How soon to ask again for a place.
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// Enters the quotas of an account, for a client that has a connection to a server already. Where the fleet shares them
/// and this weir has no place left, a place of the lease comes with the next write: `enter` returns a slot that
/// [waits for it](AccountSlot::waits_for). It is called once, since it takes tokens of rates; again only while it finds
/// no place among the leafnodes of the account, which it asks for before it takes a token.
pub(super) async fn enter_shared(
    shared: &Shared,
    account: &Arc<str>,
    enter: impl Fn() -> Result<AccountSlot, Refusal>,
) -> Result<AccountSlot, Refusal> {
    let until = now() + LEASE_WITHIN;
    let mut waits = None;
    let mut slot = loop {
        let reason = match enter() {
            Err(reason @ Refusal::AccountLeafnodeQuota) if now() < until => reason,
            entered => break entered?,
        };
        if waits.is_none() {
            let admission = &shared.admission;
            let account = admission.accounts().find(account);
            waits = account.and_then(|account| admission.leafnodes().wait(&account, now()));
        }
        if waits.as_ref().is_none_or(LeaseWait::is_in_vain) {
            return Err(reason);
        }
        sleep(ASK_AGAIN).await;
    };
    drop(waits);
    while !slot.take_places(now()) {
        if now() >= until || slot.waits_in_vain() {
            return Err(slot.waits_for().unwrap_or(Refusal::AccountQuota));
        }
        sleep(ASK_AGAIN).await;
    }
    Ok(slot)
}

impl UnknownAccount {
    /// Asks for the account and waits for the answer; `None` where there is none in time.
    async fn ask_now(self, shared: &Shared) -> Option<Arc<str>> {
        let Self { server, client_id, credential } = self;
        let (tell, told) = oneshot::channel();
        let lookup = AccountLookup { server, client_id, credential, then: Then::Tell(tell) };
        shared.account_lookups.try_send(lookup).ok()?;
        timeout(LOOKUP_TIMEOUT, told).await.ok()?.ok()
    }
}

/// The place of a session in its account, for as long as it lives.
#[derive(Debug)]
pub(super) struct AccountPlace {
    own: Option<AccountSlot>,
    /// Where the account is asked for: the answer moves the place there.
    asked: Option<Arc<Mutex<AccountSlot>>>,
}

impl AccountPlace {
    /// In an account that is known.
    pub fn known(account: AccountSlot) -> Self {
        Self { own: Some(account), asked: None }
    }

    /// Asks for the account of a session where it is unknown.
    pub fn new(
        shared: &Shared,
        account: AccountSlot,
        unknown: Option<UnknownAccount>,
        session: &Arc<SessionHandle>,
    ) -> Self {
        let Some(UnknownAccount { server, client_id, credential }) = unknown else { return Self::known(account) };
        let asked = Arc::new(Mutex::new(account));
        let then = Then::Move(Arc::downgrade(&asked), Arc::clone(session));
        let question = AccountLookup { server, client_id, credential, then };
        // When too many questions wait, this one is asked at the credential's next login.
        let _ = shared.account_lookups.try_send(question);
        Self { own: None, asked: Some(asked) }
    }

    /// The account.
    pub fn account(&self) -> Option<Arc<Account>> {
        self.with_slot(|slot| Arc::clone(slot.account()))
    }

    /// The user for whom it counts in quotas by user.
    pub fn user_key(&self) -> Option<CredentialKey> {
        self.with_slot(|slot| slot.other_quotas().user()).flatten()
    }

    fn with_slot<T>(&self, look: impl FnOnce(&AccountSlot) -> T) -> Option<T> {
        match (&self.own, &self.asked) {
            (Some(own), _) => Some(look(own)),
            (None, Some(asked)) => Some(look(&asked.lock().unwrap_or_else(PoisonError::into_inner))),
            (None, None) => None,
        }
    }

    /// Whether nothing that it counts for has a limit of connections, as far as weir knows.
    pub fn is_unlimited(&self) -> bool {
        self.own.as_ref().is_some_and(AccountSlot::is_unlimited)
    }
}
