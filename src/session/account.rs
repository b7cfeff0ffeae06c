//! Which account, user and name a client counts for, and the server's own word on it.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::{
    admission::{AccountSlot, Pass, QuotaIdentity},
    cluster::account_lookup::Question,
    dial::Accepted,
    identity::{Credential, CredentialKey, Keys},
    net::stream::Stream,
    outcome::Refusal,
    protocol::connect::Connect,
    relay::InfoPolicy,
    session::Shared,
    tls,
};

/// Who a client is to quotas by user and name. A token is a secret and names nobody; who names no user is its certificate,
/// where it has shown one over TLS.
pub(super) fn quota_identity(
    keys: &Keys,
    credential: Credential<'_>,
    key: CredentialKey,
    connect: &Connect,
    down: &Stream,
) -> QuotaIdentity {
    let user = match credential {
        Credential::User(user) | Credential::Nkey(user) | Credential::Jwt { user, .. } => Some((user.into(), key)),
        Credential::Token(_) | Credential::Certificate(_) | Credential::Nothing => tls::client_name(down).map(|name| {
            let key = keys.credential(Credential::Certificate(&name));
            (Arc::from(name), key)
        }),
    };
    QuotaIdentity { user, name: connect.name().map(Arc::from) }
}

/// Makes sure that the server tells what account the client is in. Servers since 2.12 do so in the INFO after the first PONG,
/// to clients of protocol 1; one of protocol 0 is presented as such and the INFOs it does not expect are kept from it.
pub(super) fn expect_info(connect: &mut Connect) -> InfoPolicy {
    if connect.protocol() == 0 {
        connect.set_protocol(1);
        return InfoPolicy::Drop;
    }
    InfoPolicy::Rewrite
}

/// Takes the server's word for the account, and moves the slot when the guess was another. Where the server does not say, the
/// answer is what to ask it, with [`ask`].
pub(super) fn settle_account(
    shared: &Shared,
    pass: &mut Pass,
    credential: CredentialKey,
    accepted: &Accepted,
) -> Result<Option<Unasked>, Refusal> {
    let Some(named) = accepted.info.remote_account() else {
        let client_id = accepted.info.client_id().filter(|_| !shared.directory.has_learned(credential));
        let server = pass.server.server().index();
        return Ok(client_id.map(|client_id| Unasked { server, client_id, credential }));
    };
    if **pass.account.account().name() != *named {
        let named = Arc::from(named);
        shared.directory.learn(credential, &named);
        let slot = shared.admission.accounts().enter(&named, Instant::now().into_std());
        pass.account.move_to(slot.map_err(|_| Refusal::AccountQuota)?);
    }
    Ok(None)
}

/// Whose account is not known yet.
pub(super) struct Unasked {
    server: usize,
    client_id: u64,
    credential: CredentialKey,
}

/// What holds the slot of a session's account, for as long as it lives.
pub(super) struct OfAccount {
    own: Option<AccountSlot>,
    /// Where its account is asked for: the answer moves it there.
    _shared: Option<Arc<Mutex<AccountSlot>>>,
}

impl OfAccount {
    /// Whether nothing that it counts for has a limit of connections, as far as is known.
    pub(super) fn is_unlimited(&self) -> bool {
        self.own.as_ref().is_some_and(AccountSlot::is_unlimited)
    }
}

/// Asks for the account of a session, if it is not known.
pub(super) fn ask(shared: &Shared, account: AccountSlot, unasked: Option<Unasked>) -> OfAccount {
    let Some(Unasked { server, client_id, credential }) = unasked else {
        return OfAccount { own: Some(account), _shared: None };
    };
    let slot = Arc::new(Mutex::new(account));
    let question = Question { server, client_id, credential, slot: Arc::downgrade(&slot) };
    // With too many waiting, its turn comes at the next login.
    let _ = shared.questions.try_send(question);
    OfAccount { own: None, _shared: Some(slot) }
}
