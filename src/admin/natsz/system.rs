//! `$SYS.REQ.SERVER.PING` and its like: weir answers them beside the servers, as one of them would, so that the nats
//! CLI shows it among them.

use std::time::{Duration, Instant, SystemTime};

use async_nats::Message;
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    admin::{
        health,
        natsz::{
            Natsz,
            accounts::DataStats,
            arguments::BadArgument,
            connz::{Connz, Options, State},
            go_text, leafz, usage, varz,
        },
    },
    cluster::system_account::SystemAccount,
    tally::shown,
    telemetry::process::STARTED,
};

/// How often it is looked whether the system account answers, until it does.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What can be asked, as the last part of the subject; a PING without one asks for the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Statsz,
    Varz,
    Connz,
    Leafz,
    Healthz,
    Idz,
}

impl Question {
    const ALL: [(&'static str, Self); 6] = [
        ("STATSZ", Self::Statsz),
        ("VARZ", Self::Varz),
        ("CONNZ", Self::Connz),
        ("LEAFZ", Self::Leafz),
        ("HEALTHZ", Self::Healthz),
        ("IDZ", Self::Idz),
    ];

    fn of(subject: &str) -> Option<Self> {
        match subject.strip_prefix("$SYS.REQ.SERVER.")?.split_once('.') {
            None => Some(Self::Statsz),
            Some((_, name)) => Self::ALL.into_iter().find(|(one, _)| *one == name).map(|(_, question)| question),
        }
    }
}

/// Which servers are to answer: nats-server's `EventFilterOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Filter {
    server_name: String,
    cluster: String,
    host: String,
    exact_match: bool,
    tags: Vec<String>,
    domain: String,
}

impl Filter {
    /// Whether weir, which is of no cluster and no domain and has no tags, is to answer.
    fn is_met(&self, name: &str, host: &str) -> bool {
        let matches = |wanted: &str, is: &str| if self.exact_match { wanted == is } else { is.contains(wanted) };
        let of = |wanted: &str, is: &str| wanted.is_empty() || matches(wanted, is);
        let is_no_other = self.cluster.is_empty() && self.tags.is_empty() && self.domain.is_empty();
        is_no_other && of(&self.server_name, name) && of(&self.host, host)
    }
}

/// The options of CONNZ.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConnzOptions {
    sort: String,
    auth: bool,
    offset: i64,
    limit: i64,
    cid: u64,
    mqtt_client: String,
    state: u8,
    user: String,
    acc: String,
    filter_subject: String,
}

impl ConnzOptions {
    fn read(self) -> Result<Options, BadArgument> {
        let is_filtered = !matches!(&*self.filter_subject, "" | ">");
        if is_filtered && self.acc.is_empty() {
            return Err(BadArgument("filter by subject only valid with account filtering".to_owned()));
        }
        let state = match self.state {
            0 => State::Open,
            1 => State::Closed,
            _ => State::Any,
        };
        let options = Options {
            state,
            auth: self.auth,
            cid: self.cid,
            account: self.acc,
            user: shown(&self.user),
            nobody: is_filtered || !self.mqtt_client.is_empty(),
            ..Options::default()
        };
        Ok(options.sorted_by(&self.sort)?.page(self.offset, self.limit))
    }
}

/// The options of LEAFZ; weir has no subscriptions to show.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LeafzOptions {
    account: String,
}

/// Who answers: nats-server's `ServerInfo`.
#[derive(Debug, Serialize)]
struct ServerInfo {
    name: String,
    host: String,
    id: String,
    ver: &'static str,
    jetstream: bool,
    flags: u64,
    seq: u64,
    time: String,
}

#[derive(Debug, Serialize)]
struct Answer<'a, T> {
    server: &'a ServerInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ApiError>,
}

#[derive(Debug, Serialize)]
struct ApiError {
    code: u16,
    description: String,
}

#[derive(Debug, Serialize)]
struct StatszAnswer<'a> {
    server: &'a ServerInfo,
    statsz: Statsz,
}

#[derive(Debug, Serialize)]
struct Statsz {
    start: String,
    mem: u64,
    cores: usize,
    cpu: f64,
    connections: usize,
    total_connections: u64,
    active_accounts: usize,
    subscriptions: u32,
    sent: DataStats,
    sent_to_clients: DataStats,
    received: DataStats,
    received_from_clients: DataStats,
    slow_consumers: u64,
    gomaxprocs: usize,
}

#[derive(Debug, Serialize)]
struct Healthz {
    status: &'static str,
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Idz {
    name: String,
    host: String,
    id: String,
}

/// Answers until `stop`.
pub async fn answer_requests(natsz: &Natsz, account: SystemAccount, stop: CancellationToken) {
    tokio::select! {
        () = answer_all(natsz, &account) => {}
        () = stop.cancelled() => {}
    }
}

async fn answer_all(natsz: &Natsz, account: &SystemAccount) {
    let own = format!("$SYS.REQ.SERVER.{}", natsz.shared.advertised_info.own_server_id());
    let subjects = ["$SYS.REQ.SERVER.PING".to_owned(), "$SYS.REQ.SERVER.PING.*".to_owned(), format!("{own}.*")];
    let mut seq = 0;
    loop {
        // In another account nobody asks.
        while !account.is_up() {
            sleep(ASK_AGAIN).await;
        }
        let subscribed = subjects.iter().map(|subject| account.subscribe_to(subject.clone()));
        let requests: Vec<_> = join_all(subscribed).await.into_iter().flatten().collect();
        let is_whole = requests.len() == subjects.len();
        let mut requests = futures_util::stream::select_all(requests);
        while is_whole && let Some(request) = requests.next().await {
            seq += 1;
            if let Some((reply, answer)) = answer(natsz, &request, seq).await
                && let Err(err) = account.reply(reply, answer).await
            {
                debug!(%err, "an answer over the system account is lost");
            }
        }
        // The connection begins anew.
        sleep(ASK_AGAIN).await;
    }
}

/// The answer to a request, and where it goes. `None` where weir is not asked.
async fn answer(natsz: &Natsz, request: &Message, seq: u64) -> Option<(async_nats::Subject, Bytes)> {
    let (reply, question) = (request.reply.clone()?, Question::of(&request.subject)?);
    let server = server_info(natsz, seq);
    let filter: Result<Filter, _> = read(&request.payload);
    if filter.as_ref().is_ok_and(|filter| !filter.is_met(&server.name, &server.host)) {
        return None;
    }
    let answer = match (filter, question) {
        (Err(err), _) => failed(&server, 400, err.to_string()),
        (Ok(_), Question::Statsz) => serde_json::to_vec(&StatszAnswer { server: &server, statsz: statsz(natsz) }),
        (Ok(_), Question::Varz) => done(&server, varz::of(natsz)),
        (Ok(_), Question::Healthz) => done(&server, healthz(natsz)),
        (Ok(_), Question::Idz) => {
            let ServerInfo { name, host, id, .. } = &server;
            serde_json::to_vec(&Idz { name: name.clone(), host: host.clone(), id: id.clone() })
        }
        (Ok(_), Question::Leafz) => match read::<LeafzOptions>(&request.payload) {
            Err(err) => failed(&server, 400, err.to_string()),
            Ok(options) => done(&server, leafz::of(&natsz.shared, &options.account).await),
        },
        (Ok(_), Question::Connz) => {
            let options: Result<ConnzOptions, _> = read(&request.payload);
            match options
                .map_err(|err| (400, err.to_string()))
                .and_then(|options| options.read().map_err(|BadArgument(words)| (500, words)))
            {
                Err((code, words)) => failed(&server, code, words),
                Ok(options) => {
                    let mut text = Vec::new();
                    for piece in Connz::select(&natsz.shared, options).await.pieces() {
                        text.extend_from_slice(&piece);
                        tokio::task::yield_now().await;
                    }
                    let raw = String::from_utf8(text).ok().and_then(|text| RawValue::from_string(text).ok());
                    done(&server, raw)
                }
            }
        }
    };
    Some((reply, answer.ok()?.into()))
}

fn read<T: for<'a> Deserialize<'a> + Default>(payload: &[u8]) -> serde_json::Result<T> {
    if payload.is_empty() { Ok(T::default()) } else { serde_json::from_slice(payload) }
}

fn done<T: Serialize>(server: &ServerInfo, data: T) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Answer { server, data: Some(data), error: None })
}

fn failed(server: &ServerInfo, code: u16, description: String) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Answer { server, data: None::<()>, error: Some(ApiError { code, description }) })
}

fn server_info(natsz: &Natsz, seq: u64) -> ServerInfo {
    let info = &natsz.shared.advertised_info;
    ServerInfo {
        name: info.own_name().to_owned(),
        host: varz::host(&natsz.shared),
        id: info.own_server_id().to_owned(),
        ver: env!("CARGO_PKG_VERSION"),
        jetstream: false,
        flags: 0,
        seq,
        time: go_text::time(SystemTime::now()),
    }
}

fn statsz(natsz: &Natsz) -> Statsz {
    let (shared, totals) = (&natsz.shared, natsz.shared.counters.totals());
    let sent = || DataStats { msgs: totals.messages_down, bytes: totals.payload_down };
    let received = || DataStats { msgs: totals.messages_up, bytes: totals.payload_up };
    let cores = usage::cores();
    Statsz {
        start: go_text::time(*STARTED),
        mem: usage::resident_memory(),
        cores,
        cpu: natsz.usage.cpu_percent(),
        connections: shared.sessions.len().saturating_sub(shared.sessions.leafnodes()),
        total_connections: varz::accepted(shared),
        active_accounts: shared.admission.accounts().connections().into_iter().filter(|(_, n)| *n > 0).count(),
        subscriptions: 0,
        sent: sent(),
        sent_to_clients: sent(),
        received: received(),
        received_from_clients: received(),
        slow_consumers: 0,
        gomaxprocs: cores,
    }
}

fn healthz(natsz: &Natsz) -> Healthz {
    match health::not_ready(&natsz.shared, Instant::now()) {
        None => Healthz { status: "ok", status_code: 200, error: None },
        error => Healthz { status: "unavailable", status_code: 503, error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_say_what_is_asked() {
        for (subject, question) in [
            ("$SYS.REQ.SERVER.PING", Some(Question::Statsz)),
            ("$SYS.REQ.SERVER.PING.STATSZ", Some(Question::Statsz)),
            ("$SYS.REQ.SERVER.PING.VARZ", Some(Question::Varz)),
            ("$SYS.REQ.SERVER.NABC.CONNZ", Some(Question::Connz)),
            ("$SYS.REQ.SERVER.PING.LEAFZ", Some(Question::Leafz)),
            ("$SYS.REQ.SERVER.PING.HEALTHZ", Some(Question::Healthz)),
            ("$SYS.REQ.SERVER.PING.IDZ", Some(Question::Idz)),
            ("$SYS.REQ.SERVER.PING.JSZ", None),
            ("$SYS.REQ.ACCOUNT.PING.STATZ", None),
        ] {
            assert_eq!(Question::of(subject), question, "{subject}");
        }
    }

    #[test]
    fn weir_answers_where_nothing_is_asked_for_that_it_is_not() {
        let is_met = |json: &str| read::<Filter>(json.as_bytes()).unwrap().is_met("weir", "10.0.0.9");
        for met in ["", "{}", r#"{"server_name":"ei"}"#, r#"{"server_name":"weir","exact_match":true,"limit":3}"#] {
            assert!(is_met(met), "{met}");
        }
        assert!(is_met(r#"{"host":"10.0"}"#));
        for other in [
            r#"{"server_name":"n1"}"#,
            r#"{"server_name":"wei","exact_match":true}"#,
            r#"{"host":"10.0","exact_match":true}"#,
            r#"{"cluster":"C"}"#,
            r#"{"tags":["t"]}"#,
            r#"{"domain":"d"}"#,
        ] {
            assert!(!is_met(other), "{other}");
        }
    }

    #[test]
    fn options_of_connz_are_nats_servers() {
        let read = |json: &str| read::<ConnzOptions>(json.as_bytes()).unwrap().read();
        let options = read(r#"{"sort":"bytes_to","auth":true,"state":1,"limit":7,"offset":2,"acc":"A","user":"u"}"#);
        let options = options.unwrap();
        assert_eq!((options.state, options.limit, options.offset, options.auth), (State::Closed, 7, 2, true));
        assert_eq!((&*options.account, &*options.user, options.nobody), ("A", "u", false));
        assert_eq!(read("").unwrap(), Options { limit: 1024, ..Options::default() });
        assert!(read(r#"{"acc":"A","filter_subject":"x"}"#).unwrap().nobody);
        assert!(!read(r#"{"filter_subject":">"}"#).unwrap().nobody);
        let wrong = |json| read(json).unwrap_err().0;
        assert_eq!(wrong(r#"{"filter_subject":"x"}"#), "filter by subject only valid with account filtering");
        assert_eq!(wrong(r#"{"sort":"size"}"#), "invalid sorting option: size");
        assert_eq!(wrong(r#"{"sort":"stop","state":2}"#), "sort by stop only valid on closed connections");
    }
}
