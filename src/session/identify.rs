//! Who the client says it is: its credential, its account, and what it counts for in quotas by user and name.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

use crate::{
    admission::{AcceptPermit, Claim, Client, Deadlines, Proof, QuotaIdentity, Wait},
    identity::{Claims, Credential, CredentialKey, UNKNOWN_ACCOUNT},
    outcome::Refusal,
    relay::registry::Said,
    session::{
        account,
        context::{Context, End},
        dial_first::DialFirst,
        downstream::Downstream,
        failover::DialPort,
        preface::Greeted,
        refuse::{Refusable, refuse},
    },
    tls,
    upstream::Port,
    worker::with_rng,
};

/// A client that admission can judge.
pub(super) struct Identified {
    pub downstream: Box<Downstream>,
    pub dial_first: DialFirst,
    pub proxy_header: Vec<u8>,
    pub client: Client,
    pub credential: CredentialKey,
    pub claim: Claim,
    /// When CONNECT was complete.
    pub connected: Instant,
}

impl Greeted {
    /// Reads who the client is from its CONNECT. A client that the accept check refused is told so here, since now it
    /// can read it.
    pub async fn identify(self, cx: &mut Context) -> Result<Identified, End> {
        let Self { mut downstream, refused, mut dial_first, proxy_header, connected, took } = self;
        let mut claims = downstream.connect.jwt().and_then(Claims::read);
        let forbids = match cx.listener.is_for_leafnodes {
            true => Claims::forbids_leafnode_over_websocket,
            false => Claims::forbids_websocket,
        };
        if cx.is_taken_for_plain() && claims.take_if(|claims| forbids(claims)).is_some() {
            // The server would see a connection that this JWT allows. Without the JWT it says no in its own words.
            debug!(peer = %cx.peer, "its JWT allows no WebSocket, so the server does not get it");
            downstream.connect.set_jwt("");
        }
        let connect = &downstream.connect;
        let (accepted, came) = (cx.accepted.into_std(), connected.into_std());
        let deadlines = {
            let policy = cx.shared.admission.deadline_policy();
            match cx.listener.is_for_leafnodes {
                true => policy.of_leafnode(came, took),
                false => policy.deadlines(connect.lang(), accepted, came),
            }
        };
        let credential = Credential::of(connect, claims.as_ref(), dial_first.checks(cx));
        let user_key = cx.shared.keys.credential(credential);
        let credential_key = match credential {
            Credential::Jwt { .. } => cx.shared.keys.beside_jwt(user_key, connect),
            _ => user_key,
        };
        let credential_key = match DialPort::of(cx).port() {
            Port::Client => credential_key,
            Port::WebSocket => cx.shared.keys.over_websocket(credential_key),
            Port::Leafnode => cx.shared.keys.of_leafnode(credential_key),
        };
        let claim = Claim { source: cx.source().into(), credential: cx.shared.keys.login(credential_key, connect) };
        let account = cx.shared.directory.account(credential, credential_key);
        let certificate = user_of_certificate(credential, &downstream);
        let user = credential.user().or(certificate.as_deref());
        cx.log.said = Said::new(user, connect.name(), connect.lang(), connect.version());
        cx.log.by_token = matches!(credential, Credential::Token(_));
        let is_known = cx.shared.admission.source_reputation().is_known(claim);
        let key = cx.shared.keys.client(cx.source(), credential_key, connect.name());
        cx.known_client = is_known.then_some(key);
        // What the listener has no room for may still be let in as an operator's, and so may what only the slots have
        // room for that the servers keep for the system account.
        let held = dial_first.take_permit();
        let (operators, is_claimed) = (cx.shared.admission.operators(), cx.shared.servers.is_system_account(&account));
        let has_server = !matches!(dial_first, DialFirst::NoServer(_));
        if is_claimed && !has_server {
            operators.claimed(cx.source(), connected.into_std());
        }
        // One that has signed a nonce of weir's own is refused anyway; it comes back to a server's.
        let may_go_on = has_server || !connect.signs();
        let operator =
            if is_claimed && may_go_on { operators.at_connect(claim, held, connected.into_std()) } else { None };
        let may_pass = |reason| reason == Refusal::ListenerFull && operator.is_some();
        if let Some(reason) = refused.filter(|reason| !may_pass(*reason)) {
            let until = deadlines.hold_until;
            let refused =
                with_rng(|rng| Wait::refused_at_accept(&cx.shared.admission, reason, until, connected.into_std(), rng));
            dial_first.close().await;
            let Downstream { stream, preface, refusing: _refusing, .. } = *downstream;
            return Err(refuse(cx, Refusable::Nats(stream, preface), reason, refused).await);
        }
        let proof = if is_known { Proof::Known } else { Proof::Missing(claim) };
        // A client that says once more who it is must not stand in its own way: one is let through at a time.
        cx.learns_anew = None;
        cx.learns_anew = account::learn_anew(cx, (credential_key, claim), &account, proof);
        cx.log.client = Some(key);
        cx.log.account = Some(Arc::clone(&account));
        let account = if cx.learns_anew.is_some() { UNKNOWN_ACCOUNT.into() } else { account };
        let quota_identity = quota_identity(cx, credential, user_key, &downstream);
        let may_use_reserve = operator.is_some();
        downstream.operator = operator;
        let would_refuse = downstream.entry.as_ref().and_then(AcceptPermit::would_refuse);
        let Deadlines { hold_until, answer_by, returns } = deadlines;
        let client = Client {
            names_its_account: matches!(credential, Credential::Jwt { .. }) && !is_known,
            account,
            is_leafnode: cx.listener.is_for_leafnodes,
            source: claim.source,
            key,
            proof,
            may_use_reserve,
            would_refuse,
            quota_identity,
            hold_until,
            answer_by,
            returns,
        };
        Ok(Identified { downstream, dial_first, proxy_header, client, credential: credential_key, claim, connected })
    }
}

/// Who a client is to quotas by user and name. A token is a secret and names nobody. A client that names no user is its
/// certificate, where it has shown one over TLS.
fn quota_identity(
    cx: &Context,
    credential: Credential<'_>,
    key: CredentialKey,
    downstream: &Downstream,
) -> QuotaIdentity {
    let shared = &cx.shared;
    if !shared.admission.has_user_or_name_quotas() {
        return QuotaIdentity::default();
    }
    let user = match credential.user() {
        Some(user) => Some((user.into(), key)),
        None => user_of_certificate(credential, downstream).map(|name| {
            let key = shared.keys.credential(Credential::Certificate(&name));
            (Arc::from(name), key)
        }),
    };
    QuotaIdentity { user, name: downstream.connect.name().map(Arc::from) }
}

/// The name in the certificate that a client without a user has shown over TLS.
fn user_of_certificate(credential: Credential<'_>, downstream: &Downstream) -> Option<String> {
    credential.user().is_none().then(|| tls::client_name(&downstream.stream)).flatten()
}
