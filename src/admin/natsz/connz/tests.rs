//! What is selected, and in which order, against a plain reference.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    admin::natsz::arguments::{Arguments, BadArgument},
    outcome::Refusal,
    relay::registry::{AtServer, Ending, Said, SessionFacts},
    telemetry::counters::Totals,
};

fn options(query: &str) -> Result<Options, BadArgument> {
    Options::of(&Arguments::new(Some(query)))
}

fn entry(id: u64, user: &str, account: &str, messages: u64, ended: Option<Ending>) -> Entry {
    let said = Said::new(Some(user), Some("name"), None, None);
    let accepted = Moment::from_raw(1_000 * id);
    let facts = SessionFacts { id, said, accepted, ..Default::default() };
    let session = Arc::new(SessionHandle::new(facts, Some(account.into()), AtServer::default()));
    session.traffic().set(Totals { messages_down: messages, payload_up: 7 * messages, ..Totals::default() });
    session.traffic().set_last_activity(Moment::from_raw(1_000 * id + messages));
    let ended = ended.map(|ending| ClosedSession {
        session: Arc::clone(&session),
        stop: Moment::from_raw(1_000_000 + messages),
        ending,
    });
    Entry { session, ended, is_held: false }
}

#[test]
fn arguments_are_those_of_nats_server() {
    let all = options("sort=bytes_to&auth=1&offset=3&limit=7&state=ALL&acc=A&user=u&subs=detail").unwrap();
    assert_eq!((all.sort, all.state, all.auth, all.offset, all.limit), (Sort::BytesTo, State::Any, true, 3, 7));
    assert_eq!((&*all.account, &*all.user), ("A", "u"));
    let none = options("").unwrap();
    assert_eq!((none.sort, none.state, none.limit, none.auth), (Sort::Cid, State::Open, 1024, false));
    assert_eq!(options("cid=9&limit=5").unwrap().limit, 1);
    assert_eq!(options("offset=-2&limit=-1").map(|one| (one.offset, one.limit)), Ok((0, 1024)));
    let wrong = |query| options(query).unwrap_err().0;
    assert_eq!(wrong("sort=size"), "invalid sorting option: size");
    assert_eq!(wrong("state=half"), "Error decoding state for half");
    assert_eq!(wrong("sort=stop"), "sort by stop only valid on closed connections");
    assert_eq!(wrong("sort=reason&state=any"), "sort by reason only valid on closed connections");
    assert!(options("sort=reason&state=closed").is_ok() && options("sort=stop&state=refused").is_ok());
    for sort in "cid start subs pending msgs_to msgs_from bytes_to bytes_from last idle uptime rtt".split(' ') {
        assert!(options(&format!("sort={sort}")).is_ok(), "{sort}");
    }
}

#[test]
fn what_is_shown_meets_every_condition() {
    let refused = Some(Ending::Refused(Refusal::AccountQuota));
    let all = [entry(1, "a", "A", 0, None), entry(2, "b", "A", 0, refused), entry(3, "a", "B", 0, refused)];
    let shown = |query: &str| {
        let options = options(query).unwrap();
        let shown = all.iter().filter(|entry| options.counts(entry) && options.shows(entry));
        shown.map(|entry| entry.session.facts().id).collect::<Vec<_>>()
    };
    assert_eq!(shown("acc=A"), [1, 2]);
    assert_eq!(shown("user=a"), [1, 3]);
    assert_eq!(shown("user=a&acc=A"), [1]);
    assert_eq!(shown("cid=3"), [3]);
    assert_eq!(shown("name=name&state=refused"), [2, 3]);
    assert_eq!(shown("reason=account_quota"), [2, 3]);
    assert!(shown("reason=eof").is_empty() && shown("mqtt_client=x").is_empty() && shown("server=n1").is_empty());
}

#[test]
fn an_answer_is_one_object_whatever_its_pieces() {
    for count in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
        let head = Head {
            server_id: "W".into(),
            now: String::new(),
            num_connections: count,
            total: count,
            offset: 0,
            limit: 9,
        };
        let connections = (0..count as u64).map(|id| entry(id, "u\"ser", "A", id, None)).collect();
        let connz = Connz { head, connections, now: Moment::now(), auth: true };
        let bytes = connz.pieces().fold(Vec::new(), |mut all, piece| {
            all.extend_from_slice(&piece);
            all
        });
        let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let shown = answer["connections"].as_array().unwrap();
        assert_eq!(shown.len(), count);
        assert!(shown.iter().enumerate().all(|(n, one)| one["cid"] == n && one["authorized_user"] == "u\"ser"));
    }
}

proptest! {
    #[test]
    fn the_first_ones_are_kept_in_order(
        messages in prop::collection::vec(0u64..20, 0..1500),
        sort in prop::sample::select(vec!["cid", "msgs_to", "bytes_from", "last", "idle", "uptime"]),
        offset in 0usize..40,
        limit in 1usize..400,
    ) {
        let now = Moment::from_raw(2_000_000);
        let options = options(&format!("sort={sort}")).unwrap().page(offset as i64, limit as i64);
        let all: Vec<_> = messages.iter().enumerate().map(|(id, n)| entry(id as u64, "u", "A", *n, None)).collect();
        let mut first = First { sort: options.sort, most: offset + limit, now, entries: Vec::new() };
        all.iter().for_each(|entry| first.add(entry.clone()));
        let id = |entry: &Entry| entry.session.facts().id;
        let kept: Vec<_> = first.into_sorted().iter().skip(offset).map(id).collect();
        let mut reference = all;
        reference.sort_by_key(|entry| {
            let (messages, id) = (entry.session.traffic().totals().messages_down as i64, id(entry) as i64);
            (match sort {
                "cid" => 0,
                "msgs_to" | "bytes_from" => -messages,
                "last" => -(1_000 * id + messages),
                "idle" => 1_000 * id + messages,
                _ => -1_000 * id,
            }, id)
        });
        let expected: Vec<_> = reference.iter().skip(offset).take(limit).map(id).collect();
        prop_assert_eq!(kept, expected);
    }
}
