//! The account of a session, as the server names it.

use std::sync::{Arc, Mutex};

use crate::{
    admission::{AccountSlot, Pass},
    cluster::account_lookup::AccountLookup,
    dial::LoggedIn,
    identity::CredentialKey,
    net::timer::now,
    outcome::Refusal,
    session::shared::Shared,
};

/// A session whose server does not name its account, which has to be asked for.
pub(super) struct UnknownAccount {
    server: usize,
    client_id: u64,
    credential: CredentialKey,
}

/// Takes the server's word for the account, and moves the client's place when weir had guessed another. Returns what
/// to ask where the server does not say.
pub(super) fn settle_account(
    shared: &Shared,
    pass: &mut Pass,
    credential: CredentialKey,
    upstream: &LoggedIn,
) -> Result<Option<UnknownAccount>, Refusal> {
    let Some(named) = upstream.info.remote_account() else {
        let client_id = upstream.info.client_id().filter(|_| !shared.directory.has_learned(credential));
        let server = pass.server.server().index();
        return Ok(client_id.map(|client_id| UnknownAccount { server, client_id, credential }));
    };
    pass.server.server().auth_mode().named_account(named);
    if **pass.account.account().name() != *named {
        let named = Arc::from(named);
        shared.directory.learn(credential, &named);
        let slot = shared.admission.accounts().enter(&named, now());
        pass.account.move_to(slot.map_err(|_| Refusal::AccountQuota)?);
    }
    Ok(None)
}

/// The place of a session in its account, for as long as it lives.
pub(super) struct AccountPlace {
    own: Option<AccountSlot>,
    /// Where the account is asked for: the answer moves the place there.
    _asked: Option<Arc<Mutex<AccountSlot>>>,
}

impl AccountPlace {
    /// In an account that is known.
    pub fn known(account: AccountSlot) -> Self {
        Self { own: Some(account), _asked: None }
    }

    /// Asks for the account where it is unknown.
    pub fn new(shared: &Shared, account: AccountSlot, unknown: Option<UnknownAccount>) -> Self {
        let Some(UnknownAccount { server, client_id, credential }) = unknown else { return Self::known(account) };
        let asked = Arc::new(Mutex::new(account));
        let question = AccountLookup { server, client_id, credential, slot: Arc::downgrade(&asked) };
        // When too many questions wait, this one is asked at the credential's next login.
        let _ = shared.account_lookups.try_send(question);
        Self { own: None, _asked: Some(asked) }
    }

    /// Whether nothing that it counts for has a limit of connections, as far as weir knows.
    pub fn is_unlimited(&self) -> bool {
        self.own.as_ref().is_some_and(AccountSlot::is_unlimited)
    }
}
