//! The server has let the client in: its account is settled, the client reads PONG and INFO, and the relay begins.

use std::sync::Arc;

use crate::{
    admission::Pass,
    dial::LoggedIn,
    net::linger,
    outcome::Phase,
    protocol::{OK, PONG, client_preface::Preface, connect::Connect},
    relay::{ClientSide, InfoPolicy, Relay, ServerSide, TrackedClient, TrackedServer},
    session::{
        Session,
        account::{AccountPlace, settle},
        connect_upstream::Connected,
        context::{Context, End},
        downstream::Downstream,
        established::Established,
        leafnode,
        refuse::refuse_now,
        rehome::{Rehomable, RehomeTerms},
    },
    telemetry::storms::Fate,
};

/// What the client reads at its welcome.
struct Welcome {
    /// Written at once: `+OK` where the client is verbose, PONG where it has sent its PING.
    now: Vec<u8>,
    /// Goes behind the server's PONG, where the client's PING is still to come.
    behind_pong: Option<Vec<u8>>,
}

impl Connected {
    /// Lets the client in.
    pub async fn welcome(self, cx: &mut Context) -> Result<Session, End> {
        let Self { mut downstream, mut pass, credential, claim, upstream, info_policy, proxy_header } = self;
        let unknown = match settle(cx, &mut downstream, &mut pass, (credential, claim), &upstream).await {
            Ok(unknown) => unknown,
            Err(reason) => {
                drop(upstream);
                return Err(refuse_now(cx, downstream, reason).await);
            }
        };
        cx.learns_anew = None;
        let server = Arc::clone(pass.server.server());
        pass.account.session_began();
        cx.log.account = Some(Arc::clone(pass.account.account().name()));
        cx.log.server_client_id = upstream.info.client_id().unwrap_or(0);

        let welcome = match cx.listener.is_for_leafnodes {
            true => Welcome::of_leafnode(cx, &upstream),
            false => Welcome::new(cx, &downstream.connect, &mut downstream.preface, &upstream, info_policy),
        };
        // A client that cannot be told any more may have sent something before it broke off: the relay delivers that.
        let _ = downstream.stream.send(&welcome.now).await;
        cx.count_admitted(&server);
        if cx.waited {
            cx.record_fate(Fate::Admitted);
        }
        let Downstream { mut stream, connect, sent, preface, entry, .. } = *downstream;
        stream.let_in();
        let LoggedIn { stream: to_server, rest, info: last_info } = *upstream;
        if cx.listener.is_for_leafnodes {
            let (shared, Pass { server, account }) = (Arc::clone(&cx.shared), pass);
            let account = |session: &_| AccountPlace::new(&shared, account, unknown, session);
            return leafnode::begin(cx, (stream, preface), (to_server, rest), (server, account), entry).await;
        }
        let known = RehomeTerms::of(cx, &connect, (credential, claim), (&pass, &last_info), proxy_header);
        let keys = Arc::clone(&cx.shared.keys);
        let from_client = ClientSide::new(keys, sent, connect.service_options(), server.max_control_line());
        let info = Arc::clone(&cx.listener.info);
        let from_server = ServerSide::new(welcome.behind_pong, info_policy, info, cx.source(), server, &last_info);
        let (shared, Pass { server, account }) = (Arc::clone(&cx.shared), pass);
        let account = |session: &_| AccountPlace::new(&shared, account, unknown, session);
        let (pipelined, counters) = (preface.into_pipelined(), Arc::clone(&shared.counters));
        let begun = match known {
            None => {
                let sides = ((stream, from_client, &*pipelined), (to_server, from_server, &*rest));
                Relay::new(sides.0, sides.1, counters)
                    .map(|relay| Session::Plain(Box::new(Established::new(cx, relay, server, account, entry))))
            }
            Some((terms, known)) => {
                let from_client = TrackedClient::new(from_client, known.clone());
                let from_server = TrackedServer::new(from_server, known);
                let sides = ((stream, from_client, &*pipelined), (to_server, from_server, &*rest));
                Relay::new(sides.0, sides.1, counters).map(|relay| {
                    let session = Box::new(Established::new(cx, relay, server, account, entry));
                    Session::Rehomable(Box::new(Rehomable::new(session, terms)))
                })
            }
        };
        match begun {
            Ok(session) => Ok(session),
            Err((stream, ended)) => {
                linger::close_with(stream, b"").await;
                Err(End::closed(ended.party, Phase::Relay, ended.cause))
            }
        }
    }
}

impl Welcome {
    /// The INFO with which the hub has answered CONNECT.
    fn of_leafnode(cx: &Context, upstream: &LoggedIn) -> Self {
        let mut now = Vec::with_capacity(1024);
        cx.listener.info.write_server_info(&upstream.info, cx.source(), &mut now);
        Self { now, behind_pong: None }
    }

    fn new(
        cx: &Context,
        connect: &Connect,
        preface: &mut Preface,
        upstream: &LoggedIn,
        info_policy: InfoPolicy,
    ) -> Self {
        let write_info = |out: &mut Vec<u8>| cx.listener.info.write_server_info(&upstream.info, cx.source(), out);
        let mut now = Vec::with_capacity(1024);
        if connect.verbose() && !preface.is_without_connect() {
            now.extend_from_slice(OK);
        }
        let mut behind_pong = None;
        match (preface.take_ping(), info_policy) {
            (true, InfoPolicy::Drop) => now.extend_from_slice(PONG),
            (true, InfoPolicy::Rewrite) => {
                now.extend_from_slice(PONG);
                write_info(&mut now);
            }
            (false, InfoPolicy::Drop) => {}
            (false, InfoPolicy::Rewrite) => write_info(behind_pong.insert(Vec::new())),
        }
        Self { now, behind_pong }
    }
}
