//! Which account, user and name a client counts for, and the server's own word on it.

use std::sync::Arc;

use tokio::time::Instant;

use super::House;
use crate::{
    admission::Persona,
    close::Refusal,
    dial::Accepted,
    identity::{Credential, CredentialKey, Keys},
    monitor::learn::Question,
    protocol::connect::Connect,
    relay::InfoPolicy,
    stream::Stream,
    tls,
    turn::AnyPass,
};

/// Who a client is to quotas by user and name. A token is a secret and names nobody; who names no user is its certificate,
/// where it has shown one over TLS.
pub(super) fn persona(
    keys: &Keys,
    credential: Credential<'_>,
    key: CredentialKey,
    connect: &Connect,
    down: &Stream,
) -> Persona {
    let user = match credential {
        Credential::User(user) | Credential::Nkey(user) | Credential::Jwt { user, .. } => Some((user.into(), key)),
        Credential::Token(_) | Credential::Certificate(_) | Credential::Nothing => tls::client_name(down).map(|name| {
            let key = keys.credential(Credential::Certificate(&name));
            (Arc::from(name), key)
        }),
    };
    Persona { user, name: connect.name().map(Arc::from) }
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

/// Takes the server's word for the account, and moves the slot when the guess was another.
pub(super) fn settle_account(
    house: &House,
    pass: &mut AnyPass,
    credential: CredentialKey,
    accepted: &Accepted,
) -> Result<(), Refusal> {
    let Some(named) = accepted.info.remote_account() else {
        if let Some(client_id) = accepted.info.client_id()
            && !house.directory.has_learned(credential)
        {
            let question = Question { server: pass.server.server().index(), client_id, credential };
            // With too many waiting, its turn comes at the next login.
            let _ = house.questions.try_send(question);
        }
        return Ok(());
    };
    if **pass.account.account().name() != *named {
        let named = Arc::from(named);
        house.directory.learn(credential, &named);
        let slot = house.doors.accounts().enter(&named, Instant::now().into_std());
        pass.account.move_to(slot.map_err(|_| Refusal::AccountQuota)?);
    }
    Ok(())
}
