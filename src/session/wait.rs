//! The connect check: a client is held until its turn has come, or refused at its moment.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    admission::{Claim, Client, LoginTry, Pass, Step, Wait},
    dial::ServerConnection,
    dispatch::TurnSender,
    identity::CredentialKey,
    net::timer::{TICK, now, sleep_until},
    outcome::{Phase, Refusal},
    session::{
        await_turn::{Waited, await_turn},
        context::{Context, End},
        dial_first::{Begin, DialFirst},
        downstream::{self, Downstream},
        identify::Identified,
        preface::Greeted,
        refuse::{Refusable, close_unfinished, refuse, refuse_now},
        takeover::{Stage, give, unless_asked},
    },
    worker::with_rng,
};

/// A client that has its turn: a slot on a server, and one in its account.
pub(super) struct Admitted {
    pub downstream: Box<Downstream>,
    pub pass: Pass,
    /// The connection to the server, where it was dialled before CONNECT.
    pub dialled: Option<Box<ServerConnection>>,
    pub proxy_header: Vec<u8>,
    pub credential: CredentialKey,
    pub claim: Claim,
    pub login_try: LoginTry,
    /// The server must have answered by then.
    pub answer_by: Instant,
}

/// Why a client waits no more, although it has no turn.
enum Over {
    Ended(End),
    /// It is to go to another process.
    Asked(Box<Waiting>),
}

impl From<End> for Over {
    fn from(end: End) -> Self {
        Self::Ended(end)
    }
}

/// A client that has waited for its turn.
struct Waiting {
    downstream: Box<Downstream>,
    proxy_header: Vec<u8>,
    connected: Instant,
}

impl Waiting {
    /// Gives the client to another process. Where that does not take it, it begins to wait anew.
    async fn give(self, cx: &mut Context) -> Result<Identified, End> {
        let Self { downstream, proxy_header, connected } = self;
        let Downstream { stream, connect, preface, .. } = &*downstream;
        if give(cx, stream, Stage::Connected(connect, preface, connected)).await {
            return Err(End::Given);
        }
        sleep_until(Instant::now() + TICK).await;
        let dial_first = DialFirst::without(cx);
        // It counts for leafnodes alone, and those stay here.
        let took = Duration::ZERO;
        Greeted { downstream, refused: None, dial_first, proxy_header, connected, took }.identify(cx).await
    }
}

impl Identified {
    /// Waits for the client's turn.
    pub async fn wait_for_turn(mut self, cx: &mut Context) -> Result<Admitted, End> {
        loop {
            let credential = self.credential;
            let over = match self.check(cx).await {
                Ok(admitted) => return Ok(admitted),
                Err(over) => over,
            };
            // While it waited a server may have named the account to another client of this credential.
            cx.log.account = cx.shared.directory.learned(credential).or(cx.log.account.take());
            match over {
                Over::Ended(end) => return Err(end),
                Over::Asked(client) => self = Box::pin(client.give(cx)).await?,
            }
        }
    }

    async fn check(self, cx: &mut Context) -> Result<Admitted, Over> {
        let Self { mut downstream, dial_first, proxy_header, mut client, credential, claim, connected } = self;
        let answer_by = Instant::from_std(client.answer_by);
        let login_try = match cx.shared.admission.source_reputation().may_try(claim, now()) {
            Some(login_try) => login_try,
            None => match cx.shared.admission.unless_observing(Refusal::SourceRate) {
                Ok(reason) => {
                    client.would_refuse = Some(reason);
                    LoginTry::default()
                }
                Err(reason) => {
                    dial_first.close().await;
                    return Err(refuse_at_its_moment(cx, downstream, &client, reason).await.into());
                }
            },
        };
        if let Err(reason) = cx.check_policies(&downstream.connect, &client.account) {
            match cx.shared.admission.unless_observing(reason) {
                Ok(reason) => client.would_refuse = Some(reason),
                Err(reason) => {
                    dial_first.close().await;
                    return Err(refuse_at_its_moment(cx, downstream, &client, reason).await.into());
                }
            }
        }
        let (pass, dialled) = match dial_first.begin_check(cx, &client, &mut downstream).await {
            Begin::Dialled(pass, dialled) => (pass, Some(dialled)),
            Begin::Refused(reason) => {
                return Err(refuse_at_its_moment(cx, downstream, &client, reason).await.into());
            }
            Begin::Left(left) => return Err(close_unfinished(downstream.stream, left, Phase::Hold).await.into()),
            Begin::Queue(entered) => {
                let (turn, turn_comes) = oneshot::channel();
                let waiter = || TurnSender::of_login(turn, &cx.shared.directory, credential);
                let admission = &cx.shared.admission;
                let begun = with_rng(|rng| match entered {
                    Some(account) => Wait::with_quotas(admission, &client, account, now(), rng, waiter),
                    None => Wait::at_connect(admission, client, now(), rng, waiter),
                });
                if !matches!(begun.1, Step::Dial(_)) && downstream.entry.is_some() {
                    // It waits like any client: another that says so may be tried meanwhile.
                    downstream.operator = None;
                }
                let shared = Arc::clone(&cx.shared);
                let waited = {
                    let Downstream { stream, preface, .. } = &mut *downstream;
                    let may_go = cx.may_be_given(stream);
                    let left = pin!(downstream::watch(&shared.read_ahead, stream, preface));
                    await_turn(cx, begun, turn_comes, unless_asked((&shared.takeover, may_go), left)).await
                };
                match waited {
                    Waited::Turn(pass) => match pass.account.displaced().filter(|_| !shared.admission.is_observing()) {
                        None => (pass, None),
                        Some(reason) => {
                            drop(pass);
                            return Err(refuse_now(cx, downstream, reason).await.into());
                        }
                    },
                    Waited::Left(Some(left)) => {
                        return Err(close_unfinished(downstream.stream, left, Phase::Hold).await.into());
                    }
                    Waited::Left(None) => {
                        downstream.operator = None;
                        return Err(Over::Asked(Box::new(Waiting { downstream, proxy_header, connected })));
                    }
                    Waited::Refused(reason) => {
                        downstream.operator = None;
                        return Err(refuse_now(cx, downstream, reason).await.into());
                    }
                }
            }
        };
        cx.note_would(&pass.account, downstream.entry.as_mut());
        Ok(Admitted { downstream, pass, dialled, proxy_header, credential, claim, login_try, answer_by })
    }
}

/// Refuses a client without a turn, at the moment that admission chooses: clients that retry in step come back spread
/// out.
async fn refuse_at_its_moment(
    cx: &mut Context,
    mut downstream: Box<Downstream>,
    client: &Client,
    reason: Refusal,
) -> End {
    downstream.operator = None;
    let Downstream { stream, preface, entry: _entry, refusing: _refusing, .. } = *downstream;
    let refused = with_rng(|rng| Wait::refused(&cx.shared.admission, reason, client, now(), rng));
    refuse(cx, Refusable::Nats(stream, preface), reason, refused).await
}
